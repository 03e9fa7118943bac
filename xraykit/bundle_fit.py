"""Fitting and judging the few-shot classifier of a bundle: standardised, calibrated, cross-validated."""

import warnings

import numpy as np
from scipy.special import logit
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from xraykit.bundle_head_checks import ClassMean
from xraykit.bundle_heads import answer
from xraykit.errors import DataError
from xraykit.fewshot_classifiers import classifier

MOST_FOLDS = 5

Folds = list[tuple[np.ndarray, np.ndarray]]


def folds(labels: np.ndarray, patients: np.ndarray, *, seed: int) -> Folds:
    """Positions (to fit to, held out), for each of up to `MOST_FOLDS` folds: classes spread evenly, patients
    never divided, and every class among those to fit to.

    Args:
        labels: class codes (N,).
        patients: integer codes (N,).

    Raises:
        DataError: no two folds can be made.
    """
    k = int(labels.max()) + 1
    each = [len(np.unique(patients[labels == code])) for code in range(k)]
    for n in range(min(MOST_FOLDS, *each), 1, -1):
        split = StratifiedGroupKFold(n, shuffle=True, random_state=seed).split(
            labels[:, None], labels, patients
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # classes with fewer images than folds are looked at below
            found = list(split)
        if all(len(np.unique(labels[fit])) == k and len(held) for fit, held in found):
            return found
    raise DataError(
        f"the classes have images of {each} patients, which cannot be held out in turn; give images of "
        "at least 3 patients a class"
    )


def fit(
    name: str, features: np.ndarray, labels: np.ndarray, patients: np.ndarray, *, seed: int
) -> BaseEstimator:
    """A classifier of `fewshot_classifiers.CLASSIFIERS` on standardised features, with Platt's calibration.

    Its sigmoid is fitted to out-of-fold scores (Platt, 1999), so that the fitted classifier is not asked
    about images that it knows. A sigmoid that falls, because in cross-validation the classifier was worse
    than chance, is replaced by the share of the class: nothing was learned.

    Args:
        features: float32 (N, D).
        labels: class codes (N,), all of 0 to K - 1 present.
        patients: integer codes (N,).

    Raises:
        DataError: as `folds`, or an unknown classifier.
    """
    parts = folds(labels, patients, seed=seed)
    fewest = min(len(train) for train, _ in parts)
    pipeline = Pipeline([("scale", StandardScaler()), ("fit", _estimator(name, fewest=fewest))])
    head = CalibratedClassifierCV(pipeline, method="sigmoid", ensemble=False, cv=parts)
    head.fit(np.asarray(features, np.float64), labels)
    head.set_params(cv=len(parts))  # the positions are of no use to anybody else
    k = len(head.classes_)
    sigmoids = head.calibrated_classifiers_[0].calibrators
    for code, sigmoid in zip([1] if k == 2 else range(k), sigmoids, strict=True):
        if sigmoid.a_ >= 0:
            sigmoid.a_, sigmoid.b_ = 0.0, -float(logit(np.mean(labels == code)))
    return head


def informed(head: BaseEstimator) -> bool:
    """Whether any class got a rising sigmoid in `fit`."""
    return any(sigmoid.a_ < 0 for sigmoid in head.calibrated_classifiers_[0].calibrators)


def _estimator(name: str, *, fewest: int) -> BaseEstimator:
    made = classifier(name).estimator()
    if isinstance(made, SVC):  # calibration wants one score a class
        return made.set_params(decision_function_shape="ovr", break_ties=False)
    if isinstance(made, KNeighborsClassifier):  # a tree would not go into a bundle
        return made.set_params(algorithm="brute", n_neighbors=min(made.n_neighbors, fewest))
    if isinstance(made, LogisticRegression):  # on standardised features as exact as Newton's, and much faster
        return made.set_params(solver="lbfgs", tol=1e-8, max_iter=5000)
    return ClassMean()


def out_of_fold(
    name: str, features: np.ndarray, labels: np.ndarray, patients: np.ndarray, *, seed: int
) -> tuple[np.ndarray, int]:
    """Probabilities (N, K) of each image from a classifier that was fitted and calibrated without its fold,
    and the number of folds.

    Args: as `fit`.

    Raises:
        DataError: as `folds`.
    """
    parts = folds(labels, patients, seed=seed)
    p = np.empty((len(labels), int(labels.max()) + 1))
    for train, held in parts:
        head = fit(name, features[train], labels[train], patients[train], seed=seed)
        p[held] = answer(head, features[held])
    return p, len(parts)
