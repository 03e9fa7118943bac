"""Does an image look like the X-rays that a classifier knows? How far its features lie from theirs.

The distance is that of Mahalanobis to the mean of the known features (Lee et al., A simple unified framework
for detecting out-of-distribution samples, NeurIPS 2018, equation 2, with one class), with two changes that
let it work from a handful of images on: the covariance is shrunk towards a multiple of the identity (Ledoit
and Wolf, J. Multivariate Analysis 88, 2004, theorem 3.2 and its estimates), and of each feature the signed
square root is taken (Perronnin, Sánchez and Mensink, ECCV 2010), as pooled activations have long tails.
Labels play no part: it says that an image is strange, never that an answer is wrong.

How much it notices depends on the backbone. One that has seen photographs tells them from X-rays with twenty
known images; `phantom`, which has seen drawn X-rays alone, needs about a hundred real ones. A mirrored X-ray
looks known to all of them, and a negative one to many.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from xraykit.errors import DataError

LEAST, MOST = 6, 500  # known images
FOLDS = 20  # at most so many covariances are estimated to find the limit
_SHRUNK_LEAST = 1e-3  # features that never vary in the known images must not be divided by 0
_NOTHING = 1e-12


@dataclass(frozen=True)
class Known:
    """Features of X-rays that a classifier knows, and how far from them the next one may lie; see `fit`.

    Attributes:
        features: float32 (R, D), finite, LEAST <= R <= MOST.
        limit: distance from which on an image is called unknown, above 0.

    Raises:
        DataError: other features, features that are all equal, or another limit.
    """

    features: np.ndarray
    limit: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _checked(self.features, least=LEAST))
        if len(self.features) > MOST:
            raise DataError(f"{len(self.features)} known images, at most {MOST} are kept; known.fit chooses")
        if not (self.limit > 0 and math.isfinite(self.limit)):
            raise DataError(f"limit {self.limit}; give a finite distance above 0, as known.fit finds it")

    def distance(self, features: np.ndarray) -> np.ndarray:
        """float64 (N,) of features (N, D), in units of the limit: above 1 the image is unknown.

        Raises:
            DataError: features that are not finite numbers (N, D) with the D of the known ones.
        """
        features = _checked(features, least=1)
        if features.shape[1] != self.features.shape[1]:
            raise DataError(
                f"features {features.shape} of images, but {self.features.shape} of the known ones; "
                "give those of the same backbone"
            )
        return self._spread.distance(features) / self.limit

    @cached_property
    def _spread(self) -> "_Spread":
        return _spread(self.features)


def fit(
    features: np.ndarray,
    *,
    rate: float = 0.01,
    patients: np.ndarray | None = None,
) -> Known:
    """The known X-rays, and the limit that about `rate` of other X-rays of their kind exceed.

    The limit comes from distances of X-rays that took no part in the mean and the covariance: the known ones
    themselves with the patients left out in turn, in FOLDS folds. Where there are enough patients, it is
    their conformal quantile, the ceil((n + 1)(1 - rate))-th smallest (Vovk,
    Gammerman and Shafer, Algorithmic learning in a random world, 2005). With fewer than 1 / rate - 1 there is
    none, and the limit is the upper prediction limit of a log-normal distance, exp(m + t s sqrt(1 + 1/n))
    with mean m and deviation s of the logarithms and Student's t at 1 - rate of n - 1 degrees of freedom,
    but at least the largest distance. Asked for 1%, it gave 0 to 2% false alarms on the synthetic set,
    Kermany's and NIH's from 6 images on (5% with 20 of NIH through phantom): a multiple of the largest
    distance would have to be chosen anew for each number of images. The price of few is that less is noticed.

    Args:
        features: (R, D) of known X-rays, R >= LEAST; of more than MOST those of `chosen` are taken.
        rate: share of false alarms, above 0 and below .5.
        patients: (R,) ids; None, or fewer than LEAST of them, for one a patient.

    Raises:
        DataError: too few features, not finite or all equal; a rate or patients that do not fit.
    """
    features = _checked(features, least=LEAST)
    patients = np.arange(len(features)) if patients is None else np.asarray(patients)
    if patients.shape != features.shape[:1]:
        raise DataError(f"patients {patients.shape} of features {features.shape}; give one id an image")
    if not 0 < rate < 0.5:
        raise DataError(f"rate {rate}; give the share of false alarms, above 0 and below .5, such as .01")
    taken = chosen(len(features))
    features, patients = features[taken], patients[taken]
    distances, n = _left_out(features, patients)
    return Known(features, _limit(distances, n=n, rate=rate))


def chosen(n: int) -> np.ndarray:
    """Rows of n images that `fit` takes, int64, ascending: all, or MOST of them as evenly as possible."""
    return np.linspace(0, n - 1, min(MOST, n)).astype(np.int64)


def _checked(features: np.ndarray, *, least: int) -> np.ndarray:
    """Features as float32 (N, D)."""
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or len(features) < least or not features.shape[1]:
        raise DataError(
            f"features {features.shape}; give at least {least} rows (N, D), as a backbone makes them"
        )
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(features)} rows of features are not finite, the first is {bad[0]}; "
            "check the weights of the backbone"
        )
    return features


@dataclass(frozen=True)
class _Spread:
    """A mean and a shrunk covariance: its axes (A, D), the variance along each, and that across them all."""

    mean: np.ndarray
    axes: np.ndarray
    along: np.ndarray
    across: float

    def distance(self, features: np.ndarray) -> np.ndarray:
        y = _rooted(features) - self.mean
        on = y @ self.axes.T
        off = np.maximum((y**2).sum(axis=1) - (on**2).sum(axis=1), 0)
        return np.sqrt((on**2 / self.along).sum(axis=1) + off / self.across)


def _rooted(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return np.sign(features) * np.sqrt(np.abs(features))


def _spread(features: np.ndarray) -> _Spread:
    """Mean and covariance of the rooted features, from the smaller of the two matrices of products."""
    rooted = _rooted(features)
    n, dim = rooted.shape
    mean = rooted.mean(axis=0)
    c = rooted - mean
    values, vectors = np.linalg.eigh(c @ c.T if n < dim else c.T @ c)
    kept = values > _NOTHING * max(values[-1], _NOTHING)
    values, vectors = values[kept], vectors[:, kept]
    axes = (vectors / np.sqrt(values)).T @ c if n < dim else vectors.T
    variances = values / n
    level = max(variances.sum() / dim, _NOTHING)
    share = max(_shrinkage(c, variances), _SHRUNK_LEAST)
    return _Spread(mean, axes, (1 - share) * variances + share * level, share * level)


def _shrinkage(c: np.ndarray, variances: np.ndarray) -> float:
    """Weight of the identity, 0..1, of centred features (N, D) and the variances along their axes."""
    n, dim = c.shape
    level = variances.sum() / dim
    far = (variances**2).sum() - dim * level**2
    noise = (((c**2).sum(axis=1) ** 2).sum() / n - (variances**2).sum()) / n
    return float(min(max(noise, 0.0) / far, 1.0)) if far > 0 else 1.0


def _left_out(features: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, int]:
    """Distance of each image from the images of other patients, and the number of patients."""
    _, of = np.unique(patients, return_inverse=True)
    n = of.max() + 1
    if n < LEAST:
        of, n = np.arange(len(features)), len(features)
    fold = of % min(n, FOLDS)
    distances = np.empty(len(features))
    for k in range(min(n, FOLDS)):
        distances[fold == k] = _spread(features[fold != k]).distance(features[fold == k])
    return distances, int(n)


def _limit(distances: np.ndarray, *, n: int, rate: float) -> float:
    """See `fit`; `n` is the number of patients, of whom there may be several images."""
    distances = np.sort(distances)
    if not distances[-1] > 0:
        raise DataError("the known images have the same features; give images that differ")
    place = math.ceil(round((len(distances) + 1) * (1 - rate), 9))
    if math.ceil(round((n + 1) * (1 - rate), 9)) <= n and place <= len(distances):
        return float(distances[place - 1])
    logs = np.log(np.maximum(distances, _NOTHING * distances[-1]))
    beyond = stats.t.ppf(1 - rate, n - 1) * math.sqrt(1 + 1 / n) * logs.std(ddof=1)
    return float(max(distances[-1], math.exp(min(logs.mean() + beyond, 300.0))))
