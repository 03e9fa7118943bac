"""Who is X-rayed: reserved ranges of patient numbers, demography, and what each patient has.

Everything is a pure function of (seed, patient number, image number), so that it does not matter which other
images are made, how many, or in which order.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

NAMES = ("synthetic", "synthetic-nih")
PNEUMONIA_CLASSES = ("normal", "bacterial", "viral")
PNEUMONIA_SHARES = (0.20, 0.51, 0.29)
"""Of the patients; with images on which the disease has gone, about those of Kermany's training images."""
NIH_FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis",
    "Hernia", "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
CLASSES = {"synthetic": PNEUMONIA_CLASSES, "synthetic-nih": (*NIH_FINDINGS, "No Finding")}

PATIENT_RANGES = {
    "train": range(0, 1_000_000),
    "val": range(1_000_000, 2_000_000),
    "test": range(2_000_000, 3_000_000),
    "pretrain": range(3_000_000, 4_000_000),
}
"""Patient numbers reserved for each use: a patient of one range is never in another, whatever the seed."""

# Share of the 112,120 images of NIH ChestX-ray14 (Data_Entry_2017_v2020.csv) with each of NIH_FINDINGS.
NIH_FREQUENCY = np.array(
    [
        0.1031, 0.0248, 0.0416, 0.0205, 0.1188, 0.0224, 0.0150,
        0.0020, 0.1774, 0.0516, 0.0565, 0.0302, 0.0128, 0.0473,
    ]
)  # fmt: skip
# The same table: P(column | row) in percent, for two findings in one image.
NIH_TOGETHER = np.array(
    [
        [0, 3, 11, 2, 28, 4, 2, 0.3, 28, 6, 5, 4, 2, 7],
        [13, 0, 6, 5, 38, 2, 2, 0.3, 21, 4, 4, 4, 1, 2],
        [26, 4, 0, 3, 28, 2, 2, 0.1, 26, 13, 9, 5, 3, 5],
        [10, 6, 7, 0, 26, 1, 0.4, 0.1, 43, 6, 6, 3, 15, 1],
        [25, 8, 10, 4, 0, 3, 1, 0.2, 30, 9, 7, 6, 2, 7],
        [17, 2, 4, 1, 14, 0, 1, 0.2, 18, 9, 5, 6, 1, 30],
        [13, 3, 5, 1, 11, 2, 0, 0.5, 20, 7, 10, 10, 1, 5],
        [18, 3, 2, 1, 9, 2, 4, 0, 15, 11, 4, 4, 1, 4],
        [16, 3, 6, 5, 20, 2, 2, 0.2, 0, 6, 8, 4, 3, 5],
        [13, 2, 11, 2, 22, 4, 2, 0.4, 20, 0, 16, 8, 1, 7],
        [9, 2, 7, 2, 14, 2, 3, 0.2, 24, 14, 0, 6, 1, 5],
        [15, 3, 7, 3, 25, 4, 5, 0.2, 22, 13, 12, 0, 1, 9],
        [18, 3, 9, 24, 19, 2, 1, 0.2, 42, 5, 5, 3, 0, 3],
        [15, 1, 4, 1, 19, 14, 2, 0.2, 18, 8, 6, 5, 1, 0],
    ]
)
FLATTENING = 0.5
"""Primary findings are drawn with weight frequency ** FLATTENING: 1 would be NIH's own, 0 uniform. At 1,
Hernia would have one or two patients of a thousand; at .5 it has about 2% of those with a finding."""

_GOLDEN = 0.6180339887498949
_STREAMS = {"person": 1, "anatomy": 2, "disease": 3, "pose": 4, "lesion": 5, "detector": 6, "course": 7}


def stream(kind: str, seed: int, patient: int, image: int = 0) -> np.random.Generator:
    """Independent generator for one purpose, patient and image."""
    return np.random.Generator(np.random.SFC64([seed, _STREAMS[kind], patient, image]))


@dataclass(frozen=True)
class Person:
    """Demography of one patient. `child` is 1 for an infant, 0 for an adult; `bulk` is habitus, -1..1.2."""

    age: int
    sex: str
    child: float
    bulk: float
    n_images: int
    portable: float  # probability that an image is taken AP


@lru_cache(maxsize=4096)
def person(name: str, seed: int, patient: int) -> Person:
    """Age, sex and habitus; `synthetic` is mostly children (as Kermany), `synthetic-nih` adults (as NIH)."""
    rng = stream("person", seed, patient)
    u = rng.random(3)
    age = int(1 + 45 * u[0] ** 3 if name == "synthetic" else np.clip(rng.normal(47, 17), 16, 92))
    child = float(np.clip(1.15 - age / 15, 0, 1))
    n_images = 1 + min(5, int(rng.geometric(0.5)) - 1)
    portable = float(np.clip(0.35 + 0.5 * child + 0.2 * rng.normal(), 0.05, 0.95))
    bulk = float(np.clip(rng.normal(0, 0.5), -1, 1.2))
    sex = "M" if u[1] < 0.56 else "F"
    return Person(age=age, sex=sex, child=child, bulk=bulk, n_images=n_images, portable=portable)


def _even(seed: int, patient: int) -> float:
    """A number in [0, 1) whose values over consecutive patients are evenly spread (golden ratio sequence)."""
    offset = np.random.Generator(np.random.SFC64([seed, 0])).random()
    return float((offset + patient * _GOLDEN) % 1)


def patient_findings(name: str, seed: int, patient: int) -> tuple[str, ...]:
    """What the patient has; () is healthy: `PNEUMONIA_SHARES` of `synthetic`, half of `synthetic-nih`."""
    u = _even(seed, patient)
    if name == "synthetic":
        k = int(np.searchsorted(np.cumsum(PNEUMONIA_SHARES[:-1]), u, side="right"))
        return () if k == 0 else (PNEUMONIA_CLASSES[k],)
    if u < 0.5:
        return ()
    weight = np.cumsum(NIH_FREQUENCY**FLATTENING)
    first = int(np.searchsorted(weight / weight[-1], 2 * u - 1, side="right"))
    rng = stream("disease", seed, patient)
    n_more = int(rng.choice(4, p=[0.60, 0.276, 0.094, 0.03]))
    p = NIH_TOGETHER[first] / NIH_TOGETHER[first].sum()
    more = rng.choice(len(NIH_FINDINGS), size=n_more, replace=False, p=p)
    return tuple(NIH_FINDINGS[k] for k in sorted({first, *map(int, more)}))


def image_findings(name: str, seed: int, patient: int, image: int) -> tuple[str, ...]:
    """What one image shows: the first everything the patient has; later ones may have healed in part."""
    found = patient_findings(name, seed, patient)
    if image == 0 or not found:
        return found
    rng = stream("disease", seed, patient, image)
    keep = 0.9 if name == "synthetic" else 0.85
    return tuple(f for f in found if rng.random() < keep)
