"""The card of a bundle: what it was made from, what its backbone had seen, how good it is, what it is for."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version

import numpy as np

from xraykit import intervals
from xraykit.backbones import Backbone
from xraykit.errors import BundleError

USE = "for teaching and research, not for clinical use"
PACKAGES = ("xraykit", "numpy", "scikit-learn", "skops", "torch", "torchvision")
FEW = 20
_SHA256 = re.compile("[0-9a-f]{64}")


def versions() -> dict[str, str]:
    """Versions of the packages that a bundle's answers depend on."""
    return {name: version(name) for name in PACKAGES}


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256, 64 hex digits, of the shapes, pixels and labels of images uint8 (N, H, W), in their order."""
    digest = hashlib.sha256(f"{images.shape} {labels.shape}".encode())
    for image in images:
        digest.update(np.ascontiguousarray(image))
    digest.update(np.ascontiguousarray(labels, np.int64))
    return digest.hexdigest()


def card_of(
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    who: np.ndarray,
    given: bool,
    backbone: Backbone,
    about: Mapping[str, object],
    pictures: bool,
) -> dict[str, object]:
    """The entries that every card has, behind those of `about`, which cannot replace them.

    Args:
        images: uint8 (N, H, W), as the classifier sees them.
        labels: class codes (N,) or 0/1 (N, K).
        who: integer code (N,) of each image's patient, `given` by the user or not.
        pictures: whether some of the images are inside.
    """
    counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(classes))
    seen = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(backbone.pretraining).items()}
    return {
        "data": "images of the user",
        **about,
        "use": USE,
        "training": {
            "images": {name: int(n) for name, n in zip(classes, counts, strict=True)},
            "total": len(images),
            "patients": len(np.unique(who)) if given else "not given, each image counts as one",
            "fingerprint": fingerprint(images, labels),
            "pictures_inside": pictures,
        },
        "pretraining": {"backbone": backbone.name, **seen},
        "limits": _limits(int(counts.min())),
        "versions": versions(),
    }


def check_card(card: Mapping[str, object]) -> None:
    """Raise BundleError unless `card` says which images and versions a bundle was made with.

    ``training.fingerprint`` must be a SHA-256, and ``versions`` name the version of each package.
    """
    training, made = card.get("training"), card.get("versions")
    mark = training.get("fingerprint") if isinstance(training, Mapping) else None
    if not (isinstance(mark, str) and _SHA256.fullmatch(mark)):
        raise BundleError(
            f"its card has the training fingerprint {mark!r:.80} instead of 64 hex digits; make the bundle "
            "with bundle_build, or get it again"
        )
    if not isinstance(made, Mapping) or not made or not all(isinstance(v, str) for v in made.values()):
        raise BundleError(
            f"its card has the versions {made!r:.80} instead of one text a package; make the bundle with "
            "bundle_build, or get it again"
        )


def _limits(few: int) -> list[str]:
    """What the card says of a classifier whose smallest class has `few` images."""
    limits = [
        "Its scores hold for images like those that it was made from: same hospital, age, machine and view.",
        "It answers about any image. Where one does not look like those it knows, the answer means nothing.",
    ]
    if few < FEW:
        limits.append(
            f"It has seen only {few} images of one class; {few} others could give another classifier."
        )
    return limits


def judged(
    codes: np.ndarray, p: np.ndarray, who: np.ndarray, *, n_folds: int, threshold: float, seed: int
) -> dict[str, object]:
    """Cross-validated scores as text with their intervals over patients, and what is to be beaten.

    Args:
        codes: class codes (N,).
        p: out-of-fold probabilities (N, K).
        who: integer codes (N,) of the patients.

    Returns:
        ``macro_f1`` and ``auroc`` as ``"0.789 [0.734, 0.842]"``, ``folds``, and ``baseline_macro_f1`` and
        ``baseline_auroc`` of always naming the commonest class.
    """
    names = ["macro_f1", "auroc"]
    found = intervals.bootstrap(codes, [p], who, names=names, seed=seed, threshold=threshold)
    share = np.bincount(codes).max() / len(codes)
    of_one = 2 * share / (1 + share)  # F1 of the commonest class; that of the others is 0
    baseline = {"baseline_macro_f1": f"{of_one / p.shape[1]:.3f}", "baseline_auroc": "0.500"}
    return {name: str(found[name]) for name in names} | {"folds": n_folds} | baseline


def of_estimator(classifier: str, informed: bool, threshold: float | None) -> dict[str, object]:
    """How a few-shot classifier comes to its probabilities and decisions, in words.

    Args:
        informed: see `bundle_fit.informed`.
        threshold: of two classes, else None.
    """
    calibration = "Platt's sigmoid, fitted to out-of-fold scores"
    if not informed:
        calibration += (
            "; in cross-validation these were no better than chance, so that every answer is the share of "
            "the class: give more images"
        )
    said = "none, the largest probability wins" if threshold is None else f"{threshold:g}, chosen beforehand"
    return {"classifier": classifier, "calibration": calibration, "threshold": said}
