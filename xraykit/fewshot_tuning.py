"""Hyperparameters chosen inside the support set, by a grid or by Optuna, for every draw anew.

Both cross-validate the k labelled images a class and see neither the rest of the pool nor a test image. As a
draw holds one image a patient, its folds divide no patient.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from sklearn.model_selection import StratifiedKFold

from xraykit.errors import DataError
from xraykit.fewshot import Choose, Scores, evaluate_choosing
from xraykit.fewshot_classifiers import Classifier, candidates, classifier
from xraykit.fewshot_products import Products, scores
from xraykit.progress import import_tqdm_quietly

# Smaller C, gamma and degree first: of equally accurate candidates the first one, the smoother, is taken.
GRIDS: dict[str, dict[str, list[object]]] = {
    "SVC linear": {"C": [0.01, 0.1, 1.0, 10.0, 100.0]},
    "SVC RBF": {"C": [0.1, 1.0, 10.0, 100.0], "gamma": [0.1, 0.3, 1.0, 3.0]},
    "SVC poly": {"C": [0.01, 0.1, 1.0, 10.0], "degree": [2, 3, 4]},
    "KNN": {"n_neighbors": [1, 3, 5, 9, 15]},
    "logistic regression": {"C": [0.1, 1.0, 10.0, 100.0]},
}
# (low, high) of floats is searched on a logarithmic scale, of whole numbers evenly; a list is a choice.
SPACES: dict[str, dict[str, tuple | list]] = {
    "SVC linear": {"C": (1e-2, 1e2)},
    "SVC RBF": {"C": (1e-1, 1e2), "gamma": (1e-1, 3.0)},
    "SVC poly": {"C": (1e-2, 1e1), "degree": (2, 4)},
    "KNN": {"n_neighbors": (1, 15)},
    "logistic regression": {"C": (1e-1, 1e2)},
}
Chosen = dict[tuple[str, int], list[Classifier]]


def cross_validated(fixed: Classifier, of: Products, labels: np.ndarray, *, n_folds: int, seed: int) -> float:
    """Mean accuracy in 0..1 of `fixed` over stratified folds of a support set.

    Raises:
        DataError: a class with fewer images than folds.
    """
    smallest = int(np.bincount(labels).min())
    if not 2 <= n_folds <= smallest:
        raise DataError(
            f"{n_folds} folds of a support set with {smallest} images of a class: every fold needs one, so "
            f"choose 2 to {smallest} folds" + ("" if smallest > 1 else ", or at least 2 shots")
        )
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(labels, labels)
    right = [
        np.mean(scores(fixed, of.fold(train, out), labels[train]).argmax(axis=1) == labels[out])
        for train, out in folds
    ]
    return float(np.mean(right))


def grid(
    pool: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    support: np.ndarray,
    shots: Sequence[int],
    searches: Mapping[str, Mapping[str, Sequence[object]]] | None = None,
    n_folds: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Scores, Chosen]:
    """`fewshot.evaluate` with the hyperparameters that cross-validate best in each support set.

    The choice is that of scikit-learn's ``GridSearchCV`` with accuracy and stratified folds; of equals the
    first in the order of `candidates`.

    Args:
        pool, labels, test, support, shots, progress: as in `fewshot.evaluate`.
        searches: for each classifier the values of its hyperparameters; None takes `GRIDS`.
        n_folds: folds of a support set, at most the smallest number of shots.
        seed: of the folds.

    Returns:
        The scores of the chosen classifiers, and for each (name, k) the classifier of each draw.

    Raises:
        DataError: too few images for the folds, and as in `fewshot.evaluate`.
    """
    searches = GRIDS if searches is None else searches
    folds = {"n_folds": n_folds, "seed": seed}
    choosers = {
        name: _grid_chooser(list(candidates(name, values).values()), **folds)
        for name, values in searches.items()
    }
    about = {"support": support, "shots": shots, "progress": progress}
    return evaluate_choosing(pool, labels, test, choosers=choosers, **about)


def _grid_chooser(tried: list[Classifier], **folds: int) -> Choose:
    def choose(of: Products, labels: np.ndarray) -> Classifier:
        accuracy = [cross_validated(c, of, labels, **folds) for c in tried]
        return tried[int(np.argmax(np.round(accuracy, 12)))]  # equal up to rounding is equal

    return choose


def optuna_search(
    pool: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    support: np.ndarray,
    shots: Sequence[int],
    searches: Mapping[str, Mapping[str, tuple | list]] | None = None,
    n_trials: int = 25,
    n_folds: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Scores, Chosen]:
    """`grid` with Optuna's tree-structured Parzen estimator in the place of a grid.

    Source: Akiba et al., Optuna, KDD 2019; Bergstra et al., NeurIPS 2011 (TPE).

    Args:
        pool, labels, test, support, shots, n_folds, progress: as in `grid`.
        searches: for each classifier the space of its hyperparameters, in the form of `SPACES`; None takes
            those.
        n_trials: candidates tried in each support set.
        seed: of the folds and of the sampler; the same seed chooses the same.

    Raises:
        DataError: as for `grid`, a space that is empty or no space, or n_trials < 1.
    """
    searches = SPACES if searches is None else searches
    if n_trials < 1:
        raise DataError(f"n_trials = {n_trials}; try at least 1 candidate")
    about = {"n_trials": n_trials, "n_folds": n_folds, "seed": seed}
    choosers = {name: _optuna_chooser(name, _space(name, space), **about) for name, space in searches.items()}
    how = {"support": support, "shots": shots, "progress": progress}
    with quiet_optuna():
        return evaluate_choosing(pool, labels, test, choosers=choosers, **how)


def _optuna_chooser(name: str, space: dict, *, n_trials: int, **folds: int) -> Choose:
    import optuna

    def choose(of: Products, labels: np.ndarray) -> Classifier:
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=folds["seed"])
        )
        for _ in range(n_trials):
            trial = study.ask(space)
            value = cross_validated(classifier(name, **trial.params), of, labels, **folds)
            study.tell(trial, value)
        return classifier(name, **study.best_params)

    return choose


def _space(name: str, space: Mapping[str, tuple | list]) -> dict:
    """The space as Optuna's distributions, every end of which the classifier accepts."""
    import_tqdm_quietly()
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found = {}
    for key, values in space.items():
        if len(values) == 0 or (isinstance(values, tuple) and (len(values) != 2 or values[0] > values[1])):
            raise DataError(f"{name}: {key} = {values!r}; give (low, high) or a list of choices")
        candidates(name, {key: values})
        if isinstance(values, list):
            found[key] = CategoricalDistribution(values)
        elif all(isinstance(value, int) for value in values):
            found[key] = IntDistribution(*values)
        else:
            found[key] = FloatDistribution(*values, log=True)
    if not found:
        raise DataError(f"{name}: an empty space; give at least one hyperparameter")
    return found


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without the line that Optuna logs for each trial; its verbosity is restored afterwards."""
    import_tqdm_quietly()
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
