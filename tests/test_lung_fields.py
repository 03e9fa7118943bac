"""Lung fields found from the picture alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from xraykit.datasets import synthetic
from xraykit.errors import DataError
from xraykit.lung_fields import MIN_SIDE, lung_fields, on_grid, resize


def chest(height: int = 128, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """A box of a chest, black outside, with dark lungs of 60 in tissue of 200, and the lungs (2, H, W)."""
    rows, columns = ((np.arange(n) + 0.5) / n for n in (height, width))
    tall = ((rows > 0.2) & (rows < 0.7))[:, None]
    lungs = np.stack([tall & (columns > x) & (columns < x + 0.2) for x in (0.2, 0.6)])
    image = np.where((columns > 0.08) & (columns < 0.92), 200, 0) * np.ones((height, 1))
    image[lungs.any(axis=0)] = 60
    return image.astype(np.uint8), lungs


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("shape", [(128, 128), (64, 64), (300, 300), (90, 150), (150, 90)])
def test_two_boxes_of_known_place(shape: tuple[int, int]) -> None:
    image, lungs = chest(*shape)
    found = lung_fields(image)
    assert found.dtype == bool
    assert found.shape == (2, *shape)
    for field, lung in zip(found, lungs, strict=True):
        assert overlap(field, lung) > 0.85


def test_ribs_do_not_cut_a_lung() -> None:
    image, lungs = chest()
    for top in range(30, 90, 12):
        image[top : top + 3, 10:118] = 200  # as bright as tissue
    for field, lung in zip(lung_fields(image), lungs, strict=True):
        assert overlap(field, lung) > 0.8


@pytest.mark.parametrize("size", [32, 128])
def test_against_the_anatomy_that_synthetic_images_are_drawn_from(size: int) -> None:
    dice = []
    for patient in range(24):
        parts = synthetic.anatomy_masks(patient, size=size)
        truth = parts["lungs"] & ~parts["heart"]
        found = lung_fields(synthetic.render(patient, size=size, findings=()).image).any(axis=0)
        dice.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert np.median(dice) > 0.88
    assert min(dice) > 0.8


def test_a_mirror_image_has_mirrored_fields() -> None:
    for patient in range(6):
        image = synthetic.render(patient, size=128, findings=()).image
        mirrored = lung_fields(np.ascontiguousarray(image[:, ::-1]))[::-1, :, ::-1]
        assert overlap(lung_fields(image), mirrored) > 0.97


def test_grey_levels_do_not_matter_but_their_order() -> None:
    image = synthetic.render(3, size=128, findings=()).image
    assert overlap(lung_fields(image), lung_fields((image // 2 + 90).astype(np.uint8))) > 0.97


def test_ellipses_stand_in_where_nothing_looks_like_a_lung() -> None:
    image = np.full((100, 200), 90, np.uint8)
    image[50, 100] = 91
    found = lung_fields(image)
    assert (found[0] == found[1][:, ::-1]).all()
    assert found[0].mean() == pytest.approx(np.pi * 0.11 * 0.24, abs=0.002)
    rows, columns = np.nonzero(found[0])
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((42, 56), abs=0.5)


def test_a_lung_on_one_side_only() -> None:
    image, lungs = chest()
    image[:, 64:118] = 200
    image[:, 60:66] = 220  # the spine
    found = lung_fields(image)
    assert overlap(found[0], lungs[0]) > 0.8
    assert found[1].mean() == pytest.approx(np.pi * 0.11 * 0.24, abs=0.002)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=32, max_side=60)))
def test_any_picture_has_two_fields_of_plausible_size(image: np.ndarray) -> None:
    if image.min() == image.max():
        return
    before = image.copy()
    found = lung_fields(image)
    assert (image == before).all()
    assert found.shape == (2, *image.shape)
    for share in found.mean(axis=(1, 2)):
        assert 0.01 < share < 0.27


def test_resize_averages_areas_and_keeps_constants() -> None:
    small = resize(np.float32([[0, 2, 4, 4], [2, 4, 4, 4]]), (1, 2))
    assert small.tolist() == [[2, 4]]
    assert (resize(np.full((3, 5), 7, np.uint8), (6, 10)) == 7).all()
    assert on_grid(np.zeros((64, 96), np.uint8)).shape == (128, 192)
    assert on_grid(np.zeros((512, 256), np.uint8)).shape == (256, 128)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64), np.uint8), "every pixel of the image is 0; leave this image out"),
        (np.arange(31 * 64, dtype=np.uint8).reshape(31, 64), rf"\(31, 64\) pixels; load it at {MIN_SIDE}"),
        (np.zeros((64, 64), np.float32), "float32 .* give uint8"),
        (np.zeros((2, 64, 64), np.uint8), r"\(2, 64, 64\); give uint8 \(H, W\)"),
    ],
)
def test_bad_input(image: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        lung_fields(image)
