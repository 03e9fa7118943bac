"""Opacities pasted into normal images."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xraykit.anomaly_lesions import KINDS, paste, with_lungs
from xraykit.datasets import synthetic
from xraykit.errors import DataError

AIR, TISSUE, SPINE = 60, 200, 240
PEAK = {"consolidation": 0.68, "haze": 0.56, "nodules": 0.55}  # of the air replaced where it is densest


def chest(size: int = 128) -> np.ndarray:
    """A box of a chest, black outside, with lungs of `AIR` in `TISSUE` and a narrow spine."""
    at = (np.arange(size) + 0.5) / size
    lung = (np.abs(np.abs(at - 0.5) - 0.2) < 0.1) & ((at > 0.2) & (at < 0.7))[:, None]
    image = np.where(np.abs(at - 0.5) < 0.42, TISSUE, 0) * np.ones((size, 1))
    image[:, np.abs(at - 0.5) < 0.03] = SPINE  # a tenth of what lies between the lungs' outer borders
    return np.where(lung, AIR, image).astype(np.uint8)


@cache
def normals(size: int = 64, n: int = 40) -> np.ndarray:
    return np.stack([synthetic.render(p, size=size, findings=()).image for p in range(n)])


def change(images: np.ndarray, rows: np.ndarray, **about: object) -> tuple[np.ndarray, np.ndarray]:
    """What was added (M, H, W), int, and the masks."""
    pasted, masks = paste(images, rows, **about)
    return pasted.astype(int) - images[rows], masks


# ---- grey levels


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(0, 2**40),
    st.floats(0.01, 1.5),
    st.lists(st.integers(0, 39), min_size=1, max_size=4),
)
def test_unchanged_outside_and_never_darker_inside(
    kind: str, seed: int, strength: float, rows: list[int]
) -> None:
    images = normals()
    before = images.copy()
    added, masks = change(images, np.array(rows), kind=kind, seed=seed, strength=strength)
    assert (images == before).all()
    assert masks.dtype == bool
    assert added.shape == masks.shape == (len(rows), 64, 64)
    assert (added[~masks] == 0).all()
    assert (added >= 0).all()
    assert masks.any(axis=(1, 2)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_brighter_inside(kind: str) -> None:
    added, masks = change(normals(), np.arange(40), kind=kind, seed=3)
    for a, m in zip(added, masks, strict=True):
        assert a[m].mean() > 5
        assert (a[m] > 0).mean() > 0.8


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_grey_levels_by_hand_in_a_chest_of_two_greys(kind: str, strength: float) -> None:
    """I' = I + fill (T - I): air 60 becomes at most 60 + fill * 140."""
    images = np.stack([chest()] * 30)
    pasted, _ = paste(images, np.arange(30), kind=kind, seed=0, strength=strength)
    most = AIR + PEAK[kind] * strength * (TISSUE - AIR)
    highest = pasted[images == AIR].max()
    assert abs(int(highest) - most) <= 0.5 + 1e-3
    assert ((pasted == images) | (images == AIR)).all()  # tissue and what is outside stay as they are


def test_strength_scales_the_change_and_leaves_the_mask() -> None:
    for kind in KINDS:
        half, masks = change(normals(), np.arange(9), kind=kind, seed=1, strength=0.5)
        full, same = change(normals(), np.arange(9), kind=kind, seed=1, strength=1)
        assert (masks == same).all()
        assert np.abs(full - 2 * half).max() <= 2  # both rounded
        assert full.sum() > 1.9 * half.sum()


