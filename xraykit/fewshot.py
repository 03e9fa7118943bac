"""Few-shot classification: a small classifier on k frozen features a class, over many draws of the k.

The pool is every training image, with or without a label; a draw takes k labelled images a class from it, at
most one a patient. Everything works on feature arrays, from `embeddings` or elsewhere::

    pool, test = normalise(train_features, test_features, how="l2")
    support = draws(labels, patients, shots=(5, 10), n_draws=100, seed=0)
    found = evaluate(pool, labels, test, support=support, shots=(5, 10))
    intervals.bootstrap(test_labels, found["SVC RBF", 10], test_patients, names=["auroc"], seed=0)
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from xraykit.errors import DataError
from xraykit.fewshot_classifiers import CLASSIFIERS, Classifier, candidates, classifier
from xraykit.fewshot_features import NORMALISATIONS, check_features, normalise
from xraykit.fewshot_products import Products, products, scores
from xraykit.labels import label_matrix
from xraykit.shots import k_shot_draw

__all__ = [
    "CLASSIFIERS",
    "NORMALISATIONS",
    "SHOTS",
    "Classifier",
    "candidates",
    "classifier",
    "draws",
    "ensemble",
    "evaluate",
    "evaluate_choosing",
    "normalise",
]

SHOTS = (5, 10, 25, 50, 100)

Scores = dict[tuple[str, int], np.ndarray]
Choose = Callable[[Products, np.ndarray], Classifier]  # from a support set and its labels


def draws(
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    shots: Sequence[int] = SHOTS,
    n_draws: int,
    seed: int,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """Support sets: rows of the pool, int64 (n_draws, K, max(shots)); one image a patient a draw.

    ``support[i, c, :k]`` are the k images of class c in draw i: smaller shots are part of larger ones, so
    that a shot curve shows more images and not other ones. Draw i depends on the seed, on i and on the
    largest number of shots, not on `n_draws`.

    Args:
        labels: class codes (N,) of the pool. In a multi-label set one finding against the rest, as 0/1.
        patients: patient id (N,) of each image.
        shots: images wanted a class.
        classes: names for the error message; with them, all of these classes are drawn.

    Raises:
        DataError: k < 1, fewer than one draw, bad labels, or too few patients: names the feasible k.
    """
    if n_draws < 1 or len(shots) == 0 or min(shots) < 1:
        raise DataError(f"{n_draws} draws of {list(shots)} images a class; both must be at least 1")
    seeds = np.random.SeedSequence(seed).spawn(n_draws)
    about = {"k": max(shots), "classes": classes}
    drawn = [k_shot_draw(labels, patients, rng=np.random.default_rng(s), **about) for s in seeds]
    return np.stack(drawn).reshape(n_draws, -1, max(shots))


def evaluate(
    pool: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    support: np.ndarray,
    shots: Sequence[int] = SHOTS,
    classifiers: Mapping[str, Classifier] | Sequence[str] = tuple(CLASSIFIERS),
    progress: bool = False,
) -> Scores:
    """Pseudo-probabilities of the test images from every classifier, number of shots and draw.

    Args:
        pool, test: (N, D) and (M, D) features, normalised alike.
        labels: class codes (N,) of the pool; only those of drawn images matter.
        support: from `draws`.
        shots: images a class, each at most as many as `support` holds.
        classifiers: names from `CLASSIFIERS`, or names of one's own choice with `classifier(...)` each.
        progress: show a bar.

    Returns:
        float32 (n_draws, M, K) for each (name, k), as `intervals.bootstrap` takes them; rows sum to 1. For
        what the numbers mean see `fewshot_products.scores`.

    Raises:
        DataError: NaN features, lengths that differ, shots or rows that `support` or the pool do not hold,
            a class missing from a support set, an unknown classifier.
    """
    if not isinstance(classifiers, Mapping):
        classifiers = {name: classifier(name) for name in classifiers}
    choosers = {name: lambda _, __, fixed=fixed: fixed for name, fixed in classifiers.items()}
    about = {"support": support, "shots": shots, "progress": progress}
    return evaluate_choosing(pool, labels, test, choosers=choosers, **about)[0]


def evaluate_choosing(
    pool: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    support: np.ndarray,
    shots: Sequence[int],
    choosers: Mapping[str, Choose],
    progress: bool = False,
) -> tuple[Scores, dict[tuple[str, int], list[Classifier]]]:
    """As `evaluate`, with a classifier that each draw may choose from its own support set.

    Returns:
        The scores, and for each (name, k) the classifier that each draw chose.
    """
    pool, test, codes = check_task(pool, labels, test, support=support, shots=shots)
    if not choosers:
        raise DataError(f"no classifier to evaluate; choose from {', '.join(CLASSIFIERS)}")
    n_draws, n_classes, _ = support.shape
    keys = [(name, k) for k in shots for name in choosers]
    found = {key: np.empty((n_draws, len(test), n_classes), np.float32) for key in keys}
    chosen = {key: [None] * n_draws for key in keys}
    largest = max(shots)

    # One thread of BLAS: the products are small, and the last digits must not depend on the number of cores.
    with threadpool_limits(1):
        for draw in tqdm(range(n_draws), desc="few-shot", unit="draw", disable=not progress):
            rows = support[draw, :, :largest].ravel()
            whole = products(pool[rows].astype(np.float64), test)
            place = np.arange(len(rows)).reshape(n_classes, largest)
            for k in shots:
                index = place[:, :k].ravel()
                part, y = whole.take(index), codes[rows[index]]
                for name, choose in choosers.items():
                    chosen[name, k][draw] = choose(part, y)
                    found[name, k][draw] = scores(chosen[name, k][draw], part, y)
    return found, chosen


def ensemble(members: Sequence[Scores]) -> Scores:
    """Mean of the pseudo-probabilities of several backbones, for each classifier and number of shots.

    It needs no common scale and no further fit, and a backbone can join later.

    Args:
        members: one result of `evaluate` for each backbone, from the same support sets and test images.

    Raises:
        DataError: no members, or members with other classifiers, shots, draws or test images.
    """
    shapes = [{key: value.shape for key, value in member.items()} for member in members]
    if not members or any(shape != shapes[0] for shape in shapes):
        raise DataError("an ensemble needs results for the same classifiers, shots, draws and test images")
    return {key: np.mean([m[key] for m in members], axis=0, dtype=np.float32) for key in members[0]}


def check_task(
    pool: np.ndarray, labels: np.ndarray, test: np.ndarray, *, support: np.ndarray, shots: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What every evaluation checks: the pool as it is, test as float64, class codes (N,).

    Raises:
        DataError: as `evaluate`.
    """
    pool, test = check_features(pool, "pool"), check_features(test, "test")
    if pool.shape[1] != test.shape[1] or len(pool) != len(labels):
        raise DataError(
            f"pool features {pool.shape}, test features {test.shape} and {len(labels)} pool labels do not "
            "match; they are (N, D), (M, D) and (N,)"
        )
    onehot = label_matrix(labels)
    if np.ndim(labels) != 1:
        raise DataError("labels must be class codes (N,); take one finding at a time: labels[:, finding]")
    if support.ndim != 3 or support.dtype.kind not in "iu" or support.size == 0:
        raise DataError(f"support is {support.dtype} {support.shape}; it comes from fewshot.draws")
    if support.min() < 0 or support.max() >= len(pool):
        raise DataError(f"support holds rows {support.min()} to {support.max()} of a pool of {len(pool)}")
    if len(shots) == 0 or min(shots) < 1 or max(shots) > support.shape[2]:
        raise DataError(
            f"shots {list(shots)} must lie in 1..{support.shape[2]}, the images a class that support holds"
        )
    codes = onehot.argmax(axis=1)
    _check_classes(codes, support, shots)
    return pool, test.astype(np.float64), codes


def _check_classes(codes: np.ndarray, support: np.ndarray, shots: Sequence[int]) -> None:
    """The images that `support` holds for a class must be of that class."""
    wanted = np.arange(support.shape[1])[:, None]
    wrong = np.argwhere(codes[support[:, :, : max(shots)]] != wanted)
    if len(wrong):
        draw, c, place = wrong[0]
        found = codes[support[draw, c, place]]
        missing = sorted(set(wanted.ravel().tolist()) - set(codes[support[draw]].ravel().tolist()))
        none = f", and none is of class {missing}" if missing else ""
        raise DataError(
            f"draw {draw} takes row {support[draw, c, place]} for class {c}, but its label is {found}{none}; "
            "draw again with fewshot.draws from these labels"
        )
