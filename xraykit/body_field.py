"""The patient's body in a frontal chest X-ray, found from the picture alone: no training, no anatomy."""

import cv2
import numpy as np
from skimage.filters import threshold_otsu

from xraykit.lung_fields import lung_fields, on_grid, resize

_BLUR = 1.0  # grid pixels: noise goes, the skin stays
_OPENING = 3  # radius in grid pixels of what is cut off: letters and lines that touch the skin
_OFFSET = 8  # grey levels added before the logarithm, so that noise in black air is small
_BORDER = 0.25  # of a side, at most, that is stripped as collimation
_EXTREME = (0.03, 0.95)  # of the range of grey levels: darker or brighter lines are collimation
_FEW = 0.1  # of a line of collimation that may be something else, such as a letter


def body(image: np.ndarray) -> np.ndarray:
    """Where the patient is in the picture, bool (H, W): arms, neck and lungs included.

    Black or white lines at the border are collimation. Otsu's threshold (1979) parts tissue from what is
    dark, and a second one, on the logarithm of the grey level, thin tissue from air. The patient is
    everything but the air that is connected with the border; what is narrow is cut off, and the largest
    region counts. No pixel of the lung fields is as dark as that air, so that a lung which the picture cuts
    is kept; cut on all sides it may be lost in part. Letters on the skin can leave a bump. Against the
    anatomy of the synthetic images the median Dice coefficient is .99, the 5th percentile .97; that of the
    whole picture is .95 in the median.

    Args:
        image: uint8 (H, W), 0 black to 255 white, at least `lung_fields.MIN_SIDE` pixels a side, not
            constant, nor inside of its collimation.

    Raises:
        DataError: another shape or type, too small, or a constant picture.
    """
    lungs = lung_fields(image).any(axis=0)
    exposed = _exposed(image)
    part = image[exposed]
    grid = on_grid(part)
    lungs = _on_grid(lungs) if part.shape == image.shape else lung_fields(grid).any(axis=0)
    found = np.zeros(image.shape, bool)
    found[exposed] = resize(_patient(grid, lungs).astype(np.float32), part.shape) > 0.5
    return found


def _on_grid(mask: np.ndarray) -> np.ndarray:
    return on_grid(mask.astype(np.float32)) > 0.5


def _exposed(image: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns inside of the lines at the border that are black or white from end to end."""
    darkest = float(image.min())
    black, white = darkest + np.array(_EXTREME) * (float(image.max()) - darkest)
    slices = []
    for lines in (image, image.T):
        shut = np.quantile(lines, 1 - _FEW, axis=1) <= black
        shut |= np.quantile(lines, _FEW, axis=1) >= white
        most = int(_BORDER * len(lines))
        first, last = (int(np.argmin(np.append(side[:most], False))) for side in (shut, shut[::-1]))
        slices.append(slice(first, len(lines) - last))
    return tuple(slices)


def _patient(grey: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _BLUR)
    air = (smooth <= _brightest_air(smooth[~lungs])) & (smooth < smooth[lungs].min())
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _OPENING + 1,) * 2)
    rest = cv2.morphologyEx((~_from_border(air)).astype(np.uint8), cv2.MORPH_OPEN, disc)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(rest, connectivity=4)
    return labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()


def _brightest_air(grey: np.ndarray) -> float:
    """The grey level that parts air from thin tissue."""
    dark = np.log(grey[grey <= threshold_otsu(grey)] + _OFFSET)
    return float(np.exp(threshold_otsu(dark)) - _OFFSET)


def _from_border(mask: np.ndarray) -> np.ndarray:
    """What of `mask` is connected with the border of the picture, over sides of pixels."""
    _, labels = cv2.connectedComponents(
        np.pad(mask, 1, constant_values=True).astype(np.uint8), connectivity=4
    )
    return (labels == labels[0, 0])[1:-1, 1:-1]
