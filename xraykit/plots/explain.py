"""Figures of explanations: X-rays under their heat maps."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xraykit.errors import DataError
from xraykit.plots.style import COLOURS, MASK_COLOUR
from xraykit.results import PICTURES

BAR = "share of the map's largest value"
LEVELS = np.linspace(0, 1, 256)
OPACITY = 0.75  # of the map's largest value; it falls to 0 with the value, so that the X-ray shows
HEAT = ListedColormap(np.c_[colormaps["inferno"](LEVELS)[:, :3], OPACITY * LEVELS], "heat")
MARKER_COLOUR = COLOURS[9]
SIDE, BAR_LENGTH = 1.65, 1.5  # inches, as all below: width of a picture, length of the colour bar
EDGE, NEAR, FAR = 0.06, 0.08, 0.3  # around the figure, between two pictures, between two pairs
LINE, SMALL = 0.165, 0.2  # a line of a title, a short text below a picture
LETTER = 0.085  # the width of one, at most, on average


def overlays(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    columns: int = 3,
    masks: Sequence[np.ndarray] | None = None,
    markers: Sequence[np.ndarray] | None = None,
    bar: str = BAR,
) -> Figure:
    """Pairs of pictures: an X-ray, and beside it the same with its heat map over it, the title above both.

    Args:
        images: M of uint8 (H, W), 0 black to 255 white.
        maps: a float (H, W) for each, 0..1; the lower a value, the more of the X-ray shows.
        titles: one a pair; lines of more than 44 letters go on below.
        columns: pairs a row.
        masks, markers: bool (H, W) for each image, of lesions and side markers; outlined, thinner over maps.
        bar: what the colour bar shows.

    Raises:
        DataError: no images, columns below 1, other than one of each an image, an image that is not uint8
            (H, W), shapes that differ, or a map that is not finite or leaves 0..1.
    """
    outlines = _outlines(masks, markers)
    if columns < 1:
        raise DataError(f"columns = {columns}; give 1 pair a row or more")
    _check(images, {"maps": maps}, about={"titles": titles}, outlines=outlines)
    columns = min(columns, len(images))
    lefts = [EDGE + j * (SIDE + NEAR) + j // 2 * (FAR - NEAR) for j in range(2 * columns)]
    titles, lines = _wrapped(titles, 44)
    fig, axes = _panels(images, lefts, rows=-(-len(images) // columns), outlines=outlines, above=lines)
    for ax in axes.ravel()[2 * len(images) :]:
        ax.remove()
    for i, (left, right) in enumerate(axes.reshape(-1, 2)[: len(images)]):
        _xray(left, images[i], [(bits[i], colour) for bits, colour in outlines.values()])
        _overlay(right, images[i], maps[i], [(bits[i], colour) for bits, colour in outlines.values()])
        left.set_title(titles[i], fontsize=9, loc="left")
    _bar(fig, bar)
    return fig


def overlay_table(
    images: Sequence[np.ndarray],
    columns: Mapping[str, Sequence[np.ndarray]],
    *,
    rows: Sequence[str],
    masks: Sequence[np.ndarray] | None = None,
    markers: Sequence[np.ndarray] | None = None,
    corners: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """A row an image: the X-ray, then the same under each of several heat maps.

    Args:
        images, masks, markers: see `overlays`.
        columns: by title the M maps (H, W), 0..1, of a method, a network or a stage.
        rows: M labels, at the left.
        corners: for some of these titles M texts of at most 24 letters, below the pictures.

    Raises:
        DataError: no columns, texts for a column that is not there, or what `overlays` refuses.
    """
    corners, outlines = corners or {}, _outlines(masks, markers)
    unknown = sorted(set(corners) - set(columns))
    if unknown or not columns:
        raise DataError(f"columns {list(columns)}, corners of {unknown}; give a column, and texts for those")
    texts = {f"corners of {title}": said for title, said in corners.items()}
    _check(images, columns, about={"rows": rows, **texts}, outlines=outlines)
    titles, lines = _wrapped(("input", *columns), 22)
    room = LETTER * max(len(line) for row in rows for line in row.split("\n"))
    lefts = [EDGE + room + NEAR + j * (SIDE + NEAR) for j in range(len(titles))]
    fig, axes = _panels(images, lefts, rows=len(rows), outlines=outlines, top=lines, below=bool(corners))
    for i, label in enumerate(rows):
        _xray(axes[i, 0], images[i], [(bits[i], colour) for bits, colour in outlines.values()])
        axes[i, 0].set_ylabel(label, fontsize=9, rotation=0, ha="right", va="center")
        for ax, (title, maps) in zip(axes[i, 1:], columns.items(), strict=True):
            _overlay(ax, images[i], maps[i], [(bits[i], colour) for bits, colour in outlines.values()])
            ax.set_xlabel(corners[title][i] if title in corners else "", fontsize=8)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=9)
    _bar(fig, BAR)
    return fig


def _outlines(
    masks: Sequence[np.ndarray] | None, markers: Sequence[np.ndarray] | None
) -> dict[str, tuple[Sequence[np.ndarray], str]]:
    """By what is outlined the masks and their colour."""
    every = {"lesion": (masks, MASK_COLOUR), "side marker": (markers, MARKER_COLOUR)}
    return {name: (bits, colour) for name, (bits, colour) in every.items() if bits is not None}


def _check(
    images: Sequence[np.ndarray],
    maps: Mapping[str, Sequence[np.ndarray]],
    *,
    about: Mapping[str, Sequence[str]],
    outlines: Mapping[str, tuple[Sequence[np.ndarray], str]],
) -> None:
    pixels = {**maps, **{name: bits for name, (bits, _) in outlines.items()}}
    lengths = {name: len(of) for name, of in {**pixels, **about}.items() if len(of) != len(images)}
    if len(images) == 0 or lengths:
        raise DataError(f"{len(images)} images, but {lengths or 'one is needed'}; give one of each an image")
    for i, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 2:
            raise DataError(
                f"image {i} is {image.dtype} {image.shape}; give uint8 (H, W), 0 black to 255 white"
            )
        for name, of in pixels.items():
            if np.shape(of[i]) != image.shape:
                raise DataError(
                    f"{name} {i} is {np.shape(of[i])}, its image {image.shape}; resize it to that"
                )
        for name, of in maps.items():
            low, high = np.min(of[i]), np.max(of[i])
            if not (low >= 0 and high <= 1):
                raise DataError(f"{name} {i} has values from {low:g} to {high:g}; give finite ones in 0..1")


def _wrapped(titles: Sequence[str], letters: int) -> tuple[list[str], int]:
    """Titles of lines of at most so many letters, and the largest number of lines."""
    titles = ["\n".join(fill(line, letters) for line in title.split("\n")) for title in titles]
    return titles, 1 + max(title.count("\n") for title in titles)


def _panels(
    images: Sequence[np.ndarray],
    lefts: Sequence[float],
    *,
    rows: int,
    outlines: Mapping[str, tuple[Sequence[np.ndarray], str]],
    top: int = 0,
    above: int = 0,
    below: bool = False,
) -> tuple[Figure, np.ndarray]:
    """A figure with axes (rows, columns), their left borders at `lefts`, and below them what is outlined.

    Placed in inches: a layout engine does not see how little of its room a picture of fixed aspect takes.
    There is room for `top` lines above the first row, `above` lines above each, and short texts `below`.
    """
    tall = SIDE * max(image.shape[0] / image.shape[1] for image in images)
    shown = {name: colour for name, (bits, colour) in outlines.items() if any(np.any(b) for b in bits)}
    first, each = (NEAR + LINE * lines if lines else 0.0 for lines in (top, above))
    step = each + tall + SMALL * below + NEAR
    width, height = lefts[-1] + SIDE + 1.0, EDGE + first + rows * step + FAR * bool(shown)
    fig = Figure(figsize=(width, height))
    fig.set_label(PICTURES)
    axes = np.empty((rows, len(lefts)), object)
    for i, j in np.ndindex(axes.shape):
        bottom = height - EDGE - first - i * step - each - tall
        axes[i, j] = fig.add_axes((lefts[j] / width, bottom / height, SIDE / width, tall / height))
    if shown:
        handles = [Line2D([], [], color=colour, label=name) for name, colour in shown.items()]
        fig.legend(handles=handles, loc="lower left", ncols=2, frameon=False, fontsize=8, borderaxespad=0)
    return fig, axes


def _xray(
    ax: Axes, image: np.ndarray, outlines: Sequence[tuple[np.ndarray, str]] = (), *, width: float = 1.1
) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=(), yticks=())
    ax.spines[:].set_visible(False)
    for bits, colour in outlines:
        if np.any(bits):
            ax.contour(bits, levels=[0.5], colors=[colour], linewidths=width)


def _overlay(
    ax: Axes, image: np.ndarray, heat: np.ndarray, outlines: Sequence[tuple[np.ndarray, str]]
) -> None:
    _xray(ax, image, outlines, width=0.6)
    ax.imshow(heat, cmap=HEAT, vmin=0, vmax=1)
    if not np.any(heat):
        ax.text(0.5, 0.03, "empty map", color="white", fontsize=7, ha="center", transform=ax.transAxes)


def _bar(fig: Figure, label: str) -> None:
    """One colour bar for all pictures, right of the first row, its colours as they are over mid-grey."""
    first, (width, height) = fig.axes[0].get_position(), fig.get_size_inches()
    length = min(BAR_LENGTH / height, first.height)
    place = fig.add_axes((1 - 0.9 / width, first.y1 - length, 0.12 / width, length), facecolor="0.5")
    bar = fig.colorbar(fig.axes[1].images[-1], cax=place, ticks=(0, 0.5, 1))
    bar.ax.tick_params(labelsize=8)
    bar.set_label(fill(label, 24), fontsize=8)
    bar.outline.set_visible(False)
