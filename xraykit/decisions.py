"""From logits to a decision: probabilities, their calibration, and where to draw the line.

Whatever is chosen here, a threshold or a temperature, is chosen on the validation split, which no training
step and no test image has touched. `fewshot_shift.best_threshold` finds the threshold of the best macro-F1.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from xraykit.errors import DataError

TEMPERATURES = (0.05, 20.0)
KINDS = ("binary", "multiclass", "multilabel")


def threshold_for_sensitivity(y: np.ndarray, p: np.ndarray, *, wanted: float) -> float:
    """The highest threshold with a sensitivity of at least `wanted`, which has the highest specificity.

    An image is positive where p >= threshold. The threshold is the score of a positive image, so that on
    these images nothing is left to rounding; a `wanted` of .7 is reached by exactly 7 of 10.

    Args:
        y: 0/1 (N,), both present.
        p: scores that rise with the positive class, (N,), or (N, 2) with the positive class second.
        wanted: in (0, 1].

    Raises:
        DataError: `wanted` outside (0, 1], labels of one class or other than 0 and 1, scores that are not
            finite, or shapes that do not match.
    """
    y, p = _binary(y, p)
    if not 0 < wanted <= 1:
        raise DataError(f"wanted sensitivity {wanted}; choose above 0 and at most 1, such as 0.95")
    positives = np.sort(p[y == 1])[::-1]
    reached = np.arange(1, len(positives) + 1) / len(positives)
    return float(positives[np.searchsorted(reached, wanted)])


def trade_off(y: np.ndarray, p: np.ndarray) -> pd.DataFrame:
    """What every threshold gives up for what it gains.

    Args:
        y, p: as in `threshold_for_sensitivity`.

    Returns:
        One row for each distinct score, the lowest first, with the columns ``threshold, sensitivity,
        specificity, precision, f1, accuracy, balanced_accuracy``; an image is positive where
        p >= threshold. All but the threshold lie in 0..1.

    Raises:
        DataError: as `threshold_for_sensitivity`.
    """
    y, p = _binary(y, p)
    order = np.argsort(p, kind="stable")
    first = np.flatnonzero(np.diff(p[order], prepend=-np.inf))  # of each group of equal scores
    missed = np.r_[0, np.cumsum(y[order])][first]
    positives, negatives = y.sum(), (1 - y).sum()
    hit, rejected, said = positives - missed, first - missed, len(y) - first
    sensitivity, specificity = hit / positives, rejected / negatives
    columns = {
        "threshold": p[order][first],
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": hit / said,
        "f1": 2 * hit / (said + positives),
        "accuracy": (hit + rejected) / len(y),
        "balanced_accuracy": (sensitivity + specificity) / 2,
    }
    return pd.DataFrame(columns)


def probabilities(logits: np.ndarray, kind: str, *, temperature: float = 1.0) -> np.ndarray:
    """Probabilities of logits divided by a temperature, without overflow for float32 logits of any size.

    Args:
        logits: (N, 1) of the positive class for ``"binary"``, (N, K) for ``"multiclass"`` (softmax) and
            ``"multilabel"`` (a sigmoid each).
        temperature: above 0; 1 leaves the logits as they are, more than 1 makes them less sure. The order of
            binary and of multi-label scores does not change, and neither does the largest class.

    Returns:
        float64 in 0..1: (N, 2), negative then positive, for ``"binary"``; else (N, K). Rows sum to 1, except
        those of ``"multilabel"``.

    Raises:
        DataError: an unknown kind, logits of another shape or not finite, or a temperature not above 0.
    """
    z = _logits(logits, kind)
    if not (temperature > 0 and np.isfinite(temperature)):
        raise DataError(
            f"temperature {temperature}; give a finite number above 0, 1 for the logits as they are"
        )
    z = z / temperature
    if kind == "binary":
        return expit(np.hstack([-z, z]))
    return softmax(z, axis=1) if kind == "multiclass" else expit(z)


def fit_temperature(logits: np.ndarray, y: np.ndarray, *, kind: str) -> float:
    """The one temperature that minimises the negative log-likelihood of the validation split.

    Source: Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017, section 4.2.
    The likelihood has one minimum. It is looked for within `TEMPERATURES`, .05 to 20, and a temperature of
    exactly .05 or 20 is that limit, not a minimum: .05 where every image is on its right side, so that more
    confidence always scores better, and 20 where the logits say no more than chance, or the opposite.

    Args:
        logits: (N, 1) or (N, K) as in `probabilities`.
        y: 0/1 (N,) for ``"binary"``, class codes (N,) for ``"multiclass"``, 0/1 (N, K) for ``"multilabel"``,
            whose labels share the temperature.

    Raises:
        DataError: an unknown kind, logits that are not finite, labels that do not fit them, or labels with
            a single value, for which the surest answer would be the best.
    """
    z = _logits(logits, kind)
    y = _labels(y, z, kind)

    def nll(temperature: float) -> float:
        scaled = z / temperature
        if kind == "multiclass":
            return -float(np.take_along_axis(log_softmax(scaled, axis=1), y[:, None], axis=1).mean())
        return float((np.logaddexp(0, scaled) - y * scaled).mean())

    bounds = tuple(np.log(TEMPERATURES))
    found = minimize_scalar(
        lambda t: nll(np.exp(t)), bounds=bounds, method="bounded", options={"xatol": 1e-9}
    )
    # The search only approaches its limits; of equal losses the first is taken.
    return min((*TEMPERATURES, float(np.exp(found.x))), key=nll)


def most_confident_mistakes(y: np.ndarray, p: np.ndarray, *, n: int) -> np.ndarray:
    """The misclassified images to look at first: those whose wrong class got the largest probability.

    The prediction is the class with the largest probability, and of two classes the second from .5 on.

    Args:
        y: class codes (N,).
        p: probabilities (N, K), or (N,) of the second of two classes, in 0..1.
        n: at most so many; there may be fewer mistakes.

    Returns:
        int64 indices into `y`, the most confident mistake first; of equals the lower index.

    Raises:
        DataError: labels that are no codes of the columns of `p`, `p` outside 0..1, or n < 1.
    """
    y, p = np.asarray(y), np.asarray(p, np.float64)
    p = np.stack([1 - p, p], axis=1) if p.ndim == 1 else p
    if p.ndim != 2 or p.shape[1] < 2 or y.shape != p.shape[:1] or not np.isin(y, np.arange(p.shape[1])).all():
        raise DataError(
            f"labels {y.shape} must be codes of the classes of p, {p.shape}: give (N,) and (N, K)"
        )
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError("p must be probabilities in 0..1; decisions.probabilities makes them from logits")
    if n < 1:
        raise DataError(f"n = {n}; ask for at least 1 mistake")
    said = (p[:, 1] >= 0.5).astype(int) if p.shape[1] == 2 else p.argmax(axis=1)
    wrong = np.flatnonzero(said != y)
    return wrong[np.argsort(-p[wrong, said[wrong]], kind="stable")][:n]


def _binary(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int64 (N,) with both classes, scores of the positive class as float64 (N,)."""
    y, p = np.asarray(y), np.asarray(p, np.float64)
    p = p[:, 1] if p.ndim == 2 and p.shape[1] == 2 else p
    if y.ndim != 1 or y.shape != p.shape or not np.isin(y, (0, 1)).all():
        raise DataError(f"labels {y.shape} must be 0 and 1, and scores {p.shape} one for each")
    if len(np.unique(y)) < 2:
        raise DataError(
            f"{len(y)} labels, of the classes {np.unique(y).tolist()}; a threshold needs both 0 and 1: "
            "take a validation split with patients of either class"
        )
    if not np.isfinite(p).all():
        raise DataError(f"{(~np.isfinite(p)).sum()} of {len(p)} scores are not finite; drop or repair them")
    return y.astype(np.int64), p


