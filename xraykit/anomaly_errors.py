"""How far images are from their reconstructions, pixel by pixel, and the score of an image from its map."""

from collections.abc import Callable

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from xraykit.errors import DataError

WINDOW = 11  # pixels, of SSIM (Wang et al. 2004) and of the local variance
OCTAVES = 3
# C2 = (0.03 of the grey range)^2 of SSIM, where it also steadies a local variance: contrast below a standard
# deviation of 8 of 255 grey levels, which a third of the windows of real X-rays of 224 pixels lack, is noise.
FLAT = 0.03**2
ROUNDING = 1e-4  # what resizing may add to the range 0..1


def error_maps(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Error maps of images against their reconstructions, float32 (B, S, S), large where they differ.

    ``"squared"``: (x - y)^2, 0..1. ``"ssim"``: 1 - SSIM in a Gaussian window of 11 pixels (Wang et al., IEEE
    TIP 2004, eq. 13), 0..2 up to rounding. ``"ms_ssim"``: the mean of 1 - SSIM over three octaves, each half
    as fine as the one before (Wang et al., Asilomar 2003, but a plain mean of all of SSIM instead of the
    weighted product of its terms), 0..2. ``"gradient"``: squared difference of the Sobel gradients'
    magnitudes, in grey range a pixel. ``"contrast"``: (x - y)^2 over the variance of x in 11 x 11 pixels plus
    `FLAT`, so that an error counts more where the image is flat, 0..1/FLAT.

    Args:
        kind: one of `KINDS`.
        x, y: images and their reconstructions, floats (B, S, S) in 0..1.

    Raises:
        DataError: an unknown kind, different shapes, values that are not finite or outside 0..1, or images
            smaller than the windows.
    """
    if kind not in _ERRORS:
        raise DataError(f"error map {kind!r} is not one of {KINDS}")
    x, y = np.asarray(x), np.asarray(y)
    if x.shape != y.shape or x.ndim != 3 or 0 in x.shape:
        raise DataError(f"images {x.shape} and reconstructions {y.shape}; give both as (B, S, S), B, S >= 1")
    for values, name in ((x, "images"), (y, "reconstructions")):
        _check_range(values, name)
    error, least = _ERRORS[kind]
    if min(x.shape[1:]) < least:
        raise DataError(f"{kind!r} needs sides of at least {least} pixels; these are {x.shape[1:]}: enlarge")
    pairs = zip(x.astype(np.float32), y.astype(np.float32), strict=True)
    return np.stack([error(*pair) for pair in pairs])


def image_scores(maps: np.ndarray, *, top: float = 1.0) -> np.ndarray:
    """Anomaly score of each image, float64 (B,): the mean over the largest share `top` of its map's pixels.

    Args:
        maps: floats (B, S, S), large where something is wrong.
        top: above 0 to 1; 1 is the mean of the whole map, and a share of less than a pixel its maximum.

    Raises:
        DataError: a share out of range, no pixels, or values that are not finite.
    """
    maps = np.asarray(maps)
    if not 0 < top <= 1:
        raise DataError(f"top = {top}; use a share of the pixels above 0 to 1")
    if maps.ndim != 3 or 0 in maps.shape or not np.isfinite(maps).all():
        raise DataError(f"error maps {maps.shape} must be finite numbers (B, S, S), B, S >= 1; repair them")
    flat = maps.reshape(len(maps), -1)
    rest = flat.shape[1] - max(1, round(top * flat.shape[1]))
    return np.partition(flat, rest, axis=1)[:, rest:].mean(axis=1, dtype=np.float64)


def _check_range(values: np.ndarray, name: str) -> None:
    if values.dtype.kind != "f":
        raise DataError(f"{name} are {values.dtype}; give floats in 0..1 (grey levels / 255)")
    if not np.isfinite(values).all():
        image = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))[0]
        raise DataError(f"{name}: image {image} has NaN or infinite pixels; train the autoencoder again")
    if values.min() < -ROUNDING or values.max() > 1 + ROUNDING:
        raise DataError(
            f"{name} span {values.min():.4g} to {values.max():.4g}; scale or clip them to 0..1 (grey / 255)"
        )


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.square(x - y)


def _ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    about = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}  # as Wang et al. 2004
    _, similar = structural_similarity(x, y, data_range=1.0, full=True, **about)
    return 1 - similar


def _ms_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size = x.shape[::-1]
    total = np.zeros_like(x)
    for octave in range(OCTAVES):
        if octave:
            half = (x.shape[1] // 2, x.shape[0] // 2)
            x, y = (cv2.resize(image, half, interpolation=cv2.INTER_AREA) for image in (x, y))
        total += cv2.resize(_ssim(x, y), size, interpolation=cv2.INTER_LINEAR)
    return total / OCTAVES


def _gradient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # 1/8 is the sum of the kernel's positive weights times the two pixels between its sides.
    steps = [[cv2.Sobel(i, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1))] for i in (x, y)]
    return np.square(np.hypot(*steps[0]) - np.hypot(*steps[1]))


def _contrast(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    window = (WINDOW, WINDOW)
    mean = cv2.boxFilter(x, cv2.CV_64F, window)
    variance = np.maximum(cv2.sqrBoxFilter(x, cv2.CV_64F, window) - mean**2, 0)
    return (np.square(x - y) / (variance + FLAT)).astype(np.float32)


_ERRORS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], int]] = {  # and their least sides
    "squared": (_squared, 1),
    "ssim": (_ssim, WINDOW),
    "ms_ssim": (_ms_ssim, WINDOW * 2 ** (OCTAVES - 1)),
    "gradient": (_gradient, 3),
    "contrast": (_contrast, WINDOW),
}
KINDS = tuple(_ERRORS)
