"""What a classifier can be built from in the app, and building it; nothing here draws."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xraykit import backbones, bundle_build
from xraykit.app.uploads import MAX_A_CLASS, Picture
from xraykit.backbones import torchvision_nets, xrv_nets
from xraykit.backbones.weight_files import SUFFIXES
from xraykit.bundle import Bundle
from xraykit.bundle_checks import check_names
from xraykit.bundle_inputs import LEAST, repeats
from xraykit.errors import DataError
from xraykit.images import Preprocess

METRICS = {"macro_f1": "Macro-F1", "auroc": "AUROC"}
"""Of the cross-validation, in ``card["cross_validated"]``, and how they are called."""


def backbones_found(folder: Path) -> list[str]:
    """What `backbones.load` makes without a download: phantom, and of each weight file in `folder` the
    architecture that its name begins with, the longest one; files of other names are left out.
    """
    names = sorted(["phantom", *xrv_nets.DATA, *torchvision_nets.names()], key=len, reverse=True)
    files = sorted(p.name for p in folder.glob("*") if p.suffix in SUFFIXES) if folder.is_dir() else []
    found = ((next((n for n in names if file.lower().startswith(n)), None), file) for file in files)
    return ["phantom", *(f"{name}:{file}" for name, file in found if name is not None)]


def wanted_by(backbone: str) -> Preprocess:
    """How the images of a classifier with this backbone are read.

    Raises:
        XraykitError: a backbone that cannot be loaded.
    """
    return Preprocess(size=max(backbones.load(backbone).size, bundle_build.SMALLEST))


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Class names without blanks around them or more than one between words.

    Raises:
        DataError: an empty one, or what `bundle_checks.check_names` refuses.
    """
    names = [" ".join(name.split()) for name in names]
    if "" in names:
        raise DataError(f"class {names.index('') + 1} has no name; give every class one, such as normal")
    return check_names(names)


def alone(classes: Mapping[str, Sequence[Picture]]) -> tuple[dict[str, list[Picture]], list[str]]:
    """The pictures of each class without those that were uploaded twice, and a message for each of these.

    A picture that a classifier is fitted to and checked on at once would make its score too good.

    Raises:
        DataError: the same picture in two classes; names both files and classes.
    """
    pictures, labels = _together(classes)
    names = [picture.name for picture in pictures]
    first = repeats([picture.grey for picture in pictures], labels, tuple(classes), names=names)
    kept: dict[str, list[Picture]] = {name: [] for name in classes}
    twice = []
    for row, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        name = tuple(classes)[label]
        if first[row] == row:
            kept[name].append(picture)
        else:
            twice.append(f"{name}: {picture.name} is the same picture as {names[first[row]]} and counts once")
    return kept, twice


def _together(classes: Mapping[str, Sequence[Picture]]) -> tuple[list[Picture], np.ndarray]:
    """The pictures of all classes, and the class code of each."""
    pictures = [picture for of in classes.values() for picture in of]
    return pictures, np.repeat(np.arange(len(classes)), [len(of) for of in classes.values()])


def build(
    classes: Mapping[str, Sequence[Picture]],
    *,
    backbone: str,
    classifier: str,
    name: str,
    pictures: bool = True,
) -> Bundle:
    """A few-shot classifier of the given pictures, each taken as one of another patient.

    Args:
        classes: pictures by class name, `LEAST` to `MAX_A_CLASS` of each, read as `wanted_by` says; of two
            the second is positive.
        backbone, classifier, name, pictures: as in `bundle_build.few_shot`.

    Raises:
        DataError: too few or too many pictures of a class, or what `bundle_build.few_shot` refuses.
    """
    for label, of in classes.items():
        if not LEAST <= len(of) <= MAX_A_CLASS:
            raise DataError(
                f"{label} has {len(of)} images that can be used; give {LEAST} to {MAX_A_CLASS} of each"
            )
    given, labels = _together(classes)
    return bundle_build.few_shot(
        [picture.grey for picture in given],
        labels,
        tuple(classes),
        backbone=backbone,
        classifier=classifier,
        name=name,
        pictures=pictures,
    )


def no_better(scores: Mapping[str, object]) -> bool:
    """Whether the interval of macro-F1 or AUROC, such as ``"0.812 [0.700, 0.901]"``, reaches the baseline."""
    lows = {metric: float(str(scores[metric]).partition("[")[2].partition(",")[0]) for metric in METRICS}
    return any(low <= float(str(scores[f"baseline_{metric}"])) for metric, low in lows.items())


def file_name(name: str) -> str:
    """A name for the download: letters, digits and dashes of the classifier's name, and ``.zip``."""
    return f"{re.sub(r'[^0-9A-Za-z]+', '-', name).strip('-').lower() or 'classifier'}.zip"
