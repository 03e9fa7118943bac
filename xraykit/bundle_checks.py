"""Whether the parts of a bundle fit together, before it is saved and after it was loaded."""

import math
from collections.abc import Sequence

import numpy as np

from xraykit import decisions
from xraykit.bundle import Bundle, Support
from xraykit.bundle_answers import NOTHING, answers_of
from xraykit.bundle_cards import check_card
from xraykit.bundle_head_checks import check as check_head
from xraykit.bundle_head_checks import first_line
from xraykit.errors import BundleError, DataError

MOST_CLASSES = 1000
LONGEST = 200


def check_name(name: str) -> str:
    """The name of a bundle or of a class, as it is.

    Raises:
        DataError: anything but a text of 1 to LONGEST printable characters, one of them no blank.
    """
    if not (isinstance(name, str) and name.strip() and len(name) <= LONGEST and name.isprintable()):
        size = f", of {len(name)} letters" if isinstance(name, str) else ""
        raise DataError(
            f"the name {name!r:.80}{size}; give a text of 1 to {LONGEST} printable characters, without line "
            "breaks"
        )
    return str(name)


def check_names(classes: Sequence[str], *, multilabel: bool = False) -> tuple[str, ...]:
    """The names of classes, each as `check_name` wants it, as a tuple.

    Args:
        multilabel: an image may have several of them, or none: they are told in one line.

    Raises:
        DataError: one text instead of several, none or more than MOST_CLASSES; a name that is none; two that
            differ in capitals or blanks alone; of several labels one called "none" or with ", " inside.
    """
    if isinstance(classes, str) or not 0 < len(classes) <= MOST_CLASSES:
        raise DataError(f"classes {classes!r:.80}; give a list of 1 to {MOST_CLASSES} names")
    names, seen = tuple(check_name(name) for name in classes), {}
    for name in names:
        key = " ".join(name.split()).casefold()
        if key in seen:
            raise DataError(f"two classes are called {seen[key]!r} and {name!r}; give each another name")
        seen[key] = name
        if multilabel and (name.strip().casefold() == NOTHING or ", " in name):
            raise DataError(
                f"a finding is called {name!r}, and an answer lists findings with ', ' between them, or says "
                f"{NOTHING!r}; give it another name"
            )
    return names


def check(bundle: Bundle) -> None:
    """Raise BundleError, naming what it is, unless every part of `bundle` fits the others.

    At the end the head answers for two of the known images: whoever loads a bundle knows that it works.
    """
    _check_names(bundle)
    check_card(bundle.card)
    _check_decision(bundle)
    _check_head(bundle)
    features, d = bundle.known.features, bundle.backbone.dim
    if features.shape[1] != d:
        raise BundleError(f"its known images have features {features.shape}; {d} each are needed")
    if bundle.support is not None:
        _check_support(bundle, bundle.support)
    _check_answers(bundle, features[:2])


def _check_names(bundle: Bundle) -> None:
    try:
        check_name(bundle.name)
        check_names(bundle.classes, multilabel=bundle.kind == "multilabel")
    except DataError as error:
        raise BundleError(f"its names cannot be used: {error}") from error
    least = {"binary": 2, "multiclass": 2, "multilabel": 1}.get(bundle.kind, 0)
    most = 2 if bundle.kind == "binary" else MOST_CLASSES
    if bundle.kind not in decisions.KINDS or not least <= len(bundle.classes) <= most:
        raise BundleError(
            f"it is {bundle.kind!r:.80} of {len(bundle.classes)} classes; binary has 2, "
            "multiclass 2 or more, multilabel 1 or more"
        )


def _check_decision(bundle: Bundle) -> None:
    if not (math.isfinite(bundle.temperature) and bundle.temperature > 0):
        raise BundleError(f"its temperature is {bundle.temperature}; it is a number above 0")
    wanted = {"binary": 1, "multiclass": 0, "multilabel": len(bundle.classes)}[bundle.kind]
    if len(bundle.thresholds) != wanted:
        raise BundleError(f"it has {len(bundle.thresholds)} thresholds; {bundle.kind} has {wanted} of them")
    if not all(0 <= t <= 1 for t in bundle.thresholds):
        raise BundleError(f"its thresholds are {list(bundle.thresholds)}; each is a probability, 0 to 1")


def _check_head(bundle: Bundle) -> None:
    k, d = len(bundle.classes), bundle.backbone.dim
    if not bundle.few_shot:
        if bundle.head.training:
            raise BundleError(
                "its network is in training mode, in which its answers vary; call its eval() first"
            )
        wanted = 1 if bundle.kind == "binary" else k
        if bundle.head.n_outputs != wanted:
            raise BundleError(
                f"its network has {bundle.head.n_outputs} outputs; {bundle.kind} of {k} classes has {wanted}"
            )
        return
    if bundle.kind == "multilabel" or bundle.temperature != 1:
        raise BundleError(
            f"it is {bundle.kind} with the temperature {bundle.temperature}; a "
            "scikit-learn head is binary or multiclass, and calibrated itself (1.0)"
        )
    check_head(bundle.head)
    if len(bundle.head.classes_) != k:
        raise BundleError(f"its head was fitted to {len(bundle.head.classes_)} classes; it names {k}")
    if bundle.head.n_features_in_ != d:
        raise BundleError(
            f"its head takes {bundle.head.n_features_in_} features an image, and "
            f"{bundle.backbone.name} makes {d}; "
            "save it with the backbone that it was fitted to"
        )


def _check_support(bundle: Bundle, support: Support) -> None:
    images, labels, features = support.images, support.labels, support.features
    n, k = len(features), len(bundle.classes)
    if images.dtype != np.uint8 or images.shape != (n, bundle.size, bundle.size) or not n:
        raise BundleError(
            f"its support has images {images.dtype} {images.shape}; {n} of uint8 "
            f"({bundle.size}, {bundle.size}) fit"
        )
    if (
        features.dtype != np.float32
        or features.shape != (n, bundle.backbone.dim)
        or not np.isfinite(features).all()
    ):
        raise BundleError(
            f"its support has features {features.dtype} {features.shape}, or some are not finite"
        )
    shape, codes = ((n, k), 2) if bundle.kind == "multilabel" else ((n,), k)
    if labels.shape != shape or labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(codes)).all():
        raise BundleError(
            f"its support has labels {labels.dtype} {labels.shape}; codes 0..{codes - 1} {shape} fit"
        )


def _check_answers(bundle: Bundle, features: np.ndarray) -> None:
    try:
        with np.errstate(all="ignore"):  # what overflows is reported below
            answers = answers_of(bundle, features)
    except Exception as error:  # whatever an altered head makes of them
        raise BundleError(f"it does not answer ({first_line(error)}); get the bundle again") from error
    wanted = (len(features), len(bundle.classes))
    if not np.isfinite(answers.distance).all():
        raise BundleError(
            f"its limit is {bundle.known.limit:.3g}, so that distances in units of it are not finite; "
            "get the bundle again"
        )
    if answers.probabilities.shape != wanted:
        raise BundleError(f"it answers with probabilities {answers.probabilities.shape}, not {wanted}")
