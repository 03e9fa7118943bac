"""Splits that never divide a patient, k-shot draws, and the audit of what leaks between them."""

import hashlib
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xraykit.errors import DataError
from xraykit.labels import label_matrix, patient_codes
from xraykit.shots import feasible_shots, k_shot_draw

if TYPE_CHECKING:
    from xraykit.datasets import XrayDataset

__all__ = [
    "assert_no_patient_overlap",
    "copies_across",
    "development",
    "digest",
    "feasible_shots",
    "hold_out",
    "k_shot_draw",
    "patient_folds",
    "shared_patients",
]


def patient_folds(
    labels: np.ndarray, patients: np.ndarray, *, fractions: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Stratified folds that keep every patient whole: the fold of each image, int64 (N,) in 0 .. F-1.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011, algorithm 1) of patients by
    their label counts: the rarest label still unassigned goes first, and each of its patients (most images
    with that label first, equals in random order) goes to the fold that still wants most of it; ties go to
    the fold that wants most images, then to chance. `fractions` are of images, and are met as closely as
    whole patients allow. The result depends on the rows and on `rng`, not on the order of the rows.

    Args:
        labels: class codes (N,), or 0/1 indicators (N, K).
        patients: patient id (N,) of each image.
        fractions: wanted share of the images in each fold; positive, summing to 1.

    Raises:
        DataError: bad fractions or labels, lengths that differ, fewer patients than folds.
    """
    share = _check_fractions(fractions)
    onehot = label_matrix(labels)
    code, ids = patient_codes(patients, len(onehot))
    if len(ids) < len(share):
        raise DataError(
            f"{len(share)} folds wanted but only {len(ids)} patients; at most {len(ids)} folds are feasible"
        )
    images = np.bincount(code)
    counts = np.stack([np.bincount(code[column], minlength=len(ids)) for column in onehot.T], axis=1)
    fold = _stratify(counts, images, share, rng)
    return _fill_empty(fold, images, len(share))[code]


def hold_out(
    ds: "XrayDataset", *, rng: np.random.Generator, share: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training and of the validation images of `ds`, both from the split train.

    Patients stay whole and labels stratified (`patient_folds`); `share` of the images is for validation.

    Raises:
        DataError: no images in train, fewer than two patients, or a share that is not between 0 and 1.
    """
    rows = np.flatnonzero((ds.records["split"] == "train").to_numpy())
    if len(rows) == 0:
        found = ", ".join(sorted(set(ds.records["split"])))
        raise DataError(f"{ds.name} has no image in the split train; it has {found}")
    fold = patient_folds(ds.labels[rows], ds.patients[rows], fractions=[1 - share, share], rng=rng)
    return rows[fold == 0], rows[fold == 1]


