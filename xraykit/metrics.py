"""Scores of a classifier.

Every metric takes bootstrap weights, so that a thousand resamplings of the test *patients* (module
`intervals`) are one matrix product instead of a thousand calls. With unit weights each equals its
scikit-learn namesake (tested).

Shapes, used throughout: `y` is (N,) of 0/1 for a binary task, (N,) of class codes for a multiclass task, or
(N, K) of 0/1 for a multi-label task; `scores` are probabilities in 0..1: for a binary task (N,), or (N, 2)
with the positive class second; else (N, K); `weights` is (B, N), not negative. A multi-label score is the
plain mean over labels; AUROC and AUPRC leave out a label that a resampling lost.
"""

from collections.abc import Callable, Sequence

import numpy as np

from xraykit.errors import DataError

ECE_BINS = 15


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, 0 where the bottom is 0 (scikit-learn's zero_division=0)."""
    return np.divide(top, bottom, out=np.zeros_like(top, dtype=np.float64), where=bottom > 0)


def confusion(y: np.ndarray, predicted: np.ndarray, *, n_classes: int, weights: np.ndarray) -> np.ndarray:
    """Weighted confusion matrices (B, K, K): row the true class, column the predicted one."""
    cell = np.eye(n_classes * n_classes)[y * n_classes + predicted]
    return (weights @ cell).reshape(len(weights), n_classes, n_classes)


def auroc(y: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, ties counted half (Hanley and McNeil 1982); NaN where a class is absent."""
    order = np.argsort(scores, kind="stable")
    positive, negative = order[y[order] == 1], order[y[order] == 0]
    by_image = weights.T  # gathering whole rows is faster than gathering columns
    below = np.zeros((len(negative) + 1, len(weights)))  # negative weight among the lowest n negatives
    np.cumsum(by_image[negative], axis=0, out=below[1:])
    lower, upper = (np.searchsorted(scores[negative], scores[positive], side) for side in ("left", "right"))
    won = np.einsum("pb,pb->b", by_image[positive], (below[lower] + below[upper]) / 2)
    total = by_image[positive].sum(axis=0, dtype=np.float64) * below[-1]
    return won / np.where(total > 0, total, np.nan)


def auprc(y: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision: the sum of precision times the step in recall. NaN where no positive has weight."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(scores[order]) < 0, True])  # of each group of equal scores
    by_image = weights.T[order]
    hits = np.cumsum(by_image * (y[order] == 1)[:, None], axis=0, dtype=np.float64)[last]
    steps = np.diff(hits, axis=0, prepend=0)
    some = steps.any(axis=1)  # the recall stands still elsewhere
    precision = _ratio(hits[some], np.cumsum(by_image, axis=0, dtype=np.float64)[last[some]])
    return np.einsum("gb,gb->b", precision, steps[some]) / np.where(hits[-1] > 0, hits[-1], np.nan)


def ece(hit: np.ndarray, confidence: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error over 15 equal bins (Guo et al. 2017, eq. 3).

    Args:
        hit: (N,) 0/1, whether the event happened.
        confidence: (N,) its predicted probability.
        weights: (B, N).
    """
    member = np.eye(ECE_BINS)[np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)]
    gap = weights @ (member * (hit - confidence)[:, None])
    return np.abs(gap).sum(axis=1) / weights.sum(axis=1)


def _from_confusion(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (B,) that need the confusion matrices alone; class 1 is the positive one of a binary task."""
    hits, true, said = np.einsum("bkk->bk", matrix), matrix.sum(axis=2), matrix.sum(axis=1)
    f1 = _ratio(2 * hits, true + said)
    present = true > 0
    out = {
        "accuracy": hits.sum(axis=1) / matrix.sum(axis=(1, 2)),
        "balanced_accuracy": _ratio(hits, true).sum(axis=1) / present.sum(axis=1),
        "macro_f1": _ratio(f1.sum(axis=1), (true + said > 0).sum(axis=1).astype(float)),
    }
    if matrix.shape[1] == 2:
        recall, precision = _ratio(hits, true), _ratio(hits, said)
        out |= {
            "sensitivity": recall[:, 1],
            "specificity": recall[:, 0],
            "precision": precision[:, 1],
            "f1": f1[:, 1],
        }
    return out


def _binary(
    y: np.ndarray, p: np.ndarray, weights: np.ndarray, threshold: float, names: Sequence[str]
) -> dict:
    matrix = confusion(y, (p >= threshold).astype(int), n_classes=2, weights=weights)
    ranked: dict[str, Callable] = {"auroc": auroc, "auprc": auprc, "ece": ece}
    return {**_from_confusion(matrix), **{n: f(y, p, weights) for n, f in ranked.items() if n in names}}


def _multiclass(y: np.ndarray, p: np.ndarray, weights: np.ndarray, names: Sequence[str]) -> dict:
    k = p.shape[1]
    said = p.argmax(axis=1)
    out = _from_confusion(confusion(y, said, n_classes=k, weights=weights))
    for name, f in (("auroc", auroc), ("auprc", auprc)):
        if name in names:
            out[name] = np.mean([f((y == c).astype(int), p[:, c], weights) for c in range(k)], axis=0)
    if "ece" in names:
        out["ece"] = ece((said == y).astype(float), p.max(axis=1), weights)
    return out


def score_all(
    y: np.ndarray,
    scores: np.ndarray,
    *,
    names: Sequence[str],
    weights: np.ndarray | None = None,
    threshold: float = 0.5,
) -> dict[str, np.ndarray]:
    """The metrics `names` under each row of `weights` (one row of ones when None), each an array (B,).

    Args:
        y, scores, weights: see the module's first lines.
        names: of accuracy, balanced_accuracy, macro_f1, auroc, auprc, ece; for binary and multi-label
            tasks also sensitivity, specificity, precision, f1. AUROC and AUPRC of a multiclass task are one
            class against the rest, averaged. ECE is that of the positive probability (binary, multi-label)
            or of the top class (multiclass).
        threshold: of the positive probability (binary and multi-label); multiclass takes the largest.

    Raises:
        DataError: shapes that do not fit, scores outside 0..1 or not finite, an unknown metric.
    """
    y, scores = _checked(y, scores)
    if y.ndim == 1 and scores.ndim == 2 and scores.shape[1] == 2:
        scores = scores[:, 1]
    weights = np.ones((1, len(y))) if weights is None else np.asarray(weights)
    if y.ndim == 2:
        lost = np.flatnonzero((y.sum(axis=0) == 0) | (y.sum(axis=0) == len(y)))
        if len(lost):
            raise DataError(
                f"labels {lost.tolist()} have only one value in these {len(y)} images; leave them out"
            )
        columns = [_binary(y[:, k], scores[:, k], weights, threshold, names) for k in range(y.shape[1])]
        out = {n: _mean_over_labels([c[n] for c in columns]) for n in columns[0]}
        out["macro_f1"] = out["f1"]
    elif scores.ndim == 2:
        out = _multiclass(y, scores, weights, names)
    else:
        out = _binary(y, scores, weights, threshold, names)
    unknown = [n for n in names if n not in out]
    if unknown:
        raise DataError(f"metrics {unknown} are not defined for this task; choose from {sorted(out)}")
    return {n: out[n] for n in names}


def per_draw(y: np.ndarray, draws: Sequence[np.ndarray], name: str) -> np.ndarray:
    """The metric `name` of each of D draws of scores for the same images, float64 (D,); see `score_all`."""
    return np.array([score_all(y, scores, names=[name])[name][0] for scores in draws])


def mean_confusion(y: np.ndarray, draws: Sequence[np.ndarray]) -> np.ndarray:
    """Confusion matrix (K, K), row the true class, of the largest score (N, K), averaged over the draws."""
    about = {"n_classes": np.shape(draws[0])[1], "weights": np.ones((1, len(y)))}
    return np.mean([confusion(y, p.argmax(axis=1), **about)[0] for p in draws], axis=0)


def _mean_over_labels(columns: list[np.ndarray]) -> np.ndarray:
    """Mean over labels, leaving out those without a positive or a negative (NaN); NaN where none is left."""
    stacked = np.stack(columns)
    lost = np.isnan(stacked)
    return np.where(lost, 0, stacked).sum(axis=0) / np.where(lost.all(axis=0), np.nan, (~lost).sum(axis=0))


def _checked(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    given, scores = np.asarray(y), np.asarray(scores, dtype=np.float64)
    if given.dtype.kind not in "biu" and not (given == np.round(given)).all():
        raise DataError(
            f"labels must be whole numbers; these are {given.dtype}, such as {given.ravel()[:3].tolist()}"
        )
    y = given.astype(int)
    if len(y) == 0 or len(y) != len(scores) or (y.ndim == 2 and y.shape != scores.shape):
        raise DataError(
            f"labels {y.shape} and scores {scores.shape} do not match; give one row of scores per label"
        )
    if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        raise DataError(
            f"scores must be probabilities in 0..1; these span {scores.min():.3g} to {scores.max():.3g}"
        )
    top = scores.shape[1] - 1 if scores.ndim == 2 and y.ndim == 1 else 1
    if y.min() < 0 or y.max() > top:
        raise DataError(f"labels must lie in 0..{top}; these span {y.min()} to {y.max()}")
    return y, scores
