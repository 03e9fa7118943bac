"""From the features of images to what a bundle says about them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from xraykit import decisions
from xraykit.bundle_heads import answer
from xraykit.errors import DataError

if TYPE_CHECKING:
    from xraykit.bundle import Bundle

NOTHING = "none"
"""What a multi-label classifier says of an image without any finding."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a bundle says about N images.

    Attributes:
        features: float32 (N, D).
        probabilities: float64 (N, K), 0..1; of several labels an image each on its own.
        said: the decision, a class name; of several labels their names joined by ", ", or ``"none"``.
        distance: float64 (N,), how far from the known images, in units of the limit.
        unknown: bool (N,), further than the limit: the answer means nothing.
    """

    features: np.ndarray
    probabilities: np.ndarray
    said: tuple[str, ...]
    distance: np.ndarray
    unknown: np.ndarray


def answers_of(bundle: "Bundle", features: np.ndarray) -> Answers:
    """The answers that belong to features (N, D) of the bundle's backbone.

    Raises:
        DataError: features or probabilities that are not finite.
    """
    if not np.isfinite(features).all():
        raise DataError(
            f"{bundle.backbone.name} makes NaN or infinite features; use precision='fp32' and backend='torch'"
        )
    p = _probabilities(bundle, features)
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"{bundle.name!r} makes probabilities that are not in 0..1; its head is damaged")
    distance = bundle.known.distance(features)
    said = tuple(", ".join(names) or NOTHING for names in decided(bundle, p))
    return Answers(features, p, said, distance, distance > 1)


def _probabilities(bundle: "Bundle", features: np.ndarray) -> np.ndarray:
    if bundle.few_shot:
        return answer(bundle.head, features)
    with torch.inference_mode():
        logits = bundle.head.head(torch.from_numpy(features)).numpy()
    return decisions.probabilities(logits, bundle.kind, temperature=bundle.temperature)


def decided(bundle: "Bundle", p: np.ndarray) -> list[list[str]]:
    """The classes that are said for probabilities (N, K): one an image, of several labels any number."""
    if bundle.kind == "multilabel":
        over = p >= np.asarray(bundle.thresholds)
        return [[name for name, is_over in zip(bundle.classes, row, strict=True) if is_over] for row in over]
    codes = p.argmax(axis=1) if bundle.kind == "multiclass" else (p[:, 1] >= bundle.thresholds[0]).astype(int)
    return [[bundle.classes[code]] for code in codes]
