"""Figures of few-shot experiments: scores against shots, and their spread over draws."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xraykit.errors import DataError
from xraykit.plots.scores import TITLES, intervals
from xraykit.plots.style import COLOURS, GREY, figure, tidy

LINES = ("-", "--", "-.", ":")
MARKERS = "os^DvPX*"
LABEL_GAP = 0.08  # of the axis, between two numbers under it
DODGE = 0.02  # of a decade, between the whiskers of two methods


def shot_curves(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str],
    by: str = "method",
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    title: str = "",
) -> Figure:
    """Each metric against the labelled images a class, one curve a method.

    Line: the median over draws. Band: its 95% interval over test patients and draws. Whisker: where 95% of
    the single draws lie, which is what one draw alone risks.

    Args:
        table: rows with `by`, ``shots, metric, value, ci_low, ci_high`` and, where there are several draws,
            ``spread_low, spread_high`` (see `intervals.frame`, `results.numbers`); methods keep their order.
        metrics: the panels, from left to right.
        by: the column whose values are the curves.
        baselines: for each name its value of each metric, drawn as a grey line where it lies in the panel or
            near it, else written above it: the trivial answer, all images, a published number.

    Raises:
        DataError: a metric without rows, shots that are not positive numbers, or a method with two rows for
            the same shots and metric.
    """
    missing = [m for m in metrics if m not in set(table["metric"])]
    if missing or not metrics:
        raise DataError(f"no rows for metrics {missing}; choose from {sorted(set(table['metric']))}")
    table = _with_shots(table[table["metric"].isin(metrics)], by)
    methods = list(dict.fromkeys(table[by]))
    fig = figure(3.9 * len(metrics) + 1.8, 3.9)
    axes = fig.subplots(1, len(metrics), squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        rows = table[table["metric"] == metric]
        for i, method in enumerate(methods):
            _curve(ax, rows[rows[by] == method], i, dodge=DODGE * (i - (len(methods) - 1) / 2), name=method)
        shots = sorted(set(rows["shots"]))
        ax.set_xscale("log")
        ax.set_xticks(shots, _labels(shots))
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        far = _baselines(ax, metric, baselines or {})
        tidy(ax, title="\n".join([_name(metric), *far]), x="labelled images a class")
    handles = {n: h for ax in axes for h, n in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)
    fig.suptitle(title, fontsize=12)
    fig.supxlabel("line: median over draws, band: 95% interval, whisker: 95% of the draws", fontsize=9)
    return fig


def ladder(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Dot and 95% interval of each kind of feature, the lowest first; a panel for each metric and shots.

    Args:
        table: rows with ``rung, shots, metric, value, ci_low, ci_high``, one for each rung, shots and metric;
            the order is that of the first metric's median over shots.

    Raises:
        DataError: no rows.
    """
    if table.empty:
        raise DataError("ladder needs at least one rung; the table is empty")
    first = table[table["metric"] == table["metric"].iloc[0]]
    order = first.groupby("rung")["value"].median().sort_values().index
    rows = table.assign(method=pd.Categorical(table["rung"], order, ordered=True)).sort_values(
        ["method", "shots"], kind="stable"
    )
    panels = [f"{_name(m)}\n{k} a class" for m, k in zip(rows["metric"], rows["shots"], strict=True)]
    return intervals(
        rows.assign(method=rows["rung"], metric=panels), metrics=list(dict.fromkeys(panels)), title=title
    )


def _labels(shots: Sequence[float]) -> list[str]:
    """Numbers under the ticks of a logarithmic axis, none where the one before is too near to be read."""
    labels, before = [], -np.inf
    gap = LABEL_GAP * np.log(max(shots) / min(shots))
    for place in np.log(shots):
        near = place - before < gap
        labels.append("" if near else f"{np.exp(place):.6g}")
        before = before if near else place
    return labels


def _with_shots(table: pd.DataFrame, by: str) -> pd.DataFrame:
    shots = pd.to_numeric(table["shots"], errors="coerce")
    if not (shots > 0).all():
        raise DataError(
            f"shots {sorted(set(table['shots'][~(shots > 0)].astype(str)))} are no positive numbers; a curve "
            "needs them: give what is fitted on all images as a baseline"
        )
    table = table.assign(shots=shots)
    twice = table[table.duplicated([by, "shots", "metric"])]
    if len(twice):
        raise DataError(
            f"{twice[by].iloc[0]} has several rows for {twice['metric'].iloc[0]} at "
            f"{twice['shots'].iloc[0]:g} shots; filter the table until {by}, shots and metric tell rows apart"
        )
    return table


