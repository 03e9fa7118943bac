"""Simulated opacities pasted into normal chest X-rays: anomalies with a known place, to choose a detector by.

A detector without labels still has settings to choose, and abnormal images must not choose them. Anomalies
pasted into normal images can: the idea of Foreign Patch Interpolation (Tan et al., 2020) and CutPaste (Li et
al., CVPR 2021), here with the grey levels and shapes of opacities. They are stand-ins, not disease.
"""

from dataclasses import dataclass
from numbers import Integral, Real

import cv2
import numpy as np

from xraykit.errors import DataError
from xraykit.images import check_rows
from xraykit.lung_fields import GRID, lung_fields, on_grid, resize

KINDS = ("consolidation", "haze", "nodules")
STRENGTHS = (0, 1.5)
"""A strength must be above the first and at most the second; 1 is visible, not glaring."""

_TISSUE = 0.8  # quantile of the grey levels between the outer borders of the lungs that stands for tissue
_FILL = {"consolidation": 0.68, "haze": 0.56, "nodules": 0.55}  # of the air replaced in a dense spot
_MOST = 0.95  # of the air: detail stays at any strength
_EDGE = 0.1  # shapes weaker than this are cut off, and the rest starts from 0 there
_CONTRAST = 8  # grey levels that the lungs must be darker than tissue


