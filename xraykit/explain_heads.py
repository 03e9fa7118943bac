"""What stands behind a frozen backbone, rebuilt as a differentiable module: features in, named margins out.

A margin says how much more speaks for one answer than for another: it is called ``"pneumonia over normal"``
and is positive where the first wins. Gradients of it explain the classifier that answers, and not another
one. Everything is computed in float64, as scikit-learn does.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted
from torch import nn

from xraykit.errors import DataError

KERNELS = ("linear", "rbf", "poly")
SUPPORTED = (
    f"SVC ({', '.join(KERNELS)}), LogisticRegression or NearestCentroid (euclidean), alone or in a Pipeline "
    "behind StandardScaler and Normalizer (l2)"
)


class Head(nn.Module):
    """Features (B, D) to margins (B, T), float64.

    Attributes:
        names: of the T margins, such as ``("viral over bacterial", "bacterial over viral")``; each pair of
            classes is there both ways round, the second with the other sign.
    """

    def __init__(
        self, scaling: Sequence[nn.Module], margins: nn.Module, pairs: Sequence[tuple[str, str]]
    ) -> None:
        super().__init__()
        self.scaling, self.margins = nn.Sequential(*scaling), margins
        self.names = tuple(f"{a} over {b}" for a, b in [*pairs, *(pair[::-1] for pair in pairs)])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found = self.margins(self.scaling(features.double()))
        return torch.cat([found, -found], dim=1)


def head_of(fitted: BaseEstimator, classes: Sequence[str]) -> Head:
    """A fitted scikit-learn classifier of features as a module, for `explain_cut.estimator`.

    Of two classes the first margin is `decision_function`. Of K classes there are K (K - 1) / 2 pairs, i < j,
    in the order of scikit-learn: of an SVC the columns of its ``ovo`` decision function (Knerr et al., 1990);
    of logistic regression the difference of two logits; of the nearest class mean half the difference of two
    squared distances.

    Args:
        fitted: one of `SUPPORTED`, fitted to the labels 0 to K - 1.
        classes: the K names of its labels.

    Raises:
        DataError: anything else, such as neighbours, which have no gradient; not fitted; other labels.
    """
    steps = [step for _, step in fitted.steps] if isinstance(fitted, Pipeline) else [fitted]
    scaling, last = [_scaling(step) for step in steps[:-1]], steps[-1]
    labels = _fitted_attribute(last, "classes_")
    if not np.array_equal(labels, range(len(classes))):
        raise DataError(
            f"{type(last).__name__} was fitted to the labels {labels}, but there are the {len(classes)} "
            f"classes {', '.join(classes)}; fit it to 0 to {len(classes) - 1}, all present"
        )
    two = len(classes) == 2
    pairs = [(classes[1], classes[0])] if two else list(combinations(classes, 2))
    return Head(scaling, _margins(last, two=two), pairs).eval().requires_grad_(False)


class _Scaled(nn.Module):
    def __init__(self, mean: np.ndarray, scale: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(np.asarray(mean, np.float64)))
        self.register_buffer("scale", torch.from_numpy(np.asarray(scale, np.float64)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.scale


class _UnitLength(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.norm(dim=1, keepdim=True)
        return x / torch.where(length > 0, length, 1)


class _Linear(nn.Module):
    """Margins x W + b of weights (D, P) and intercepts (P,)."""

    def __init__(self, weights: np.ndarray, intercept: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(np.array(weights, np.float64)))
        self.register_buffer("intercept", torch.from_numpy(np.array(intercept, np.float64)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weights + self.intercept


class _Kernel(nn.Module):
    """Similarity of x (B, D) to the S support vectors, (B, S).

    linear <x, s>; poly (gamma <x, s> + coef0)^degree; rbf exp(-gamma |x - s|^2).
    """

    def __init__(self, svc: SVC) -> None:
        super().__init__()
        self.register_buffer("support", torch.from_numpy(np.asarray(svc.support_vectors_, np.float64)))
        self.kind, self.gamma = svc.kernel, float(svc._gamma)  # "scale" and "auto" as numbers
        self.degree, self.coef0 = svc.degree, svc.coef0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        products = x @ self.support.T
        if self.kind == "linear":
            return products
        if self.kind == "poly":
            return (self.gamma * products + self.coef0) ** self.degree
        squares = (x**2).sum(1, keepdim=True) + (self.support**2).sum(1) - 2 * products
        return torch.exp(-self.gamma * squares.clamp(min=0))


def _fitted_attribute(step: BaseEstimator, name: str) -> np.ndarray:
    try:
        check_is_fitted(step, name)
    except (NotFittedError, TypeError) as error:
        raise DataError(
            f"{type(step).__name__} is not fitted, or no classifier; fit it first. Supported: {SUPPORTED}"
        ) from error
    return getattr(step, name)


def _scaling(step: object) -> nn.Module:
    if isinstance(step, StandardScaler):
        scale = _fitted_attribute(step, "scale_")
        n = step.n_features_in_
        mean = step.mean_ if step.with_mean else np.zeros(n)
        return _Scaled(mean, np.ones(n) if scale is None else scale)
    if isinstance(step, Normalizer) and step.norm == "l2":
        return _UnitLength()
    raise DataError(f"{step} before the classifier cannot be explained; supported: {SUPPORTED}")


def _margins(fitted: BaseEstimator, *, two: bool) -> nn.Module:
    """The margins of all pairs of classes; of two classes that of the second over the first."""
    if isinstance(fitted, SVC) and fitted.kernel in KERNELS:
        if not isinstance(fitted.support_vectors_, np.ndarray):
            raise DataError("the SVC was fitted to a sparse matrix; fit it to an array of features")
        return nn.Sequential(_Kernel(fitted), _Linear(_dual(fitted), fitted.intercept_))
    if isinstance(fitted, LogisticRegression):
        weights, intercept = fitted.coef_, fitted.intercept_
        return _Linear(weights.T, intercept) if two else _pairs(weights, intercept)
    if isinstance(fitted, NearestCentroid) and fitted.metric == "euclidean":
        if not np.allclose(fitted.class_prior_, 1 / len(fitted.classes_)):
            raise DataError(
                f"{fitted} weighs its classes by {fitted.class_prior_}; fit it with uniform priors"
            )
        means = np.asarray(fitted.centroids_, np.float64)
        return _pairs(means, -(means**2).sum(axis=1) / 2, second_first=two)
    raise DataError(f"{fitted} cannot be explained: it has no gradient that we know; supported: {SUPPORTED}")


def _dual(svc: SVC) -> np.ndarray:
    """Weights (S, P) of the support vectors in each pair i < j, from the (K - 1, S) of scikit-learn."""
    if len(svc.classes_) == 2:
        return svc.dual_coef_.T
    k, of = len(svc.classes_), np.repeat(np.arange(len(svc.classes_)), svc.n_support_)
    columns = []
    for i, j in combinations(range(k), 2):
        columns.append(np.where(of == i, svc.dual_coef_[j - 1], np.where(of == j, svc.dual_coef_[i], 0)))
    return np.stack(columns, axis=1)


def _pairs(weights: np.ndarray, intercept: np.ndarray, *, second_first: bool = False) -> _Linear:
    """Differences of the linear scores (K, D), (K,) of two classes each."""
    first, second = np.array(list(combinations(range(len(weights)), 2))).T
    if second_first:
        first, second = second, first
    return _Linear((weights[first] - weights[second]).T, intercept[first] - intercept[second])
