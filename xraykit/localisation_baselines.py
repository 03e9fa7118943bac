"""Heat maps that know nothing of any network, to be beaten before a map is said to show where a finding is.

All are float32 (M, S, S) in 0..1, as the maps of `explain`.
"""

from numbers import Integral

import cv2
import numpy as np

from xraykit.errors import DataError
from xraykit.images import check_images


def centre_prior(n: int, size: int) -> np.ndarray:
    """A Gaussian in the middle of the picture, float32 (n, size, size), its largest value 1.

    Its standard deviation is a quarter of the side. All n are one map (a read-only view).

    Raises:
        DataError: `n` or `size` is not a whole number from 1.
    """
    _check_whole(n=n, size=size)
    away = (np.arange(size) - (size - 1) / 2) / (size / 4)
    height = np.exp(-(away**2) / 2)
    height /= height.max()
    return np.broadcast_to(np.outer(height, height).astype(np.float32), (n, size, size))


def usual_place(masks: np.ndarray, n: int) -> np.ndarray:
    """Where lesions usually are: the mean of training masks, scaled to a maximum of 1, float32 (n, S, S).

    The baseline of Arun et al., Radiology: AI 2021. All n are one map (a read-only view).

    Args:
        masks: bool (K, S, S) of training images, array or memmap.
        n: of images that get the map.

    Raises:
        DataError: masks of another shape or type, or without a lesion; `n` is not a whole number from 1.
    """
    _check_whole(n=n)
    masks = np.asanyarray(masks)
    if masks.dtype != bool or masks.ndim != 3 or 0 in masks.shape:
        raise DataError(f"masks are {masks.dtype} {masks.shape}; give bool (K, S, S) with K, S >= 1")
    mean = masks.mean(axis=0)
    if not mean.any():
        raise DataError(f"the {len(masks)} masks show no lesion at all; give those of images that have one")
    return np.broadcast_to((mean / mean.max()).astype(np.float32), (n, *mean.shape))


def edges(images: np.ndarray) -> np.ndarray:
    """Magnitude of the Sobel gradient of the blurred image, float32 (M, H, W), each map from 0 to 1.

    Edges alone can look like an explanation (Adebayo et al., NeurIPS 2018). The blur is Gaussian, its
    standard deviation 1/64 of the shorter side and at least half a pixel. A constant image gives zeros.

    Args:
        images: uint8 (M, H, W), 0 black to 255 white, array or memmap.

    Raises:
        DataError: images of another shape or type.
    """
    check_images(images)
    sigma = max(min(images.shape[1:]) / 64, 0.5)
    maps = np.zeros(images.shape, np.float32)
    for row, image in zip(maps, images, strict=True):
        if image.min() < image.max():
            smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma)
            across, down = (cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0))
            magnitude = np.hypot(across, down)
            row[:] = magnitude / magnitude.max()
    return maps


def _check_whole(**values: int) -> None:
    for name, value in values.items():
        if not (isinstance(value, Integral) and value >= 1):
            raise DataError(f"{name} = {value!r}; use a whole number from 1")


def know_nothing(images: np.ndarray, usual: np.ndarray) -> dict[str, np.ndarray]:
    """Maps by name for images uint8 (M, S, S): the same everywhere, grey levels, and the three above.

    Args:
        usual: masks (K, S, S) of training lesions, for `usual_place`, which K = 0 leaves out.
    """
    n, size = len(images), images.shape[1]
    maps = {
        "constant": np.broadcast_to(np.float32(1), images.shape),
        "brightness": images / np.float32(255),
        "centre": centre_prior(n, size),
        "edges": edges(images),
    }
    return maps | ({"usual place": usual_place(usual, n)} if len(usual) else {})
