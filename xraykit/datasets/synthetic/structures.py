"""Findings that change shapes: heart, pleura, bands, rounded shadows; from a `Brush` to (attenuation, mask).

Looks follow the usual teaching descriptions (Hansell et al., Fleischner Society glossary, Radiology 2008).
"""

import cv2
import numpy as np

from xraykit.datasets.synthetic import anatomy as shape
from xraykit.datasets.synthetic.curves import ribbon, smooth
from xraykit.datasets.synthetic.film import blur, rounded
from xraykit.datasets.synthetic.lesions import (
    VISIBLE,
    Brush,
    Lesion,
    ramp,
    replace_air,
    rim_depth,
    wall_at,
)


def atelectasis(brush: Brush) -> Lesion:
    """Plate-like bands above the diaphragm, or the crowded opacity of a collapsed base."""
    rng, film = brush.rng, brush.film
    canvas = np.zeros((film.w, film.w), np.uint8)
    sides = brush.sides(0.4)
    fill = np.zeros((film.w, film.w), np.float32)
    for side in sides:
        for _ in range(int(rng.integers(1, 4))):
            x, y = brush.inside(side, 0.62, 0.84)
            half, slope = rng.uniform(0.10, 0.28), rng.normal(0, 0.035)
            line = smooth(np.array([[x - half, y + slope], [x, y - 0.02], [x + half, y - slope * 0.6]]), 10)
            film.fill(
                film.to_pixels(ribbon(line, rng.uniform(0.010, 0.024))),
                int(rng.uniform(150, 255)),
                on=canvas,
            )
        if rng.random() < 0.5:
            sign = -1 if side == 0 else 1
            base = ramp(brush.blob((sign * 0.42, 0.92), (0.5, rng.uniform(0.10, 0.2))), 0.6) * brush.lung(
                side
            )
            fill = cv2.max(fill, base * np.float32(rng.uniform(0.3, 0.65)))
    bands = film.soften(canvas, 0.004, 1.0)
    return replace_air(brush, cv2.max(fill, bands * np.float32(0.8)) * np.float32(brush.strength))


def cardiomegaly(brush: Brush) -> Lesion:
    """A heart wider than half of the chest; the mask is the whole heart."""
    film = brush.film
    wider = (
        film.anatomy.heart_scale
        * film.pose.heart
        * (1 + brush.rng.uniform(0.20, 0.50) * min(brush.strength, 1.2))
    )
    large = film.fill(film.to_pixels(shape.heart_outline(min(wider, 1.75), film.anatomy.heart_lean), 0.6))
    was, now = rounded(film.heart, 0.07 * film.w), rounded(large, 0.07 * film.w)
    lost = film.air * np.clip(1 - (1 - 0.9 * cv2.sqrt(now)) / (1 - 0.9 * cv2.sqrt(was)), 0, 1)
    added = blur(lost + np.float32(0.13) * cv2.subtract(now, was), 0.003 * film.w)
    film.heart = cv2.max(film.heart, large)
    mask = blur(film.heart.astype(np.float32), 0.003 * film.w) > 2
    return np.where(mask, np.maximum(added, 0), 0), mask


def effusion(brush: Brush) -> Lesion:
    """Fluid in the pleural angle with a meniscus that climbs the side wall."""
    fill = np.zeros((brush.film.w, brush.film.w), np.float32)
    for side in brush.sides(0.35):
        level = np.float32(
            brush.rng.choice([brush.rng.uniform(0.78, 0.90), brush.rng.uniform(0.50, 0.78)], p=[0.65, 0.35])
        )
        surface = level - np.float32(0.17) * np.clip((brush.a - 0.45) * 1.8, -0.2, 1) ** 2
        fluid = ramp(brush.y - surface + 0.008 * brush.cloud(2), 0.05) * brush.lung(side)
        fill = cv2.max(fill, fluid * (0.70 + 0.25 * ramp(brush.y - surface, 0.2)))
    return replace_air(brush, fill * np.float32(min(brush.strength, 1.05)))


def emphysema(brush: Brush) -> Lesion:
    """Too much air: both lungs darker with few vessels, and thin-walled bullae in the upper zones."""
    rng, film = brush.rng, brush.film
    lungs = brush.lungs
    lucent = -film.air * np.float32(rng.uniform(0.14, 0.26) * brush.strength)
    lucent -= film.vessels * np.float32(0.05 / 255)
    canvas = np.zeros((film.w, film.w), np.uint8)
    for _ in range(int(rng.integers(2, 6))):
        x, y = brush.inside(int(rng.integers(2)), 0.08, 0.45)
        r = rng.uniform(0.05, 0.12)
        ring = np.array([[x + r * np.cos(t), y + r * 0.8 * np.sin(t)] for t in np.linspace(0, 2 * np.pi, 20)])
        film.lines(film.to_pixels(ring), 200, on=canvas)
        lucent -= np.float32(0.05) * ramp(brush.blob((x, y), (r, r * 0.8), rough=0), 0.2)
    added = (lucent + film.soften(canvas, 0.002, 0.08)) * lungs
    mask = (lungs > 0.5) & (film.air > 2 * VISIBLE)
    return np.where(mask, added, 0), mask


