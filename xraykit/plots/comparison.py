"""Figures that put every method, group of patients or mistake on one page, always with intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xraykit.plots.against_labels import need, title_of
from xraykit.plots.shots import MARKERS
from xraykit.plots.style import COLOURS, GREY, figure, tidy

WIDTH = 11.0  # inches, of a notebook's page
ROW = 0.23  # inches, of one line of a forest
SIZE = 8.5  # points, of names beside a forest
FAMILIES = {
    "baseline": ("X", GREY),
    "anomaly detector": ("D", COLOURS[4]),
    "few-shot": ("o", COLOURS[0]),
    "few-shot, other features": ("s", COLOURS[9]),
    "network": ("^", COLOURS[3]),
}
APART = {True: COLOURS[3], False: GREY}  # Holm says so or not
TOLD = "told apart"


def every_method(table: pd.DataFrame, *, metrics: Sequence[str] = ("auroc", "macro_f1")) -> Figure:
    """A forest: a row a method, best first by the first metric; dots with 95% intervals, a panel a metric.

    Args:
        table: of `comparison.lineup`. The best baseline of each metric is a dashed line.
        metrics: of `comparison.METRICS`, from left to right.

    Raises:
        DataError: no rows, or columns that are missing.
    """
    needed = ["name", "family", *(f"{m}_{part}" for m in metrics for part in ("value", "low", "high"))]
    need(table, needed)
    table = table.sort_values(f"{metrics[0]}_value", ascending=False, na_position="last", kind="stable")
    place = np.arange(len(table))
    fig = figure(WIDTH, 1.5 + ROW * len(table))
    axes = fig.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        value, low, high = (table[f"{metric}_{part}"].to_numpy(float) for part in ("value", "low", "high"))
        for family, (marker, colour) in FAMILIES.items():
            of = (table["family"] == family).to_numpy() & ~np.isnan(value)
            ax.hlines(place[of], low[of], high[of], color=colour, linewidth=1.4, alpha=0.7)
            ax.scatter(value[of], place[of], marker=marker, color=colour, s=26, zorder=3)
        floor = np.nanmax(np.where(table["family"] == "baseline", value, np.nan), initial=-np.inf)
        if np.isfinite(floor):
            ax.axvline(floor, color=GREY, linestyle="--", linewidth=1)
        _forest(ax, list(table["name"]), title=title_of(metric))
    handles = [_mark(*FAMILIES[f], f) for f in FAMILIES if f in set(table["family"])]
    handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1, label="best baseline"))
    fig.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
    return fig


def pair_forest(table: pd.DataFrame, *, metric: str = "auroc", title: str = "") -> Figure:
    """A forest of paired differences, largest first; coloured where Holm's correction tells the two apart.

    Args:
        table: rows with ``first, second, difference, ci_low, ci_high, verdict`` (`comparison.pairs`,
            `subgroups.differences`).

    Raises:
        DataError: no rows, or columns that are missing.
    """
    need(table, ["first", "second", "difference", "ci_low", "ci_high", "verdict"])
    table = table.sort_values("difference", ascending=False, kind="stable")
    fig = figure(WIDTH, 1.4 + ROW * len(table))
    ax = fig.subplots()
    for place, row in enumerate(table.to_dict("records")):
        colour = APART[row["verdict"] == TOLD]
        ax.hlines(place, row["ci_low"], row["ci_high"], color=colour, linewidth=1.6)
        filled = colour if row["verdict"] == TOLD else "white"
        ax.scatter(row["difference"], place, s=28, color=filled, edgecolors=colour, zorder=3)
    ax.axvline(0, color="black", linewidth=1)
    second = set(table["second"])
    against = f": each minus {second.pop()}" if len(second) == 1 else ""
    names = table["first"] if against else table["first"] + " minus " + table["second"]
    _forest(ax, list(names), title=title or f"{title_of(metric)}{against}")
    ax.set_xlabel(
        f"difference in {title_of(metric)} on the same images, 95% interval over patients", fontsize=9
    )
    marks = [_mark("o", APART[True], TOLD), _mark("o", APART[False], f"not {TOLD}", hollow=True)]
    fig.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return fig


def group_forest(
    table: pd.DataFrame, *, wanted: dict[str, float] | None = None, same_axis: bool = False, title: str = ""
) -> Figure:
    """Dot and 95% interval of each group, a panel a metric, groups of one attribute in one colour.

    Args:
        table: of `subgroups.by_group`; a group with too few images says so in place of a dot.
        wanted: of some of the metrics what they were meant to be, a dashed line.
        same_axis: whether the panels show the same range, so that widths compare.

    Raises:
        DataError: no rows, or columns that are missing.
    """
    keys, counts = ["attribute", "group"], ["n_images", "n_positive"]
    need(table, [*keys, *counts, "metric", "value", "ci_low", "ci_high", "note"])
    metrics = list(dict.fromkeys(table["metric"]))
    groups = table.drop_duplicates(keys)
    attributes = list(dict.fromkeys(groups["attribute"]))
    place = np.arange(len(groups)) + 0.6 * groups["attribute"].map(attributes.index).to_numpy()
    fig = figure(WIDTH, 1.3 + 0.27 * (place[-1] + 1))
    axes = fig.subplots(1, len(metrics), sharex=same_axis, sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        rows = groups[keys].merge(table[table["metric"] == metric], on=keys, how="left")
        colours = [COLOURS[attributes.index(a) % len(COLOURS)] for a in rows["attribute"]]
        ax.hlines(place, rows["ci_low"], rows["ci_high"], color=colours, linewidth=1.8)
        ax.scatter(rows["value"], place, color=colours, zorder=3)
        for y in place[rows["value"].isna().to_numpy()]:
            ax.text(
                0.02, y, "too few", color=GREY, fontsize=8, va="center", transform=ax.get_yaxis_transform()
            )
        if wanted and metric in wanted:
            ax.axvline(wanted[metric], color=GREY, linestyle="--", linewidth=1)
        said = [
            f"{a}: {g}  ({n - ill:,} + {ill:,} ill)"
            for a, g, n, ill in groups[[*keys, *counts]].itertuples(index=False)
        ]
        _forest(ax, said, title=title_of(metric), place=place)
    dashed = "; dashed: what was wanted" if wanted else ""
    fig.supxlabel(f"dot: value, bar: 95% interval over patients{dashed}", fontsize=8.5)
    fig.suptitle(title, fontsize=12)
    return fig


def mistake_forest(
    table: pd.DataFrame, *, title: str = "how much better each mistake looks than the truth"
) -> Figure:
    """A forest of the size of the lie that each published mistake tells, by project and then by size.

    Args:
        table: of `mistake_sizes.sizes`, of one data set; a difference without interval has NaN there, and one
            that was measured as a difference has no text for its two sides.

    Raises:
        DataError: no rows, or columns that are missing.
    """
    needed = ["mistake", "project", "metric", "honest", "published", "difference", "ci_low", "ci_high"]
    need(table, needed)
    table = table.sort_values(["project", "difference"], ascending=[True, False], kind="stable")
    projects = list(dict.fromkeys(table["project"]))
    fig = figure(WIDTH, 1.5 + 0.25 * len(table))
    ax = fig.subplots()
    for place, row in enumerate(table.to_dict("records")):
        i = projects.index(row["project"])
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        ax.hlines(place, row["ci_low"], row["ci_high"], color=colour, linewidth=1.6)
        ax.scatter(row["difference"], place, color=colour, marker=marker, s=30, zorder=3)
        said = " → ".join(row[side].split(" ")[0] for side in ("honest", "published") if row[side])
        ax.text(1.01, place, said, fontsize=8, va="center", transform=ax.get_yaxis_transform())
    ax.axvline(0, color="black", linewidth=1)
    said = [f"{m}  [{title_of(k)}]" for m, k in zip(table["mistake"], table["metric"], strict=True)]
    _forest(ax, said, title=title)
    ax.text(1.01, 1.0, "honest → as published", fontsize=8, va="bottom", transform=ax.transAxes)
    ax.set_xlabel("as published minus honest, 95% interval over patients where there is one", fontsize=9)
    marks = [_mark(MARKERS[i % len(MARKERS)], COLOURS[i % len(COLOURS)], f"project {p}") for i, p in
             enumerate(projects)]  # fmt: skip
    fig.legend(handles=marks, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
    return fig


def _forest(ax: Axes, names: list[str], *, title: str, place: np.ndarray | None = None) -> None:
    """Names beside the rows, the first above; the same room above, between and below."""
    place = np.arange(len(names)) if place is None else place
    ax.set_yticks(place, names, fontsize=SIZE)
    ax.set_ylim(place[-1] + 0.7, -0.7)
    ax.grid(axis="x", alpha=0.3)
    tidy(ax, title=title)


def _mark(marker: str, colour: str, label: str, *, hollow: bool = False) -> Line2D:
    face = "white" if hollow else colour
    look = {"markerfacecolor": face, "markeredgecolor": colour, "linestyle": "none", "markersize": 6}
    return Line2D([], [], marker=marker, label=label, **look)
