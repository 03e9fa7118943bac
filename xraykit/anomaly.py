"""Anomaly detection without labels: rules fitted to normal images alone, a threshold from held-out normals.

A rule is fitted to features (N, D) of normal images and gives images scores, the higher the less normal.
Features may be a single number, such as the brightness, pixels, or embeddings of a frozen backbone; the
autoencoder and the patch detectors have modules of their own.
"""

import math
from typing import Protocol, Self

import cv2
import numpy as np
from scipy.stats import rankdata
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.images import check_images

SIDES = ("both", "low", "high")


class Rule(Protocol):
    """What `fit` learns from features (N, D) of normal images, `score` (M,) applies to others."""

    def fit(self, features: np.ndarray) -> Self: ...
    def score(self, features: np.ndarray) -> np.ndarray: ...


class Deviation:
    """Distance of one number, such as the brightness, from its mean over the normals, in standard deviations.

    Args:
        side: ``"both"`` knows no direction; ``"low"`` and ``"high"`` call small or large numbers anomalous,
            which somebody must have known beforehand.

    Raises:
        DataError: another side; on fitting, more than one number an image, or one that does not vary.
    """

    def __init__(self, side: str = "both") -> None:
        if side not in SIDES:
            raise DataError(f"side {side!r}; choose from {', '.join(SIDES)}")
        self.side = side

    def fit(self, features: np.ndarray) -> Self:
        values = _single(features, least=2)
        self.mean, self.std = float(values.mean()), float(values.std())
        if not self.std > 0:
            raise DataError(
                f"all {len(values)} normal images have the value {self.mean:g}; are they constant?"
            )
        return self

    def score(self, features: np.ndarray) -> np.ndarray:
        z = (_single(features) - self.mean) / self.std
        return {"both": np.abs(z), "low": -z, "high": z}[self.side]


class PcaReconstruction:
    """Squared error of an image that is rebuilt from the principal components of the normals, a mean over D.

    Args:
        components: their number, or the share of the variance that they hold (below 1).
    """

    def __init__(self, components: float = 0.95) -> None:
        self.components = components

    def fit(self, features: np.ndarray) -> Self:
        """Raises DataError with fewer than two normals, or more components than there can be."""
        values = _checked(features, least=2)
        if self.components >= 1 and self.components > min(values.shape):
            raise DataError(
                f"{self.components} components of {len(values)} images with {values.shape[1]} numbers; use "
                f"at most {min(values.shape)}"
            )
        self.pca = PCA(self.components, svd_solver="full").fit(values)
        return self

    def score(self, features: np.ndarray) -> np.ndarray:
        values = _checked(features)
        return ((values - self.pca.inverse_transform(self.pca.transform(values))) ** 2).mean(axis=1)


class NearestNormal:
    """Mean distance to the `k` nearest normal images (Ramaswamy et al., SIGMOD 2000; Bergman et al., 2020).

    Args:
        k: neighbours.
        normalised: divide every feature vector by its length first, so that directions are compared.
    """

    def __init__(self, k: int = 5, *, normalised: bool = True) -> None:
        self.k, self.normalised = k, normalised

    def fit(self, features: np.ndarray) -> Self:
        """Raises DataError with fewer normals than neighbours."""
        values = _checked(features)
        if not 1 <= self.k <= len(values):
            raise DataError(
                f"k = {self.k} neighbours among {len(values)} normal images; use 1 to {len(values)}"
            )
        self.neighbours = NearestNeighbors(n_neighbors=self.k).fit(self._ready(values))
        return self

    def score(self, features: np.ndarray) -> np.ndarray:
        return self.neighbours.kneighbors(self._ready(_checked(features)))[0].mean(axis=1)

    def _ready(self, values: np.ndarray) -> np.ndarray:
        if not self.normalised:
            return values
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


class Mahalanobis:
    """Distance from the mean of the normals in units of their scatter (Rippel et al., ICPR 2021).

    The covariance is shrunk towards a multiple of the identity by as much as minimises its expected error
    (Ledoit and Wolf, J. Multivariate Analysis 2004), so that there may be fewer images than features.
    """

    def fit(self, features: np.ndarray) -> Self:
        """Raises DataError with fewer than two normals, or features that do not vary."""
        values = _checked(features, least=2)
        if not values.std(axis=0).any():
            raise DataError(f"all {len(values)} normal images have the same features; are they constant?")
        self.gaussian = LedoitWolf().fit(values)
        return self

    def score(self, features: np.ndarray) -> np.ndarray:
        return np.sqrt(self.gaussian.mahalanobis(_checked(features)))


