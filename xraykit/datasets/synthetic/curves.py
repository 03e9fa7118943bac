"""Smooth curves, bands around them, and mirrored pairs: plain geometry on arrays of points (..., 2)."""

from functools import lru_cache

import numpy as np

ELLIPSE = np.stack([np.cos(np.arange(24) * np.pi / 12), np.sin(np.arange(24) * np.pi / 12)], 1)
"""Unit circle (24, 2), to be scaled and moved."""
MIRROR = np.array([-1.0, 1.0])


@lru_cache(maxsize=64)
def _spline(k: int, n: int, closed: bool) -> np.ndarray:
    """Catmull-Rom weights (n, k): curve = weights @ points."""
    t = np.linspace(0, k if closed else k - 1, n, endpoint=not closed)
    i = np.minimum(t.astype(int), k - 1 if closed else k - 2)
    u = t - i
    basis = (
        np.stack([-u + 2 * u**2 - u**3, 2 - 5 * u**2 + 3 * u**3, u + 4 * u**2 - 3 * u**3, u**3 - u**2], 1) / 2
    )
    weights = np.zeros((n, k))
    for j in range(4):
        at = i + j - 1
        at = at % k if closed else np.clip(at, 0, k - 1)
        np.add.at(weights, (np.arange(n), at), basis[:, j])
    return weights


def smooth(points: np.ndarray, n: int, *, closed: bool = False) -> np.ndarray:
    """n points of the Catmull-Rom curve through `points` (..., k, 2)."""
    return _spline(points.shape[-2], n, closed) @ points


def ribbon(centre: np.ndarray, half_width: np.ndarray | float) -> np.ndarray:
    """Outlines (..., 2m, 2) of bands around the curves `centre` (..., m, 2); `half_width` is one or (m,)."""
    ahead = np.concatenate([centre[..., 1:, :], centre[..., -1:, :]], -2)
    along = ahead - np.concatenate([centre[..., :1, :], centre[..., :-1, :]], -2)
    normal = along[..., ::-1] * MIRROR
    normal /= np.hypot(along[..., 0], along[..., 1])[..., None] + 1e-9
    offset = normal * np.reshape(half_width, (-1, 1))
    return np.concatenate([centre + offset, (centre - offset)[..., ::-1, :]], -2)


def both_sides(points: np.ndarray) -> np.ndarray:
    """The curve and its mirror image: (..., m, 2) to (2, ..., m, 2), the patient's right side first."""
    return np.stack([points * MIRROR, points])
