"""Whether the parts of a bundle fit together, before it is saved and after it was loaded."""

import math

import numpy as np

from xraykit import decisions
from xraykit.bundle import Bundle, Support
from xraykit.bundle_answers import answers_of
from xraykit.bundle_head_checks import check as check_head
from xraykit.bundle_head_checks import first_line
from xraykit.errors import BundleError

MOST_CLASSES = 1000
LONGEST = 200


def check(bundle: Bundle) -> None:
    """Raise BundleError, naming what it is, unless every part of `bundle` fits the others.

    At the end the head answers for two of the known images: whoever loads a bundle knows that it works.
    """
    _check_names(bundle)
    _check_decision(bundle)
    _check_head(bundle)
    d = bundle.backbone.dim
    features = np.asarray(bundle.known.features)
    if features.dtype != np.float32 or features.ndim != 2 or features.shape[1] != d or not len(features):
        raise BundleError(
            f"its known images have features {features.dtype} {features.shape}; {d} each are needed"
        )
    if not (np.isfinite(features).all() and math.isfinite(bundle.known.limit) and bundle.known.limit > 0):
        raise BundleError(
            f"its known images have NaN or infinite features, or the limit {bundle.known.limit}"
        )
    if bundle.support is not None:
        _check_support(bundle, bundle.support)
    _check_answers(bundle, features[:2])


def _check_names(bundle: Bundle) -> None:
    texts = (bundle.name, *bundle.classes)
    if not all(isinstance(t, str) and t.strip() and len(t) <= LONGEST and t.isprintable() for t in texts):
        raise BundleError(
            f"its names are {[*texts][:5]}; each is a text of 1 to {LONGEST} printable characters"
        )
    least = {"binary": 2, "multiclass": 2, "multilabel": 1}.get(bundle.kind, 0)
    most = 2 if bundle.kind == "binary" else MOST_CLASSES
    if bundle.kind not in decisions.KINDS or not least <= len(bundle.classes) <= most:
        raise BundleError(
            f"it is {bundle.kind!r} of {len(bundle.classes)} classes; binary has 2, "
            "multiclass 2 or more, multilabel 1 or more"
        )
    if len(set(bundle.classes)) < len(bundle.classes):
        raise BundleError(f"its classes {list(bundle.classes)} repeat; each has a name of its own")


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
        answers = answers_of(bundle, features)
    except Exception as error:  # whatever an altered head makes of them
        raise BundleError(f"it does not answer ({first_line(error)}); get the bundle again") from error
    wanted = (len(features), len(bundle.classes))
    if answers.probabilities.shape != wanted or not np.isfinite(answers.distance).all():
        raise BundleError(f"it answers with probabilities {answers.probabilities.shape}, not {wanted}")
