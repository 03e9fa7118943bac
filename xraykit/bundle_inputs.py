"""Whether images, labels and classes that a user gives can become a few-shot classifier; said before anything
is computed."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from xraykit.bundle_checks import check_name, check_names
from xraykit.bundle_manifest import FORMAT, parse, written
from xraykit.errors import BundleError, DataError
from xraykit.images import check_images

LEAST = 3


def check_each(images: Sequence[np.ndarray]) -> int:
    """The number of images, each of which is uint8 (h, w) with more than one grey level.

    Raises:
        DataError: another image, which is named, or none.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        raise DataError(f"images have the shape {images.shape}; X-rays are grey here: drop the channel axis")
    if len(images) == 0:
        raise DataError(f"no images; give at least {LEAST} of each class")
    for row, image in enumerate(images):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 2 or 0 in image.shape:
            raise DataError(
                f"image {row} is {image.dtype} {image.shape}; give uint8 (h, w), grey levels 0..255"
            )
        if image.min() == image.max():
            raise DataError(f"image {row} has the grey level {image.flat[0]} everywhere; leave it out")
    return len(images)


def check_texts(name: str, about: Mapping[str, object] | None) -> None:
    """Raise DataError for a name or entries of the card with which a bundle could not be saved."""
    check_name(name)
    try:
        parse(written({"format": FORMAT, "card": dict(about or {})}))
    except BundleError as error:
        raise DataError(f"about cannot be kept: {error}") from error


def check_labels(labels: np.ndarray, classes: Sequence[str], *, n: int) -> np.ndarray:
    """Class codes as int64 (n,).

    Raises:
        DataError: fewer than two classes, names that `bundle_checks.check_names` refuses, labels that are no
            codes of them, or fewer than `LEAST` images of a class.
    """
    labels, k = np.asarray(labels), len(check_names(classes))
    if k < 2:
        raise DataError(f"classes {list(classes)!r:.80}; give two names or more")
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise DataError(f"labels {labels.dtype} {labels.shape} for {n} images; give one code for each")
    if not np.isin(labels, np.arange(k)).all():
        raise DataError(
            f"labels go from {labels.min()} to {labels.max()}; the codes of {k} classes are 0 to {k - 1}"
        )
    counts = np.bincount(labels, minlength=k)
    if counts.min() < LEAST:
        few = ", ".join(
            f"{count} of {name}" for count, name in zip(counts, classes, strict=True) if count < LEAST
        )
        raise DataError(f"too few images: {few}; give at least {LEAST} of each class")
    return labels.astype(np.int64)


def check_training(
    images: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, size: int
) -> np.ndarray:
    """Labels int64 of the training images of a network: class codes (N,), or 0/1 (N, K).

    Raises:
        DataError: images other than uint8 (N, size, size), labels that do not fit, or names that
            `bundle_checks.check_names` refuses.
    """
    check_images(images)
    if images.shape[1:] != (size, size):
        raise DataError(
            f"images {images.shape} of a network for {size} pixels; give them as it was trained with"
        )
    labels, n, k = np.asarray(labels), len(images), len(classes)
    check_names(classes, multilabel=labels.ndim == 2)
    shape, codes = ((n, k), 2) if labels.ndim == 2 else ((n,), k)
    if labels.shape != shape or not np.isin(labels, np.arange(codes)).all():
        raise DataError(f"labels {labels.shape} of {n} images and {k} classes; give codes, or 0/1 (N, K)")
    return labels.astype(np.int64)


def repeats(
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """For each image the row of the first that has the same pixels, itself mostly, int64 (N,).

    Args:
        names: what messages call each image; None for its row.

    Raises:
        DataError: the same image in two classes.
    """
    first: dict[tuple, int] = {}
    rows = np.array([first.setdefault(_key(image), row) for row, image in enumerate(images)])
    wrong = np.flatnonzero(labels[rows] != labels)
    if len(wrong):
        here, there = (
            f"{names[row] if names else f'image {row}'} ({classes[labels[row]]})"
            for row in (wrong[0], rows[wrong[0]])
        )
        raise DataError(f"{here} is the same as {there}; keep it in one class")
    return rows


def _key(image: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """Shape and SHA-256 of the pixels."""
    return np.shape(image), hashlib.sha256(np.ascontiguousarray(image)).digest()