def paste(
    images: np.ndarray, rows: np.ndarray, *, kind: str, seed: int, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Copies of normal images with a simulated opacity in the lungs, and where it is.

    Inside the mask I' = I + fill (T - I) where tissue T is brighter than I: air is replaced by tissue, with
    `fill` from 0 at the border of the mask up to about .7 of `strength`, soft, irregular and cloudy. T is an
    upper quantile of the grey levels of that height between the lungs' outer borders. Outside the mask an
    image is unchanged. ``"consolidation"``: one or two dense patches; ``"haze"``: weak, wide, net-like, in
    both lungs; ``"nodules"``: one to four small round ones.

    Args:
        images: uint8 (N, H, W), array or memmap, frontal, from `lung_fields.MIN_SIDE` pixels a side; one is
            read at a time.
        rows: (M,) positions in `images`, at least one.
        kind: one of `KINDS`.
        seed: with the row and the kind, decides shape and place; whole number from 0.
        strength: factor of `fill`, above 0 to 1.5. It changes the mask in no pixel.

    Returns:
        Images uint8 (M, H, W) and masks bool (M, H, W), new arrays.

    Raises:
        DataError: another shape, type, kind, seed or strength; rows out of range; an image too small for
            `lung_fields`, constant, or without lungs darker than tissue: names its row.
    """
    rows = _check(images, np.asarray(rows), kind=kind, seed=seed, strength=strength)
    pasted = np.empty((len(rows), *images.shape[1:]), np.uint8)
    masks = np.empty(pasted.shape, bool)
    for i, row in enumerate(rows.tolist()):
        rng = np.random.default_rng([seed, row, KINDS.index(kind)])
        try:
            pasted[i], masks[i] = _pasted(np.asarray(images[row]), kind=kind, rng=rng, strength=strength)
        except DataError as error:
            raise DataError(f"image {row}: {error}") from error
    return pasted, masks


def with_lungs(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those of `rows` into whose images an opacity can be pasted, as their lungs are found.

    Raises:
        DataError: none of them, images that are not uint8 (N, H, W), or rows that are not positions of them.
    """
    found = []
    for row in check_rows(images, rows):
        try:
            _lungs(np.asarray(images[row]))
        except DataError:
            continue
        found.append(row)
    if not found:
        raise DataError(f"lungs were found in none of {len(rows)} images; are these frontal chest X-rays?")
    return np.array(found)


def _check(images: np.ndarray, rows: np.ndarray, *, kind: str, seed: int, strength: float) -> np.ndarray:
    if kind not in KINDS:
        raise DataError(f"{kind!r} is not one of {KINDS}")
    low, high = STRENGTHS
    if not (isinstance(strength, Real) and low < strength <= high):
        raise DataError(f"strength = {strength!r}; use above {low} to {high}, 1 being the usual one")
    if not (isinstance(seed, Integral) and seed >= 0):
        raise DataError(f"seed = {seed!r}; use a whole number from 0")
    return check_rows(images, rows)


def _pasted(
    image: np.ndarray, *, kind: str, rng: np.random.Generator, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """The image with an opacity, uint8 (H, W), and its mask, bool (H, W)."""
    fields, tissue = _lungs(image)
    brush = _Brush(np.stack([on_grid(field.astype(np.float32)) for field in fields]), rng)
    body, texture = {"consolidation": _consolidation, "haze": _haze, "nodules": _nodules}[kind](brush)
    body = (resize(body, image.shape) - _EDGE) / (1 - _EDGE)
    fill = np.clip(body * resize(texture, image.shape) * _FILL[kind] * strength, 0, _MOST)
    change = fill * np.maximum(tissue - image, 0)
    return np.rint(image + change).astype(np.uint8), body > 0


def _lungs(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both lung fields, and the grey of tissue at every height, float32 (H, 1), between their outer borders.

    Raises:
        DataError: as `lung_fields`, or tissue is hardly brighter than the lungs.
    """
    fields = lung_fields(image)
    field = fields.any(axis=0)
    tall, wide = (np.flatnonzero(field.any(axis=axis)) for axis in (1, 0))
    top, bottom = tall[[0, -1]]
    box = image[top : bottom + 1, wide[0] : wide[-1] + 1]
    grey = np.float32(np.quantile(box, _TISSUE, axis=1))[:, None]
    grey = cv2.GaussianBlur(grey, (1, 0), 1, sigmaY=0.05 * len(image), borderType=cv2.BORDER_REPLICATE)
    grey = np.pad(grey, ((top, len(image) - 1 - bottom), (0, 0)), mode="edge")
    contrast = float((grey - image)[field].mean())
    if contrast < _CONTRAST:
        raise DataError(
            f"its lungs are {contrast:.1f} grey levels darker than tissue and {_CONTRAST} are needed; "
            "leave it out, or use a frontal chest X-ray with dark lungs"
        )
    return fields, grey


@dataclass(frozen=True)
class _Brush:
    """The two lung fields, float32 (2, h, w) in 0..1, and the random numbers that shapes are drawn with."""

    fields: np.ndarray
    rng: np.random.Generator

    def noise(self, scale: float) -> np.ndarray:
        """Smooth noise (h, w), mean 0, standard deviation 1; `scale` is its blobs' size in grid pixels."""
        white = self.rng.standard_normal(self.fields.shape[1:], dtype=np.float32)
        smooth = cv2.GaussianBlur(white, (0, 0), scale)
        return (smooth - smooth.mean()) / smooth.std()

    def blob(self, side: int, radii: tuple[float, float], *, rough: float, soft: float) -> np.ndarray:
        """Irregular ellipse (h, w) in 0..1 around a random point deep in one lung; `radii` in grid pixels.

        It is 1 - r**2 plus `rough` times noise, cut by a smooth step of width `soft`.
        """
        depth = cv2.distanceTransform((self.fields[side] > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
        points = np.argwhere(depth >= 0.45 * depth.max())
        y, x = points[self.rng.integers(len(points))]
        turn = self.rng.uniform(-0.6, 0.6)
        rows, columns = (np.arange(n, dtype=np.float32) for n in depth.shape)
        dy, dx = (rows - y)[:, None], columns - x
        across = (np.cos(turn) * dx + np.sin(turn) * dy) / radii[0]
        along = (np.cos(turn) * dy - np.sin(turn) * dx) / radii[1]
        return _step((1 - across**2 - along**2 + rough * self.noise(0.25 * min(radii) + 1)) / soft)

    def inside(self, shape: np.ndarray) -> np.ndarray:
        """`shape` with a soft end at the borders of the lungs."""
        lungs = cv2.GaussianBlur(self.fields.max(axis=0), (0, 0), 2)
        return shape * _step(2 * lungs - 0.6)

    def size(self, side: int) -> float:
        """The side of a square as large as one lung field, in grid pixels."""
        return float(np.sqrt(self.fields[side].sum()))


def _step(x: np.ndarray) -> np.ndarray:
    """Smooth step from 0 at 0 to 1 at 1."""
    t = np.clip(x, 0, 1)
    return t * t * (3 - 2 * t)


def _consolidation(brush: _Brush) -> tuple[np.ndarray, np.ndarray]:
    """One or two dense patches with ragged borders, a little uneven inside."""
    patches = []
    for _ in range(1 + (brush.rng.random() < 0.35)):
        side = int(brush.rng.integers(2))
        radii = brush.size(side) * brush.rng.uniform(0.3, 0.5, size=2)
        patches.append(brush.blob(side, tuple(radii), rough=0.3, soft=brush.rng.uniform(0.6, 1.0)))
    return brush.inside(np.maximum.reduce(patches)), _step(0.85 + 0.12 * brush.noise(3))


def _haze(brush: _Brush) -> tuple[np.ndarray, np.ndarray]:
    """A wide veil in both lungs: cloud, and a net of lines where smooth noise changes its sign."""
    veils = [
        brush.blob(side, tuple(brush.size(side) * brush.rng.uniform(0.7, 1.1, size=2)), rough=0.35, soft=1.1)
        for side in range(2)
    ]
    net = np.exp(-((brush.noise(2.2) / 0.35) ** 2))
    return brush.inside(np.maximum.reduce(veils)), np.clip(0.5 + 0.15 * brush.noise(6) + 0.45 * net, 0, 1)


def _nodules(brush: _Brush) -> tuple[np.ndarray, np.ndarray]:
    """One to four round spots of 4 to 8% of the shorter side across."""
    spots = []
    for _ in range(brush.rng.integers(1, 5)):
        side, radius = int(brush.rng.integers(2)), GRID * brush.rng.uniform(0.022, 0.042)
        radii = (radius, radius * brush.rng.uniform(0.85, 1.15))
        spots.append(brush.blob(side, radii, rough=0.08, soft=0.6))
    spots = np.maximum.reduce(spots)
    return brush.inside(spots), np.ones_like(spots)