def fibrosis(brush: Brush) -> Lesion:
    """Coarse net of lines at the periphery of the bases or, with upper-lobe scarring, at the apices."""
    rng = brush.rng
    basal = rng.random() < 0.7
    height = ramp(brush.y - 0.42, 0.35) if basal else ramp(0.42 - brush.y, 0.3)
    envelope = height * (0.25 + 0.75 * ramp(0.5 - rim_depth(brush), 0.4)) * brush.lungs
    mesh = ramp(brush.net(0.8) - 0.35, 0.35)
    fill = envelope * (0.15 + 0.85 * mesh) * np.clip(1 + 0.3 * brush.cloud(1.5), 0.3, 1.4)
    return replace_air(brush, fill * np.float32(rng.uniform(0.45, 0.8) * brush.strength))


def hernia(brush: Brush) -> Lesion:
    """Hiatal hernia: a rounded shadow behind the heart, above the diaphragm, with gas over a fluid level."""
    rng = brush.rng
    x, y, r = rng.uniform(-0.05, 0.25), rng.uniform(0.70, 0.82), rng.uniform(0.14, 0.24)
    blob = brush.blob((x, y), (r, r * 0.75), rough=0.06)
    inside = ramp(blob, 0.35)
    gas = ramp(blob - 0.15, 0.35) * ramp(np.float32(y - 0.15 * r) - brush.y, 0.03)
    added = (np.float32(0.12) * inside - np.float32(0.15) * gas + 0.5 * inside * brush.film.air) * np.float32(
        brush.strength
    )
    mask = inside > 0.02
    return np.where(mask, added, 0), mask


def mass(brush: Brush) -> Lesion:
    """One rounded or lobulated opacity of more than 3 cm, sometimes spiculated."""
    radius = brush.rng.uniform(0.10, 0.20)
    return _round(brush, [radius], rough=0.22)


def nodule(brush: Brush) -> Lesion:
    """One to three round opacities of less than 3 cm."""
    count = int(brush.rng.choice([1, 2, 3], p=[0.65, 0.22, 0.13]))
    return _round(brush, list(brush.rng.uniform(0.035, 0.075, count)), rough=0.06)


def _round(brush: Brush, radii: list[float], *, rough: float) -> Lesion:
    fill = np.zeros((brush.film.w, brush.film.w), np.float32)
    for radius in radii:
        side = int(brush.rng.integers(2))
        ball = np.maximum(brush.blob(brush.inside(side, 0.10, 0.80), (radius, radius * 0.55), rough=rough), 0)
        fill = cv2.max(fill, cv2.sqrt(np.minimum(ball, 1)) * brush.lung(side))
    return replace_air(brush, fill * np.float32(brush.rng.uniform(0.45, 0.8) * brush.strength))


def pleural_thickening(brush: Brush) -> Lesion:
    """A band along the inner chest wall, at the side or as an apical cap."""
    rng = brush.rng
    fill = np.zeros((brush.film.w, brush.film.w), np.float32)
    thick = np.float32(rng.uniform(0.04, 0.10))
    for side in brush.sides(0.35):
        low, high = (0.0, 0.22) if rng.random() < 0.35 else (rng.uniform(0.2, 0.5), rng.uniform(0.75, 1.0))
        span = ramp(brush.y - np.float32(low), 0.08) if low else np.float32(1)
        span = span * ramp(np.float32(high) - brush.y, 0.08)
        edge = thick * np.clip(1 + 0.35 * brush.cloud(3), 0.3, 1.8) - rim_depth(brush)
        fill = cv2.max(fill, ramp(edge, 0.03) * span * brush.lung(side))
    return replace_air(brush, fill * np.float32(rng.uniform(0.6, 0.9) * brush.strength))


def pneumothorax(brush: Brush) -> Lesion:
    """Air outside the lung: a dark rim without vessels beyond a thin white pleural line."""
    rng, film = brush.rng, brush.film
    side = int(rng.integers(2))
    sunk, gap = np.float32(rng.uniform(0.06, 0.30)), np.float32(rng.uniform(0.06, 0.22))
    height = (brush.y - sunk) / (1 - sunk)
    depth = (wall_at(height) + 0.5 * np.minimum(height, 0)) * (
        1 - gap * (1.1 - 0.8 * np.clip(height, 0, 1))
    ) - brush.a
    lung = brush.lung(side) * ramp(brush.a - 0.14, 0.02)
    outside = ramp(-depth, 0.015) * lung
    line = np.exp(-((depth * np.float32(1 / 0.013)) ** 2)) * lung
    added = np.float32(0.13) * line - outside * (
        0.16 * film.air + film.vessels * np.float32(0.12 / 255) + np.float32(0.03)
    )
    mask = (outside > 0.02) | (line > 0.1)
    return np.where(mask, added * np.float32(brush.strength), 0), mask
