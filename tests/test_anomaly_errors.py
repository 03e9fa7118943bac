"""Error maps of reconstructions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, uniform_filter
from skimage.filters import sobel
from skimage.metrics import structural_similarity
from skimage.transform import downscale_local_mean, resize

from xraykit.anomaly_errors import FLAT, KINDS, error_maps, image_scores
from xraykit.errors import DataError

C1, C2 = 0.01**2, 0.03**2


def images(n: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures with a little noise, float32 (n, size, size) in 0..1."""
    rng = np.random.default_rng(seed)
    coarse = gaussian_filter(rng.random((n, size, size)), (0, 3, 3))
    coarse = (coarse - coarse.min()) / np.ptp(coarse)
    return (0.95 * coarse + 0.05 * rng.random((n, size, size))).astype(np.float32)


def constant(grey: float, size: int = 44) -> np.ndarray:
    return np.full((1, size, size), grey, np.float32)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("squared", 0.3**2),
        ("ssim", 1 - (2 * 0.5 * 0.2 + C1) / (0.5**2 + 0.2**2 + C1)),  # no variance: only luminance is left
        ("ms_ssim", 1 - (2 * 0.5 * 0.2 + C1) / (0.5**2 + 0.2**2 + C1)),
        ("gradient", 0),
        ("contrast", 0.3**2 / 0.03**2),
    ],
)
def test_constant_images_by_hand(kind: str, expected: float) -> None:
    found = error_maps(kind, constant(0.5), constant(0.2))
    assert found.shape == (1, 44, 44)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-9)


def test_one_changed_pixel_by_hand() -> None:
    x, y = constant(0.25), constant(0.25)
    y[0, 20, 20] = 0.75  # d = 1/2
    squared, contrast = error_maps("squared", x, y), error_maps("contrast", x, y)
    assert squared[0, 20, 20] == 0.25
    assert np.count_nonzero(squared) == np.count_nonzero(contrast) == 1
    assert contrast[0, 20, 20] == pytest.approx(0.25 / FLAT)
    # The other way round the image itself has the pixel: of 121 pixels one is d above the others.
    variance = 0.25 / 121 - 0.25 / 121**2
    assert error_maps("contrast", y, x)[0, 20, 20] == pytest.approx(0.25 / (variance + FLAT))
    # Sobel: d/8 in each direction at the corners, d/4 in one at the sides, nothing in the middle.
    around = np.array([[2, 4, 2], [4, 0, 4], [2, 4, 2]]) / 64 * 0.25
    gradient = error_maps("gradient", x, y)[0]
    np.testing.assert_allclose(gradient[19:22, 19:22], around, rtol=1e-5)
    assert np.count_nonzero(gradient) == 8
    ssim = error_maps("ssim", x, y)[0]
    touched = np.argwhere(np.abs(ssim) > 1e-6)
    assert (touched.min(axis=0).tolist(), touched.max(axis=0).tolist()) == ([15, 15], [25, 25])


def test_ramps_have_the_gradient_of_their_slope() -> None:
    ramp = np.tile(np.arange(16, dtype=np.float32) / 32, (1, 16, 1))
    found = error_maps("gradient", ramp, ramp / 2)[0]
    np.testing.assert_allclose(found[:, 1:-1], (1 / 32 - 1 / 64) ** 2, rtol=1e-4)


def test_ssim_is_that_of_scikit_image_and_of_the_papers_equation() -> None:
    x, y = images(2, 32), images(2, 32, seed=1)
    found = error_maps("ssim", x, y)
    about = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for i in range(2):
        mean = structural_similarity(x[i], y[i], **about)  # leaves out a border of 5 pixels
        assert 1 - found[i, 5:-5, 5:-5].mean() == pytest.approx(mean, abs=1e-6)
    offset = np.arange(-5, 6)
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    window /= window.sum()
    for i, row, column in ((0, 5, 5), (1, 16, 20), (1, 26, 7)):
        part = (i, slice(row - 5, row + 6), slice(column - 5, column + 6))
        a, b = x[part].astype(float), y[part].astype(float)
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        both = (window * (a - mean_a) * (b - mean_b)).sum()
        luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
        expected = 1 - luminance * (2 * both + C2) / (var_a + var_b + C2)
        assert found[i, row, column] == pytest.approx(expected, abs=1e-5)


def test_three_octaves_as_scikit_image_makes_them() -> None:
    x, y = images(1, 64), images(1, 64, seed=1)
    about = {"data_range": 1, "gaussian_weights": True, "use_sample_covariance": False, "full": True}
    octaves = []
    for part in (1, 2, 4):
        a, b = (downscale_local_mean(image[0], (part, part)) for image in (x, y))
        octaves.append(resize(1 - structural_similarity(a, b, **about)[1], (64, 64), order=1, mode="edge"))
    np.testing.assert_allclose(error_maps("ms_ssim", x, y)[0], np.mean(octaves, axis=0), atol=2e-5)
    assert np.ptp([octave.mean() for octave in octaves]) > 0.01  # else one octave would pass for three