def brightness(images: np.ndarray) -> np.ndarray:
    """Mean grey level 0..255 of uint8 images (N, H, W), as features (N, 1)."""
    check_images(images)
    return np.array([[image.mean()] for image in images])


def laplacian_variance(images: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian of uint8 images (N, H, W), as features (N, 1): low where a picture is smooth.

    A measure of focus (Pech-Pacheco et al., ICPR 2000).
    """
    check_images(images)
    return np.array([[cv2.Laplacian(np.asarray(image), cv2.CV_64F).var()] for image in images])


def threshold_for_false_alarms(scores: np.ndarray, *, rate: float) -> float:
    """The threshold above which a new normal image lies with probability `rate` at most.

    The ceil((1 - rate) (n + 1))-th smallest of the n scores of held-out normals, which keeps the promise for
    any distribution of scores as long as new normals are like these (split conformal prediction; Angelopoulos
    and Bates, 2021). An image is called anomalous when its score is *above* the threshold.

    Args:
        scores: (n,), of normal images that the detector was not fitted to.
        rate: wanted share of false alarms, above 0 to below 1.

    Raises:
        DataError: too few scores for so low a rate, or scores that are not finite.
    """
    scores = np.sort(np.asarray(scores, np.float64))
    if scores.ndim != 1 or not np.isfinite(scores).all() or not 0 < rate < 1:
        raise DataError(f"scores {scores.shape} must be finite (n,), and rate = {rate} between 0 and 1")
    place = math.ceil((1 - rate) * (len(scores) + 1) - 1e-9)
    if place > len(scores):
        raise DataError(
            f"{len(scores)} held-out normals cannot promise {rate:g} false alarms; hold out at least "
            f"{math.ceil(1 / rate) - 1}, or allow more"
        )
    return float(scores[place - 1])


def ranks(scores: np.ndarray) -> np.ndarray:
    """Scores (M,) as their ranks in 0..1, ties sharing one: what `metrics` asks for, in the same order."""
    if not np.isfinite(scores).all():
        raise DataError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} scores are not finite")
    return rankdata(scores) / len(scores)


def check_normals(ds: XrayDataset, rows: np.ndarray, *, allowed: float = 0.0) -> None:
    """Refuse a training set without normal images, with constant ones, or with labelled anomalies.

    Args:
        ds: of two classes, the first of which is the normal one; see `XrayDataset.binary`.
        rows: positions of the images that a detector is to be fitted to.
        allowed: share of anomalies that may be among them, for a study of contamination.

    Raises:
        DataError: the message says how many there are.
    """
    if len(ds.classes) != 2:
        raise DataError(f"{ds.name} has the classes {', '.join(ds.classes)}; use ds.binary() first")
    anomalies = int((ds.labels[rows] != 0).sum())
    if len(rows) - anomalies < 1:
        raise DataError(
            f"no {ds.classes[0]} image among the {len(rows)} of the training set; there is nothing to learn"
        )
    if anomalies > allowed * len(rows) + 1e-9:
        raise DataError(
            f"{anomalies} of {len(rows)} training images are labelled {ds.classes[1]}; leave them out, or "
            f"allow them (allowed={np.ceil(100 * anomalies / len(rows)) / 100:g}) to study contamination"
        )
    constant = [row for row in rows if ds.images[row].min() == ds.images[row].max()]
    if constant:
        raise DataError(
            f"{len(constant)} of {len(rows)} training images have a single grey level, such as "
            f"{ds.records['image_id'].iloc[constant[0]]}; leave them out"
        )


def _single(features: np.ndarray, *, least: int = 1) -> np.ndarray:
    values = _checked(features, least=least)
    if values.shape[1] != 1:
        raise DataError(f"{values.shape[1]} numbers an image; Deviation takes one, as (N, 1)")
    return values[:, 0]


def _checked(features: np.ndarray, *, least: int = 1) -> np.ndarray:
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or len(values) < least or not np.isfinite(values).all():
        raise DataError(f"features {values.shape}; give finite ones (N, D) of at least {least} images")
    return values
