"""Figures of training: learning curves, and what a threshold on the trained network's scores trades."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xraykit.errors import DataError
from xraykit.plots.scores import TITLES
from xraykit.plots.shots import LINES, MARKERS
from xraykit.plots.style import COLOURS, GREY, figure, tidy

PARTS = {"train": ("training", "--"), "val": ("validation", "-")}
RATES = {"sensitivity": "-", "specificity": "--", "precision": ":"}
STAR = {"marker": "*", "markersize": 14, "markeredgecolor": "black", "linestyle": "none"}


def learning_curves(
    history: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    metrics: Sequence[str] = ("loss", "accuracy"),
    best: int | Mapping[str, int] | None = None,
    title: str = "",
) -> Figure:
    """Each metric against the epoch, dashed on the training and solid on the validation images.

    Args:
        history: one row an epoch with ``epoch`` and ``train_<metric>``, ``val_<metric>`` or both; several
            runs by name get a colour and a marker each.
        metrics: the panels, from left to right.
        best: the epoch whose weights were kept, of the one history or for each name; a star.

    Raises:
        DataError: no history, one without epochs or without a metric, or a best epoch that it lacks.
    """
    runs = {"": history} if isinstance(history, pd.DataFrame) else dict(history)
    kept = dict.fromkeys(runs, best) if isinstance(best, int | np.integer) else dict(best or {})
    _check_histories(runs, metrics, kept)
    fig = figure(4.1 * len(metrics) + 1.8, 3.7)
    axes = fig.subplots(1, len(metrics), squeeze=False)[0]
    looks = {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 3.5}
        for i, name in enumerate(runs)
    }
    for ax, metric in zip(axes, metrics, strict=True):
        for name, frame in runs.items():
            _curves(ax, frame.sort_values("epoch"), metric, look=looks[name], kept=kept.get(name))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlim(ax.dataLim.x0 - 0.5, ax.dataLim.x1 + 0.5)
        ax.grid(alpha=0.3)
        tidy(ax, title=TITLES.get(metric, metric.replace("_", " ")), x="epoch")
    for name in filter(None, runs):
        axes[0].plot([], [], label=name, **looks[name])
    columns = {column for frame in runs.values() for column in frame}
    for part, (said, line) in PARTS.items():
        if columns & {f"{part}_{metric}" for metric in metrics}:
            axes[0].plot([], [], color=GREY, linestyle=line, label=said)
    if kept:
        axes[0].plot([], [], color=GREY, label="epoch kept", **STAR)
    fig.legend(loc="outside right upper", frameon=False, fontsize=9)
    fig.suptitle(title, fontsize=12)
    return fig


def _curves(ax: Axes, frame: pd.DataFrame, metric: str, *, look: Mapping, kept: int | None) -> None:
    for part, (_, line) in PARTS.items():
        if f"{part}_{metric}" in frame:
            starred = frame[f"{part}_{metric}"]
            ax.plot(frame["epoch"], starred, linestyle=line, **look)
    there = frame["epoch"] == kept
    ax.plot(frame["epoch"][there], starred[there], color=look["color"], zorder=3, **STAR)


def _check_histories(
    runs: Mapping[str, pd.DataFrame], metrics: Sequence[str], kept: Mapping[str, int]
) -> None:
    if not runs or not metrics:
        raise DataError(f"learning_curves needs a history and a metric; got {len(runs)} and {list(metrics)}")
    for name, frame in runs.items():
        lost = [m for m in metrics if not {f"train_{m}", f"val_{m}"} & set(frame)]
        if lost or "epoch" not in frame or frame.empty:
            raise DataError(
                f"history {name!r} of {len(frame)} epochs lacks {lost or 'epoch'}; its columns: {list(frame)}"
            )
    for name, epoch in kept.items():
        if name not in runs or epoch not in set(runs[name]["epoch"]):
            raise DataError(f"best epoch {epoch} of {name!r} is in no history; the names are {list(runs)}")


def trade_off(table: pd.DataFrame, *, thresholds: Mapping[str, float], title: str = "") -> Figure:
    """Sensitivity, specificity and precision at each threshold, and the ROC curve that they trace.

    Args:
        table: rows with ``threshold, sensitivity, specificity, precision`` at each distinct score, an image
            being positive from its threshold on; see `decisions.trade_off`.
        thresholds: for each name a threshold, a vertical line on the left and a point on the right.

    Raises:
        DataError: an empty table, a missing column, or a threshold that is not finite.
    """
    steps = _steps(table)
    wrong = {name: t for name, t in thresholds.items() if not np.isfinite(t)}
    if wrong:
        raise DataError(f"thresholds {wrong} are not finite; give numbers on the scale of the scores")
    fig = figure(12.2, 4.2)
    left, right = fig.subplots(1, 2, width_ratios=[1.25, 1])
    for (name, line), colour in zip(RATES.items(), COLOURS, strict=False):
        look = {"color": colour, "linestyle": line, "linewidth": 1.9, "label": name}
        left.plot(steps["threshold"], steps[name], drawstyle="steps-pre", **look)
    right.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    right.plot(1 - steps["specificity"], steps["sensitivity"], color="black", linewidth=1.6)
    for i, (name, threshold) in enumerate(thresholds.items()):
        # The smallest score from the threshold on makes the same decisions.
        row = steps.iloc[1:].iloc[np.searchsorted(steps["threshold"].iloc[1:-1], threshold)]
        look = {
            "color": COLOURS[(3 + i) % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 8,
        }
        label = f"{name}: {threshold:.3g}\n(sens. {row['sensitivity']:.3f}, spec. {row['specificity']:.3f})"
        line = LINES[i % len(LINES)]
        left.plot([threshold] * 2, [0, 1.06], linestyle=line, markevery=[1], label=label, zorder=3, **look)
        right.plot(1 - row["specificity"], row["sensitivity"], linestyle="none", zorder=3, **look)
    for ax in (left, right):
        ax.set_ylim(-0.03, 1.1)
        ax.grid(alpha=0.3)
    tidy(left, title="by threshold", x="threshold: positive from here on", y="share")
    tidy(right, title="ROC curve", x="1 - specificity", y="sensitivity").set_aspect("equal")
    fig.legend(loc="outside right upper", frameon=False, fontsize=9)
    fig.suptitle(title, fontsize=12)
    return fig


def _steps(table: pd.DataFrame) -> pd.DataFrame:
    """The rows by threshold, after one where all images and before one where none are positive."""
    lost = [c for c in ("threshold", *RATES) if c not in table]
    if lost or table.empty:
        raise DataError(f"trade_off needs the rows of decisions.trade_off; got {len(table)}, without {lost}")
    table = table[["threshold", *RATES]].sort_values("threshold")
    first, last = table.iloc[[0]], table.iloc[[-1]]
    nothing = {"threshold": last["threshold"].clip(1), "sensitivity": 0.0, "specificity": 1.0}
    ends = first.assign(threshold=first["threshold"].clip(upper=0)), last.assign(**nothing, precision=np.nan)
    return pd.concat([ends[0], table, ends[1]], ignore_index=True)
