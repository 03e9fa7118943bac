"""Heat maps against lesion masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score

from xraykit.errors import DataError
from xraykit.intervals import bootstrap, paired_differences, patient_weights
from xraykit.localisation import (
    BY_IMAGE,
    NAMES,
    THRESHOLDS,
    best_threshold,
    by_image,
    energy_inside,
    heat_share,
    iou_above,
    iou_at,
    localise,
    mean_interval,
    paired,
    pointing_game,
)
from xraykit.localisation_counts import (
    BINS,
    pixel_auprc,
    pixel_auroc,
    pixel_counts,
    region_overlap,
)


def lesions(n: int, size: int, *, radius: float, seed: int) -> np.ndarray:
    """Masks of two discs an image, but every fourth image has none."""
    rng = np.random.default_rng(seed)
    grid = np.arange(size)
    masks = np.zeros((n, size, size), bool)
    for i in range(n):
        for row, column in rng.integers(size, size=(2 * (i % 4 > 0), 2)):
            masks[i] |= (grid[:, None] - row) ** 2 + (grid - column) ** 2 <= radius**2
    return masks


def guesses(masks: np.ndarray, *, strength: float, seed: int) -> np.ndarray:
    """Smooth noise plus a blurred hint of where the lesions are."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.standard_normal(masks.shape), (0, 2, 2))
    hint = gaussian_filter(masks.astype(float), (0, 2, 2))
    return (noise / noise.std() + strength * hint / hint.max()).astype(np.float32)


def overlap_by_definition(maps: np.ndarray, masks: np.ndarray) -> float:
    """The area under the per-region-overlap curve to .3, from every threshold there is."""
    regions = []
    for i, mask in enumerate(masks):
        found, n = label(mask, structure=np.ones((3, 3)))
        regions += [np.sort(maps[i][found == r]) for r in range(1, n + 1)]
    outside = np.sort(maps[~masks])
    thresholds = np.unique(maps)[::-1]
    rate = np.r_[0, [(outside >= t).mean() for t in thresholds]]
    covered = np.r_[0, [np.mean([(r >= t).mean() for r in regions]) for t in thresholds]]
    area = 0.0
    for x0, x1, y0, y1 in zip(rate[:-1], rate[1:], covered[:-1], covered[1:], strict=True):
        if x1 > x0 and x0 < 0.3:
            end = min(x1, 0.3)
            area += (end - x0) * (y0 + np.interp(end, [x0, x1], [y0, y1])) / 2
    return area / 0.3


