"""What the bundle that needs no data is made of: synthetic X-rays, and the digest of its recipe."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
from tqdm import tqdm

from xraykit import __version__
from xraykit.backbones.own import PHANTOM
from xraykit.bundle_files import intact
from xraykit.datasets.synthetic import PATIENT_RANGES, render
from xraykit.datasets.synthetic.loader import GENERATOR_VERSION

NAME = "synthetic-phantom"
CLASSES = ("normal", "pneumonia")
SHOTS = 100


def recipe(modules: Sequence[ModuleType]) -> str:
    """Digest of all that decides what the embedded bundle is, the source of `modules` among it."""
    weights = hashlib.sha256(PHANTOM.read_bytes()).hexdigest()
    parts = [__version__, SHOTS, GENERATOR_VERSION, weights, version("scikit-learn")]
    code = [inspect.getsource(module) for module in modules]
    return hashlib.sha256(json.dumps([*parts, *code]).encode()).hexdigest()


def made_by(folder: Path, wanted: str) -> bool:
    """Whether `folder` is a bundle whose files are whole and whose card says this recipe."""
    manifest = intact(folder)
    card = manifest.get("card") if manifest else None
    return isinstance(card, dict) and card.get("recipe") == wanted


def drawn(*, size: int, progress: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The first X-ray of each of the first patients of the training range, `SHOTS` of either class.

    Returns:
        uint8 (2 * SHOTS, size, size), the normal ones first; their codes; the ids of the patients.
    """
    found: tuple[list, list] = ([], [])
    with tqdm(total=2 * SHOTS, desc="embedded classifier", unit="image", disable=not progress) as bar:
        for patient in PATIENT_RANGES["train"]:
            made = render(patient, size=size)
            group = found[int(made.record["label"] != "normal")]
            if len(group) < SHOTS:
                group.append((made.image, made.record["patient_id"]))
                bar.update()
            if min(map(len, found)) == SHOTS:
                break
    images, patients = zip(*found[0], *found[1], strict=True)
    return np.stack(images), np.repeat([0, 1], SHOTS), list(patients)
