"""What somebody uploads: how much of it is taken, and reading it so that no file can do harm.

Nothing here writes a file. Images go through `image_files.decode`, which looks at the header first, so that a
picture that would fill the memory is refused before its pixels are decoded.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xraykit.errors import BadImageError, DataError
from xraykit.image_files import decode

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
    """One image that could be read.

    Attributes:
        name: of its file, as `shown_name` cuts it.
        grey: uint8 (h, w), 0 black to 255 white.
        digest: sha256 of the pixels and their shape; the same picture has it under every name and in every
            lossless format.
    """

    name: str
    grey: np.ndarray = field(repr=False)
    digest: str


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


def read_picture(name: str, data: bytes) -> Picture:
    """The pixels of an uploaded image; formats and grey levels as in `image_files.read_grey`.

    Raises:
        DataError: empty or above MAX_MB.
        BadImageError: no readable image, too many pixels, too small, or the same grey level everywhere.
    """
    check_bytes(name, data)
    grey, _ = decode(data, name=shown_name(name))
    if grey.min() == grey.max():
        raise BadImageError(
            f"{shown_name(name)}: has the grey level {grey.flat[0]} everywhere, so there is nothing to see; "
            "choose another image"
        )
    return picture_of(shown_name(name), grey)


def picture_of(name: str, grey: np.ndarray) -> Picture:
    """Pixels uint8 (h, w) with their digest."""
    pixels = np.ascontiguousarray(grey)
    return Picture(name, pixels, hashlib.sha256(repr(grey.shape).encode() + pixels.tobytes()).hexdigest())


def first_of(files: Sequence[Any], most: int) -> tuple[list[Any], str]:
    """The first `most` of the uploaded files, and what to say about the others ("" where there are none)."""
    if len(files) <= most:
        return list(files), ""
    left_out = len(files) - most
    return list(files[:most]), f"{len(files)} images, the limit is {most}: the last {left_out} are left out"


def alone(classes: Mapping[str, Sequence[Picture]]) -> tuple[dict[str, list[Picture]], list[str]]:
    """The pictures of each class without those that were uploaded twice, and a message for each of these.

    A picture that a classifier is fitted to and checked on at once would make its score too good.

    Raises:
        DataError: the same picture in two classes; names both files and classes.
    """
    seen: dict[str, tuple[str, Picture]] = {}
    kept: dict[str, list[Picture]] = {name: [] for name in classes}
    twice = []
    for name, picture in ((name, picture) for name, pictures in classes.items() for picture in pictures):
        other, earlier = seen.setdefault(picture.digest, (name, picture))
        if other != name:
            raise DataError(
                f"{earlier.name} of {other} and {picture.name} of {name} are the same picture; "
                "take it out of one of the two classes"
            )
        if earlier is picture:
            kept[name].append(picture)
        else:
            twice.append(f"{name}: {picture.name} is the same picture as {earlier.name} and counts once")
    return kept, twice


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Class names without blanks around them.

    Raises:
        DataError: an empty one, one over MAX_NAME letters, one with control characters, or the same twice.
    """
    names = [" ".join(name.split()) for name in names]
    for place, name in enumerate(names, 1):
        if not name:
            raise DataError(f"class {place} has no name; give every class one, such as normal")
        if len(name) > MAX_NAME or not name.isprintable():
            raise DataError(
                f"the name of class {place} has {len(name)} letters; give at most {MAX_NAME}, printable ones"
            )
    twice = [name for name, count in Counter(name.casefold() for name in names).items() if count > 1]
    if twice:
        raise DataError(f"two classes are called {twice[0]!r}; give each another name")
    return tuple(names)