def test_pixels_by_hand() -> None:
    maps = np.array([[[0.1, 0.2], [0.3, 0.9]]])
    masks = np.array([[[False, True], [False, True]]])
    counts = pixel_counts(maps, masks)
    # .9 beats .1 and .3, .2 beats .1: three of four pairs
    assert pixel_auroc(counts).tolist() == [0.75]
    # in order: lesion, other, lesion: precision 1 at recall 1/2, then 2/3 at recall 1
    assert pixel_auprc(counts)[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert counts.inside.sum() == counts.outside.sum() == 2


def two_regions() -> tuple[np.ndarray, np.ndarray]:
    """A lesion of one pixel (.6), one of three (.9, .8, .3) and ten other pixels."""
    maps = np.array([[[0.6, 0.7, 0.5, 0.9, 0.8, 0.3, 0.4], np.arange(7) / 100]])
    masks = np.zeros((1, 2, 7), bool)
    masks[0, 0, [0, 3, 4, 5]] = True
    return maps, masks


def test_region_overlap_by_hand() -> None:
    maps, masks = two_regions()
    # From the top, (false-positive rate, mean overlap): (0, 1/6), (0, 1/3), (.1, 1/3), (.1, 5/6), (.2, 5/6),
    # (.3, 5/6), so up to .3 the area is .1 * 1/3 + .2 * 5/6.
    assert region_overlap(pixel_counts(maps, masks))[0] == pytest.approx((0.1 / 3 + 0.2 * 5 / 6) / 0.3)
    # The last lesion pixel and two others tie at .4: the curve goes straight from (.2, 5/6) to (.4, 1), and
    # is at 11/12 where it is cut.
    maps[0, 0, 5] = maps[0, 1, 0] = 0.4
    area = 0.1 / 3 + 0.1 * 5 / 6 + 0.1 * (5 / 6 + 11 / 12) / 2
    assert region_overlap(pixel_counts(maps, masks))[0] == pytest.approx(area / 0.3)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    masks = np.zeros((1, 4, 4), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 3] = True
    counts = pixel_counts(np.arange(16.0).reshape(1, 4, 4), masks)
    assert counts.overlap.sum() == 2
    assert counts.overlap[0, counts.overlap[0] > 0].tolist() == [0.5, 0.5, 1]


@pytest.mark.parametrize("radius", [1.5, 4, 9])
@pytest.mark.parametrize("strength", [0, 1, 4, 30])
def test_binned_scores_are_those_of_all_thresholds(radius: float, strength: float) -> None:
    masks = lesions(12, 64, radius=radius, seed=0)
    maps = guesses(masks, strength=strength, seed=1)
    counts = pixel_counts(maps, masks)
    y, scores = masks.ravel(), maps.ravel()
    assert len(np.unique(scores)) > 10 * BINS
    assert counts.inside.shape[1] <= BINS
    assert pixel_auroc(counts)[0] == pytest.approx(roc_auc_score(y, scores), abs=5e-4)
    assert pixel_auprc(counts)[0] == pytest.approx(average_precision_score(y, scores), abs=1e-3)


@pytest.mark.parametrize("strength", [0, 4, 30])
def test_binned_region_overlap_is_that_of_all_thresholds(strength: float) -> None:
    masks = lesions(4, 48, radius=4, seed=2)
    maps = guesses(masks, strength=strength, seed=3)
    found = region_overlap(pixel_counts(maps, masks))[0]
    assert found == pytest.approx(overlap_by_definition(maps, masks), abs=1e-3)


def test_binned_scores_of_maps_that_are_mostly_zero() -> None:
    masks = lesions(12, 64, radius=4, seed=0)
    maps = np.maximum(guesses(masks, strength=3, seed=1) - 1, 0)  # as a Grad-CAM is
    assert np.mean(maps == 0) > 0.7
    counts, y = pixel_counts(maps, masks), masks.ravel()
    assert pixel_auroc(counts)[0] == pytest.approx(roc_auc_score(y, maps.ravel()), abs=1e-3)
    assert pixel_auprc(counts)[0] == pytest.approx(average_precision_score(y, maps.ravel()), abs=1e-3)


def test_more_pixels_than_the_bins_are_chosen_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xraykit.localisation_counts.SAMPLE", 4096)
    masks = lesions(12, 64, radius=4, seed=0)
    maps = guesses(masks, strength=3, seed=1)
    counts, y = pixel_counts(maps, masks), masks.ravel()
    assert counts.inside.sum() + counts.outside.sum() == maps.size
    assert pixel_auroc(counts)[0] == pytest.approx(roc_auc_score(y, maps.ravel()), abs=1e-3)
    assert pixel_auprc(counts)[0] == pytest.approx(average_precision_score(y, maps.ravel()), abs=2e-3)


def test_weights_are_repeated_images() -> None:
    masks = lesions(8, 32, radius=4, seed=0)
    maps = guesses(masks, strength=2, seed=1)
    weights = np.array([[1, 1, 1, 1, 1, 1, 1, 1], [0, 2, 1, 0, 3, 0, 1, 1], [0, 0, 1, 0, 0, 0, 0, 0]])
    counts = pixel_counts(maps, masks)
    found = {f: f(counts, weights) for f in (pixel_auroc, pixel_auprc, region_overlap)}
    for b, row in enumerate(weights):
        rows = np.repeat(np.arange(8), row)
        y, scores = masks[rows].ravel(), maps[rows].ravel()
        assert found[pixel_auroc][b] == pytest.approx(roc_auc_score(y, scores), abs=1e-3)
        assert found[pixel_auprc][b] == pytest.approx(average_precision_score(y, scores), abs=3e-3)
        expected = overlap_by_definition(maps[rows], masks[rows])
        assert found[region_overlap][b] == pytest.approx(expected, abs=3e-3)


def test_pointing_game_by_hand() -> None:
    masks = np.zeros((5, 2, 2), bool)
    masks[:4, 0] = True
    maps = np.array(
        [[[3, 1], [0, 2]], [[1, 0], [3, 2]], [[1, 0], [1, 1]], [[1, 1], [1, 1]], np.eye(2)], float
    )
    # inside; outside; one of three largest; a constant map: the lesion's share; no lesion
    expected = [1, 0, 1 / 3, 1 / 2, np.nan]
    np.testing.assert_allclose(pointing_game(maps, masks), expected)


def test_iou_by_hand() -> None:
    masks = np.zeros((5, 2, 2), bool)
    masks[:4, 0] = True
    maps = np.array(
        [[[4, 3], [2, 1]], [[4, 2], [3, 1]], [[1, 2], [3, 4]], [[1, 1], [1, 1]], np.eye(2)], float
    )
    # both; one of both: 1 / 3; none; equal pixels count half, so one of two; no lesion
    np.testing.assert_allclose(iou_at(maps, masks), [1, 1 / 3, 0, 1 / 3, np.nan])


@given(st.integers(0, 2**32 - 1))
def test_only_the_order_of_values_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.integers(-8, 9, size=(6, 8, 8)) / 4
    masks = rng.random((6, 8, 8)) < 0.2
    masks[0] = False
    other = np.exp(maps)
    first, second = (
        localise(m, masks, np.arange(6) // 2, names=NAMES, seed=seed, n_boot=20) for m in (maps, other)
    )
    for name in NAMES:
        assert 0 <= first[name].value <= 1
        assert str(first[name]) == str(second[name])
    y, scores = masks.ravel(), maps.ravel()  # few different values: no rounding at all
    assert first["pixel_auroc"].value == pytest.approx(roc_auc_score(y, scores))
    assert first["pixel_auprc"].value == pytest.approx(average_precision_score(y, scores))
    assert first["region_overlap"].value == pytest.approx(overlap_by_definition(maps, masks))


def one_pixel(n: int) -> np.ndarray:
    """Masks (n, 2, 2) of one lesion pixel, but the last has none."""
    masks = np.zeros((n, 2, 2), bool)
    masks[:-1, 0, 0] = True
    return masks


def test_energy_by_hand() -> None:
    maps = np.array([[[3.0, 1], [0, 4]], [[0, 1], [2, 0]], [[5, 5], [5, 5]], np.zeros((2, 2)), np.eye(2)])
    # 3 of 8; nothing; a constant map and one of zeros: a quarter of the area; no lesion
    found = energy_inside(maps, one_pixel(5))
    np.testing.assert_array_equal(found, [3 / 8, 0, 1 / 4, 1 / 4, np.nan])
    assert found.dtype == np.float64
    # Any region: no NaN, and 0 without a region even in a map of zeros.
    np.testing.assert_array_equal(heat_share(maps, one_pixel(5)), [3 / 8, 0, 1 / 4, 1 / 4, 0])
    assert heat_share(maps[3:4], np.zeros((1, 2, 2), bool)).tolist() == [0]
    assert heat_share(maps, np.ones((5, 2, 2), bool)).tolist() == [1, 1, 1, 1, 1]


HEAT = arrays(np.float32, (3, 4, 4), elements=st.floats(0, 1, width=32, allow_subnormal=False))
REGIONS = arrays(bool, (3, 4, 4))


@given(HEAT, REGIONS, st.sampled_from([2, 1024]))
def test_shares_of_heat_are_means_weighted_by_the_map(maps, regions, factor: float) -> None:
    found = heat_share(maps, regions)
    weights = np.where(maps.any(axis=(1, 2), keepdims=True), maps, 1)
    expected = [np.average(on, weights=w.astype(float)) for on, w in zip(regions, weights, strict=True)]
    assert found == pytest.approx(expected)
    assert found + heat_share(maps, ~regions) == pytest.approx(np.ones(3))
    assert heat_share(maps * factor, regions) == pytest.approx(found)


def test_iou_above_by_hand() -> None:
    masks = np.zeros((5, 2, 2), bool)
    masks[:4, 0] = True
    maps = np.array(
        [[[1, 0.7], [0.6, 0]], [[0.7, 0.6], [0.7, 0]], np.zeros((2, 2)), np.ones((2, 2)), np.eye(2)],
        np.float32,
    )
    # just the lesion; one of three; no pixel; all pixels; no lesion
    np.testing.assert_array_equal(iou_above(maps, masks, 0.7), [1, 1 / 3, 0, 1 / 2, np.nan])
    np.testing.assert_array_equal(iou_above(maps, masks, np.float64(0.7)), iou_above(maps, masks, 0.7))
    np.testing.assert_array_equal(iou_above(maps, masks, 1), [1 / 2, 0, 0, 1 / 2, np.nan])


@given(HEAT, REGIONS.filter(lambda masks: masks.any() and not masks.all()))
def test_iou_above_and_the_best_threshold_as_scikit_learn_has_them(maps, masks) -> None:
    some = masks.any(axis=(1, 2))
    means = []
    for t in (0.25, 0.5, 0.75):
        pairs = zip(masks[some], maps[some], strict=True)
        expected = [jaccard_score(on.ravel(), (m >= t).ravel()) for on, m in pairs]
        found = iou_above(maps, masks, t)
        assert found[some].tolist() == expected
        assert np.isnan(found[~some]).all()
        means.append(np.mean(expected))
    chosen = best_threshold(maps, masks, candidates=(0.25, 0.5, 0.75))
    assert means[(0.25, 0.5, 0.75).index(chosen)] == pytest.approx(max(means))


def test_the_best_threshold_by_hand() -> None:
    maps, masks = np.array([[[0.9, 0.5], [0.3, 0.1]], [[0, 0], [0, 1]]]), one_pixel(2)
    # at .2, .4 and .8 the lesion's pixel is one of 3, 2 and 1; the image without a lesion has no say
    assert best_threshold(maps, masks, candidates=(0.2, 0.4, 0.8)) == 0.8
    assert best_threshold(maps, masks, candidates=(0.4, 0.2)) == 0.4
    assert best_threshold(maps, masks) == 0.55  # the first of .55 to .9
    assert best_threshold(maps, masks, candidates=[0.9, 0.6]) == 0.9
    assert THRESHOLDS[0] == 0.05
    assert THRESHOLDS[-1] == 0.95
    assert len(THRESHOLDS) == 19


def test_a_perfect_map_and_its_opposite() -> None:
    masks = lesions(8, 32, radius=4, seed=0)
    for maps, value in ((masks.astype(np.float32), 1), (~masks * np.float32(1), 0)):
        found = localise(maps, masks, np.arange(8), names=NAMES, seed=0, n_boot=50)
        for name in set(NAMES) - {"pixel_auprc"}:
            assert found[name].value == pytest.approx(value), name
        assert found["pixel_auprc"].value == pytest.approx(1 if value else masks.mean())


def test_patients_are_resampled_as_for_the_classifiers() -> None:
    masks = lesions(40, 16, radius=2, seed=0)
    masks[:, 3, 3] = True  # each has one
    maps = guesses(masks, strength=3, seed=1)
    patients = np.arange(40) // 3
    hits = pointing_game(maps, masks)
    expected = bootstrap(np.ones(40, int), [hits], patients, names=["accuracy"], seed=5, n_boot=300)
    found = localise(maps, masks, patients, names=["pointing_game", "pixel_auroc"], seed=5, n_boot=300)
    assert list(found) == ["pointing_game", "pixel_auroc"]
    assert 0.2 < found["pointing_game"].value == expected["accuracy"].value < 0.98
    assert found["pointing_game"].ci_low == pytest.approx(expected["accuracy"].ci_low)
    assert found["pointing_game"].ci_high == pytest.approx(expected["accuracy"].ci_high)
    assert found["pixel_auroc"].n_test == 40
    # The same from the resamplings themselves.
    weights = patient_weights(patients, n_boot=300, rng=np.random.default_rng(5)).astype(int)
    exact = []
    for row in weights:
        rows = np.repeat(np.arange(40), row)
        exact.append(roc_auc_score(masks[rows].ravel(), maps[rows].ravel()))
    low, high = np.percentile(exact, [2.5, 97.5])
    assert found["pixel_auroc"].ci_low == pytest.approx(low, abs=1e-3)
    assert found["pixel_auroc"].ci_high == pytest.approx(high, abs=1e-3)


def test_images_of_a_patient_do_not_narrow_the_interval() -> None:
    masks = lesions(12, 16, radius=2, seed=0)
    maps = guesses(masks, strength=2, seed=1)
    alone = localise(maps, masks, np.arange(12), names=NAMES, seed=2, n_boot=200)
    ten = np.repeat(np.arange(12), 10)
    many = localise(maps[ten], masks[ten], ten, names=NAMES, seed=2, n_boot=200)
    for name in NAMES:
        assert alone[name].ci_low < alone[name].value < alone[name].ci_high
        limits = (many[name].value, many[name].ci_low, many[name].ci_high)
        assert limits == pytest.approx((alone[name].value, alone[name].ci_low, alone[name].ci_high), abs=1e-9)


def test_an_image_without_a_lesion_only_adds_false_positives() -> None:
    masks = lesions(4, 32, radius=3, seed=0)[1:]
    maps = guesses(masks, strength=4, seed=1)
    clear = np.full((1, 32, 32), maps.max() + 1)  # a false alarm everywhere
    patients, about = np.arange(4), {"names": NAMES, "seed": 0, "n_boot": 20}
    before = localise(maps, masks, patients[:3], **about)
    after = localise(np.r_[maps, clear], np.r_[masks, clear < 0], patients, **about)
    for name in ("pointing_game", "iou_at"):
        assert after[name].value == before[name].value
        assert not np.isnan(after[name].ci_low)
    for name in ("pixel_auroc", "pixel_auprc", "region_overlap"):
        assert after[name].value < before[name].value - 0.1


def test_resamplings_without_a_lesion_are_left_out() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[1, 1, 1] = True
    maps = np.random.default_rng(0).random((2, 4, 4))
    found = localise(maps, masks, np.arange(2), names=NAMES, seed=0, n_boot=40)
    assert (patient_weights(np.arange(2), n_boot=40, rng=np.random.default_rng(0))[:, 1] == 0).any()
    assert all(np.isfinite([i.value, i.ci_low, i.ci_high]).all() for i in found.values())


def heat(masks: np.ndarray, *, strength: float, seed: int) -> np.ndarray:
    """`guesses` in 0..1."""
    maps = guesses(masks, strength=strength, seed=seed)
    return (maps - maps.min()) / np.ptp(maps)


def test_scores_by_image_are_those_of_localise() -> None:
    masks = lesions(12, 16, radius=2, seed=0)
    maps, patients = heat(masks, strength=3, seed=1), np.arange(12) // 2
    scores = by_image(maps, masks, names=tuple(BY_IMAGE), threshold=0.5)
    assert list(scores) == ["pointing_game", "iou_at", "energy_inside", "iou"]
    np.testing.assert_array_equal(scores["iou"], iou_above(maps, masks, 0.5))
    np.testing.assert_array_equal(scores["pointing_game"], pointing_game(maps, masks))
    about = {"seed": 3, "n_boot": 50}
    found = localise(maps, masks, patients, names=("iou", "pixel_auroc", *BY_IMAGE), threshold=0.5, **about)
    assert list(found) == ["iou", "pixel_auroc", "pointing_game", "iou_at", "energy_inside"]
    for name, values in scores.items():
        assert np.isnan(values).tolist() == [i % 4 == 0 for i in range(12)]
        assert found[name].value == pytest.approx(np.nanmean(values))
        assert repr(found[name]) == repr(mean_interval(values, patients, **about))
        assert found[name].n_test == 9
    assert tuple(localise(maps, masks, patients, **about)) == NAMES


def test_the_interval_of_a_mean_from_the_resamplings_themselves() -> None:
    rng = np.random.default_rng(0)
    values, patients = rng.random(30), rng.integers(12, size=30)
    values[[3, 7]] = np.nan
    found = mean_interval(values, patients, seed=4, n_boot=200)
    weights = patient_weights(patients, n_boot=200, rng=np.random.default_rng(4)).astype(int)
    means = [np.nanmean(np.repeat(values, row)) for row in weights]
    assert found.value == pytest.approx(np.nanmean(values))
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert found.n_test == 28
    assert np.isnan(found.p_value)
    # Two patients, values 0 and 1: a quarter of the resamplings draws one of them twice.
    two = mean_interval(np.array([0.0, 1, np.nan]), np.array(["a", "b", "b"]), seed=0, n_boot=100)
    assert (two.value, two.ci_low, two.ci_high, two.n_test) == (0.5, 0, 1, 2)


def test_a_paired_difference_as_for_the_classifiers() -> None:
    rng = np.random.default_rng(1)
    a, b = ((rng.random(60) < rate).astype(float) for rate in (0.8, 0.6))
    patients = np.arange(60) // 2
    about = {"seed": 5, "n_boot": 300}
    ones = np.ones(60, int)
    expected = paired_differences(ones, [a], [b], patients, names=["accuracy"], **about)["accuracy"]
    found = paired(a, b, patients, **about)
    assert 0 < found.p_value < 0.2
    assert list(vars(found).values()) == pytest.approx(list(vars(expected).values()), nan_ok=True)
    # An image where one of both is NaN is left out: as if it had no difference to add.
    a[0], b[1] = np.nan, np.nan
    short = paired(a, b, patients, **about)
    assert short.value == pytest.approx(np.mean(a[2:] - b[2:]))
    assert short.n_test == 58


@given(st.integers(0, 2**32 - 1))
def test_a_paired_difference_turned_round(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 10))
    there, back = (paired(*pair, np.arange(10) // 2, seed=seed, n_boot=30) for pair in ((a, b), (b, a)))
    assert there.value == pytest.approx(-back.value)
    assert (there.ci_low, there.ci_high) == pytest.approx((-back.ci_high, -back.ci_low))
    assert there.p_value == pytest.approx(back.p_value)
    same = paired(a, a, np.arange(10), seed=seed, n_boot=30)
    assert (same.value, same.ci_low, same.ci_high, same.p_value) == (0, 0, 0, 1)


def test_memmaps_and_the_seed(tmp_path) -> None:
    masks = lesions(8, 16, radius=2, seed=0)
    maps = heat(masks, strength=2, seed=1)
    np.save(tmp_path / "maps.npy", maps)
    np.save(tmp_path / "masks.npy", masks)
    kept = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("maps", "masks")]
    about = {"names": (*NAMES, "energy_inside", "iou"), "n_boot": 50, "threshold": 0.5}
    one = localise(maps, masks, np.arange(8), seed=0, **about)
    assert str(one) == str(localise(*kept, np.arange(8), seed=0, **about))
    assert str(one) != str(localise(*kept, np.arange(8), seed=1, **about))


MAPS = np.zeros((2, 4, 4))
MASKS = np.zeros((2, 4, 4), bool)
MASKS[0, 0, 0] = True


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (MAPS[:, :2], MASKS, r"maps \(2, 2, 4\) and masks \(2, 4, 4\); resize maps"),
        (MAPS[0], MASKS[0], r"both are \(M, S, S\)"),
        (MAPS[:0], MASKS[:0], "M, S >= 1"),
        (MAPS, MASKS.astype(np.uint8), r"masks uint8; give floats and bool \(masks > 0\)"),
        (MAPS.astype(int), MASKS, "maps are int64"),
        (np.where(MASKS[::-1], np.nan, MAPS), MASKS, "1 of 2 maps have NaN or infinite pixels, map 1 first"),
        (MAPS, MASKS & False, "the 2 masks show no lesion at all; localisation needs"),
        (MAPS, MASKS | True, "the 2 masks show lesions everywhere"),
    ],
)
@pytest.mark.parametrize("score", [pixel_counts, pointing_game, iou_at, energy_inside, best_threshold])
def test_bad_input(score, maps: np.ndarray, masks: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(maps, masks)


def test_bad_scales_and_thresholds() -> None:
    with pytest.raises(DataError, match=r"down to -0.5; shares of a sum need values from 0: clip them at"):
        energy_inside(MAPS - 0.5, MASKS)
    with pytest.raises(DataError, match=r"maps go down to -0.5"):
        heat_share(MAPS - 0.5, MASKS & False)
    with pytest.raises(DataError, match=r"maps \(2, 4, 4\) and masks \(4, 4\); resize maps"):
        heat_share(MAPS, MASKS[0])
    for maps, found in ((MAPS + 1.5, "1.5 to 1.5"), (MAPS - 0.5, "-0.5 to -0.5")):
        with pytest.raises(DataError, match=f"maps go from {found}; a threshold needs 0 to 1: scale each"):
            iou_above(maps, MASKS, 0.5)
    for threshold in (0, 1.5, -0.1, float("nan"), "half", None):
        with pytest.raises(DataError, match=f"threshold = {threshold!r}; use above 0 to 1, `best_threshold`"):
            iou_above(MAPS, MASKS, threshold)
    with pytest.raises(DataError, match="threshold = 0; use above 0"):
        best_threshold(MAPS, MASKS, candidates=(0.5, 0))
    with pytest.raises(DataError, match="no candidates for the threshold; give at least one"):
        best_threshold(MAPS, MASKS, candidates=())


def test_bad_names_and_patients() -> None:
    with pytest.raises(DataError, match=r"\['dice'\] are not defined; choose from \('pixel_auroc', .*'iou'"):
        localise(MAPS, MASKS, np.arange(2), names=["dice"], seed=0)
    with pytest.raises(DataError, match="2 labels but 3 patient ids"):
        localise(MAPS, MASKS, np.arange(3), names=["iou_at"], seed=0)
    with pytest.raises(DataError, match="threshold = None; use above 0 to 1"):
        localise(MAPS, MASKS, np.arange(2), names=["pixel_auroc", "iou"], seed=0)
    with pytest.raises(DataError, match=r"\['pixel_auroc'\] are not defined by image; choose from \('point"):
        by_image(MAPS, MASKS, names=["iou_at", "pixel_auroc"])


def test_bad_values() -> None:
    nan, two = float("nan"), np.arange(2)
    for values, found in (([nan, nan], r"\(2,\), 0 infinite, 2 NaN"), ([1, -np.inf], r"\(2,\), 1 infinite")):
        with pytest.raises(DataError, match=f"values are {found}.*give \\(M,\\), finite or NaN, one of them"):
            mean_interval(np.array(values), two, seed=0)
        with pytest.raises(DataError, match=found):
            paired(np.array(values), np.ones(2), two, seed=0)
    with pytest.raises(DataError, match=r"values are \(1, 2\)"):
        mean_interval(np.ones((1, 2)), two, seed=0)
    with pytest.raises(DataError, match=r"a is \(2,\) and b is \(3,\); give both for the same images"):
        paired(np.ones(2), np.ones(3), two, seed=0)
    with pytest.raises(DataError, match=r"values are \(2,\), 0 infinite, 2 NaN"):
        paired(np.array([1, nan]), np.array([nan, 1]), two, seed=0)
    with pytest.raises(DataError, match="2 labels but 3 patient ids"):
        mean_interval(np.ones(2), np.arange(3), seed=0)
