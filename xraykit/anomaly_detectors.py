"""Detectors: from images to scores, each fitted to normal images alone.

`OnFeatures` joins features and a rule of `anomaly`; `OnErrors` joins a trained autoencoder and a way to look
at its errors. The patch detectors of `anomaly_patches` are detectors as they are.
"""

from collections.abc import Callable
from typing import Protocol, Self

import numpy as np

from xraykit.anomaly import Rule
from xraykit.anomaly_errors import error_maps, image_scores
from xraykit.autoencoder import AT_ONCE, Autoencoder, reconstructions

Features = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Images uint8 (N, H, W) and positions (M,) to the features (M, D) of those images."""


class Detector(Protocol):
    """What `fit` learns from the normal images at `rows`, `score` applies to those at other rows."""

    def fit(self, images: np.ndarray, rows: np.ndarray) -> Self: ...
    def score(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray: ...


class OnFeatures:
    """A rule on features of the images.

    Args:
        features: such as ``lambda images, rows: anomaly.brightness(images[rows])``.
        rule: of `anomaly`.
    """

    def __init__(self, features: Features, rule: Rule) -> None:
        self.features, self.rule = features, rule

    def fit(self, images: np.ndarray, rows: np.ndarray) -> Self:
        self.rule.fit(self.features(images, rows))
        return self

    def score(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return self.rule.score(self.features(images, rows))


class OnErrors:
    """Reconstruction errors of an autoencoder that was trained on normal images.

    Args:
        model: trained; `fit` does not change it.
        kind: of `anomaly_errors.KINDS`.
        top: share of the pixels, those with the largest errors, whose mean is the score; 1 takes all.
        sign: -1 for the inverse rule, which calls what is reconstructed *well* anomalous.
        device: as in `autoencoder.reconstructions`.
    """

    def __init__(
        self,
        model: Autoencoder,
        kind: str = "squared",
        *,
        top: float = 1.0,
        sign: int = 1,
        device: str = "auto",
    ) -> None:
        self.model, self.kind, self.top, self.sign, self.device = model, kind, top, sign, device

    def fit(self, images: np.ndarray, rows: np.ndarray) -> Self:
        """Nothing: the network has learned already."""
        return self

    def score(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        parts = (rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE))
        return self.sign * np.concatenate([image_scores(self.maps(images, p), top=self.top) for p in parts])

    def maps(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Error maps float32 (M, S, S) of the images at `rows`."""
        back = reconstructions(self.model, images, rows, device=self.device)
        return error_maps(self.kind, np.asarray(images[rows], np.float32) / 255, back)