@pytest.mark.parametrize(("kind", "limit"), [("consolidation", 0.08), ("haze", 0.03), ("nodules", 0.2)])
def test_no_seam_at_the_border_of_a_mask(kind: str, limit: float) -> None:
    """The outermost pixels of a mask change little; nodules are only a few pixels wide."""
    images = np.stack([chest(256)] * 8)
    added, masks = change(images, np.arange(8), kind=kind, seed=0)
    for a, m in zip(added, masks, strict=True):
        core = cv2.erode(m.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert a[m & ~core].mean() < limit * a.max()


# ---- place and size


@pytest.mark.parametrize(
    ("kind", "low", "high", "mean"),
    [
        ("consolidation", 0.008, 0.18, (0.035, 0.075)),
        ("haze", 0.08, 0.36, (0.15, 0.25)),
        ("nodules", 0.001, 0.03, (0.004, 0.013)),
    ],
)
def test_areas_by_kind(kind: str, low: float, high: float, mean: tuple[float, float]) -> None:
    for size in (32, 64, 224):
        images = normals(size, 20)
        shares = np.concatenate(
            [paste(images, np.arange(20), kind=kind, seed=s)[1].mean(axis=(1, 2)) for s in range(3)]
        )
        assert low < shares.min() < shares.max() < high
        assert mean[0] < shares.mean() < mean[1]


def test_masks_lie_in_the_lungs_that_the_images_were_drawn_from() -> None:
    truth = np.stack([synthetic.anatomy_masks(p, size=64)["lungs"] for p in range(40)])
    wider = np.stack([cv2.dilate(t.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for t in truth])
    for kind in KINDS:
        _, masks = paste(normals(), np.arange(40), kind=kind, seed=2)
        assert (masks & wider).sum() > 0.97 * masks.sum()


def test_haze_is_in_both_lungs_and_nodules_are_one_to_four_round_spots() -> None:
    images = np.stack([chest(256)] * 40)
    _, haze = paste(images, np.arange(40), kind="haze", seed=0)
    assert haze[:, :, :128].any(axis=(1, 2)).all()
    assert haze[:, :, 128:].any(axis=(1, 2)).all()
    _, nodules = paste(images, np.arange(40), kind="nodules", seed=0)
    counts, roundness = [], []
    for mask in nodules:
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        counts.append(len(outlines))
        for outline in outlines:
            _, radius = cv2.minEnclosingCircle(outline)
            assert 256 * 0.008 < radius < 256 * 0.15
            roundness.append(cv2.contourArea(outline) / (np.pi * radius**2))
    assert set(counts) == {1, 2, 3, 4}
    assert np.median(roundness) > 0.7


# ---- determinism


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_row_and_the_seed_alone(kind: str) -> None:
    images = normals()
    pasted, masks = paste(images, np.array([7, 2, 30, 2]), kind=kind, seed=5)
    for i, row in enumerate([7, 2, 30, 2]):
        alone, mask = paste(images, np.array([row]), kind=kind, seed=5)
        assert (alone[0] == pasted[i]).all()
        assert (mask[0] == masks[i]).all()
    assert (masks != paste(images, np.array([7, 2, 30, 2]), kind=kind, seed=6)[1]).any(axis=(1, 2)).all()
    twins = np.stack([images[0]] * 2)
    a, b = paste(twins, np.arange(2), kind=kind, seed=5)[1]
    assert (a != b).any()


def test_a_memmap_gives_the_same(tmp_path: Path) -> None:
    images = normals()
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    rows = np.array([1, 39])
    for a, b in zip(
        paste(mapped, rows, kind="haze", seed=0), paste(images, rows, kind="haze", seed=0), strict=True
    ):
        assert type(a) is np.ndarray
        assert (a == b).all()


def test_any_shape_from_32_pixels() -> None:
    for shape in [(32, 32), (48, 33), (33, 48), (300, 200)]:
        image = cv2.resize(chest(), shape[::-1], interpolation=cv2.INTER_AREA)[None]
        for kind in KINDS:
            pasted, masks = paste(image, np.array([0]), kind=kind, seed=0)
            assert pasted.shape == masks.shape == (1, *shape)
            assert (pasted != image)[masks].mean() > 0.5


# ---- bad input


def test_images_without_lungs_name_their_row_and_what_to_do() -> None:
    images = normals()[:4].copy()
    images[2] = 128
    with pytest.raises(DataError, match="image 2: every pixel of the image is 128; leave this image out"):
        paste(images, np.arange(4), kind="haze", seed=0)
    images[2] = 128 + (np.indices((64, 64)).sum(axis=0) % 2)
    with pytest.raises(DataError, match=r"image 2: its lungs are .* grey levels darker .* leave it out"):
        paste(images, np.arange(4), kind="haze", seed=0)
    with pytest.raises(DataError, match=r"image 1: the image is \(16, 16\) pixels; load it at 32 or more"):
        paste(images[:, ::4, ::4], np.array([1]), kind="haze", seed=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "mass"}, "'mass' is not one of"),
        ({"seed": -1}, "seed = -1; use a whole number from 0"),
        ({"seed": 0.5}, "seed = 0.5"),
        ({"strength": 0}, "strength = 0; use above 0 to 1.5"),
        ({"strength": 1.6}, "strength = 1.6"),
        ({"strength": float("nan")}, "strength = nan"),
        ({"rows": np.array([0, 40])}, "rows go from 0 to 40; the images are 0 to 39"),
        ({"rows": np.array([-1])}, "rows go from -1 to -1"),
        ({"rows": np.array([], int)}, "positions of at least one image"),
        ({"rows": np.array([0.0])}, "rows are float64"),
        ({"images": np.zeros((64, 64), np.uint8)}, r"shape \(64, 64\); at least one image of shape"),
        ({"images": np.zeros((40, 64, 64), np.float32)}, "float32"),
    ],
)
def test_bad_arguments(wrong: dict, message: str) -> None:
    right = {"images": normals(), "rows": np.array([0]), "kind": "haze", "seed": 0} | wrong
    with pytest.raises(DataError, match=message):
        paste(right.pop("images"), right.pop("rows"), **right)


def test_images_without_lungs_are_left_out() -> None:
    images = normals()[:3].copy()
    images[1] = 90
    np.testing.assert_array_equal(with_lungs(images, np.array([2, 1, 0])), [2, 0])
    with pytest.raises(DataError, match="lungs were found in none of 1 images"):
        with_lungs(images, np.array([1]))
