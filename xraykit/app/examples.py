"""Six synthetic X-rays that come with the app, made by the package's generator and not kept as files."""

from functools import cache
from itertools import islice

import numpy as np

from xraykit.datasets import synthetic
from xraykit.datasets.synthetic.patients import image_findings

SEED = 0
PATIENTS = synthetic.PATIENT_RANGES["val"][-100_000:]
"""Reserved: no data set of the package is so large that it reaches these patients."""
SIZE = 512
A_CLASS = 2


@cache
def examples() -> dict[str, tuple[str, np.ndarray]]:
    """By name the true class and the pixels, uint8 (SIZE, SIZE); two of each class of ``synthetic``.

    Always the same pictures. They take about a second, once in a process.
    """
    made = {}
    for finding in synthetic.CLASSES["synthetic"]:
        for number, patient in enumerate(_patients_with(finding), 1):
            grey = synthetic.render(patient, seed=SEED, size=SIZE).image
            made[f"{finding} {number}"] = (finding, grey)
    return made


def _patients_with(finding: str) -> list[int]:
    """The first `A_CLASS` reserved patients whose first image shows `finding`."""
    return list(islice((p for p in PATIENTS if _shows(p) == finding), A_CLASS))


def _shows(patient: int) -> str:
    findings = image_findings("synthetic", SEED, patient, 0)
    return findings[0] if findings else "normal"
