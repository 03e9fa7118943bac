"""Which function draws which finding, and how several are laid over one another."""

from collections.abc import Callable

import numpy as np

from xraykit.datasets.synthetic import opacities, structures
from xraykit.datasets.synthetic.film import Film
from xraykit.datasets.synthetic.lesions import Brush

PAINTERS = {
    "bacterial": opacities.bacterial,
    "viral": opacities.viral,
    "Atelectasis": structures.atelectasis,
    "Cardiomegaly": structures.cardiomegaly,
    "Consolidation": opacities.consolidation,
    "Edema": opacities.edema,
    "Effusion": structures.effusion,
    "Emphysema": structures.emphysema,
    "Fibrosis": structures.fibrosis,
    "Hernia": structures.hernia,
    "Infiltration": opacities.infiltration,
    "Mass": structures.mass,
    "Nodule": structures.nodule,
    "Pleural_Thickening": structures.pleural_thickening,
    "Pneumonia": opacities.pneumonia,
    "Pneumothorax": structures.pneumothorax,
}
FIRST = ("Cardiomegaly", "Emphysema")
"""Findings that change the chest itself come before those that fill it."""
LEAST_AREA = 0.0006
"""Share of the picture that a finding's mask covers at least; smaller draws are made again, stronger."""


def paint(
    film: Film,
    names: tuple[str, ...],
    *,
    streams: Callable[[str], np.random.Generator],
    seed: int,
    strength: float,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Sum of the attenuation of `names` (w, w) and the mask of each; fills `film.air` as it goes.

    `streams(name)` gives the random numbers of one finding, so that it looks the same whatever else is there.
    """
    total = np.zeros((film.w, film.w), np.float32)
    masks = {}
    for name in sorted(names, key=lambda n: (n not in FIRST, n)):
        rng, force = streams(name), strength
        for _ in range(8):
            added, mask = PAINTERS[name](Brush(film, rng, seed, force))
            if mask.mean() >= LEAST_AREA:
                break
            force = min(force * 1.4, 2.0)
        total += added
        film.air -= np.minimum(np.maximum(added, 0), film.air)
        masks[name] = mask
    return total, masks
