"""What somebody uploads: how much of it is taken, and reading it so that no file can do harm.

Nothing here writes a file. Images go through `image_files.decode`, which looks at the header first, so that a
picture that would fill the memory is refused before its pixels are decoded, and are made small at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from xraykit.errors import DataError
from xraykit.image_files import decode
from xraykit.images import Preprocess, fitted

MAX_MB = 20
"""The largest upload, in MiB: one image, or the .zip of one bundle."""
MAX_IMAGES = 50
"""Images that are answered at once."""
MAX_A_CLASS = 100
"""Images of each class that a classifier is built from."""
SUFFIXES = ("png", "jpg", "jpeg", "bmp", "tif", "tiff", "dcm", "dicom")
MAX_NAME = 60


@dataclass(frozen=True)
class Picture:
    """One image that could be read; nothing is kept at its full size.

    Attributes:
        name: of its file, as `shown_name` cuts it.
        grey: uint8 (size, size), 0 black to 255 white, for one classifier, as `images.read_for` gives it.
        shown: uint8 (h, w), a copy to be shown, in its own shape; None where it is not.
    """

    name: str
    grey: np.ndarray = field(repr=False)
    shown: np.ndarray | None = field(default=None, repr=False)


def shown_name(name: str) -> str:
    """A file name for messages: without folders and control characters, and of at most MAX_NAME letters."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(letter if letter.isprintable() else "?" for letter in name) or "unnamed"
    half = MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[: half - 1]}…{name[-half:]}"


def check_bytes(name: str, data: bytes) -> None:
    """Raise DataError for an upload that is empty or above MAX_MB."""
    if not data:
        raise DataError(f"{shown_name(name)}: is empty (0 bytes); choose the file again")
    if len(data) > MAX_MB * 2**20:
        raise DataError(
            f"{shown_name(name)}: has {len(data) / 2**20:.1f} MiB, the limit of an upload is {MAX_MB}; "
            "shrink it first"
        )


def read_picture(name: str, data: bytes, *, wanted: Preprocess, side: int = 0) -> Picture:
    """An uploaded image at the size that a classifier wants; formats as in `image_files.read_grey`.

    Args:
        wanted: of the classifier; nothing but its resize is done here.
        side: longest side of the copy to be shown, in pixels; 0 for none.

    Raises:
        DataError: empty or above MAX_MB.
        BadImageError: no readable image, too many pixels, too small, or the same grey level everywhere.
    """
    check_bytes(name, data)
    name = shown_name(name)
    pixels, whole = decode(data, name=name, target=wanted.size)
    grey = fitted(pixels, name=name, size=wanted.size, fit=wanted.fit)
    if side and pixels.shape != whole and max(pixels.shape) < side:  # a JPEG of which too little was decoded
        return Picture(name, grey, thumbnail(name, data, side=side))
    return Picture(name, grey, smaller(pixels, side=side) if side else None)


def picture_of(name: str, pixels: np.ndarray, *, wanted: Preprocess, side: int) -> Picture:
    """As `read_picture`, of pixels uint8 (h, w) that are here already."""
    grey = fitted(pixels, name=name, size=wanted.size, fit=wanted.fit)
    return Picture(name, grey, smaller(pixels, side=side))


def thumbnail(name: str, data: bytes, *, side: int) -> np.ndarray:
    """An uploaded image to be shown, uint8 (h, w) with sides of at most `side`; raises as `read_picture`."""
    check_bytes(name, data)
    return smaller(decode(data, name=shown_name(name), target=side // 2)[0], side=side)


def smaller(grey: np.ndarray, *, side: int) -> np.ndarray:
    """Grey uint8 (h, w) with its longer side at most `side` pixels."""
    picture = Image.fromarray(grey)
    picture.thumbnail((side, side))
    return np.array(picture)


def first_of(files: Sequence[Any], most: int) -> tuple[list[Any], str]:
    """The first `most` of the uploaded files, and what to say about the others ("" where there are none)."""
    if len(files) <= most:
        return list(files), ""
    left_out = len(files) - most
    return list(files[:most]), f"{len(files)} images, the limit is {most}: the last {left_out} are left out"