def development(train: "XrayDataset", *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `train` of the images to learn from and of the development fold, a quarter of them.

    The fold on which a study chooses, and which `pretrain` leaves out. It is dealt by the labels as the set
    has them: the same seed gives the same patients for the same images with the same labels.

    Raises:
        DataError: fewer than two patients, or classes none of which is normal.
    """
    three = train.task == "multiclass" and len(train.classes) == 3
    labels = train.labels if three else train.binary().labels
    rng = np.random.default_rng(seed)
    fold = patient_folds(labels, train.patients, fractions=[0.75, 0.25], rng=rng)
    return np.flatnonzero(fold == 0), np.flatnonzero(fold == 1)


def digest(patients: Sequence[str]) -> str:
    """16 hex digits that stand for a set of patients, in any order and however often each is named."""
    return hashlib.sha256("\n".join(sorted(set(patients))).encode()).hexdigest()[:16]


def _check_fractions(fractions: Sequence[float]) -> np.ndarray:
    share = np.asarray(fractions, dtype=float)
    if share.ndim != 1 or len(share) == 0 or not (share > 0).all() or abs(share.sum() - 1) > 1e-6:
        raise DataError(
            f"fractions {list(np.atleast_1d(share))} must be positive and sum to 1, "
            f"not {share.sum():g}; leave out a fold that should be empty"
        )
    return share


def _stratify(
    counts: np.ndarray, images: np.ndarray, share: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Fold of each patient; counts (P, K) images a label, images (P,)."""
    fold = np.full(len(counts), -1, dtype=np.int64)
    wanted_images = [float(w) for w in share * images.sum()]
    wanted = share[:, None] * counts.sum(axis=0)  # (F, K) images of each label that each fold still wants
    while (fold < 0).any():
        open_ = np.flatnonzero(fold < 0)
        left = counts[open_].sum(axis=0)
        label = None
        if left.any():
            rarest = np.flatnonzero(left == left[left > 0].min())
            label = int(rng.choice(rarest))
        # Patients without any label come last, by their number of images alone.
        size = images[open_] if label is None else counts[open_, label]
        todo, size = open_[size > 0], size[size > 0]
        order = rng.permutation(len(todo))
        order = order[np.argsort(-size[order], kind="stable")]
        wish = list(wanted_images if label is None else wanted[:, label])
        for patient, amount in zip(todo[order].tolist(), size[order].tolist(), strict=True):
            f = _neediest(wish, wanted_images, rng)
            fold[patient] = f
            wish[f] -= amount
            wanted_images[f] -= float(images[patient])
            wanted[f] -= counts[patient]
    return fold


def _neediest(wish: list[float], wanted_images: list[float], rng: np.random.Generator) -> int:
    """Fold with the largest `wish`; ties by `wanted_images`, then at random."""
    top = max(wish)
    tied = [f for f, value in enumerate(wish) if value == top]
    if len(tied) > 1:
        most = max(wanted_images[f] for f in tied)
        tied = [f for f in tied if wanted_images[f] == most]
    return tied[0] if len(tied) == 1 else tied[int(rng.integers(len(tied)))]


def _fill_empty(fold: np.ndarray, images: np.ndarray, n_folds: int) -> np.ndarray:
    """Give each empty fold the smallest patient of the fold that has most patients."""
    for empty in np.flatnonzero(np.bincount(fold, minlength=n_folds) == 0):
        donors = np.flatnonzero(fold == np.bincount(fold, minlength=n_folds).argmax())
        fold[donors[images[donors].argmin()]] = empty
    return fold


def shared_patients(records: pd.DataFrame, a: str = "train", b: str = "test") -> list[str]:
    """Sorted ids of the patients with images in both split `a` and split `b` of `records`."""
    of = {name: set(records.loc[records["split"] == name, "patient_id"].astype(str)) for name in (a, b)}
    return sorted(of[a] & of[b])


def assert_no_patient_overlap(records: pd.DataFrame) -> None:
    """Raise DataError, with the number and examples, when any two splits share a patient."""
    for a, b in combinations(records["split"].unique(), 2):
        shared = shared_patients(records, a, b)
        if shared:
            raise DataError(
                f"{len(shared)} patients are in both {a} and {b}, such as {', '.join(shared[:3])}; "
                "split again with xraykit.splits.patient_folds, or drop their images from one side"
            )


def copies_across(
    sampled: np.ndarray, fold: np.ndarray, patients: np.ndarray, *, only: np.ndarray | None = None
) -> dict[str, float]:
    """How much of a validation fold is also in training: the published mistake "oversample, then split".

    Args:
        sampled: indices (M,) into the N original images, with repeats.
        fold: (M,), 0 for training and 1 for validation.
        patients: patient id (N,) of each original image.
        only: bool (N,); counts only the validation samples of these originals, one class for example.

    Returns:
        ``n_val``, the validation samples counted; ``with_copy`` and ``with_patient``, how many of them have
        the same image, or any image of the same patient (copies included), in training; and the shares
        ``with_copy_share`` and ``with_patient_share`` in 0 .. 1.

    Raises:
        DataError: shapes that differ, folds other than 0 and 1, or nothing to count.
    """
    sampled, fold = np.asarray(sampled), np.asarray(fold)
    if sampled.ndim != 1 or sampled.shape != fold.shape or not np.isin(fold, (0, 1)).all():
        raise DataError(
            f"sampled {sampled.shape} and fold {fold.shape} must have equal length M, and fold hold 0 for "
            f"training or 1 for validation; it holds {np.unique(fold)[:5].tolist()}"
        )
    code, _ = patient_codes(patients, len(patients))
    train, val = sampled[fold == 0], sampled[fold == 1]
    val = val if only is None else val[np.asarray(only, dtype=bool)[val]]
    if len(val) == 0:
        raise DataError("no validation sample to count; check `fold` (1 is validation) and `only`")
    copy, patient = np.isin(val, train), np.isin(code[val], code[train])
    return {
        "n_val": len(val),
        "with_copy": int(copy.sum()),
        "with_copy_share": float(copy.mean()),
        "with_patient": int(patient.sum()),
        "with_patient_share": float(patient.mean()),
    }
