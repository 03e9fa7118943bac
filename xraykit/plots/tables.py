"""Figures of counts: what is in a data set."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from xraykit.plots.style import COLOURS, GREY, figure, tidy


def class_counts(counts: pd.DataFrame) -> Figure:
    """Bars of images per class in each split, beside a pie of the training split.

    Args:
        counts: splits x classes, numbers of images (from `audit.counts`).
    """
    fig = figure(9.5, 3.4)
    left, right = fig.subplots(1, 2, width_ratios=[2.2, 1])
    width = 0.8 / len(counts)
    for i, (split, row) in enumerate(counts.iterrows()):
        place = np.arange(len(row)) + (i - (len(counts) - 1) / 2) * width
        drawn = left.bar(place, row, width, label=str(split), color=COLOURS[i])
        left.bar_label(drawn, fontsize=8)
    left.set_xticks(range(counts.shape[1]), counts.columns)
    left.legend(title="split", frameon=False)
    tidy(left, title="images per class", y="images")
    first = counts.iloc[0]
    right.pie(
        first,
        labels=list(first.index),
        autopct="%.0f%%",
        colors=COLOURS[3:],
        textprops={"fontsize": 9},
    )
    right.set_title(f"shares in {first.name}", fontsize=11)
    return fig


def bars(values: Mapping[str, float] | pd.Series, *, title: str, y: str, horizontal: bool = False) -> Figure:
    """One bar for each name, with its value written on it."""
    series = pd.Series(values)
    fig = (
        figure(7.5, 0.27 * len(series) + 1.2)
        if horizontal
        else figure(max(4.5, 0.6 * len(series) + 1.5), 3.2)
    )
    ax = fig.subplots()
    if horizontal:
        drawn = ax.barh([str(n) for n in series.index], series, color=COLOURS[0])
        ax.invert_yaxis()
        tidy(ax, title=title, x=y)
    else:
        drawn = ax.bar([str(n) for n in series.index], series, color=COLOURS[0])
        tidy(ax, title=title, y=y)
    ax.bar_label(drawn, fmt="{:,.3g}" if series.dtype.kind == "f" else "{:,.0f}", fontsize=8, padding=2)
    return fig


def images_per_patient(tally: pd.Series, *, longest: int = 15) -> Figure:
    """Bars of how many patients (values) have so many images (index); `longest` or more share a bar."""
    shown = tally.groupby(tally.index.where(tally.index < longest, longest)).sum()
    shown = shown.reindex(range(1, shown.index.max() + 1), fill_value=0)
    names = [f"{n}+" if n == longest and tally.index.max() > longest else str(n) for n in shown.index]
    n_images = (tally * tally.index).sum()
    fig = figure(6.0, 3.0)
    ax = fig.subplots()
    ax.bar(names, shown, color=COLOURS[0])
    share = 1 - tally.get(1, 0) / n_images
    title = f"{tally.sum():,} patients, {n_images:,} images; {share:.0%} of images share a patient"
    tidy(ax, title=title, x="images of one patient", y="patients")
    return fig


def cooccurrence(table: pd.DataFrame) -> Figure:
    """Heat map of how often two findings occur together.

    Args:
        table: K x K counts, the diagonal how often each occurs at all (from `audit.cooccurrence`). Colours
            show the share of the row's images that have the column's finding too; numbers are the counts.
    """
    counts = table.to_numpy(float)
    share = counts / np.maximum(np.diag(counts)[:, None], 1)
    fig = figure(0.52 * len(table) + 3.2, 0.42 * len(table) + 2.0)
    ax = fig.subplots()
    sns.heatmap(
        pd.DataFrame(share, table.index, table.columns),
        annot=table.to_numpy(),
        fmt="g",
        annot_kws={"fontsize": 7},
        cmap="viridis",
        vmin=0,
        vmax=1,
        square=True,
        cbar_kws={"label": "share of the row's images", "shrink": 0.7},
        ax=ax,
    )
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    ax.set_title("findings that occur together (counts)", fontsize=11, loc="left")
    return fig


def grey_histograms(histograms: Mapping[str, np.ndarray]) -> Figure:
    """Share of pixels at each grey level (256,) for each named group; pure black and white may be cut off."""
    fig = figure(7.0, 3.0)
    ax = fig.subplots()
    for colour, (name, histogram) in zip(COLOURS, histograms.items(), strict=False):
        ax.plot(np.arange(256), 100 * histogram / histogram.sum(), color=colour, label=name, linewidth=1.4)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.legend(frameon=False)
    inner = max((100 * h[1:-1] / h.sum()).max() for h in histograms.values())
    ax.set(xlim=(0, 255), ylim=(0, 1.25 * inner if inner > 0 else None))
    tidy(ax, title="grey levels", x="grey level (0 black, 255 white)", y="% of pixels")
    return fig
