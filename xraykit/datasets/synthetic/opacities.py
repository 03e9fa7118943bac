"""Findings that fill the air of the lungs with fluid or cells: from a `Brush` to (attenuation, mask).

Looks follow the usual teaching descriptions (Hansell et al., Fleischner Society glossary, Radiology 2008).
"""

import cv2
import numpy as np

from xraykit.datasets.synthetic import anatomy as shape
from xraykit.datasets.synthetic.lesions import (
    LOBES,
    Brush,
    Lesion,
    interstitial,
    lobar,
    ramp,
    replace_air,
)


def bacterial(brush: Brush) -> Lesion:
    """Consolidation of one lobe or segment, sometimes with a patch elsewhere."""
    rng = brush.rng
    lobe = list(LOBES)[int(rng.choice(6, p=[0.13, 0.10, 0.38, 0.06, 0.07, 0.26]))]
    severity = _severity(rng)
    fill = lobar(brush, lobe, size=0.9 + 0.5 * severity) * np.float32(severity * brush.strength)
    if rng.random() < 0.25:
        other = list(LOBES)[int(rng.integers(6))]
        fill = cv2.max(
            fill, lobar(brush, other, size=0.45) * np.float32(rng.uniform(0.25, 0.55) * brush.strength)
        )
    return replace_air(brush, fill)


def _severity(rng: np.random.Generator) -> float:
    """0.1 to 1, most of it above .6; one in ten is early disease that is hard to see."""
    usual = 0.6 + 0.4 * rng.random() ** 0.5
    return float(usual * (rng.uniform(0.2, 0.5) if rng.random() < 0.1 else 1))


def viral(brush: Brush) -> Lesion:
    """Diffuse bilateral interstitial pattern, densest around the hila."""
    rng = brush.rng
    envelope = _perihilar(
        brush, rng.uniform(0.30, 0.42), rng.uniform(0.26, 0.36), floor=rng.uniform(0.15, 0.35)
    )
    fill = interstitial(brush, envelope, haze=rng.uniform(0.45, 0.7))
    return replace_air(brush, fill * np.float32(1.1 * _severity(rng) * brush.strength))


def consolidation(brush: Brush) -> Lesion:
    """Dense lobar or segmental opacity with air bronchograms, in one or two places."""
    names = brush.rng.permutation(list(LOBES))[: int(brush.rng.integers(1, 3))]
    fills = [lobar(brush, str(n), size=0.85) * np.float32(brush.rng.uniform(0.6, 0.95)) for n in names]
    return replace_air(brush, np.max(fills, axis=0) * np.float32(brush.strength))


def pneumonia(brush: Brush) -> Lesion:
    """Several patches of uneven density around small airways, most in the lower zones."""
    fill = np.zeros((brush.film.w, brush.film.w), np.float32)
    for side in brush.sides(0.5):
        for _ in range(int(brush.rng.integers(2, 5))):
            radius = brush.rng.uniform(0.10, 0.22)
            patch = ramp(brush.blob(brush.inside(side, 0.4, 0.85), (radius, radius * 0.8), rough=0.5), 0.8)
            fill = cv2.max(fill, patch * np.float32(brush.rng.uniform(0.4, 0.8)) * brush.lung(side))
    return replace_air(brush, fill * (0.75 + 0.35 * brush.net(1.5)) * np.float32(brush.strength))


def infiltration(brush: Brush) -> Lesion:
    """Ill-defined haze with streaks, fainter than consolidation and without a lobe's border."""
    fill = np.zeros((brush.film.w, brush.film.w), np.float32)
    for side in brush.sides(0.45):
        radii = (brush.rng.uniform(0.22, 0.42), brush.rng.uniform(0.14, 0.28))
        haze = ramp(brush.blob(brush.inside(side, 0.3, 0.85), radii, rough=0.4), 1.1) * brush.lung(side)
        fill = cv2.max(fill, interstitial(brush, haze, haze=0.6))
    return replace_air(brush, fill * np.float32(brush.rng.uniform(0.35, 0.65) * brush.strength))


def edema(brush: Brush) -> Lesion:
    """Bat-wing haze of both lungs with septal (Kerley B) lines at the outer bases."""
    rng, film = brush.rng, brush.film
    wings = _perihilar(brush, rng.uniform(0.38, 0.5), rng.uniform(0.28, 0.38))
    fill = interstitial(brush, wings, haze=0.7) * np.float32(rng.uniform(0.55, 0.9))
    lines = []
    for sign in (-1, 1):
        for y in np.arange(0.62, 0.86, 0.028) + rng.normal(0, 0.004):
            wall = float(shape.lateral_wall(np.array(y))) - 0.015
            lines.append(
                np.array([[sign * wall, y], [sign * (wall - 0.09 - 0.04 * rng.random()), y + 0.006]])
            )
    canvas = np.zeros((film.w, film.w), np.uint8)
    film.lines([film.to_pixels(line) for line in lines], 200, on=canvas)
    return replace_air(brush, (fill + canvas * np.float32(0.30 / 255)) * np.float32(brush.strength))


def _perihilar(brush: Brush, rx: float, ry: float, *, floor: float = 0.0) -> np.ndarray:
    """Bell around both hila plus `floor` over both lungs; a little lopsided."""
    rng = brush.rng
    height, tilt = np.float32(rng.uniform(0.46, 0.56)), np.float32(0.18 * rng.normal())

    def bell(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        d = ((np.abs(x) - 0.22) / np.float32(rx)) ** 2 + ((y - height) / np.float32(ry)) ** 2
        return (np.exp(-d) * (1 - floor) + floor) * (1 + tilt * np.clip(4 * x, -1, 1))

    return brush.film.smooth_field(bell) * np.clip(1 + 0.25 * brush.cloud(1.5), 0.3, 1.5) * brush.lungs
