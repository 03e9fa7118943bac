"""Figures of decisions: which classes are confused, where the threshold lies, which combination does best."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from xraykit.errors import DataError
from xraykit.plots.shots import LINES
from xraykit.plots.style import COLOURS, figure, tidy

COLUMN_LETTERS = 16  # of a heat map's column; longer names go on below


def confusions(
    matrices: Mapping[str, np.ndarray], classes: Sequence[str], *, columns: int = 3, title: str = ""
) -> Figure:
    """Confusion matrices side by side: row the true class, column the predicted one.

    Args:
        matrices: for each title counts (K, K), whole or median over draws.
        classes: the K names.

    Raises:
        DataError: no matrix, or one that is not (K, K).
    """
    k = len(classes)
    wrong = {name: np.shape(m) for name, m in matrices.items() if np.shape(m) != (k, k)}
    if wrong or not matrices:
        raise DataError(f"confusions needs ({k}, {k}) for classes {list(classes)}; got {wrong or 'none'}")
    rows, columns = -(-len(matrices) // columns), min(columns, len(matrices))
    fig = figure((1.3 + 0.75 * k) * columns + 0.8, (1.0 + 0.75 * k) * rows + 0.3)
    axes = fig.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for ax in axes[len(matrices) :]:
        ax.set_axis_off()
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=False):
        counts = np.asarray(matrix, dtype=float)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
        cells = zip(counts.ravel(), share.ravel(), strict=True)
        text = np.reshape([f"{n:,.1f}".removesuffix(".0") + f"\n{s:.0%}" for n, s in cells], (k, k))
        look = {
            "vmin": 0,
            "vmax": 1,
            "cmap": "Blues",
            "square": True,
            "cbar": False,
            "annot_kws": {"fontsize": 11},
        }
        sns.heatmap(pd.DataFrame(share, classes, classes), annot=text, fmt="", ax=ax, **look)
        ax.tick_params(axis="both", rotation=0, length=0)
        first = ax.get_subplotspec().is_first_col()
        tidy(ax, title=name, x="predicted", y="true" if first else "")
    fig.suptitle(title, fontsize=12)
    return fig


def score_histograms(
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]],
    classes: Sequence[str],
    *,
    thresholds: Mapping[str, float] | None = None,
    bins: int = 40,
    x: str = "score",
    title: str = "",
) -> Figure:
    """Density of the scores of each class, one panel a group over one axis: a shift of the threshold is seen.

    Densities have area 1, so that a class's share does not show.

    Args:
        groups: for each title, such as "development" and "test", class codes (N,) and scores (N,).
        classes: the names of the codes.
        thresholds: for each name where the line between the classes is drawn, in all panels.

    Raises:
        DataError: no group, lengths that differ, or scores that are not finite.
    """
    pairs = {name: (np.asarray(y), np.asarray(s, dtype=float)) for name, (y, s) in groups.items()}
    bad = [n for n, (y, s) in pairs.items() if y.shape != s.shape or s.ndim != 1 or not np.isfinite(s).all()]
    if bad or not pairs:
        raise DataError(
            f"groups {bad or 'none'}: give class codes (N,) and finite scores (N,) for each group"
        )
    fig = figure(7.5, 1.9 * len(pairs) + 1.0)
    axes = fig.subplots(len(pairs), 1, sharex=True, squeeze=False)[:, 0]
    edges = np.histogram_bin_edges(np.concatenate([s for _, s in pairs.values()]), bins)
    for ax, (name, (y, scores)) in zip(axes, pairs.items(), strict=True):
        for c, label in enumerate(classes):
            look = {"color": COLOURS[c % len(COLOURS)], "density": True, "label": label}
            if (y == c).any():
                ax.hist(scores[y == c], edges, histtype="stepfilled", alpha=0.35, **look)
        for i, (which, value) in enumerate((thresholds or {}).items()):
            ax.axvline(value, color="black", linestyle=LINES[i % len(LINES)], linewidth=1.5, label=which)
        tidy(ax, title=name, y="density")
        ax.set_yticks(())
    axes[-1].set_xlabel(x)
    handles = {n: h for ax in axes for h, n in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)
    fig.suptitle(title, fontsize=12)
    return fig


def heatmap(
    table: pd.DataFrame, *, text: pd.DataFrame | None = None, label: str = "", title: str = ""
) -> Figure:
    """Coloured table of scores, such as classifiers x features.

    Args:
        table: numbers.
        text: what to write into each cell instead of three decimals, in the shape of `table`.
        label: what the colours show.

    Raises:
        DataError: an empty table, or text of another shape.
    """
    written = table.map(lambda v: f"{v:.3f}") if text is None else text
    if written.shape != table.shape or table.empty:
        raise DataError(f"heatmap needs a table and text of its shape; got {table.shape} and {written.shape}")
    fig = figure(2.6 + 1.25 * table.shape[1], 1.4 + 0.42 * table.shape[0])
    ax = fig.subplots()
    sns.heatmap(table, annot=written.to_numpy(), fmt="", cmap="viridis", cbar_kws={"label": label}, ax=ax)
    ax.tick_params(axis="both", rotation=0, length=0)
    if any(len(str(column)) > COLUMN_LETTERS for column in table.columns):
        ax.set_xticklabels([fill(str(column), COLUMN_LETTERS) for column in table.columns])
    tidy(ax, title=title)
    return fig
