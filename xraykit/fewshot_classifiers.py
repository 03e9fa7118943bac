"""The small classifiers on top of frozen features, with their fixed hyperparameters."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.svm import SVC

from xraykit.errors import DataError

# Chosen once for all tasks and shots, never on a test split: the best mean of macro-F1 and AUROC over the
# binary and the 3-class task at 10, 50 and 100 shots, SqueezeNet features ("l2"), on two folds of patients
# held out of Kermany's training images. For KNN 5 and 9 were equal; 5 suits few shots. max_iter -1: no limit.
CLASSIFIERS: dict[str, dict[str, object]] = {
    "SVC linear": {"C": 1.0, "max_iter": -1},
    "SVC RBF": {"C": 1.0, "gamma": "scale", "max_iter": -1},
    "SVC poly": {"C": 0.1, "gamma": "scale", "degree": 3, "coef0": 1.0, "max_iter": -1},
    "KNN": {"n_neighbors": 5, "weights": "distance"},
    "logistic regression": {"C": 10.0},
    "nearest class mean": {},
}
KERNELS = {"SVC linear": "linear", "SVC RBF": "rbf", "SVC poly": "poly"}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: object) -> bool:
    return _number(value) and value > 0


def _count(value: object) -> bool:
    return _positive(value) and value == int(value)


ALLOWED: dict[str, tuple[Callable[[object], bool], str]] = {
    "C": (_positive, "a number > 0"),
    "gamma": (lambda v: _positive(v) or (isinstance(v, str) and v == "scale"), "a number > 0 or 'scale'"),
    "degree": (_count, "a whole number >= 1"),
    "coef0": (lambda v: _number(v) and v >= 0, "a number >= 0"),
    "max_iter": (lambda v: _count(v) or (_number(v) and v == -1), "a whole number >= 1, or -1 for no limit"),
    "n_neighbors": (_count, "a whole number >= 1"),
    "weights": (lambda v: v in ("uniform", "distance"), "'uniform' or 'distance'"),
}


@dataclass(frozen=True)
class Classifier:
    """A kind of classifier and its hyperparameters; make it with `classifier`.

    Attributes:
        name: a key of `CLASSIFIERS`.
        parameters: every hyperparameter that the table lists for it, in scikit-learn's words.
    """

    name: str
    parameters: Mapping[str, object]

    def estimator(self, *, class_weight: str | Mapping[int, float] | None = None) -> BaseEstimator:
        """The same as an unfitted scikit-learn estimator, on whose decisions the fast path is tested.

        An SVC breaks ties by its decision values, so that its answer is always their largest.

        Raises:
            DataError: a class weight for a classifier without a loss.
        """
        if self.name in KERNELS:
            about = {"kernel": KERNELS[self.name], "break_ties": True, "class_weight": class_weight}
            return SVC(**about, **self.parameters)
        if self.name == "logistic regression":  # lbfgs stops far from the optimum on features of large scale
            about = {"solver": "newton-cholesky", "tol": 1e-8, "max_iter": 1000}
            return LogisticRegression(**about, class_weight=class_weight, **self.parameters)
        if class_weight is not None:
            raise DataError(f"{self.name} has no loss to weight; choose an SVC or logistic regression")
        return KNeighborsClassifier(**self.parameters) if self.name == "KNN" else NearestCentroid()


def classifier(name: str, **parameters: object) -> Classifier:
    """One of `CLASSIFIERS`, with some of its hyperparameters replaced: ``classifier("SVC RBF", C=10)``.

    Raises:
        DataError: an unknown classifier or hyperparameter, or a value that it cannot take.
    """
    if name not in CLASSIFIERS:
        raise DataError(f"classifier {name!r} is unknown; choose from {', '.join(CLASSIFIERS)}")
    fixed = CLASSIFIERS[name]
    for key, value in parameters.items():
        if key not in fixed:
            raise DataError(f"{name} has no hyperparameter {key!r}; it has {', '.join(fixed) or 'none'}")
        fits, rule = ALLOWED[key]
        if not fits(value):
            raise DataError(f"{name}: {key} = {value!r}; give {rule}")
    return Classifier(name, {**fixed, **parameters})


def candidates(name: str, grid: Mapping[str, Sequence[object]]) -> dict[str, Classifier]:
    """Every combination of the hyperparameters in `grid`, called ``"C=1, gamma=scale"`` and the like.

    The order is scikit-learn's `ParameterGrid`: names sorted, the last one running fastest.

    Raises:
        DataError: as for `classifier`, or a hyperparameter without values.
    """
    empty = [key for key, values in grid.items() if len(values) == 0]
    if empty or not grid:
        raise DataError(f"{name}: no values for {empty or 'any hyperparameter'}; give at least one each")
    points = ParameterGrid({key: list(values) for key, values in grid.items()})
    return {", ".join(f"{k}={v}" for k, v in p.items()): classifier(name, **p) for p in points}
