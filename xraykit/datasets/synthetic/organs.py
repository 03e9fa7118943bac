"""Draw one chest: soft tissue, lungs, heart, vessels and bones, without lesions."""

import cv2
import numpy as np

from xraykit.datasets.synthetic import anatomy as shape
from xraykit.datasets.synthetic.anatomy import Anatomy
from xraykit.datasets.synthetic.film import Film, Pose, new_film, rounded

_VESSEL_WIDTH = (0.0105, 0.0072, 0.0050, 0.0036)  # by generation, fractions of the picture
_GIRDLE = (("blades", 34, 90), ("arm bones", 80, 135), ("arm heads", 80, 110), ("clavicles", 115, 205))
_VESSEL_VALUE = (0.75, 0.70, 0.65, 0.62)


def expose(anatomy: Anatomy, pose: Pose, w: int) -> Film:
    """The attenuation of one chest in one pose, on w x w pixels."""
    film = new_film(anatomy, pose, w)
    _soft_tissue(film)
    _lungs_and_heart(film)
    _vessels(film)
    _gas(film)
    _bones(film)
    return film


def _soft_tissue(film: Film) -> None:
    """Neck, shoulders, trunk, arms, breasts; thicker in the middle and below the diaphragm."""
    a = film.anatomy
    trunk, arms = film.frame_to_pixels(a.frame["trunk"]), film.frame_to_pixels(a.frame["arms"])
    limbs = film.fill(arms)
    film.body = cv2.max(film.fill(trunk), limbs)
    tissue = cv2.max(film.thickness(trunk, 0.34), film.soften(limbs, 0.024, 0.40))
    tissue *= film.smooth_field(_trunk_depth)
    if a.breast:
        breasts = film.soften(film.fill(film.frame_to_pixels(a.frame["breasts"])), 0.007, 0.13 * a.breast)
        tissue += breasts * film.smooth_field(lambda x, y: np.clip((y - 0.35) * 1.7, 0, 1))
    film.tissue = tissue


def _lungs_and_heart(film: Film) -> None:
    """Air of the lungs, displaced by the heart and the great vessels."""
    a = film.anatomy
    outline = shape.heart_outline(a.heart_scale * film.pose.heart, a.heart_lean)
    film.heart = film.fill(film.to_pixels(outline, 0.6))
    solid = rounded(film.heart, 0.07 * film.w)
    film.lungs = [film.fill(film.to_pixels(a.lung[side])) for side in ("right", "left")]
    film.air = (
        rounded(cv2.max(*film.lungs), 0.085 * film.w)
        * (1 - 0.9 * cv2.sqrt(solid))
        * np.float32(0.5 * a.density)
    )
    solid *= film.smooth_field(lambda x, y: np.clip((1.02 - y) * 7, 0, 1))
    film.tissue += np.float32(0.13) * solid


def _vessels(film: Film) -> None:
    """Pulmonary vessels, tapering outwards, and the hila: they take the place of air."""
    canvas = film.canvas()
    generations = zip(film.anatomy.vessels, _VESSEL_WIDTH, _VESSEL_VALUE, strict=True)
    for curves, fraction, value in reversed(list(generations)):  # the thick ones over the thin
        width = fraction * film.w
        grey = int(255 * min(1.0, width / 1.3 + 0.12) * value)
        film.lines(film.to_pixels(curves), grey, on=canvas, width=max(1, round(width)))
    film.vessels = canvas
    film.air *= 1 - film.pose.markings * (film.smooth_field(_hila) + film.soften(canvas, 0.0035, 0.27))


def _gas(film: Film) -> None:
    """Trachea, stomach and bowel."""
    drawn = film.canvas()
    if len(film.anatomy.frame["gas"]):
        film.fill(list(film.frame_to_pixels(film.anatomy.frame["gas"])), 200, on=drawn)
        drawn = cv2.subtract(drawn, cv2.max(*film.lungs))
    film.fill(film.to_pixels(film.anatomy.lung["trachea"], 0.3), 102, on=drawn)
    film.tissue -= film.soften(drawn, 0.007, 0.30)


def _bones(film: Film) -> None:
    """Ribs, shoulder girdle and spine: dense cortex (lines) around less dense marrow (fill)."""
    a, pose = film.anatomy, film.pose
    behind = _bone(film, film.to_pixels(a.lung["ribs behind"], -0.5), 88, 215)
    front = _bone(film, film.to_pixels(a.lung["ribs in front"], 0.7), 62, 104)
    bones = cv2.multiply(cv2.add(behind, front), film.smooth_field(_rib_weight), dtype=cv2.CV_8U)
    outward = np.array([0.05 if pose.view == "PA" else -0.01, 0.0])
    girdle = film.canvas()
    for name, marrow, cortex in _GIRDLE:
        move = np.stack([-outward, outward])[:, None] if name == "blades" else 0
        points = film.frame_to_pixels(a.frame[name] + move + (pose.yaw * 0.7, 0))
        _bone(film, points, marrow, cortex, on=girdle)
    spine = _bone(film, film.to_pixels(a.lung["vertebrae"], -0.35), 74, 124)
    film.lines(film.to_pixels(a.lung["pedicles"], -0.5), 128, on=spine, closed=True)
    film.fill(film.to_pixels(a.lung["processes"], -0.9), 104, on=spine)
    column = film.fill(film.to_pixels(a.lung["column"], -0.35), 62)
    bones = cv2.add(cv2.add(bones, girdle), cv2.add(spine, column))
    film.tissue += film.soften(bones, 0.003, 0.24 if pose.view == "PA" else 0.21)


def _bone(
    film: Film, outlines: np.ndarray, marrow: int, cortex: int, *, on: np.ndarray | None = None
) -> np.ndarray:
    on = film.fill(outlines, marrow, on=on)
    film.lines(outlines, cortex, on=on, closed=True)
    return on


def _trunk_depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The trunk is thicker below the diaphragm."""
    level = np.clip((y - 0.55) * 1.4, 0, 1)
    return 0.86 + 0.20 * level * level * (3 - 2 * level) + 0.05 * np.maximum(y, 0)


def _hila(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 0.34 * np.exp(-((np.abs(x) - 0.19) ** 2 / 0.012 + (y - 0.46) ** 2 / 0.014))


def _rib_weight(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ribs seen along their curve at the side wall are denser; below the diaphragm they fade."""
    return 0.75 + 0.55 * np.clip((np.abs(x) - 0.55) * 2.2, 0, 1.1) - 0.45 * np.clip((y - 0.86) * 8, 0, 1)
