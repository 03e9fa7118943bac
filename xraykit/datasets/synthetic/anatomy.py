"""The shape of one chest, as outlines in the patient's own frame.

x is 0 at the midline and positive towards the patient's left (the right of the picture), y grows downwards.
The frame's unit is the picture's side. "Lung units" scale x by the half width of the rib cage and y from the
apex (0) to the costophrenic angle (1), so that breathing moves what is given in them. Nothing here knows
pixels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from xraykit.datasets.synthetic.curves import ELLIPSE, both_sides, ribbon, smooth
from xraykit.datasets.synthetic.patients import Person, person, stream

# Outlines in lung units.
_LATERAL = np.array(
    [
        [0.30, 0.0],
        [0.50, 0.02],
        [0.68, 0.10],
        [0.83, 0.26],
        [0.93, 0.48],
        [0.985, 0.72],
        [1.0, 0.90],
        [0.985, 1.0],
    ]
)
_FINE_WALL = smooth(_LATERAL, 40)
_DOME = np.array([[0.985, 1.0], [0.90, 0.925], [0.72, 0.865], [0.50, 0.84], [0.30, 0.86], [0.10, 0.93]])
_MEDIAL = np.array(
    [[0.10, 0.93], [0.085, 0.70], [0.075, 0.45], [0.09, 0.25], [0.13, 0.10], [0.20, 0.02], [0.30, 0.0]]
)
_HEART = np.array(
    [
        [-0.13, -0.05], [-0.155, 0.15], [-0.17, 0.32], [-0.19, 0.44], [-0.28, 0.56], [-0.33, 0.70],
        [-0.30, 0.84], [-0.18, 0.95], [0.10, 1.0], [0.38, 0.99], [0.60, 0.95], [0.68, 0.87], [0.64, 0.76],
        [0.52, 0.62], [0.38, 0.50], [0.27, 0.42], [0.235, 0.35], [0.25, 0.29], [0.235, 0.22], [0.16, 0.16],
        [0.13, 0.05], [0.10, -0.05],
    ]
)  # fmt: skip
_FAN = np.linspace(-1, 1, 9)
_TRACHEA = ribbon(smooth(np.array([[0.0, -0.30], [0.0, 0.0], [-0.02, 0.22], [-0.01, 0.33]]), 12), 0.043)


@dataclass(frozen=True)
class Anatomy:
    """One patient's chest. Outlines named in `frame` are in the patient's frame, in `lung` in lung units."""

    who: Person
    width: float  # half width of the rib cage
    apex: float
    base: float  # costophrenic angle at a usual inspiration
    heart_scale: float
    heart_lean: float  # pulls the apex of the heart sideways
    density: float  # how much air the lungs hold
    breast: float
    frame: dict[str, np.ndarray]
    lung: dict[str, np.ndarray]
    vessels: tuple[np.ndarray, ...]  # per generation (n, m, 2), lung units, both sides


@lru_cache(maxsize=256)
def build(name: str, seed: int, patient: int) -> Anatomy:
    """The chest of one patient, from its own stream of random numbers."""
    who = person(name, seed, patient)
    rng = stream("anatomy", seed, patient)
    z = np.clip(rng.normal(size=16), -2, 2)
    child, bulk = who.child, who.bulk
    width = 0.358 + 0.025 * z[0] + 0.012 * child
    apex, base = 0.125 + 0.02 * z[1] + 0.03 * child, 0.825 + 0.035 * z[2] - 0.03 * child - 0.03 * bulk
    wall = 0.065 + 0.03 * bulk + 0.010 * z[9] + 0.01 * (1 - child)
    shoulder = 0.43 + 0.02 * z[10] + 0.02 * bulk
    breast = (0.6 + 0.4 * rng.random()) if who.sex == "F" and who.age > 14 else 0.0
    arm = _arm_axis(shoulder, float(rng.random() < 0.55) * child)
    frame = _soft_outlines(width + wall, shoulder, arm, child) | _shoulder_bones(width, apex, shoulder, arm)
    frame |= {"breasts": _breasts(width, breast), "gas": _bubbles(rng, width, base, child)}
    dome = (0.02 + 0.02 * z[3] + 0.01 * bulk, -0.005 + 0.02 * z[4] + 0.01 * bulk)
    tilt, half = (0.105 - 0.025 * child + 0.014 * z[6]), 0.0122 + 0.0014 * z[8] - 0.0015 * child
    lung = _rib_outlines(width, base - apex, tilt, half, 0.95 + 0.04 * z[7]) | _spine_outlines(
        width, 0.008 * z[12]
    )
    lung |= {"right": lung_outline(dome[0]) * (-1, 1), "left": lung_outline(dome[1]), "trachea": _TRACHEA}
    return Anatomy(
        who=who,
        width=width,
        apex=apex,
        base=base,
        heart_scale=1.0 + 0.10 * z[5] + 0.10 * child + 0.03 * bulk,
        heart_lean=0.14 * z[13],
        density=1.0 + 0.07 * z[11],
        breast=breast,
        frame=frame,
        lung=lung,
        vessels=_vessels(rng),
    )


def lateral_wall(y: np.ndarray) -> np.ndarray:
    """Half width of the rib cage at height y, both in lung units."""
    return np.interp(y, _FINE_WALL[:, 1], _FINE_WALL[:, 0])


def lung_outline(raised: float) -> np.ndarray:
    """Closed outline (m, 2) of a left lung in lung units; `raised` lifts the dome of the diaphragm."""
    dome = _DOME.copy()
    dome[1:, 1] -= raised * np.array([0.6, 1, 1, 1, 0.6])
    return np.concatenate([smooth(_LATERAL, 24), smooth(dome, 20)[1:], smooth(_MEDIAL, 14)[1:-1]])


def heart_outline(scale: float, lean: float = 0.0) -> np.ndarray:
    """Closed outline (m, 2) of heart and great vessels in lung units; `scale` widens the chambers."""
    points = _HEART.copy()
    chamber = np.clip((points[:, 1] - 0.35) / 0.25, 0, 1)
    points[:, 0] *= 1 + (scale - 1 + lean * np.sign(points[:, 0])) * chamber
    return smooth(points, 72, closed=True)


def _soft_outlines(side: float, shoulder: float, arm: np.ndarray, child: float) -> dict[str, np.ndarray]:
    half = np.array(
        [
            [0.085, -0.3], [0.085, -0.02], [0.10, 0.035], [0.19, 0.07], [shoulder - 0.07, 0.115],
            [shoulder, 0.165], [side + 0.045, 0.25], [side + 0.012, 0.34], [side, 0.48], [side + 0.003, 0.65],
            [side + 0.012, 0.85], [side + 0.02, 1.3],
        ]
    )  # fmt: skip
    right, left = both_sides(smooth(half, 40))
    return {
        "trunk": np.concatenate([left, right[::-1]]),
        "arms": both_sides(ribbon(arm, 0.075 - 0.02 * child)),
    }


def _arm_axis(shoulder: float, raised: float) -> np.ndarray:
    elbow = np.array([shoulder + 0.19 - 0.06 * raised, 0.62 - 0.75 * raised])
    head = np.array([shoulder - 0.015, 0.175])
    return smooth(np.stack([head, (head + elbow) / 2 + (0.03, 0.0), elbow]), 10)


def _shoulder_bones(width: float, apex: float, shoulder: float, arm: np.ndarray) -> dict[str, np.ndarray]:
    top = apex + 0.035
    clavicle = np.array(
        [
            [0.03, top + 0.05],
            [0.10, top + 0.04],
            [0.20, top + 0.012],
            [0.29, top - 0.018],
            [shoulder - 0.05, top - 0.016],
        ]
    )
    blade = np.array(
        [
            [shoulder - 0.07, 0.15], [width - 0.05, 0.17], [width - 0.035, 0.30], [width, 0.44],
            [width + 0.03, 0.42], [shoulder, 0.2],
        ]
    )  # fmt: skip
    thick = np.interp(np.linspace(0, 1, 16), [0, 0.15, 0.6, 1], [0.0155, 0.012, 0.0105, 0.012])
    return {
        "clavicles": both_sides(ribbon(smooth(clavicle, 16), thick)),
        "blades": both_sides(smooth(blade, 24, closed=True)),
        "arm bones": both_sides(ribbon(arm, 0.021)),
        "arm heads": both_sides(ELLIPSE * 0.042 + arm[0]),
    }


def _breasts(width: float, size: float) -> np.ndarray:
    return both_sides(ELLIPSE * (0.13 * size + 0.05, 0.17 * size) + (width * 0.66, 0.56 + 0.12 * size))


def _bubbles(rng: np.random.Generator, width: float, base: float, child: float) -> np.ndarray:
    """Gas in stomach and bowel (n, 24, 2), below the left dome."""
    n = int(rng.integers(0, 3 + round(3 * child)))
    centre = np.column_stack([rng.uniform(0.25, 0.8, n) * width, base + 0.01 + rng.uniform(0.03, 0.17, n)])
    wobble = 1 + 0.14 * rng.normal(size=(n, 6, 1))
    radii = rng.uniform(0.025, 0.065, (n, 1, 2)) * (1, 0.8)
    return smooth(ELLIPSE[::4] * radii * wobble + centre[:, None], 24, closed=True)


def _rib_outlines(
    width: float, height: float, tilt: float, half: float, last: float
) -> dict[str, np.ndarray]:
    """Posterior and anterior arcs (n, m, 2), lung units.

    A rib is a ring tilted forwards: x = X sin(theta), y = y0 + tilt (1 - cos(theta)), theta = 0 at the spine.
    """
    y0 = np.linspace(-0.04, last, 11)[:, None]
    steep = tilt / height * np.linspace(0.9, 1.25, len(y0))[:, None]
    reach = lateral_wall(np.clip(y0 + steep, 0.0, 1.0)) + 0.025
    units, arcs = np.array([width, height]), {}
    for name, a, b, n, count in (("ribs behind", 0.10, 1.62, 14, 10), ("ribs in front", 1.55, 2.40, 10, 7)):
        theta = np.linspace(a, b, n)[None, :]
        rise = 0.35 * steep * np.sin(np.minimum(2 * theta, np.pi))
        y = y0 + steep * (1 - np.cos(theta)) * np.where(theta > np.pi / 2, 1.15, 1.0) - rise
        centre = np.stack([reach * np.sin(theta), y], -1)[:count] * units
        outline = ribbon(centre, half * np.linspace(0.85, 1.1, n) * (1.15 if count == 7 else 1)) / units
        arcs[name] = both_sides(outline).reshape(-1, 2 * n, 2)
    return arcs


def _spine_outlines(width: float, bend: float) -> dict[str, np.ndarray]:
    """Vertebral bodies, pedicles, spinous processes (n, m, 2) and the column as a whole; lung units."""
    step = 0.11
    y = -0.30 + step * np.arange(15)
    half = np.interp(y, [-0.3, 0.0, 1.0, 1.4], [0.042, 0.046, 0.058, 0.066]) / width
    x = bend * np.sin(3 * y) / width
    right = np.array([[-1, -0.42], [-0.86, -0.2], [-0.84, 0.2], [-1, 0.42], [0, 0.38]])
    box = np.concatenate([right, -right])
    eye, tip = ELLIPSE[::4] * (0.028, 0.26 * step), ELLIPSE[::4] * (0.022, 0.30 * step)
    eyes = [eye + np.stack([x + s * half, y - 0.1 * step], -1)[2:13, None] for s in (-0.62, 0.62)]
    edge = np.stack([half * 0.95, np.zeros_like(half)], 1)
    middle = np.stack([x, y], 1)
    return {
        "vertebrae": np.stack([box[:, 0] * half[:, None] + x[:, None], y[:, None] + box[:, 1] * step], -1),
        "pedicles": np.concatenate(eyes),
        "processes": tip + np.stack([x, y + 0.35 * step], -1)[:, None],
        "column": np.concatenate([middle - edge, (middle + edge)[::-1]]),
    }


def _vessels(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Branches that leave the hila and divide in two: four generations of curves (n, m, 2), lung units."""
    n = 18  # the first nine to the right
    fan = np.tile(_FAN, 2)
    sign = np.repeat([-1.0, 1.0], 9)
    angle = 0.125 + 1.375 * fan + rng.normal(0, 0.2, n)
    start = np.stack([sign * (0.15 + 0.03 * rng.random(n)), 0.46 + 0.1 * fan + rng.normal(0, 0.015, n)], 1)
    length = 0.12 + 0.14 * rng.random(n) + 0.05 * np.maximum(np.sin(angle), 0)
    out = []
    for points in (6, 5, 4, 3):
        a = angle[:, None] + rng.normal(0, 0.40, len(angle))[:, None] * (
            np.arange(points) / (points - 1) - 0.5
        )
        step = np.empty((len(a), points, 2))
        step[..., 0] = np.cos(a) * (length * sign / (points - 1))[:, None]
        step[..., 1] = np.sin(a) * (length * 0.95 / (points - 1))[:, None]
        step[:, 0] = start
        curve = np.cumsum(step, 1)
        out.append(curve)
        spread = 0.18 + 0.42 * rng.random(len(a))
        angle = np.concatenate([a[:, -1] - spread * 0.8, a[:, -1] + spread])
        start, sign = np.concatenate([curve[:, -1]] * 2), np.concatenate([sign, sign])
        length = np.concatenate([length, length]) * (0.5 + 0.45 * rng.random(2 * len(length)))
    return tuple(out)
