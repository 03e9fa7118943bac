"""Grey-level operations on X-rays, and the contract on pixel ranges: uint8, 0 black to 255 white."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from xraykit.errors import BadImageError, DataError
from xraykit.image_files import MIN_SIDE, decode, read_bytes, read_grey

__all__ = [
    "Preprocess", "brighten", "check_images", "clahe", "histogram", "mean_std", "read_for", "read_grey",
    "resize",
]  # fmt: skip

FITS = ("squash", "pad")
MAX_SIZE = 4096
_CHUNK_PIXELS = 2**22  # np.bincount widens to 8 bytes a pixel: 32 MiB a chunk


@dataclass(frozen=True)
class Preprocess:
    """What happens to each image between the file and the classifier: resize, then CLAHE, then brightness.

    Attributes:
        size: side of the square output, MIN_SIDE to MAX_SIZE pixels.
        fit: "squash" changes the aspect ratio (as published work does), "pad" keeps it and fills with black.
        clahe_clip: clip limit of CLAHE, or None for no CLAHE; published chest X-ray work uses 3.0.
        clahe_tiles: CLAHE works on tiles x tiles regions.
        brightness: grey levels added at the end, saturating, -255 to 255.
    """

    size: int = 224
    fit: str = "squash"
    clahe_clip: float | None = None
    clahe_tiles: int = 10
    brightness: int = 0

    def __post_init__(self) -> None:
        if not MIN_SIDE <= self.size <= MAX_SIZE:
            raise DataError(f"size is {self.size}; it must lie in {MIN_SIDE}..{MAX_SIZE} pixels")
        if self.fit not in FITS:
            raise DataError(f"fit is {self.fit!r}; use one of {FITS}")
        if self.clahe_clip is not None:
            _check_clahe(self.clahe_clip, self.clahe_tiles, self.size)
        if not -255 <= self.brightness <= 255:
            raise DataError(f"brightness is {self.brightness}; it must lie in -255..255 grey levels")

    def apply(self, grey: np.ndarray) -> np.ndarray:
        """Grey uint8 (h, w) to uint8 (size, size)."""
        grey = resize(grey, self.size, fit=self.fit)
        if self.clahe_clip is not None:
            grey = clahe(grey, clip_limit=self.clahe_clip, tiles=self.clahe_tiles)
        return brighten(grey, self.brightness) if self.brightness else grey

    def key(self) -> str:
        """Text that is the same for the same output, for cache keys."""
        contrast = "off" if self.clahe_clip is None else f"{float(self.clahe_clip):g}x{self.clahe_tiles}"
        return f"size={self.size},fit={self.fit},clahe={contrast},brightness={self.brightness}"


def read_for(source: Path | bytes, *, name: str, size: int, fit: str) -> np.ndarray:
    """One image file, or its content, as a classifier gets it: uint8 (size, size), 0 black to 255 white.

    It is read as `read_grey` does with ``target=size``, then resized. Whoever reads files for a classifier
    reads them with this, so that the same file has the same answer everywhere.

    Args:
        name: what error messages call the image.
        size, fit: as in `Preprocess`.

    Raises:
        BadImageError: as `read_grey`; or an image with one grey level everywhere.
    """
    data = source if isinstance(source, bytes) else read_bytes(source)
    return fitted(decode(data, name=name, target=size)[0], name=name, size=size, fit=fit)


def fitted(grey: np.ndarray, *, name: str, size: int, fit: str) -> np.ndarray:
    """What `read_for` makes of the pixels uint8 (h, w) that were decoded with ``target=size``."""
    if grey.min() == grey.max():
        raise BadImageError(
            f"{name}: has the grey level {grey.flat[0]} everywhere; nothing can be said about it"
        )
    return resize(grey, size, fit=fit)


def resize(grey: np.ndarray, size: int, *, fit: str = "squash") -> np.ndarray:
    """Antialiased bilinear resize of grey uint8 (h, w) to (size, size), as torchvision's ``Resize`` does.

    ``fit="squash"`` stretches both sides to `size`; ``fit="pad"`` scales the longer side to `size` and
    centres the result on black. An image that has the size already comes back unchanged.
    """
    _check_grey(grey)
    if fit not in FITS:
        raise DataError(f"fit is {fit!r}; use one of {FITS}")
    height, width = grey.shape
    if fit == "pad":
        height, width = (max(1, round(side * size / max(grey.shape))) for side in (height, width))
    else:
        height = width = size
    if (height, width) == grey.shape == (size, size):
        return grey.copy()
    scaled = np.array(Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR))
    if fit == "squash":
        return scaled
    top, left = (size - height) // 2, (size - width) // 2
    return np.pad(scaled, ((top, size - height - top), (left, size - width - left)))


def clahe(grey: np.ndarray, *, clip_limit: float = 3.0, tiles: int = 10) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994) of grey uint8 (h, w), by OpenCV.

    `clip_limit` bounds the contrast gain: a histogram bin holds at most that many times its average count.
    """
    _check_grey(grey)
    _check_clahe(clip_limit, tiles, min(grey.shape))
    return cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles)).apply(
        np.ascontiguousarray(grey)
    )


