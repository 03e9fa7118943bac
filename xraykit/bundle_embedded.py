"""What the bundle that needs no data is made of: synthetic X-rays, and the digest of its recipe."""

import hashlib
import inspect
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
from tqdm import tqdm

from xraykit import __version__
from xraykit.backbones.own import PHANTOM
from xraykit.bundle_files import intact
from xraykit.bundle_manifest import JSON, parse
from xraykit.bundle_sources import folder as files_of
from xraykit.datasets.synthetic import PATIENT_RANGES, render
from xraykit.datasets.synthetic.loader import GENERATOR_VERSION
from xraykit.errors import BundleError

NAME = "synthetic-phantom"
CLASSES = ("normal", "pneumonia")
SHOTS = 100
_DIGEST = re.compile("[0-9a-f]{64}")


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


def check_place(folder: Path) -> None:
    """Raise BundleError where `folder` is there and its card has no recipe, so that it is not one of ours."""
    if not (folder.exists() or folder.is_symlink()):
        return
    try:
        card = parse(files_of(folder)(JSON)).get("card")
    except (BundleError, OSError):
        card = None
    made = card.get("recipe") if isinstance(card, dict) else None
    if folder.is_symlink() or not (isinstance(made, str) and _DIGEST.fullmatch(made)):
        raise BundleError(
            f"{folder} is where the embedded classifier belongs, and holds something else, which is not "
            "replaced; rename that folder"
        )


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
