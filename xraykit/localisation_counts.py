"""Scores of heat maps that pool the pixels of all images: ROC, precision-recall, overlap with regions.

Shapes are those of `localisation`. The scores are computed from counts a bin of each image, so that a
resampling is a sum of rows; `weights` are (B, M), not negative: how often each image is drawn, 1 for None.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from xraykit import metrics
from xraykit.errors import DataError

BINS = 2048
SAMPLE = 2**20  # pixels of each kind, about, that the bins are chosen from
MAX_FALSE_POSITIVE_RATE = 0.3


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of each of M images in K bins of the map's value, lowest first.

    Attributes:
        inside: (M, K) pixels in lesions.
        outside: (M, K) the other pixels.
        overlap: (M, K) sum over the image's connected regions of the share of the region in each bin.
    """

    inside: np.ndarray
    outside: np.ndarray
    overlap: np.ndarray


def pixel_counts(maps: np.ndarray, masks: np.ndarray) -> PixelCounts:
    """Counts for `pixel_auroc`, `pixel_auprc` and `region_overlap`, read image by image.

    Half of the at most `BINS` bins are quantiles of the lesions' pixels and half of the others, which keeps
    the areas within 1e-3 of those over all thresholds however small the lesions are; with few different
    values they are the same. Regions are connected over sides and corners.

    Raises:
        DataError: shapes or types that do not fit, values that are not finite, no lesion, or nothing else.
    """
    maps, masks = check_lesions(maps, masks)
    edges = np.unique(np.concatenate([_quantiles(maps, masks, inside=i) for i in (True, False)]))
    parts = [_image_counts(m, on, edges) for m, on in zip(maps, masks, strict=True)]
    return PixelCounts(*(np.stack(part) for part in zip(*parts, strict=True)))


def pixel_auroc(counts: PixelCounts, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve of all pixels, (B,); NaN where one kind of pixel has no weight."""
    return metrics.auroc(*_binned(counts, weights))


def pixel_auprc(counts: PixelCounts, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision of all pixels, (B,); NaN where no lesion has weight. Chance is the lesions' share."""
    return metrics.auprc(*_binned(counts, weights))


def region_overlap(counts: PixelCounts, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the per-region-overlap curve up to a false-positive rate of 0.3, over 0.3: (B,) in 0..1.

    At each threshold, the mean share of a connected region that the map covers, every region counting the
    same whatever its area (PRO; Bergmann et al., IJCV 2021, section 5.2), against the share of all pixels
    outside lesions that it covers. NaN where no lesion, or nothing else, has weight.
    """
    rate, covered = (_from_the_top(part, weights) for part in (counts.outside, counts.overlap))
    step = np.diff(rate, axis=1)
    within = np.clip(MAX_FALSE_POSITIVE_RATE - rate[:, :-1], 0, step)  # of each step of the curve
    share = np.divide(within, step, out=np.zeros_like(step), where=step > 0)
    height = covered[:, :-1] + np.diff(covered, axis=1) * share / 2
    return (within * height).sum(axis=1) / MAX_FALSE_POSITIVE_RATE


POOLED = {"pixel_auroc": pixel_auroc, "pixel_auprc": pixel_auprc, "region_overlap": region_overlap}


def check_maps(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`maps` and `masks` as arrays; memmaps stay memmaps.

    Raises:
        DataError: other than floats and bool of one shape (M, S, S), or values that are not finite.
    """
    maps, masks = np.asanyarray(maps), np.asanyarray(masks)
    if maps.shape != masks.shape or maps.ndim != 3 or 0 in maps.shape:
        raise DataError(
            f"maps {maps.shape} and masks {masks.shape}; resize maps so that both are (M, S, S), M, S >= 1"
        )
    if masks.dtype != bool or maps.dtype.kind != "f":
        raise DataError(f"maps are {maps.dtype} and masks {masks.dtype}; give floats and bool (masks > 0)")
    bad = [i for i, m in enumerate(maps) if not np.isfinite(m).all()]
    if bad:
        raise DataError(f"{len(bad)} of {len(maps)} maps have NaN or infinite pixels, map {bad[0]} first")
    return maps, masks


def check_lesions(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `check_maps`, of masks that show lesions.

    Raises:
        DataError: as `check_maps`, no lesion at all, or nothing but lesions.
    """
    maps, masks = check_maps(maps, masks)
    area = sum(np.count_nonzero(on) for on in masks)
    if area in (0, masks.size):
        what = "no lesion at all" if area == 0 else "lesions everywhere"
        raise DataError(f"the {len(masks)} masks show {what}; localisation needs pixels inside and outside")
    return maps, masks


def _quantiles(maps: np.ndarray, masks: np.ndarray, *, inside: bool) -> np.ndarray:
    """Values of the lesions' pixels, or of the others, that split them into BINS / 2 equal parts, about."""
    total = np.count_nonzero(masks) if inside else masks.size - np.count_nonzero(masks)
    stride = -(-total // SAMPLE)
    sample = [np.sort(m[on == inside])[::stride] for m, on in zip(maps, masks, strict=True)]
    return np.quantile(np.concatenate(sample), np.linspace(0, 1, BINS // 2), method="inverted_cdf")


def _image_counts(
    image: np.ndarray, on: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image's rows of `PixelCounts`; bin k reaches from edge k to just below edge k + 1."""
    place = np.searchsorted(edges, image, side="right") - 1
    _, labels = cv2.connectedComponents(on.astype(np.uint8), connectivity=8)
    regions = labels[on]
    share = 1 / np.bincount(regions)[regions] if len(regions) else np.empty(0)
    counts = [np.bincount(place[part], minlength=len(edges)) for part in (on, ~on)]
    return counts[0], counts[1], np.bincount(place[on], share, minlength=len(edges))


def _resampled(part: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Counts (B, K) of all images together under each row of weights; one row of ones when None."""
    weights = np.ones((1, len(part))) if weights is None else np.asarray(weights, np.float64)
    return weights @ part


def _binned(counts: PixelCounts, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and weights for `metrics`: each bin is an example of each kind, as heavy as full."""
    bins = counts.inside.shape[1]
    full = [_resampled(part, weights) for part in (counts.outside, counts.inside)]
    return np.repeat([0, 1], bins), np.tile(np.arange(bins), 2), np.concatenate(full, axis=1)


def _from_the_top(part: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Shares (B, K + 1) of a part in the highest 0, 1, ... K bins."""
    above = np.cumsum(_resampled(part, weights)[:, ::-1], axis=1)
    total = above[:, -1:]
    return np.pad(above / np.where(total > 0, total, np.nan), ((0, 0), (1, 0)))
