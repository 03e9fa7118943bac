"""The figure of the series: what each method scores for its labelled images a class."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xraykit.errors import DataError
from xraykit.plots.scores import TITLES
from xraykit.plots.shots import LINES, MARKERS
from xraykit.plots.style import COLOURS, GREY, figure, tidy

OWN_PLACE = 2.2  # factor between the numbers of labels and the places of 0 and of all
BEYOND = 1.6  # factor from there to the edge
APART = 1.4  # factor between two numbers under the axis
DODGE = 0.05  # of a decade, between two marks at the same place
NETWORK_COLOURS = (COLOURS[4], COLOURS[5], COLOURS[9])
NETWORK_MARKERS = "vPX"
BAND_MARKERS = "o*s^D"
SLASH = (2, 0, -25)  # a stroke through the axis where it is broken


def against_labels(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Each metric against the labelled images a class, with places of their own for no labels and for all.

    Lines are few-shot classifiers (tinted: 95% interval), coloured marks with whiskers are networks, and grey
    lines across what has no such number: their mark stands at 0 or at "all". A grey line far below the rest
    is written above the panel, as it would squeeze the others together.

    Args:
        table: of `comparison.shot_table`, of one metric or of several below each other.

    Raises:
        DataError: no rows, columns that are missing, or a `kind` that is none.
    """
    need(table, ["method", "kind", "shots", "metric", "value", "ci_low", "ci_high"])
    if unknown := set(table["kind"]) - {"line", "point", "band"}:
        raise DataError(
            f"kinds {sorted(unknown)} are none of line, point and band; see comparison.shot_table"
        )
    finite = table["shots"][(table["shots"] > 0) & np.isfinite(table["shots"])]
    first, last = (finite.min(), finite.max()) if len(finite) else (1.0, 1.0)
    none, everything = first / OWN_PLACE, last * OWN_PLACE
    table = table.assign(x=table["shots"].replace({0.0: none, np.inf: everything}))
    ticks = _ticks(table["shots"][table["kind"] == "line"], finite)
    names = {kind: list(dict.fromkeys(of["method"])) for kind, of in table.groupby("kind")}
    metrics = list(dict.fromkeys(table["metric"]))
    fig = figure(11.0, 4.8)
    for ax, metric in zip(fig.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        rows, far = _near(table[table["metric"] == metric])
        _lines(ax, rows[rows["kind"] == "line"], names.get("line", []))
        _marks(ax, rows[rows["kind"] != "line"], names)
        ax.set_xscale("log")
        own = {"0": none, "all": everything}
        own = {name: place for name, place in own.items() if (rows["x"] == place).any()}
        ax.set_xlim(own.get("0", first) / BEYOND, own.get("all", last) * BEYOND)
        ax.set_xticks([*own.values(), *ticks], [*own, *(f"{t:g}" for t in ticks)])
        ax.minorticks_off()
        _breaks(ax, [np.sqrt(place * (first if name == "0" else last)) for name, place in own.items()])
        ax.grid(axis="y", alpha=0.3)
        tidy(ax, title="\n".join([title_of(metric), *far]), x="labelled images a class")
    handles = {n: h for ax in fig.axes for h, n in zip(*ax.get_legend_handles_labels(), strict=True)}
    below = {"loc": "outside lower center", "ncols": 4, "frameon": False, "fontsize": 8.5}
    fig.legend(handles.values(), handles.keys(), handlelength=3.2, **below)
    fig.suptitle(title, fontsize=12)
    return fig


def _ticks(lines: pd.Series, every: pd.Series) -> list[float]:
    """Numbers of labels to write: those of the lines, and others that are not too near to be read."""
    ticks = sorted(set(lines))
    for shots in sorted(set(every) - set(ticks)):
        if all(max(shots / tick, tick / shots) > APART for tick in ticks):
            ticks.append(shots)
    return sorted(ticks)


def _near(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows of one metric without the bands far below the rest, and what to write of those."""
    rest = rows[rows["kind"] != "band"]
    low = rest["ci_low"].fillna(rest["value"]).min()
    reach = (rest["ci_high"].fillna(rest["value"]).max() - low) / 3
    far = (rows["kind"] == "band") & (rows["value"] < low - reach)
    said = [f"({row['method']}: {row['value']:.2f})" for row in rows[far].to_dict("records")]
    return rows[~far], said


def _lines(ax: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    for method, of in rows.groupby("method", sort=False):
        i = names.index(method)
        colour, of = COLOURS[i % len(COLOURS)], of.sort_values("x")
        ax.fill_between(of["x"], of["ci_low"], of["ci_high"], color=colour, alpha=0.1, linewidth=0)
        style = {"linestyle": LINES[i % len(LINES)], "marker": MARKERS[i % len(MARKERS)], "markersize": 5}
        ax.plot(of["x"], of["value"], color=colour, linewidth=1.8, label=method, **style)


def _marks(ax: Axes, rows: pd.DataFrame, names: dict[str, list[str]]) -> None:
    """Marks with whiskers, side by side where several share a place; of a ``band`` a line across as well."""
    for _, here in rows.groupby("x"):
        for j, row in enumerate(here.to_dict("records")):
            i, band = names[row["kind"]].index(row["method"]), row["kind"] == "band"
            markers = BAND_MARKERS if band else NETWORK_MARKERS
            colour = GREY if band else NETWORK_COLOURS[i % len(NETWORK_COLOURS)]
            x = row["x"] * 10 ** (DODGE * (j - (len(here) - 1) / 2))
            ax.vlines(x, row["ci_low"], row["ci_high"], color=colour, linewidth=1.3)
            across = {"linestyle": LINES[i % len(LINES)] if band else "none", "linewidth": 1.1}
            if band:
                ax.axhline(row["value"], color=GREY, alpha=0.7, **across)
            look = {"marker": markers[i % len(markers)], "markersize": 8, "markeredgecolor": "white"}
            ax.plot(x, row["value"], color=colour, label=row["method"], markeredgewidth=0.6, **look, **across)


def _breaks(ax: Axes, places: Sequence[float]) -> None:
    """Where the axis is broken: a dotted line, and two strokes through the axis."""
    for place in places:
        ax.axvline(place, color=GREY, linewidth=0.8, linestyle=(0, (1, 3)))
        for shift in (0.97, 1.03):
            look = {"marker": SLASH, "markersize": 9, "color": "black", "clip_on": False}
            ax.plot(place * shift, 0, transform=ax.get_xaxis_transform(), **look)


def need(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise DataError unless `table` has rows and these columns."""
    missing = [c for c in columns if c not in table]
    if missing or table.empty:
        raise DataError(
            f"{len(table)} rows without the columns {missing}; give at least one row of {columns}"
        )


def title_of(metric: str) -> str:
    """A metric of the ledger as a reader says it."""
    return TITLES.get(metric, metric.replace("_", " "))