def _curve(ax: Axes, rows: pd.DataFrame, i: int, *, dodge: float, name: str) -> None:
    rows = rows.sort_values("shots")
    colour, x = COLOURS[i % len(COLOURS)], rows["shots"] * 10**dodge
    ax.fill_between(rows["shots"], rows["ci_low"], rows["ci_high"], color=colour, alpha=0.15, linewidth=0)
    if "spread_low" in rows:
        ax.vlines(x, rows["spread_low"], rows["spread_high"], color=colour, linewidth=0.9, alpha=0.8)
    style = {"linestyle": LINES[i % len(LINES)], "marker": MARKERS[i % len(MARKERS)], "markersize": 5}
    ax.plot(x, rows["value"], color=colour, linewidth=1.8, label=name, **style)


def _baselines(ax: Axes, metric: str, baselines: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Draw those in or near the panel; return what to write about the others."""
    low, high = ax.get_ylim()
    reach, far = (high - low) / 3, []
    for i, (name, values) in enumerate(baselines.items()):
        if metric not in values:
            continue
        if low - reach <= values[metric] <= high + reach:
            ax.axhline(values[metric], color=GREY, linestyle=LINES[1 + i % 3], linewidth=1.3, label=name)
        else:
            far.append(f"({name}: {values[metric]:.2f})")
    return far


def _name(metric: str) -> str:
    return TITLES.get(metric, metric.replace("_", " "))


def draw_distribution(
    values: Mapping[str, Sequence[float]],
    *,
    metric: str = "accuracy",
    published: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Every draw of each method as a dot, with the median and the best draw marked.

    The best draw is what a careless paper would report; the median is what a reader will get.

    Args:
        values: for each method one number a draw.
        published: for each claim its number, a vertical line.

    Raises:
        DataError: no method, or a method without finite numbers.
    """
    if not values:
        raise DataError("draw_distribution needs at least one method")
    fig = figure(8.0, 1.6 + 0.75 * len(values))
    ax = fig.subplots()
    for row, (name, of_draws) in enumerate(values.items()):
        v = np.sort(np.asarray(of_draws, dtype=float))
        if len(v) == 0 or not np.isfinite(v).all():
            raise DataError(f"{name} has {len(v)} draws, {np.isfinite(v).sum()} of them finite; leave it out")
        height, median = row + _stacked(v), float(np.median(v))
        ax.scatter(v, height, s=14, color=COLOURS[0], alpha=0.55, linewidths=0)
        ax.vlines(median, row - 0.36, row + 0.36, color="black", linewidth=2.2)
        ax.annotate(f"{median:.3f}", (median, row - 0.38), ha="center", va="bottom", fontsize=9)
        ax.scatter(v[-1:], height[-1:], s=130, marker="*", color=COLOURS[3], edgecolors="white", zorder=3)
        beside = {"xytext": (8, 0), "textcoords": "offset points"}
        ax.annotate(f"{v[-1]:.3f}", (v[-1], height[-1]), va="center", color=COLOURS[3], fontsize=9, **beside)
    for i, (claim, number) in enumerate((published or {}).items()):
        name = f"{claim}, {number:.3f}"
        ax.axvline(number, color=GREY, linestyle=LINES[1 + i % 3], linewidth=1.3, label=name)
    ax.scatter([], [], s=14, color=COLOURS[0], label="one draw")
    ax.vlines([], [], [], color="black", linewidth=2.2, label="median")
    ax.scatter([], [], s=130, marker="*", color=COLOURS[3], edgecolors="white", label="best draw")
    ax.set_yticks(range(len(values)), list(values))
    ax.invert_yaxis()
    ax.margins(x=0.08)
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    tidy(ax, title=title, x=_name(metric))
    return fig


def _stacked(v: np.ndarray) -> np.ndarray:
    """Heights of sorted values about 0: those that share one of 50 narrow bins are stacked."""
    bins = ((v - v[0]) / max(v[-1] - v[0], 1e-12) * 50).astype(int)
    counts = np.bincount(bins)
    place = np.arange(len(v)) - (np.cumsum(counts) - counts)[bins]
    return (place - (counts[bins] - 1) / 2) * min(0.09, 0.6 / counts.max())