def brighten(grey: np.ndarray, delta: int) -> np.ndarray:
    """Grey uint8 of any shape plus `delta` levels, saturating at 0 and 255 instead of wrapping round."""
    return np.clip(grey.astype(np.int16) + delta, 0, 255).astype(np.uint8)


def check_images(images: np.ndarray) -> None:
    """Raise DataError, saying how to convert, unless `images` is a non-empty uint8 array (N, H, W)."""
    if not isinstance(images, np.ndarray):
        raise DataError(f"images are a {type(images).__name__}; pass a NumPy array, uint8 of shape (N, H, W)")
    if images.ndim == 4:
        raise DataError(
            f"images have shape {images.shape}; X-rays are grey here: drop the channel axis, (N, H, W)"
        )
    if images.ndim != 3 or 0 in images.shape:
        raise DataError(f"images have shape {images.shape}; at least one image of shape (N, H, W) is needed")
    if images.dtype != np.uint8:
        raise DataError(f"images are {images.dtype}{_range_hint(images)}; store them as uint8 in 0..255")


def check_rows(images: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """Positions (M,) of images (N, H, W), all N of them for None.

    Raises:
        DataError: images that are not uint8 (N, H, W), no rows, or rows that are not positions of them.
    """
    check_images(images)
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu":
        raise DataError(f"rows are {rows.dtype} {rows.shape}; give positions of at least one image")
    if rows.min() < 0 or rows.max() >= len(images):
        raise DataError(f"rows go from {rows.min()} to {rows.max()}; the images are 0 to {len(images) - 1}")
    return rows


def _range_hint(images: np.ndarray) -> str:
    if images.dtype.kind != "f":
        return ""
    sample = np.asarray(images[:16])
    if not np.isfinite(sample).all():
        return " with values that are not finite"
    low, high = float(sample.min()), float(sample.max())
    if high > 1:
        return f" in {low:g}..{high:g}: use np.rint(images).clip(0, 255).astype(np.uint8)"
    if low < 0:
        return f" in {low:g}..{high:g}: use np.rint((images + 1) * 127.5).astype(np.uint8)"
    return f" in {low:g}..{high:g}: use np.rint(images * 255).astype(np.uint8)"


def histogram(images: np.ndarray, *, index: np.ndarray | None = None) -> np.ndarray:
    """Count of each grey level, int64 (256,), over images (N, H, W) or those at `index` (integers or a mask).

    Reads a memmap in chunks, so memory does not depend on N.
    """
    check_images(images)
    counts = np.zeros(256, np.int64)
    for chunk in _chunks(images, index):
        counts += np.bincount(chunk.ravel(), minlength=256)
    return counts


def mean_std(images: np.ndarray, *, index: np.ndarray | None = None) -> tuple[float, float]:
    """Mean and population standard deviation of grey / 255, in 0..1, over all pixels of images (N, H, W).

    Computed from the histogram in integers: exact to the last rounding for any N. `index` as in `histogram`.
    """
    counts = [int(count) for count in histogram(images, index=index)]
    n = sum(counts)
    if n == 0:
        raise DataError("index selects no image; mean and standard deviation need at least one")
    total = sum(level * count for level, count in enumerate(counts))
    squares = sum(level * level * count for level, count in enumerate(counts))
    return total / n / 255, math.sqrt(n * squares - total * total) / n / 255


def _chunks(images: np.ndarray, index: np.ndarray | None) -> Iterator[np.ndarray]:
    if index is not None:
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index
    step = max(1, _CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images if index is None else index), step):
        where = slice(start, start + step)
        yield np.asarray(images[where if index is None else index[where]])


def _check_grey(grey: np.ndarray) -> None:
    if grey.dtype != np.uint8 or grey.ndim != 2:
        raise DataError(
            f"the image is {grey.dtype} {grey.shape}; it must be uint8 (h, w), grey levels 0..255"
        )


def _check_clahe(clip_limit: float, tiles: int, side: int) -> None:
    if not (math.isfinite(clip_limit) and clip_limit > 0):
        raise DataError(
            f"CLAHE clip limit is {clip_limit}; it must be above 0 (published: 3.0), or None to leave it out"
        )
    if not 1 <= tiles <= side // 2:
        raise DataError(
            f"CLAHE tiles are {tiles}; for {side} pixels use 1..{side // 2}, at least 2 pixels a tile"
        )
