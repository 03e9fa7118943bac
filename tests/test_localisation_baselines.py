"""Heat maps that know nothing of any network."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from xraykit.datasets import synthetic
from xraykit.errors import DataError
from xraykit.localisation import BY_IMAGE, NAMES, localise
from xraykit.localisation_baselines import centre_prior, edges, know_nothing, usual_place
from xraykit.localisation_counts import pixel_auroc, pixel_counts


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return synthetic.load("synthetic", size=64, n_patients=4, progress=False).images


def test_the_centre_by_hand() -> None:
    four = centre_prior(2, 4)  # standard deviation 1, pixels at -1.5, -.5, .5 and 1.5, the largest at .5
    assert four.dtype == np.float32
    assert four.shape == (2, 4, 4)
    row = np.exp([-1, 0, 0, -1])
    np.testing.assert_allclose(four[1], np.outer(row, row), rtol=1e-6)
    assert four[0, 1, 1] == four[0, 2, 2] == 1
    five = centre_prior(1, 5)[0]  # standard deviation 1.25
    assert five[2, 2] == 1
    assert five[2, 3] == pytest.approx(np.exp(-1 / (2 * 1.25**2)))
    assert five[0, 2] == pytest.approx(np.exp(-4 / (2 * 1.25**2)))
    assert centre_prior(1, 1).tolist() == [[[1]]]


def test_the_usual_place_by_hand() -> None:
    masks = np.zeros((4, 2, 2), bool)
    masks[:2, 0, 0] = masks[2, 0, 1] = True  # in 2, 1, 0 and 0 of 4
    found = usual_place(masks, 3)
    assert found.dtype == np.float32
    assert found.tolist() == [[[1, 0.5], [0, 0]]] * 3
    assert usual_place(masks[:, :1], 1).tolist() == [[[1, 0.5]]]


def test_edges_of_a_step_by_hand() -> None:
    image = np.zeros((1, 32, 32), np.uint8)
    image[:, :, 16:] = 200
    found = edges(image)[0]
    assert found.dtype == np.float32
    assert (found == found[0]).all()  # the same in every row
    assert found[0].max() == 1
    assert found[0, 15:17] == pytest.approx([1, 1])
    # blurred with weights v, e, m, e, v = exp(-d**2 / (2 * .5**2)), the gradient next to the step is m + e,
    # one pixel on it is e + v and then v
    far = [np.exp(-2 * d**2) for d in (0, 1, 2)]
    assert found[0, 17] == pytest.approx((far[1] + far[2]) / (far[0] + far[1]), rel=1e-5)
    assert found[0, 18] == pytest.approx(far[2] / (far[0] + far[1]), rel=1e-3)
    assert not found[0, 19:].any()


def test_edges_as_scipy_has_them(images) -> None:
    found = edges(images)
    assert found.shape == images.shape
    for image, m in zip(images.astype(float), found, strict=True):
        smooth = ndimage.gaussian_filter(image, 64 / 64, mode="mirror")
        expected = np.hypot(*(ndimage.sobel(smooth, axis=axis, mode="mirror") for axis in (0, 1)))
        np.testing.assert_allclose(m, expected / expected.max(), atol=1e-5)
        assert (m.min(), m.max()) == (0, 1)


@settings(max_examples=40)
@given(arrays(np.uint8, (2, 9, 7)))
def test_edges_turn_with_the_picture_and_know_no_sign(pictures) -> None:
    found = edges(pictures)
    assert found.max(axis=(1, 2)).tolist() == [float(np.ptp(p) > 0) for p in pictures]
    assert (found >= 0).all()
    np.testing.assert_allclose(edges(255 - pictures), found, atol=1e-3)
    turned = np.rot90(pictures, axes=(1, 2))
    np.testing.assert_allclose(edges(turned), np.rot90(found, axes=(1, 2)), atol=1e-3)


@pytest.mark.parametrize("size", [5, 64, 300])
def test_a_constant_image_has_no_edges(size: int) -> None:
    assert not edges(np.full((1, size, size), 201, np.uint8)).any()


def test_memmaps_have_the_same_edges(images, tmp_path) -> None:
    np.save(tmp_path / "images.npy", images)
    np.testing.assert_array_equal(edges(np.load(tmp_path / "images.npy", mmap_mode="r")), edges(images))


def test_maps_that_know_nothing_by_hand() -> None:
    images = np.zeros((2, 4, 4), np.uint8)
    images[0, :, 2:] = 51
    usual = np.zeros((2, 4, 4), bool)
    usual[:, 0, 0] = usual[0, 3, 3] = True
    found = know_nothing(images, usual)
    assert list(found) == ["constant", "brightness", "centre", "edges", "usual place"]
    for maps in found.values():
        assert (maps.shape, maps.dtype) == ((2, 4, 4), np.float32)
        assert 0 <= maps.min() <= maps.max() <= 1
    assert (found["constant"] == 1).all()
    np.testing.assert_allclose(found["brightness"][0], [[0, 0, 0.2, 0.2]] * 4, rtol=1e-6)
    assert not found["brightness"][1].any()
    np.testing.assert_array_equal(found["centre"], centre_prior(2, 4))
    np.testing.assert_array_equal(found["edges"], edges(images))
    assert [found["usual place"][1, k, k] for k in range(4)] == [1, 0, 0, 0.5]


def test_without_known_lesions_there_is_no_usual_place() -> None:
    found = know_nothing(np.zeros((1, 4, 4), np.uint8), np.zeros((0, 4, 4), bool))
    assert list(found) == ["constant", "brightness", "centre", "edges"]


@given(st.integers(1, 3), st.integers(1, 20))
def test_shapes_and_ranges(n: int, size: int) -> None:
    maps = centre_prior(n, size)
    assert maps.shape == (n, size, size)
    assert (maps > 0).all()
    assert maps.max() == 1
    np.testing.assert_array_equal(maps, maps[:, ::-1, ::-1])


def test_every_score_takes_them_and_the_usual_place_is_worth_something(images) -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((40, 64, 64), bool)
    for mask in masks:  # upper left, more or less
        row, column = rng.integers(5, 25, size=2)
        mask[row : row + 12, column : column + 12] = True
    train, test = masks[:20], masks[20:]
    maps = {
        "centre": centre_prior(20, 64),
        "place": usual_place(train, 20),
        "edges": edges(np.resize(images, (20, 64, 64))),
        "random": rng.random((20, 64, 64), np.float32),
    }
    names = (*NAMES, *BY_IMAGE)
    found = {
        name: localise(m, test, np.arange(20), names=names, seed=0, n_boot=20, threshold=0.5)
        for name, m in maps.items()
    }
    assert all(np.isfinite(i.value) for scores in found.values() for i in scores.values())
    for score in ("pixel_auroc", "energy_inside", "iou"):
        assert found["place"][score].value > max(found[m][score].value for m in maps if m != "place") + 0.1
    assert found["random"]["pixel_auroc"].value == pytest.approx(0.5, abs=0.1)
    # One map for all images orders their pixels as the chance that a pixel is in a lesion does.
    own = pixel_auroc(pixel_counts(usual_place(test, 20), test))[0]
    assert own > found["place"]["pixel_auroc"].value > 0.8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: centre_prior(0, 4), "n = 0; use a whole number from 1"),
        (lambda: centre_prior(1, 4.0), "size = 4.0; use a whole number from 1"),
        (lambda: usual_place(np.ones((1, 2, 2), bool), -1), "n = -1; use a whole number"),
        (lambda: usual_place(np.zeros((3, 2, 2), bool), 1), "the 3 masks show no lesion at all; give those"),
        (lambda: usual_place(np.ones((3, 2, 2)), 1), r"masks are float64 \(3, 2, 2\); give bool \(K, S, S\)"),
        (lambda: usual_place(np.ones((2, 2), bool), 1), r"masks are bool \(2, 2\); give bool"),
        (lambda: usual_place(np.ones((0, 2, 2), bool), 1), "K, S >= 1"),
        (lambda: edges(np.zeros((2, 4, 4))), "images are float64"),
        (lambda: edges(np.zeros((4, 4), np.uint8)), r"images have shape \(4, 4\)"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()
