"""Grad-CAM overlays of `xraykit predict`: one PNG an image, for the decision that was made about it.

They are called ``<stem>.gradcam.png``, a name that `predict_files.image_paths` leaves out of folders: no
overlay replaces a file that is called otherwise, and none is taken for an X-ray by the next run.
"""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xraykit.bundle import Bundle, prepared, targets_for
from xraykit.errors import DataError
from xraykit.explain import explain
from xraykit.explain_cut import Explained
from xraykit.plots.explain import overlays
from xraykit.predict import Answered, shown
from xraykit.predict_files import OVERLAY_SUFFIX
from xraykit.storage import write_atomic

DPI = 150
LONGEST = 220  # bytes of a name; file systems take 255, of which an unfinished file needs some more


def places(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """The PNG of each image in `folder`: ``<stem>.gradcam.png``.

    Where several images have the same stem, theirs have the suffix and as many folders as tell them apart:
    ``a.jpg.gradcam.png``, ``s_a.jpg.gradcam.png``. Of a name above LONGEST bytes the beginning is kept, with
    eight digits of its SHA-256. The same images have the same names in the next run, which replaces them.

    Raises:
        DataError: `folder` is a file, or holds one of the images.
    """
    folder = folder.expanduser()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder for the overlays (--overlays)")
    here = folder.resolve()
    inside = [path for path in paths if here in (path.resolve().parent, path.parent.resolve())]
    if inside:
        raise DataError(
            f"{folder} holds the image {inside[0].name}; choose a folder of their own for the "
            "overlays (--overlays)"
        )
    return dict(zip(paths, (folder / name for name in _names(paths)), strict=True))


def draw(explained: Explained, bundle: Bundle, batch: Answered, *, to: dict[Path, Path]) -> list[str]:
    """Write the overlays of a batch; a line for each image that has none, which says why.

    Args:
        explained: of `bundle.explained`.
        to: of `places`.

    Raises:
        StorageError: a PNG cannot be written.
    """
    images = prepared(bundle, batch.images)
    targets = targets_for(bundle, batch.answers)
    without = []
    for i, (path, image) in enumerate(zip(batch.paths, images, strict=True)):
        try:
            maps = explain(explained, image[None], target=targets[i], device="cpu").maps
        except DataError as error:  # the same grey everywhere, or an answer that no longer moves
            without.append(f"{shown(path)}: no overlay: {error}")
            continue
        said = batch.answers.said[i] + (", but unlike what it knows" if batch.answers.unknown[i] else "")
        title = f"{shown(path.with_suffix('').name)}: {said}\nwhat speaks for {targets[i]}"
        write_atomic(to[path], _png(image, maps[0], title))
    return without


def _png(image: np.ndarray, heat: np.ndarray, title: str) -> bytes:
    title = title.replace("$", r"\$")  # else mathematics to Matplotlib
    data = io.BytesIO()
    overlays([image], [heat], [title]).savefig(data, format="png", dpi=DPI)
    return data.getvalue()


def _names(paths: Sequence[Path]) -> list[str]:
    """A file name for each, unique whatever the case: the stem, the whole name, or folders before it."""
    levels = [0] * len(paths)
    deepest = [len(path.absolute().parts) - 1 for path in paths]
    while True:
        names = [_name(path, level) for path, level in zip(paths, levels, strict=True)]
        count = Counter(name.casefold() for name in names)
        alike = [count[name.casefold()] > 1 for name in names]
        if not any(a and level < d for a, level, d in zip(alike, levels, deepest, strict=True)):
            return _numbered(names)
        levels = [min(level + a, d) for a, level, d in zip(alike, levels, deepest, strict=True)]


def _name(path: Path, level: int) -> str:
    """The stem at level 0, the name of the file at 1, and one folder more at each further level."""
    name = "_".join(path.absolute().parts[-level:]) if level else path.stem
    data = os.fsencode(name)
    if len(data) + len(OVERLAY_SUFFIX) > LONGEST:
        end = f"-{hashlib.sha256(data).hexdigest()[:8]}"
        name = data[: LONGEST - len(end) - len(OVERLAY_SUFFIX)].decode("utf-8", "ignore") + end
    return name + OVERLAY_SUFFIX


def _numbered(names: Sequence[str]) -> list[str]:
    """The same names; where several are still equal, the later ones with a number."""
    taken: set[str] = set()
    numbered = []
    for name in names:
        n, one = 1, name
        while one.casefold() in taken:
            n += 1
            one = f"{name.removesuffix(OVERLAY_SUFFIX)}-{n}{OVERLAY_SUFFIX}"
        taken.add(one.casefold())
        numbered.append(one)
    return numbered