def test_gradient_and_contrast_as_other_libraries_have_them() -> None:
    x, y = images(1, 40), images(1, 40, seed=1)
    inner = (slice(1, -1), slice(1, -1))  # the libraries continue images differently
    theirs = (sobel(x[0]) - sobel(y[0])) ** 2 / 2  # skimage: differences over two pixels, over the root of 2
    np.testing.assert_allclose(error_maps("gradient", x, y)[0][inner], theirs[inner], atol=1e-7, rtol=1e-3)
    wide = x[0].astype(float)
    variance = uniform_filter(wide**2, 11, mode="mirror") - uniform_filter(wide, 11, mode="mirror") ** 2
    expected = (wide - y[0]) ** 2 / (variance + 9e-4)
    np.testing.assert_allclose(error_maps("contrast", x, y)[0], expected, rtol=1e-4, atol=1e-6)


@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.sampled_from([44, 48, 51]))
def test_of_any_images(kind: str, seed: int, size: int) -> None:
    x, y = np.random.default_rng(seed).random((2, 2, size, size), np.float32)
    assert (error_maps(kind, x, x) == 0).all()
    found = error_maps(kind, x, y)
    assert found.dtype == np.float32
    assert found.min() >= -1e-6
    np.testing.assert_array_equal(found[1:], error_maps(kind, x[1:], y[1:]))  # no image sees another
    if kind != "contrast":
        np.testing.assert_allclose(found, error_maps(kind, y, x), atol=1e-5)
    turned = error_maps(kind, x.transpose(0, 2, 1), y.transpose(0, 2, 1)).transpose(0, 2, 1)
    np.testing.assert_allclose(found, turned, atol=1e-4, rtol=1e-4)


def test_an_error_counts_more_in_a_flat_part() -> None:
    x = images(1, 64)
    x[0, :, 32:] = 0.5
    y = x.copy()
    y[0, 30, 10] = np.abs(y[0, 30, 10] - 0.1)
    y[0, 30, 50] -= 0.1
    found = error_maps("contrast", x, y)[0]
    assert found[30, 50] == pytest.approx(0.01 / FLAT, rel=1e-3)
    assert found[30, 50] > 2 * found[30, 10] > 0


def test_scores_by_hand() -> None:
    maps = np.zeros((2, 10, 10), np.float32)
    maps[0, 3, 4], maps[0, 7, 7], maps[1] = 1, 0.5, 0.25
    assert image_scores(maps).tolist() == pytest.approx([0.015, 0.25])
    assert image_scores(maps, top=0.01).tolist() == [1, 0.25]
    assert image_scores(maps, top=0.02).tolist() == [0.75, 0.25]
    assert image_scores(maps, top=1e-9).tolist() == [1, 0.25]  # at least the largest pixel
    assert image_scores(maps, top=0.04).tolist() == [0.375, 0.25]
    assert image_scores(maps).dtype == np.float64


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_smaller_share_never_scores_lower(seed: int, a: float, b: float) -> None:
    maps = np.random.default_rng(seed).random((3, 12, 12))
    small, large = (image_scores(maps, top=top) for top in sorted((a, b)))
    assert (small >= large - 1e-12).all()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (constant(0.5), constant(0.5, 48), r"\(1, 44, 44\) and reconstructions \(1, 48, 48\)"),
        (np.zeros((44, 44)), np.zeros((44, 44)), r"give both as \(B, S, S\)"),
        (np.zeros((0, 44, 44)), np.zeros((0, 44, 44)), "B, S >= 1"),
        (np.zeros((1, 44, 44), np.uint8), constant(0.5), "images are uint8; give floats in 0..1"),
        (constant(0.5), constant(1.5), r"reconstructions span 1.5 to 1.5; scale or clip them to 0..1"),
        (constant(-0.5), constant(0.5), r"images span -0.5 to -0.5"),
        (constant(0.5), constant(np.nan), "reconstructions: image 0 has NaN or infinite pixels"),
    ],
)
def test_bad_images(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        error_maps("squared", x, y)


@pytest.mark.parametrize(
    ("kind", "least"), [("ssim", 11), ("ms_ssim", 44), ("gradient", 3), ("contrast", 11)]
)
def test_images_smaller_than_the_window(kind: str, least: int) -> None:
    enough, few = constant(0.5, least), constant(0.5, least - 1)
    assert error_maps(kind, enough, enough).shape == enough.shape
    with pytest.raises(DataError, match=f"'{kind}' needs sides of at least {least} pixels"):
        error_maps(kind, few, few)


def test_other_bad_input() -> None:
    with pytest.raises(DataError, match=r"'mse' is not one of \('squared', 'ssim', "):
        error_maps("mse", constant(0), constant(0))
    for top in (0, 1.1, float("nan")):
        with pytest.raises(DataError, match="use a share of the pixels above 0 to 1"):
            image_scores(constant(0), top=top)
    for maps in (np.zeros((4, 4)), np.zeros((0, 4, 4)), constant(np.inf)):
        with pytest.raises(DataError, match="must be finite numbers"):
            image_scores(maps)
