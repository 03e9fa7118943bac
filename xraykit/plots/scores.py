"""Figures of scores, always with their intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xraykit.errors import DataError
from xraykit.plots.style import COLOURS, GREY, figure, tidy

TITLES = {
    "macro_f1": "macro-F1", "auroc": "AUROC", "auprc": "AUPRC", "ece": "ECE, lower is better",
    "val_auroc": "validation AUROC", "val_macro_f1": "validation macro-F1",
}  # fmt: skip


def intervals(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str],
    baseline: Mapping[str, float] | None = None,
    group: pd.Series | None = None,
    title: str = "",
) -> Figure:
    """Dot and 95% interval of each method, one panel a metric.

    Args:
        table: rows with ``method, metric, value, ci_low, ci_high``; methods keep their order, and one without
            a metric has an empty line in that panel.
        metrics: the panels, from left to right.
        baseline: for each metric what the trivial answer scores, written above the panel; a dashed line where
            it lies within the panel.
        group: for each row of `table` what its dot's colour tells apart; one colour when None.

    Raises:
        DataError: a metric without rows.
    """
    missing = [m for m in metrics if m not in set(table["metric"])]
    if missing:
        raise DataError(f"no rows for metrics {missing}; the table has {sorted(set(table['metric']))}")
    methods = list(dict.fromkeys(table["method"]))
    kinds = pd.factorize(group)[0] if group is not None else np.zeros(len(table), int)
    table = table.assign(colour=[COLOURS[k % len(COLOURS)] for k in kinds])
    fig = figure(2.2 + 2.3 * len(metrics), 1.4 + 0.36 * len(methods))
    axes = fig.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        rows = table[table["metric"] == metric].set_index("method").reindex(methods)
        place = np.flatnonzero(rows["value"].notna())
        rows = rows.iloc[place]
        ax.hlines(place, rows["ci_low"], rows["ci_high"], color=GREY, linewidth=1.6)
        ax.scatter(rows["value"], place, color=rows["colour"].tolist(), zorder=3)
        name = TITLES.get(metric, metric.replace("_", " "))
        if baseline and metric in baseline:
            name += f"\n(baseline {baseline[metric]:.2f})"
            low, high = ax.get_xlim()
            if low <= baseline[metric] <= high:  # a line far from the dots would squeeze them together
                ax.axvline(baseline[metric], color=GREY, linestyle="--", linewidth=1)
        tidy(ax, title=name)
        ax.set_yticks(range(len(methods)), methods)
        ax.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    fig.supxlabel("dot: value, bar: 95% interval over patients", fontsize=8)
    fig.suptitle(title, fontsize=11)
    return fig


def recall_bars(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Recall of each class under each method, from rows ``method, class, value, ci_low, ci_high``."""
    methods, classes = list(dict.fromkeys(table["method"])), list(dict.fromkeys(table["class"]))
    fig = figure(2.2 + 0.2 * len(methods) * len(classes), 3.4)
    ax = fig.subplots()
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        rows = table[table["method"] == method].set_index("class").reindex(classes)
        place = np.arange(len(classes)) + (i - (len(methods) - 1) / 2) * width
        error = [(rows["value"] - rows["ci_low"]).clip(0), (rows["ci_high"] - rows["value"]).clip(0)]
        ax.bar(
            place, rows["value"], width, yerr=error, label=method, color=COLOURS[i], error_kw={"linewidth": 1}
        )
    slanted = {"rotation": 45, "ha": "right"} if len(classes) > 5 else {}
    ax.set_xticks(range(len(classes)), classes, **slanted)
    ax.set_ylim(0, 1)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    tidy(ax, title=title, y="recall")
    return fig


def reliability(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, bins: int = 10) -> Figure:
    """Observed frequency against predicted probability in equal bins.

    Args:
        curves: for each method, labels (N,) 0/1 and predicted probabilities (N,) in 0..1.
        bins: number of equal bins; an empty one is left out, and a dot's area grows with its images.
    """
    fig = figure(4.6, 4.2)
    ax = fig.subplots()
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    for colour, (name, (y, p)) in zip(COLOURS, curves.items(), strict=False):
        where = np.minimum((p * bins).astype(int), bins - 1)
        table = (
            pd.DataFrame({"bin": where, "p": p, "y": y})
            .groupby("bin")
            .agg(p=("p", "mean"), y=("y", "mean"), n=("y", "size"))
        )
        ax.plot(table["p"], table["y"], color=colour, linewidth=1.2, label=name)
        ax.scatter(table["p"], table["y"], s=8 + 120 * table["n"] / len(y), color=colour, alpha=0.8)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.legend(frameon=False, fontsize=8)
    tidy(ax, title="dashed: perfectly calibrated", x="predicted probability", y="observed frequency")
    return fig
