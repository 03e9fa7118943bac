"""What one image gets from one classifier, computed once, and the pictures made of it."""

from dataclasses import dataclass, field

import numpy as np
from matplotlib import colormaps
from PIL import Image

from xraykit.app.uploads import Picture
from xraykit.bundle import Answers, Bundle, Predictor, explained, neighbours, prepared, targets_for
from xraykit.bundle_answers import NOTHING
from xraykit.errors import DataError
from xraykit.explain import explain
from xraykit.explain_cut import Explained

SIDE = 640
"""Longest side of the copy that is kept to be shown, in pixels."""
NEIGHBOURS = 5


@dataclass(frozen=True)
class View:
    """One image and what a classifier said about it.

    Attributes:
        name: of the image.
        shown: uint8 (h, w), the image, its longer side at most SIDE.
        seen: uint8 (size, size), what the classifier was given.
        answers: of this image alone.
        heat: float32 (size, size) over `seen`, 0..1; None where there is no map, and `no_heat` says why.
        target: what the map speaks for.
        near: for each of the nearest support images its row and cosine distance, the nearest first.
    """

    name: str
    shown: np.ndarray = field(repr=False)
    seen: np.ndarray = field(repr=False)
    answers: Answers = field(repr=False)
    heat: np.ndarray | None = field(repr=False)
    no_heat: str
    target: str
    near: tuple[tuple[int, float], ...]


class Viewer:
    """A classifier ready to answer one image after the other; it keeps its network compiled and cut."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.predictor = bundle, Predictor(bundle)
        self.cut: Explained | None = None
        self.no_cut = ""
        try:
            self.cut = explained(bundle)
        except DataError as error:  # such as neighbours, which have no gradient
            self.no_cut = str(error)

    def view(self, picture: Picture) -> View:
        """Everything about one image, read as `Bundle.preprocess` wants it; only the map may be missing.

        Raises:
            DataError: the classifier cannot answer, such as for weights that make NaN.
        """
        answers = self.predictor.answer(picture.grey[None])
        seen = prepared(self.bundle, picture.grey[None])[0]
        heat, no_heat, target = self._heat(seen, answers)
        shown = picture.grey if picture.shown is None else picture.shown
        near: tuple[tuple[int, float], ...] = ()
        if self.bundle.support is not None:
            rows, distances = neighbours(self.bundle, answers.features, n=NEIGHBOURS)
            near = tuple((int(r), float(d)) for r, d in zip(rows[0], distances[0], strict=True))
        return View(picture.name, shown, seen, answers, heat, no_heat, target, near)

    def _heat(self, seen: np.ndarray, answers: Answers) -> tuple[np.ndarray | None, str, str]:
        if self.cut is None:
            return None, self.no_cut, ""
        (target,) = targets_for(self.bundle, answers)
        try:
            return explain(self.cut, seen[None], target=target).maps[0], "", target
        except DataError as error:  # a map that is 0 everywhere, or an image without contrast after resizing
            return None, str(error), target


def overlay(seen: np.ndarray, heat: np.ndarray, *, opacity: float) -> np.ndarray:
    """The image under its heat map, uint8 (H, W, 3), enlarged to about half of SIDE.

    Args:
        seen: uint8 (H, W).
        heat: float (H, W), 0..1; what has 0 stays as it is.
        opacity: 0..1, of the map's largest value; it falls with the value, so that the X-ray shows.
    """
    share = (opacity * heat)[..., None]
    colours = colormaps["inferno"](heat)[..., :3] * 255
    mixed = np.rint(seen[..., None] * (1 - share) + colours * share).astype(np.uint8)
    times = max(1, round(SIDE / 2 / max(seen.shape)))
    height, width = seen.shape
    return np.array(Image.fromarray(mixed).resize((width * times, height * times), Image.Resampling.BILINEAR))


def labels_of(bundle: Bundle, row: int) -> str:
    """The label of a support image as words; of several findings their names, or "none"."""
    labels = np.asarray(bundle.support.labels[row])
    if labels.ndim == 0:
        return bundle.classes[int(labels)]
    return ", ".join(name for name, has in zip(bundle.classes, labels, strict=True) if has) or NOTHING
