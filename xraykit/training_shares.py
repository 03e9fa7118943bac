"""A share of the training images for learning curves: patients whole, classes in proportion, nested."""

import numpy as np

from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.labels import label_matrix
from xraykit.splits import patient_folds


def share_of(ds: XrayDataset, index: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """A stratified part of `index` that keeps every patient whole, of about `share` of its images.

    Halves of halves by `splits.patient_folds`, so that the smaller of two shares of a seed lies within the
    larger one, and each has about the class mix of the whole.

    Args:
        index: positions in `ds`, without repeats.
        share: above 0 to 1; 1 is `index` itself.
        seed: of the choice.

    Returns:
        Positions in `ds`, in the order of `index`; every class that `index` has is among them.

    Raises:
        DataError: a share out of range, or so small that a class is missing; the message says the least
            share of this seed that has them all.
    """
    index = np.asarray(index)
    if not 0 < share <= 1 or len(index) == 0:
        raise DataError(f"share = {share} of {len(index)} images; use above 0 to 1, of at least one image")
    rows = _rows(ds, index, round(share * len(index)), seed=seed)
    missing = _missing(ds, index, rows)
    if missing:
        raise DataError(
            f"share {share:g} of {len(index)} images has no {', '.join(missing)}; with seed {seed} a share "
            f"of at least {least_share(ds, index, seed=seed):g} has every class"
        )
    return index[rows]


def least_share(ds: XrayDataset, index: np.ndarray, *, seed: int) -> float:
    """The least share, in steps of one in ten thousand, for which `share_of` has every class of `index`."""
    low, high = 1, len(index)
    while low < high:
        middle = (low + high) // 2
        lacks = _missing(ds, index, _rows(ds, index, middle, seed=seed))
        low, high = (middle + 1, high) if lacks else (low, middle)
    return float(np.ceil(1e4 * low / len(index)) / 1e4)


def _rows(ds: XrayDataset, index: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    """Positions in `index` of a part of about `n` images."""
    about = {"onehot": label_matrix(ds.labels[index]), "patients": ds.patients[index]}
    return np.sort(_first(np.arange(len(index)), n, path=(seed, 1), **about))


def _missing(ds: XrayDataset, index: np.ndarray, rows: np.ndarray) -> list[str]:
    """The classes of `index` that its part `rows` lacks."""
    onehot = label_matrix(ds.labels[index])
    return [ds.classes[c] for c in np.flatnonzero(onehot.any(axis=0) & ~onehot[rows].any(axis=0))]


def _first(
    rows: np.ndarray, n: int, *, onehot: np.ndarray, patients: np.ndarray, path: tuple[int, int]
) -> np.ndarray:
    """About `n` of `rows`: the first half, or a part of it, or all of it and a part of the second half.

    `path` is the seed and the number of this half of halves, the children of i being 2i and 2i + 1: what is
    drawn here does not depend on `n`.
    """
    if n <= 0 or n >= len(rows):
        return rows[: max(0, n)]
    if len(set(patients[rows])) == 1:
        return rows if 2 * n >= len(rows) else rows[:0]
    seed, node = path
    rng = np.random.default_rng([seed, node])
    fold = patient_folds(onehot[rows].astype(np.uint8), patients[rows], fractions=[0.5, 0.5], rng=rng)
    halves, about = (rows[fold == 0], rows[fold == 1]), {"onehot": onehot, "patients": patients}
    counts = (n, n - len(halves[0]))
    parts = [_first(halves[i], counts[i], path=(seed, 2 * node + i), **about) for i in (0, 1)]
    return np.concatenate(parts)
