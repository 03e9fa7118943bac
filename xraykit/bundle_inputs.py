"""Whether images, labels and classes that a user gives can become a few-shot classifier; said before anything
is computed."""

from collections.abc import Sequence

import numpy as np

from xraykit.errors import DataError
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


def check_labels(labels: np.ndarray, classes: Sequence[str], *, n: int) -> np.ndarray:
    """Class codes as int64 (n,).

    Raises:
        DataError: fewer than two classes, names that are empty or repeat, labels that are no codes of them,
            or fewer than `LEAST` images of a class.
    """
    labels, k = np.asarray(labels), len(classes)
    names = [str(name).strip().lower() for name in classes]
    if isinstance(classes, str) or k < 2 or not all(names) or len(set(names)) < k:
        raise DataError(f"classes {classes!r}; give two names or more, none of them empty or twice")
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
        DataError: images other than uint8 (N, size, size), or labels that do not fit.
    """
    check_images(images)
    if images.shape[1:] != (size, size):
        raise DataError(
            f"images {images.shape} of a network for {size} pixels; give them as it was trained with"
        )
    labels, n, k = np.asarray(labels), len(images), len(classes)
    shape, codes = ((n, k), 2) if labels.ndim == 2 else ((n,), k)
    if labels.shape != shape or not np.isin(labels, np.arange(codes)).all():
        raise DataError(f"labels {labels.shape} of {n} images and {k} classes; give codes, or 0/1 (N, K)")
    return labels.astype(np.int64)


def repeats(images: Sequence[np.ndarray], labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """For each image the row of the first that has the same pixels, itself mostly, int64 (N,).

    Raises:
        DataError: the same image in two classes.
    """
    first: dict[tuple, int] = {}
    rows = np.array(
        [first.setdefault((np.shape(i), np.asarray(i).tobytes()), row) for row, i in enumerate(images)]
    )
    wrong = np.flatnonzero(labels[rows] != labels)
    if len(wrong):
        here, there = wrong[0], rows[wrong[0]]
        raise DataError(
            f"image {here} ({classes[labels[here]]}) is the same as image {there} "
            f"({classes[labels[there]]}); keep it in one class"
        )
    return rows
