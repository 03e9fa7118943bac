"""Which scikit-learn classifiers a bundle may hold, and whether their numbers fit together.

Libraries in C trust the numbers that they are given: an SVC that says to have more support vectors than it
has would read memory that is not its own. So everything that computes is looked at first.
"""

import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC

from xraykit.errors import BundleError
from xraykit.explain_heads import KERNELS


class ClassMean(NearestCentroid):
    """Nearest class mean whose scores are those of its decision: minus the squared distance to each mean.

    scikit-learn's own scores divide each feature by its spread within the classes; its decision does not.
    """

    def fit(self, X: np.ndarray, y: np.ndarray) -> "ClassMean":
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of one image a class there is no spread
            super().fit(X, y)
        self.within_class_std_dev_ = np.ones(X.shape[1])
        self.deviations_ = np.zeros_like(self.centroids_)
        return self


CLASSIFIERS = (SVC, LogisticRegression, ClassMean, KNeighborsClassifier)
SCALINGS = (StandardScaler, Normalizer)
SUPPORTED = (
    "a CalibratedClassifierCV (sigmoid, ensemble=False) around a Pipeline of StandardScaler or Normalizer "
    "and one of SVC, LogisticRegression, ClassMean and KNeighborsClassifier"
)
Wanted = Mapping[str, tuple[np.ndarray, tuple[int, ...]]]


def check(head: BaseEstimator) -> None:
    """Raise BundleError unless `head` is what `SUPPORTED` says, fitted, and its numbers fit together."""
    try:
        wrong = _wrong(head)
    except Exception as error:  # attributes that are missing, or of any other kind
        raise BundleError(
            f"its head is incomplete ({first_line(error)}); fit it, or get the bundle again"
        ) from error
    if wrong:
        raise BundleError(f"its head cannot be used: {wrong}. A head is {SUPPORTED}")


def first_line(error: Exception) -> str:
    """What `error` says, shortened, or its name where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _wrong(head: BaseEstimator) -> str:
    """What is wrong with a head, or nothing."""
    if type(head) is not CalibratedClassifierCV or head.method != "sigmoid":
        return f"it is a {type(head).__name__}"
    (calibrated,) = head.calibrated_classifiers_
    pipeline = calibrated.estimator
    if type(pipeline) is not Pipeline or not pipeline.steps or pipeline.memory is not None:
        return f"it calibrates a {type(pipeline).__name__}, or keeps a cache"
    *scalings, last = (step for _, step in pipeline.steps)
    others = [type(s).__name__ for s in scalings if type(s) not in SCALINGS]
    if others or type(last) not in CLASSIFIERS:
        return f"its steps are {', '.join([*others, type(last).__name__])}"
    d, k = int(last.n_features_in_), len(head.classes_)
    labels = [np.asarray(part.classes_).tolist() for part in (head, last)]
    labels.append(np.asarray(calibrated.classes).tolist())
    if k < 2 or any(codes != list(range(k)) for codes in labels):
        return f"its labels are {labels[0]}, {labels[1]} and {labels[2]}, not 0 to {max(k, 2) - 1}"
    sigmoids = [(float(s.a_), float(s.b_)) for s in calibrated.calibrators]
    if len(sigmoids) != (1 if k == 2 else k) or not np.isfinite(sigmoids).all():
        return f"it has {len(sigmoids)} calibrations for {k} classes, or some that are not finite"
    return next(filter(None, (*(_scaling(s, d) for s in scalings), _classifier(last, d, k))), "")


def _scaling(step: BaseEstimator, d: int) -> str:
    if int(step.n_features_in_) != d:
        return f"its scaling takes {step.n_features_in_} features and its classifier {d}"
    if isinstance(step, Normalizer):
        return ""
    return _shapes({"mean_": (step.mean_, (d,)), "scale_": (step.scale_, (d,))})


def _classifier(fitted: BaseEstimator, d: int, k: int) -> str:
    if isinstance(fitted, LogisticRegression):
        rows = 1 if k == 2 else k
        return _shapes({"coef_": (fitted.coef_, (rows, d)), "intercept_": (fitted.intercept_, (rows,))})
    if isinstance(fitted, ClassMean):
        means = {"centroids_": (fitted.centroids_, (k, d)), "class_prior_": (fitted.class_prior_, (k,))}
        return _shapes(means | {"within_class_std_dev_": (fitted.within_class_std_dev_, (d,))})
    return _svc(fitted, d, k) if isinstance(fitted, SVC) else _neighbours(fitted, d, k)


def _svc(svc: SVC, d: int, k: int) -> str:
    s, each = len(svc.support_vectors_), svc._n_support
    if svc.kernel not in KERNELS or svc._impl != "c_svc" or svc._sparse or svc._effective_probability:
        return f"its SVC has the kernel {svc.kernel!r}, or is sparse, or of another kind"
    if each.dtype != np.int32 or each.shape != (k,) or each.min() < 0 or each.sum() != s or not s:
        return f"its SVC says to have {each.tolist()} support vectors of the classes, and has {s}"
    if svc.support_.dtype != np.int32 or svc.support_.shape != (s,):
        return f"its SVC has {svc.support_.shape} positions of {s} support vectors"
    if not np.isfinite([float(svc._gamma), float(svc.coef0)]).all() or not 0 <= svc.degree <= 100:
        return "its SVC has a kernel whose parameters are not finite or too large"
    wanted = {"support_vectors_": (svc.support_vectors_, (s, d))}
    for name, shape in (("dual_coef_", (k - 1, s)), ("intercept_", (k * (k - 1) // 2,))):
        wanted |= {name: (getattr(svc, name), shape), f"_{name}": (getattr(svc, f"_{name}"), shape)}
    wanted |= {name: (getattr(svc, name), (0,)) for name in ("_probA", "_probB")}
    return _shapes(wanted, kinds=(np.float64,))


def _neighbours(knn: KNeighborsClassifier, d: int, k: int) -> str:
    n, codes = len(knn._fit_X), knn._y
    metric = (knn.effective_metric_, knn.metric, knn.p, knn.weights in ("uniform", "distance"), knn.n_jobs)
    if knn._tree is not None or knn._fit_method != "brute" or knn.outputs_2d_:
        return "its neighbours are kept in a tree; fit them with algorithm='brute'"
    if metric != ("euclidean", "minkowski", 2, True, None):
        return f"its neighbours have the metric {knn.effective_metric_!r}, or unusual weights"
    if codes.shape != (n,) or codes.dtype != np.int64 or codes.min() < 0 or codes.max() >= k:
        return f"its neighbours have labels {codes.dtype} {codes.shape} for {n} images"
    if not 1 <= int(knn.n_neighbors) <= n:
        return f"it asks {knn.n_neighbors} neighbours of {n} images"
    return _shapes({"_fit_X": (knn._fit_X, (n, d))})


def _shapes(wanted: Wanted, *, kinds: tuple[type, ...] = (np.float32, np.float64)) -> str:
    """Which of the arrays has another shape than it must have, or numbers that are not finite; or nothing."""
    for name, (array, shape) in wanted.items():
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype.type not in kinds:
            return f"{name} is {getattr(array, 'dtype', type(array).__name__)} {np.shape(array)}, not {shape}"
        if not np.isfinite(array).all():
            return f"{name} has NaN or infinite numbers"
    return ""
