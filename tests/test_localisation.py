"""Heat maps against lesion masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import average_precision_score, roc_auc_score

from xraykit.errors import DataError
from xraykit.intervals import bootstrap, patient_weights
from xraykit.localisation import (
    BINS,
    NAMES,
    iou_at,
    localise,
    pixel_auprc,
    pixel_auroc,
    pixel_counts,
    pointing_game,
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
    monkeypatch.setattr("xraykit.localisation.SAMPLE", 4096)
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


def test_memmaps_and_the_seed(tmp_path) -> None:
    masks = lesions(8, 16, radius=2, seed=0)
    maps = guesses(masks, strength=2, seed=1)
    np.save(tmp_path / "maps.npy", maps)
    np.save(tmp_path / "masks.npy", masks)
    kept = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("maps", "masks")]
    about = {"names": NAMES, "n_boot": 50}
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
@pytest.mark.parametrize("score", [pixel_counts, pointing_game, iou_at])
def test_bad_input(score, maps: np.ndarray, masks: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(maps, masks)


def test_bad_names_and_patients() -> None:
    with pytest.raises(DataError, match=r"\['dice'\] are not defined; choose from \('pixel_auroc', "):
        localise(MAPS, MASKS, np.arange(2), names=["dice"], seed=0)
    with pytest.raises(DataError, match="2 labels but 3 patient ids"):
        localise(MAPS, MASKS, np.arange(3), names=["iou_at"], seed=0)