def _logits(logits: np.ndarray, kind: str) -> np.ndarray:
    """Logits as float64 (N, O), O the number that the kind needs."""
    if kind not in KINDS:
        raise DataError(f"kind {kind!r}; choose from {list(KINDS)}")
    z = np.asarray(logits, np.float64)
    columns = {"binary": (1, 1), "multiclass": (2, np.inf), "multilabel": (1, np.inf)}[kind]
    if z.ndim != 2 or not len(z) or not columns[0] <= z.shape[1] <= columns[1]:
        wanted = {"binary": "(N, 1)", "multiclass": "(N, K) with K >= 2", "multilabel": "(N, K)"}[kind]
        raise DataError(f"{kind} logits have the shape {wanted}, N >= 1; these have {z.shape}")
    if not np.isfinite(z).all():
        raise DataError(
            f"{(~np.isfinite(z)).any(axis=1).sum()} of {len(z)} rows of logits are not finite; the network "
            "has diverged: lower the learning rate or take an earlier checkpoint"
        )
    return z


def _labels(y: np.ndarray, z: np.ndarray, kind: str) -> np.ndarray:
    """Labels that fit the logits: codes (N,) for multiclass, else 0/1 in the shape of the logits."""
    y = np.asarray(y)
    shape, codes = (z.shape, 2) if kind == "multilabel" else (z.shape[:1], max(2, z.shape[1]))
    if y.shape != shape or not np.isin(y, np.arange(codes)).all():
        raise DataError(f"{kind} logits {z.shape} need labels {shape} of 0..{codes - 1}; got shape {y.shape}")
    if len(np.unique(y)) < 2:
        raise DataError(
            f"all {y.size} labels are {y.flat[0]}; a temperature needs a validation split "
            "with several classes"
        )
    y = y.astype(np.int64)
    return y[:, None] if kind == "binary" else y
