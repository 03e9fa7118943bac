"""Images that occur more than once: exactly, and nearly."""

import hashlib

import numpy as np
import pandas as pd

from xraykit.datasets.base import XrayDataset
from xraykit.errors import DataError
from xraykit.pixel_baseline import pixel_features

# On Kermany identical images correlate at 1.000 and the closest two others at .975. Altered copies, median:
# JPEG quality 30 or 30 grey levels brighter 1.000, gamma .7 .993, shifted or cropped by 1% of the side or
# turned by 1 degree .994. Larger changes (2%: .978; CLAHE: .92) drown among other children and are missed.
NEAR_THRESHOLD = 0.98
_BLOCK = 2048  # rows of a block of the correlation matrix: 16 MiB


def exact_duplicates(ds: XrayDataset, *, by: str | None = None) -> pd.DataFrame:
    """Images that have an identical copy.

    Args:
        by: ``"file"`` compares the ``sha256`` column of the records, ``"pixels"`` the decoded images; by
            default the file where every hash is known, else the pixels.

    Returns:
        One row an image, at least two a group, in the order of the records: ``group`` (0 ..), ``image_id``,
        ``patient_id``, ``split`` and ``label`` (names joined by ``|`` for multilabel).

    Raises:
        DataError: ``by="file"`` without hashes.
    """
    hashed = "sha256" in ds.records.columns and ds.records["sha256"].notna().all()
    if by not in (None, "file", "pixels") or (by == "file" and not hashed):
        raise DataError(
            f"by = {by!r}; use 'pixels', or 'file' where the records have a sha256 for every image"
        )
    if hashed and by != "pixels":
        keys = ds.records["sha256"].to_numpy(object)
    else:
        keys = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in ds.images], dtype=object)
    repeated = np.flatnonzero(pd.Series(keys).duplicated(keep=False))
    group = pd.factorize(keys[repeated])[0]
    records = ds.records.iloc[repeated]
    found = records[["image_id", "patient_id", "split"]].reset_index(drop=True)
    found.insert(0, "group", group)
    return found.assign(label=_label_text(ds, records)).sort_values("group", kind="stable", ignore_index=True)


def _label_text(ds: XrayDataset, records: pd.DataFrame) -> list[str]:
    if ds.task == "multiclass":
        return records["label"].astype(str).to_list()
    names = np.array(ds.classes, dtype=object)
    return ["|".join(names[row]) for row in records[list(ds.classes)].to_numpy(bool)]


def duplicate_counts(duplicates: pd.DataFrame) -> pd.DataFrame:
    """What `exact_duplicates` found, by place.

    Returns:
        Rows: each split with duplicates inside it; then groups that lie ``across splits``, and those whose
        copies have ``two labels`` or ``two patients``. Columns: ``groups``, ``images`` in them, and
        ``extra``, the images beyond the first of each group: one image stored three times counts 2.
    """
    inside = duplicates[duplicates.duplicated(["group", "split"], keep=False)]
    rows = {split: _count(part) for split, part in inside.groupby("split", sort=True)}
    named = {"across splits": "split", "two labels": "label", "two patients": "patient_id"}
    for name, column in named.items():
        several = duplicates.groupby("group")[column].transform("nunique") > 1
        rows[name] = _count(duplicates[several])
    return pd.DataFrame(rows, index=["groups", "images", "extra"], dtype=np.int64).T


def _count(part: pd.DataFrame) -> list[int]:
    groups = part["group"].nunique()
    return [groups, len(part), len(part) - groups]


def near_duplicates(
    images: np.ndarray, *, threshold: float = NEAR_THRESHOLD, max_pairs: int = 1_000_000
) -> pd.DataFrame:
    """Pairs of images that look alike: Pearson correlation of their 32x32 thumbnails at least `threshold`.

    Insensitive to brightness and contrast, tolerant of recompression and of shifts by 1% of the side. Memory
    is 4 KiB an image and one block of the correlation matrix; time grows with N squared.

    Args:
        images: uint8 (N, H, W), array or memmap.
        threshold: correlation in (0, 1]; identical images reach 1.
        max_pairs: more pairs than this are an error: the threshold is too low to mean anything.

    Returns:
        ``first`` < ``second`` (positions), ``correlation``, and ``identical`` (equal pixel by pixel); highest
        correlation first. Images of one constant grey level are left out.

    Raises:
        DataError: images that are not uint8 (N, H, W), threshold outside (0, 1], or more than `max_pairs`.
    """
    if not 0 < threshold <= 1:
        raise DataError(f"threshold = {threshold}; a correlation must be above 0 and at most 1")
    thumbnails = _standardised(images)
    blocks, found = [], 0
    for a in range(0, len(images), _BLOCK):
        for b in range(a, len(images), _BLOCK):
            block = _block_pairs(thumbnails, a, b, threshold)
            blocks.append(block)
            found += len(block)
            if found > max_pairs:
                raise DataError(
                    f"more than {max_pairs} pairs correlate at {threshold} or more; raise threshold"
                )
    pairs = pd.concat(blocks, ignore_index=True)
    both = zip(pairs["first"], pairs["second"], strict=True)
    pairs["identical"] = np.array([np.array_equal(images[i], images[j]) for i, j in both], dtype=bool)
    order = ["correlation", "first", "second"]
    return pairs.sort_values(order, ascending=[False, True, True], ignore_index=True)


def _standardised(images: np.ndarray) -> np.ndarray:
    """Thumbnails (N, 1024) of mean 0 and length 1: their products are correlations."""
    thumbnails = pixel_features(images, size=min(32, *images.shape[1:]))
    thumbnails -= thumbnails.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(thumbnails, axis=1, keepdims=True)
    return thumbnails / np.where(norm > 1e-4, norm, np.inf)


def _block_pairs(thumbnails: np.ndarray, a: int, b: int, threshold: float) -> pd.DataFrame:
    correlation = thumbnails[a : a + _BLOCK] @ thumbnails[b : b + _BLOCK].T
    first, second = np.nonzero(correlation >= threshold - 1e-6)  # float32 rounding
    later = first + a < second + b
    first, second = first[later], second[later]
    value = np.minimum(correlation[first, second], 1)
    return pd.DataFrame({"first": first + a, "second": second + b, "correlation": value})
