"""What can be done to features before a few-shot classifier sees them, beyond `fewshot_features.normalise`.

Less skewed features, several feature sets as one, and support images that stand for their augmented views.
Nothing here looks at a test image but the one that it changes.
"""

from collections.abc import Sequence

import numpy as np
import torch

from xraykit.augment import Augment, augment
from xraykit.errors import DataError
from xraykit.fewshot_features import check_features, normalise

UNIT = 1e-4  # a row whose length is within this of 1 is a direction
BLOCK = 256  # images augmented at a time


def powered(pool: np.ndarray, test: np.ndarray, *, exponent: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """sign(x) |x|^exponent of every feature, then ``normalise(how="l2")``; float32 (N, D) and (M, D).

    Features after a ReLU are skewed: many small values, a few large. A root makes them more like a Gaussian.
    Source: Hu, Gripon and Pateux, Leveraging the feature distribution in transfer-based few-shot learning,
    ICANN 2021, eq. 1, with the sign for features below zero, and standardised before the length becomes 1.

    Args:
        pool, test: (N, D) and (M, D), not normalised.
        exponent: above 0; 1 changes nothing.

    Raises:
        DataError: an exponent that is not above 0, or as `fewshot.normalise`.
    """
    if not (exponent > 0 and np.isfinite(exponent)):
        raise DataError(f"exponent = {exponent}; choose a number above 0, such as 0.5 for square roots")
    pool, test = check_features(pool, "pool"), check_features(test, "test")
    return normalise(*(np.sign(x) * np.abs(x) ** exponent for x in (pool, test)), how="l2")


def side_by_side(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Features of several layers or backbones as one: each ``"l2"`` normalised, all with the same weight.

    The squared distance of two images is then the mean of those in each of the feature sets.

    Args:
        pairs: (pool, test) of each, (N, D_i) and (M, D_i), not normalised, the same images in all.

    Returns:
        float32 (N, sum of D_i) and (M, sum of D_i); rows have length 1.

    Raises:
        DataError: no pair, other numbers of images, or as `fewshot.normalise`.
    """
    sizes = [(len(pool), len(test)) for pool, test in pairs]
    if len(set(sizes)) != 1:
        raise DataError(
            f"pool and test images of the feature sets: {sizes}; give one pair or more, all alike"
        )
    unit = [normalise(pool, test, how="l2") for pool, test in pairs]
    pool, test = (
        np.concatenate(side, axis=1) / np.float32(np.sqrt(len(pairs))) for side in zip(*unit, strict=True)
    )
    return pool, test


def views(images: np.ndarray, *, n_views: int, seed: int, ids: np.ndarray | None = None) -> np.ndarray:
    """Augmented views of grey images, for `averaged_support`: turned, moved, zoomed, other grey levels.

    View v of an image is what `augment` with the usual `Augment` makes of it in epoch v: a function of the
    image, its id, v and the seed, so that more images or more views do not change it.

    Args:
        images: uint8 (N, H, W), square.
        n_views: views of each image, at least 1.
        ids: whole numbers (N,) that name the images, such as their rows in the data set; by default their
            place in `images`.

    Returns:
        uint8 (n_views, N, H, W).

    Raises:
        DataError: images that are not uint8 (N, H, W) or not square, n_views < 1, ids that do not match.
    """
    if images.ndim != 3 or images.dtype != np.uint8 or n_views < 1:
        raise DataError(
            f"{n_views} views of {images.dtype} images {images.shape}; give uint8 (N, H, W) and n_views >= 1"
        )
    ids = np.arange(len(images)) if ids is None else np.asarray(ids)
    if ids.shape != images.shape[:1]:
        raise DataError(f"ids of shape {ids.shape} for {len(images)} images; give one id for each image")
    found = np.empty((n_views, *images.shape), np.uint8)
    for start in range(0, len(images), BLOCK):
        some = slice(start, start + BLOCK)
        grey = torch.from_numpy(images[some, None] / np.float32(255))
        for v in range(n_views):
            view = augment(grey, ids[some], epoch=v, seed=seed, options=Augment())
            found[v, some] = (255 * view[:, 0]).round().numpy()
    return found


def averaged_support(pool: np.ndarray, view_features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pool features in which some images are the mean of themselves and of their augmented views.

    A row that had length 1 has length 1 again. Only images that a draw may take as labelled need views.

    Args:
        pool: (N, D) features.
        view_features: (V, n, D), of V views of those images, normalised like the pool.
        rows: (n,) rows of the pool, each once.

    Returns:
        float32 (N, D), a copy.

    Raises:
        DataError: NaN features, shapes that do not match, rows twice or outside the pool.
    """
    pool, rows, shape = check_features(pool, "pool"), np.asarray(rows), np.shape(view_features)
    if len(shape) != 3 or shape[1:] != (*rows.shape, pool.shape[1]):
        raise DataError(
            f"view features {shape}, rows {rows.shape}, pool {pool.shape}: give (V, n, D), (n,), (N, D)"
        )
    check_features(np.reshape(view_features, (-1, shape[2])), "view")
    if rows.dtype.kind not in "iu" or not np.isin(rows, np.arange(len(pool))).all():
        raise DataError(
            f"rows {rows.dtype} {rows.min()} to {rows.max()} of a pool of {len(pool)}; give its rows"
        )
    if len(np.unique(rows)) < len(rows):
        raise DataError(
            f"{len(rows) - len(np.unique(rows))} of {len(rows)} rows are there twice; give each once"
        )
    out = pool.astype(np.float32)
    original = pool[rows].astype(np.float64)
    mean = (np.sum(view_features, axis=0, dtype=np.float64) + original) / (shape[0] + 1)
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    unit = np.abs(np.linalg.norm(original, axis=1, keepdims=True) - 1) < UNIT
    out[rows] = mean / np.where(unit & (length > 0), length, 1)
    return out
