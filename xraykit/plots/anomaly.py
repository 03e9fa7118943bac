"""Figures about anomalies: ROC curves with a band, and the evidence for each picture in a row."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from xraykit.errors import DataError
from xraykit.intervals import patient_weights
from xraykit.plots.style import COLOURS, GREY, MASK_COLOUR, figure, tidy
from xraykit.results import PICTURES

GRID = np.linspace(0, 1, 201)  # of false-positive rates


def roc(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], *, seed: int, n_boot: int = 200
) -> Figure:
    """ROC curve of each method, with the 95% of a patient bootstrap at every false-positive rate as a band.

    Args:
        curves: by name labels 0/1 (N,), scores (N,) and patient ids (N,).
        seed, n_boot: of the resamplings.

    Raises:
        DataError: no curves, or labels of one class.
    """
    if not curves:
        raise DataError("roc needs at least one curve")
    fig = figure(5.2 + 2.2, 4.6)
    ax = fig.subplots()
    for i, (name, (y, scores, patients)) in enumerate(curves.items()):
        y, scores = np.asarray(y), np.asarray(scores)
        if set(np.unique(y).tolist()) != {0, 1}:
            raise DataError(f"{name}: labels {np.unique(y).tolist()}; a ROC curve needs 0 and 1")
        drawn = patient_weights(patients, n_boot=n_boot, rng=np.random.default_rng(seed))
        both = [w for w in drawn if w[y == 0].any() and w[y == 1].any()]
        rates = np.array([np.interp(GRID, *roc_curve(y, scores, sample_weight=w)[:2]) for w in both])
        low, high = np.percentile(rates, [2.5, 97.5], axis=0)
        colour = COLOURS[i % len(COLOURS)]
        ax.fill_between(GRID, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(*roc_curve(y, scores)[:2], color=colour, label=name)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    ax.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    ax.grid(alpha=0.3)
    fig.legend(loc="outside right upper", frameon=False, fontsize=8)
    tidy(ax, x="false-positive rate", y="sensitivity")
    return fig


def evidence(
    columns: Mapping[str, np.ndarray],
    *,
    titles: Sequence[str],
    scores: np.ndarray,
    threshold: float,
    masks: np.ndarray | None = None,
) -> Figure:
    """A row an image: its pictures and heat maps side by side, then its score against the threshold.

    Args:
        columns: by title M pictures (M, H, W): uint8 ones are grey levels, float ones heat maps, all of a
            column on one scale from its least value to its 99.5th percentile.
        titles: of the M rows.
        scores: (M,), 0 or more.
        threshold: above which a score is anomalous.
        masks: bool (M, H, W); outlined on every uint8 picture.

    Raises:
        DataError: no rows, or columns, titles and scores of different lengths.
    """
    lengths = {len(titles), len(scores), *(len(images) for images in columns.values())}
    if len(lengths) != 1 or not len(titles) or not columns:
        raise DataError(f"columns, titles and scores have {sorted(lengths)} rows; give one of each an image")
    n = len(titles)
    fig = figure(1.7 * len(columns) + 2.4, 1.75 * n + 0.3)
    fig.set_label(PICTURES)
    widths = [1.0] * len(columns) + [1.3]
    axes = fig.subplots(n, len(columns) + 1, squeeze=False, width_ratios=widths)
    for j, (title, images) in enumerate(columns.items()):
        _column(axes[:, j], images, masks)
        axes[0, j].set_title(title, fontsize=9)
    for ax, title in zip(axes[:, 0], titles, strict=True):
        ax.set_ylabel(title, fontsize=9)
    for i, ax in enumerate(axes[:, -1]):
        _against(ax, scores[i], threshold, largest=1.1 * max(*scores, threshold))
    axes[0, -1].set_title("score, and threshold (dashed)", fontsize=9)
    return fig


def _column(axes: Sequence[Axes], images: np.ndarray, masks: np.ndarray | None) -> None:
    """Pictures below each other, grey with outlined masks or as heat maps on one scale."""
    grey = images.dtype == np.uint8
    low, high = (0, 255) if grey else (images.min(), np.percentile(images, 99.5))
    for i, ax in enumerate(axes):
        ax.imshow(images[i], cmap="gray" if grey else "magma", vmin=low, vmax=high)
        ax.set(xticks=(), yticks=())
        if grey and masks is not None and masks[i].any():
            ax.contour(masks[i], levels=[0.5], colors=[MASK_COLOUR], linewidths=0.9)


def _against(ax: Axes, score: float, threshold: float, *, largest: float) -> None:
    """A bar up to the score, in another colour where it is above the threshold."""
    above = score > threshold
    ax.barh([0], [score], height=0.5, color=COLOURS[1] if above else COLOURS[0])
    ax.axvline(threshold, color="black", linestyle="--", linewidth=1)
    ax.text(0, 0.45, "called anomalous" if above else "called normal", fontsize=8, va="bottom")
    ax.set(xlim=(0, largest), ylim=(-0.6, 0.9), yticks=())
    ax.tick_params(labelsize=7)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
