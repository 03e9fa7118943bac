"""Maps of embeddings: scatter plots in which every class has a colour and a marker of its own."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xraykit.errors import DataError
from xraykit.plots.style import COLOURS, figure

MARKERS = "o^sDvPX*<>p"  # eleven and ten colours: 110 classes until a pair comes back
LAYERS = 8  # points are drawn in so many rounds over the classes, so that the last class covers no other


def maps(
    panels: Mapping[str, np.ndarray],
    labels: np.ndarray | Mapping[str, np.ndarray],
    classes: Sequence[str],
    *,
    quality: Mapping[str, Mapping[str, float]] | None = None,
    columns: int = 3,
    title: str = "",
) -> Figure:
    """Maps side by side, one point an image. Axes have no numbers: only neighbourhoods mean something.

    Args:
        panels: for each title a map, (N, 2).
        labels: class codes (N,) of all panels, or for each title its own.
        classes: the names of the codes.
        quality: for each title (some may be missing) what `projections.quality` says of its map.

    Raises:
        DataError: no panel, a map that is not (N, 2) with one label a row, or codes without a name.
    """
    if not panels:
        raise DataError("maps needs at least one panel")
    rows, columns = -(-len(panels) // columns), min(columns, len(panels))
    fig = figure(3.5 * columns, (3.5 if quality else 3.2) * rows + 0.5)
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, (name, points) in zip(axes, panels.items(), strict=False):
        codes = labels[name] if isinstance(labels, Mapping) else labels
        _scatter(ax, points, codes, classes, dims=2)
        ax.set(xticks=(), yticks=(), aspect="equal", adjustable="datalim")
        ax.set_title(name, fontsize=11, loc="left")
        if quality and name in quality:
            ax.set_xlabel(_summary(quality[name]), fontsize=9, loc="left")
    _legend(fig, axes[0], len(classes))
    fig.suptitle(title, fontsize=12)
    return fig


def map3d(
    points: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    views: Sequence[tuple[float, float]] = ((20, -60), (20, 30)),
    title: str = "",
) -> Figure:
    """One map (N, 3) seen from several sides: `views` are (elevation, azimuth) in degrees."""
    fig = figure(4.4 * len(views), 4.6)
    for i, (elevation, azimuth) in enumerate(views, start=1):
        ax = fig.add_subplot(1, len(views), i, projection="3d")
        _scatter(ax, points, labels, classes, dims=3)
        ax.set(xticklabels=(), yticklabels=(), zticklabels=())
        ax.view_init(elevation, azimuth)
        ax.set_title(f"seen from {azimuth:g}°", fontsize=10)
    _legend(fig, fig.axes[0], len(classes))
    fig.suptitle(title, fontsize=12)
    return fig


def _scatter(ax: Axes, points: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, dims: int) -> None:
    points, labels = np.asarray(points), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != dims or labels.shape != (len(points),) or len(points) == 0:
        raise DataError(f"a map must be (N, {dims}) with N labels; got {points.shape} and {labels.shape}")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(f"labels span {labels.min()} to {labels.max()}, but classes names {len(classes)}")
    size = float(np.clip(9000 / len(points), 6, 40))
    for layer in range(LAYERS):
        for c, name in enumerate(classes):
            ax.scatter(
                *points[labels == c][layer::LAYERS].T,
                s=size,
                color=COLOURS[c % len(COLOURS)],
                marker=MARKERS[c % len(MARKERS)],
                edgecolors="white",
                linewidths=0.3 if size > 8 else 0,
                alpha=0.85,
                snap=False,  # else squares of a few pixels grow to whole ones
                label=name if layer == 0 else None,
            )


def _summary(quality: Mapping[str, float]) -> str:
    return (
        f"trustworthiness {quality['trustworthiness']:.2f}, silhouette {quality['silhouette']:.2f}\n"
        f"purity {quality['purity']:.2f} (features {quality['purity_in_features']:.2f}, "
        f"chance {quality['purity_by_chance']:.2f})"
    )


def _legend(fig: Figure, ax: Axes, n_classes: int) -> None:
    handles, names = ax.get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": min(n_classes, 5)}
    legend = fig.legend(handles, names, frameon=False, fontsize=10, **place)
    for handle in legend.legend_handles:
        handle.set_sizes([45])  # however small the points are
