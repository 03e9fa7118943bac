"""How well heat maps find lesions: scores of maps against masks, with patient-bootstrap intervals.

Shapes, used throughout: `maps` are floats (M, S, S), large where a lesion is said to be, on any scale that
all M images share unless a score says more; `masks` are bool (M, S, S), set on the lesions. Scores by image
are NaN without a lesion; there an image only adds its pixels to the false positives of the scores that pool
all pixels, which `localisation_counts` makes.
"""

from collections.abc import Sequence
from numbers import Real

import numpy as np

from xraykit.errors import DataError
from xraykit.intervals import Interval, difference_interval, limits, resampling_weights
from xraykit.localisation_counts import POOLED, check_lesions, check_maps, pixel_counts

THRESHOLDS = tuple(k / 20 for k in range(1, 20))


def pointing_game(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Whether each map's largest pixel lies in a lesion, float64 (M,): 1 or 0, NaN without a lesion.

    After Zhang et al., IJCV 2018, without the 15 pixels of tolerance around a mask. Of several largest pixels
    the share in a lesion counts, so that a constant map gets what a random pixel would.
    """
    maps, masks = check_lesions(maps, masks)
    hits = [on[m == m.max()].mean() if on.any() else np.nan for m, on in zip(maps, masks, strict=True)]
    return np.array(hits)


def iou_at(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Intersection over union of each mask with as many of its map's largest pixels, float64 (M,) in 0..1.

    NaN without a lesion. Where only some of equal pixels are wanted, each counts as that share of a pixel.
    """
    maps, masks = check_lesions(maps, masks)
    return np.array([_iou(m, on) if on.any() else np.nan for m, on in zip(maps, masks, strict=True)])


def heat_share(maps: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Share of each map's sum that lies in a region, float64 (M,) in 0..1; 0 where the region is empty.

    A map that is 0 everywhere gets the region's share of the area, as any constant map.

    Args:
        maps: values from 0.
        regions: bool (M, S, S): lungs, what is outside the body, a side marker.

    Raises:
        DataError: shapes or types that do not fit, values that are not finite, or below 0.
    """
    maps, regions = check_maps(maps, regions)
    low = float(np.min(maps))
    if low < 0:
        raise DataError(
            f"maps go down to {low}; shares of a sum need values from 0: clip them at 0, or subtract each "
            "map's least value"
        )
    return np.array([_share(m, on) for m, on in zip(maps, regions, strict=True)])


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """`heat_share` of the lesions, float64 (M,) in 0..1, NaN without a lesion; maps have values from 0.

    The energy-based pointing game of Wang et al. (Score-CAM, CVPR workshops 2020), with masks for boxes.
    Chance is the lesion's share of the area.
    """
    maps, masks = check_lesions(maps, masks)
    return np.where(masks.any(axis=(1, 2)), heat_share(maps, masks), np.nan)


def iou_above(maps: np.ndarray, masks: np.ndarray, threshold: float) -> np.ndarray:
    """Intersection over union of each mask with its map's pixels from `threshold` up, float64 (M,) in 0..1.

    Args:
        maps: values in 0..1.
        threshold: above 0 to 1, for all images; see `best_threshold`.

    Returns:
        NaN without a lesion, 0 where no pixel reaches the threshold.

    Raises:
        DataError: another threshold, values outside of 0..1, or what `pixel_counts` refuses.
    """
    return _ious_above(maps, masks, [threshold])[:, 0]


def best_threshold(maps: np.ndarray, masks: np.ndarray, *, candidates: Sequence[float] = THRESHOLDS) -> float:
    """The candidate with the highest mean of `iou_above` over the images with a lesion, the first of equals.

    For validation images: a threshold chosen on those that are then scored flatters the maps. Saporta et al.,
    Nature Machine Intelligence 2022, extended data figure 1, choose theirs in this way.

    Raises:
        DataError: no candidate, or what `iou_above` refuses.
    """
    if len(candidates) == 0:
        raise DataError("no candidates for the threshold; give at least one above 0 to 1")
    means = np.nanmean(_ious_above(maps, masks, candidates), axis=0)
    return float(candidates[int(np.argmax(means))])


ANY_SCALE = {"pointing_game": pointing_game, "iou_at": iou_at}
BY_IMAGE = {**ANY_SCALE, "energy_inside": energy_inside, "iou": iou_above}
NAMES = (*POOLED, *ANY_SCALE)
"""Scores of maps on any scale; ``"energy_inside"`` needs values from 0, ``"iou"`` 0..1 and a threshold."""


def by_image(
    maps: np.ndarray, masks: np.ndarray, *, names: Sequence[str], threshold: float | None = None
) -> dict[str, np.ndarray]:
    """The scores `names` of each image, float64 (M,), NaN without a lesion.

    Args:
        names: of `BY_IMAGE`.
        threshold: of ``"iou"``, which is `iou_above`; the others do without.

    Raises:
        DataError: an unknown name, ``"iou"`` without a threshold, or what the scores refuse.
    """
    unknown = [n for n in names if n not in BY_IMAGE]
    if unknown:
        raise DataError(f"localisation scores {unknown} are not defined by image; choose from {(*BY_IMAGE,)}")
    about = {name: (threshold,) if name == "iou" else () for name in names}
    return {name: BY_IMAGE[name](maps, masks, *about[name]) for name in names}


def localise(
    maps: np.ndarray,
    masks: np.ndarray,
    patients: np.ndarray,
    *,
    names: Sequence[str] = NAMES,
    seed: int,
    n_boot: int = 1000,
    threshold: float | None = None,
) -> dict[str, Interval]:
    """The scores `names` of heat maps against lesion masks, each with its interval.

    Args:
        maps, masks: see the module's first lines; arrays or memmaps.
        patients: (M,) ids; the bootstrap resamples these, as `intervals.bootstrap` does with the same seed.
        names: of `localisation_counts.POOLED` and `BY_IMAGE`; the latter are means over the images with a
            lesion.
        seed, n_boot: of the resamplings, and how many. One in which a score is undefined is left out.
        threshold: see `by_image`.

    Raises:
        DataError: an unknown name, other than one patient for each map, or what `pixel_counts` and `by_image`
            refuse.
    """
    known = (*POOLED, *BY_IMAGE)
    unknown = [n for n in names if n not in known]
    if unknown:
        raise DataError(f"localisation scores {unknown} are not defined; choose from {known}")
    weights = resampling_weights(len(maps), patients, n_boot=n_boot, rng=np.random.default_rng(seed))
    values = by_image(maps, masks, names=[n for n in names if n in BY_IMAGE], threshold=threshold)
    counts = pixel_counts(maps, masks) if set(names) & set(POOLED) else None
    out = {}
    for name in names:
        samples = POOLED[name](counts, weights) if name in POOLED else _means(values[name], weights)
        n_test = len(maps) if name in POOLED else np.count_nonzero(~np.isnan(values[name]))
        out[name] = Interval(float(samples[0]), *limits(samples[1:]), n_test=n_test)
    return out


def mean_interval(values: np.ndarray, patients: np.ndarray, *, seed: int, n_boot: int = 1000) -> Interval:
    """Mean of the values (M,) that are not NaN; `n_test` is how many. Resampled as in `localise`.

    Raises:
        DataError: values of another shape, infinite, or all NaN; other than one patient for each.
    """
    values = _checked_values(values)
    weights = resampling_weights(len(values), patients, n_boot=n_boot, rng=np.random.default_rng(seed))
    samples = _means(values, weights)
    return Interval(float(samples[0]), *limits(samples[1:]), n_test=np.count_nonzero(~np.isnan(values)))


def paired(a: np.ndarray, b: np.ndarray, patients: np.ndarray, *, seed: int, n_boot: int = 1000) -> Interval:
    """Mean of a - b, values (M,) of the same images, with the p-value of `intervals.paired_differences`.

    Images where one is NaN are left out. Resampled as in `localise`: the same seed draws the same patients.

    Raises:
        DataError: other shapes, infinite values, no image with both; other than one patient for each.
    """
    if np.shape(a) != np.shape(b):
        raise DataError(f"a is {np.shape(a)} and b is {np.shape(b)}; give both for the same images")
    values = _checked_values(_checked_values(a) - _checked_values(b))
    weights = resampling_weights(len(values), patients, n_boot=n_boot, rng=np.random.default_rng(seed))
    n_test = np.count_nonzero(~np.isnan(values))
    return difference_interval(_means(values, weights), n_draws=1, n_test=n_test)


def _checked_values(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or np.isinf(values).any() or np.isnan(values).all():
        raise DataError(
            f"values are {values.shape}, {np.count_nonzero(np.isinf(values))} infinite, "
            f"{np.count_nonzero(np.isnan(values))} NaN; give (M,), finite or NaN, one of them a number"
        )
    return values


def _ious_above(maps: np.ndarray, masks: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """(M, T), a column a threshold; NaN in the rows without a lesion."""
    bad = [t for t in thresholds if not (isinstance(t, Real) and 0 < t <= 1)]
    if bad:
        raise DataError(f"threshold = {bad[0]!r}; use above 0 to 1, `best_threshold` of validation images")
    maps, masks = check_lesions(maps, masks)
    low, high = float(np.min(maps)), float(np.max(maps))
    if low < 0 or high > 1:
        raise DataError(f"maps go from {low} to {high}; a threshold needs 0 to 1: scale each map to that")
    out = np.full((len(maps), len(thresholds)), np.nan)
    for row, m, on in zip(out, maps, masks, strict=True):
        if on.any():
            above = [m >= float(t) for t in thresholds]
            row[:] = [np.count_nonzero(a & on) / np.count_nonzero(a | on) for a in above]
    return out


def _share(image: np.ndarray, on: np.ndarray) -> float:
    if not image.any():
        return np.count_nonzero(on) / on.size
    inside, outside = (image[part].sum(dtype=np.float64) for part in (on, ~on))
    return inside / (inside + outside)


def _iou(image: np.ndarray, on: np.ndarray) -> float:
    area = np.count_nonzero(on)
    least = np.partition(image, image.size - area, axis=None)[image.size - area]
    larger, equal = image > least, image == least
    share = (area - np.count_nonzero(larger)) / np.count_nonzero(equal)
    common = np.count_nonzero(larger & on) + share * np.count_nonzero(equal & on)
    return common / (2 * area - common)


def _means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means (B,) of the values (M,) that are not NaN; NaN where all of them have weight 0."""
    some = ~np.isnan(values)
    total = weights[:, some].sum(axis=1, dtype=np.float64)
    return weights[:, some] @ values[some] / np.where(total > 0, total, np.nan)
