"""The language that findings are written in: lobes, soft edges, branching and net-like structure.

A lesion is a float32 map (w, w) of added attenuation, exactly zero outside its mask. Opacities fill air, so
they fade where there is little of it (behind the heart), hide vessels and blur the borders they touch.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from xraykit.datasets.synthetic.anatomy import lateral_wall
from xraykit.datasets.synthetic.detector import crop, textures
from xraykit.datasets.synthetic.film import Film

VISIBLE = np.float32(0.012)
"""Attenuation below which a lesion counts as absent: about 2 grey levels of 256."""

# centre x (unsigned), y, half width, half height in lung units; y of a fissure below or above, if any
LOBES = {
    "right upper": (0, 0.50, 0.28, 0.42, 0.26, ("below", 0.50)),
    "right middle": (0, 0.38, 0.66, 0.36, 0.17, ("above", 0.50)),
    "right lower": (0, 0.60, 0.72, 0.40, 0.24, None),
    "left upper": (1, 0.50, 0.28, 0.42, 0.26, None),
    "lingula": (1, 0.55, 0.62, 0.32, 0.18, None),
    "left lower": (1, 0.55, 0.74, 0.42, 0.22, None),
}


Lesion = tuple[np.ndarray, np.ndarray]
"""Added attenuation (w, w) float32, zero outside its mask (w, w) bool."""


@dataclass(frozen=True)
class Brush:
    """What every finding is given: film, its own random numbers, seed of the textures, strength."""

    film: Film
    rng: np.random.Generator
    seed: int
    strength: float

    @cached_property
    def a(self) -> np.ndarray:
        """Distance from the midline in lung widths (w, w)."""
        return np.abs(self.film.lung_x)

    @property
    def y(self) -> np.ndarray:
        """Height in lung units (w, w): 0 apex, 1 costophrenic angle."""
        return self.film.lung_y

    def lung(self, side: int) -> np.ndarray:
        """float32 0..1 mask of one lung, 0 = right."""
        return self.film.lungs[side] * np.float32(1 / 255)

    @cached_property
    def lungs(self) -> np.ndarray:
        """float32 0..1 mask of both lungs (w, w)."""
        return cv2.max(*self.film.lungs) * np.float32(1 / 255)

    def cloud(self, scale: float) -> np.ndarray:
        """Cloudy texture of unit variance; `scale` 1 has blobs of about a fifth of the picture."""
        return crop(textures(self.seed)[1], self.rng, self.film.w, span=int(224 / scale))

    def net(self, scale: float = 1.0) -> np.ndarray:
        """Net-like texture, 0..1: bright ridges around darker meshes."""
        return crop(textures(self.seed)[2], self.rng, self.film.w, span=int(224 / scale))

    def sides(self, both: float = 0.4) -> tuple[int, ...]:
        """One side, or both with probability `both`."""
        return (0, 1) if self.rng.random() < both else (int(self.rng.integers(2)),)

    def inside(self, side: int, low: float, high: float) -> tuple[float, float]:
        """A random point of one lung with height between `low` and `high`; x is signed."""
        y = self.rng.uniform(low, high)
        wall = float(lateral_wall(np.array(y)))
        return float(self.rng.uniform(0.25, wall - 0.12)) * (-1 if side == 0 else 1), float(y)

    def blob(
        self, centre: tuple[float, float], radii: tuple[float, float], *, rough: float = 0.3
    ) -> np.ndarray:
        """Irregular ellipse: 1 - r**2 + noise (w, w), positive inside."""
        turn = self.rng.uniform(-0.6, 0.6)
        c, s = np.cos(turn), np.sin(turn)
        across = np.float32(np.array([[c, s], [-s, c]]) / np.array(radii)[:, None])
        place = np.float32(centre)

        def ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            dx, dy = x - place[0], y - place[1]
            u, v = (row[0] * dx + row[1] * dy for row in across)
            return 1 - u * u - v * v

        wide = min(radii) > 0.12
        out = self.film.smooth_field(ellipse) if wide else ellipse(self.film.lung_x, self.film.lung_y)
        return out if rough == 0 else out + np.float32(rough) * self.cloud(1.6)


def ramp(x: np.ndarray, width: float) -> np.ndarray:
    """Soft step: 0 below 0, 1 above `width`."""
    t = np.clip(x * np.float32(1 / width), 0, 1)
    return t * t * (3 - 2 * t)


def replace_air(brush: Brush, fill: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lesion and mask of filling the fraction `fill` (w, w) of the air in the lungs."""
    amount = brush.film.air * np.minimum(fill, 0.95) * brush.lungs
    mask = amount > VISIBLE
    return np.where(mask, amount, 0), mask


def lobar(brush: Brush, lobe: str, *, size: float = 1.0) -> np.ndarray:
    """Consolidation of a lobe or segment: soft edges, often a sharp fissure, air bronchograms; fill 0..1."""
    side, x, y, rx, ry, fissure = LOBES[lobe]
    rng, sign = brush.rng, -1 if side == 0 else 1
    extent = size * rng.uniform(0.62, 1.12)
    centre = (sign * (x + 0.14 * rng.normal()), y + 0.05 * rng.normal())
    shape = ramp(brush.blob(centre, (rx * extent, ry * extent), rough=0.35), rng.uniform(0.35, 0.9))
    if fissure and rng.random() < 0.7:
        line = np.float32(fissure[1]) + np.float32(0.07 * rng.normal()) * (brush.a - 0.5)
        distance = (line - brush.y) if fissure[0] == "below" else (brush.y - line)
        shape = shape * ramp(distance + 0.01, rng.choice([0.02, 0.08]))
    shape *= brush.lung(side)
    shape *= 0.88 + 0.12 * brush.cloud(3)
    return shape * (1 - rng.uniform(0.2, 0.6) * bronchograms(brush))


def bronchograms(brush: Brush) -> np.ndarray:
    """Air-filled bronchi, seen only inside a consolidation: they run along the vessels; 0..1."""
    return brush.film.soften(np.minimum(brush.film.vessels, 140), 0.004, 255 / 140)


def interstitial(brush: Brush, envelope: np.ndarray, *, haze: float = 0.35) -> np.ndarray:
    """Reticular pattern with thickened bronchial walls inside `envelope` 0..1; fill 0..1."""
    walls = np.minimum(brush.film.soften(brush.film.vessels, 0.009, 1.5), 1)
    return envelope * (haze + (1 - haze) * np.maximum(brush.net(), walls))


def wall_at(y: np.ndarray) -> np.ndarray:
    """Half width of the rib cage at heights `y` (w, w), lung units."""
    table = lateral_wall(np.linspace(0, 1.1, 256)).astype(np.float32)
    return table[np.clip(y * 232, 0, 255).astype(np.int16)]


def rim_depth(brush: Brush) -> np.ndarray:
    """Distance inwards from the side wall of the rib cage in lung widths (w, w)."""
    return wall_at(brush.y) - brush.a
