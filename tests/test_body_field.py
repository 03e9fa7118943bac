"""The patient's body found from the picture alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes, gaussian_filter, label

from xraykit.body_field import body
from xraykit.datasets import synthetic
from xraykit.errors import DataError
from xraykit.lung_fields import MIN_SIDE, lung_fields


def chest(height: int = 128, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Tissue of 200 with lungs of 60 and a skin of 70 in air of 4, and the outline (H, W) of this box."""
    rows, columns = ((np.arange(n) + 0.5) / n for n in (height, width))
    outline = (rows > 0.1)[:, None] & (columns > 0.1) & (columns < 0.9)
    image = np.where(outline, 200, 4)
    image[outline & ((columns < 0.14) | (columns > 0.86))] = 70
    around = (rows > 0.85)[:, None] | ((columns > 0.35) & (columns < 0.65) & (rows < 0.5)[:, None])
    outline, image = outline | around, np.where(around, 200, image)  # wide at the hip, and a neck
    image[:, (columns > 0.46) & (columns < 0.54)] = 235  # the spine
    tall = ((rows > 0.25) & (rows < 0.75))[:, None]
    image[tall & (((columns > 0.2) & (columns < 0.42)) | ((columns > 0.58) & (columns < 0.8)))] = 60
    return image.astype(np.uint8), outline


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("shape", [(128, 128), (64, 64), (300, 300), (90, 150), (150, 90)])
def test_a_box_of_known_place(shape: tuple[int, int]) -> None:
    image, outline = chest(*shape)
    found = body(image)
    assert found.dtype == bool
    assert found.shape == shape
    assert dice(found, outline) > 0.98


@pytest.mark.parametrize("size", [64, 128, 224])
def test_against_the_anatomy_that_synthetic_images_are_drawn_from(size: int) -> None:
    found, whole = [], []
    for patient in range(60):
        truth = synthetic.anatomy_masks(patient, size=size)["body"]
        found.append(dice(body(synthetic.render(patient, size=size).image), truth))
        whole.append(dice(np.ones_like(truth), truth))
    assert np.median(found) > 0.98
    assert np.percentile(found, 5) > 0.965
    assert np.median(whole) < 0.955


@pytest.mark.parametrize("cut", [np.s_[:, 25:], np.s_[:, :-25], np.s_[28:], np.s_[28:, 28:]])
def test_a_lung_that_the_picture_cuts_is_kept(cut: tuple[slice, ...]) -> None:
    kept = []
    for patient in range(16):
        lungs = synthetic.anatomy_masks(patient, size=128)["lungs"][cut]
        found = body(np.ascontiguousarray(synthetic.render(patient, size=128).image[cut]))
        kept.append((found & lungs).sum() / lungs.sum())
    assert np.median(kept) > 0.99
    assert min(kept) > 0.9


def test_letters_and_wires_outside_are_not_the_body() -> None:
    image, outline = chest()
    image[1:9, 16:32] = image[50:70, 1:9] = image[:100, 121] = 255
    found = body(image)
    assert not found[1:9, 16:32].any()
    assert not found[50:70, 1:9].any()
    assert not found[:100, 121].any()
    assert dice(found, outline) > 0.98


def test_a_wire_that_touches_the_skin_is_cut_off() -> None:
    image, outline = chest()
    image[60:64, :16] = 255
    found = body(image)
    assert not found[60:64, :8].any()
    assert dice(found, outline) > 0.98


def test_gas_and_lungs_are_filled() -> None:
    image, outline = chest()
    image[108:118, 60:80] = 4  # as black as the air outside
    found = body(image)
    assert found[108:118, 60:80].all()
    assert found[lung_fields(image).any(axis=0)].all()
    assert dice(found, outline) > 0.98


@pytest.mark.parametrize("grey", [0, 255])
def test_lines_of_collimation_are_outside(grey: int) -> None:
    image, outline = chest(160, 160)
    image[:12] = image[-9:] = image[:, -7:] = grey
    image[4, 20:26] = 128  # a letter on them
    outline[:12] = outline[-9:] = outline[:, -7:] = False
    found = body(image)
    assert not found[[0, 11, -1, -9]].any()
    assert not found[:, -7:].any()
    assert dice(found, outline) > 0.98


def test_a_mirror_image_has_a_mirrored_body() -> None:
    for patient in range(6):
        image = synthetic.render(patient, size=128).image
        assert dice(body(image), body(np.ascontiguousarray(image[:, ::-1]))[:, ::-1]) > 0.99


def test_a_picture_of_tissue_alone_is_body_everywhere() -> None:
    image = np.full((64, 64), 120, np.uint8)
    image[16:48, 10:26] = image[16:48, 38:54] = 60  # lungs
    image[:, 30:34] = 220  # the spine
    assert body(image).all()


@given(st.integers(0, 2**32 - 1), st.integers(128, 180), st.booleans(), st.floats(0, 12))
def test_any_picture_has_one_region_without_holes(seed: int, longer: int, tall: bool, sigma: float) -> None:
    shape = (longer, 128) if tall else (128, longer)  # the grid that it is looked for on
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    image = (128 + 100 * noise / noise.std()).clip(0, 255).astype(np.uint8)
    before = image.copy()
    found = body(image)
    assert (image == before).all()
    assert label(found)[1] == 1
    assert (binary_fill_holes(found) == found).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64), np.uint8), "every pixel of the image is 0; leave this image out"),
        (np.arange(31 * 64, dtype=np.uint8).reshape(31, 64), rf"\(31, 64\) pixels; load it at {MIN_SIDE}"),
        (np.zeros((64, 64), np.float32), "float32 .* give uint8"),
        (np.zeros((2, 64, 64), np.uint8), r"\(2, 64, 64\); give uint8 \(H, W\)"),
        (np.pad(np.zeros((64, 64), np.uint8), 8, constant_values=255), "every pixel .* shows nothing"),
    ],
)
def test_bad_input(image: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        body(image)
