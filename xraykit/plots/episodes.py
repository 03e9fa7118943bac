"""Figures of episodes: the images of one, scores by inner steps and shots, differences and their luck."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xraykit.datasets import XrayDataset
from xraykit.episodes import WITHOUT, Episode
from xraykit.errors import DataError
from xraykit.intervals import Interval
from xraykit.plots.shots import LINES, MARKERS
from xraykit.plots.style import COLOURS, GREY, figure, tidy
from xraykit.results import PICTURES

PARTS = (("support:", "the labelled images"), ("queries:", "to be answered"))
GAP = 0.3  # of an image's width, between the two parts
TINTS = COLOURS[:6] + COLOURS[7:8] + COLOURS[9:]  # pink and yellow are too pale for a thin line
DODGE, SPAN = 0.06, 0.6  # of the room between two numbers of shots: between two methods, and of all at most
BINS = 40


def episode_picture(ds: XrayDataset, episode: Episode, *, n_queries: int = 5) -> Figure:
    """The images of one episode, a row a class: left its support, right some queries, above patient ids.

    Args:
        ds: the set that the episode was drawn from.
        episode: N classes with k support images each, all shown; ``episode.at`` takes fewer.
        n_queries: of each class, from the first on; all of them where there are fewer.

    Raises:
        DataError: fewer than one query, or an episode of a larger set.
    """
    last = max(episode.support.max(), episode.query.max())
    if n_queries < 1 or last >= len(ds):
        raise DataError(
            f"n_queries = {n_queries}, and the episode has image {last} of {ds.name} with {len(ds)} images; "
            "show at least 1 query of an episode, with the set it was drawn from"
        )
    parts = episode.support, episode.query[:, :n_queries]
    rows, columns = len(episode.classes), [part.shape[1] for part in parts]
    fig = figure(1.25 * (sum(columns) + GAP) + 1.3, 1.44 * rows + 0.45)
    fig.set_label(PICTURES)
    grid = fig.add_gridspec(rows, sum(columns) + 1, width_ratios=[1] * columns[0] + [GAP] + [1] * columns[1])
    between = "\n" if min(columns) < 2 else " "
    for part, words, left in zip(parts, PARTS, (0, columns[0] + 1), strict=True):
        for c, name in enumerate(episode.classes):
            axes = [fig.add_subplot(grid[c, left + j]) for j in range(part.shape[1])]
            _xrays(axes, ds, part[c])
            if c == 0:
                axes[0].set_title(between.join(words), fontsize=10, loc="left")
            if left == 0:
                said = name.replace(WITHOUT, WITHOUT.strip() + "\n", 1) if name.startswith(WITHOUT) else name
                axes[0].set_ylabel(said, fontsize=9, rotation=0, ha="right", va="center")
    return fig


def _xrays(axes: Sequence[Axes], ds: XrayDataset, positions: np.ndarray) -> None:
    """Each image (H, W), 0 black to 255 white, over the id of its patient."""
    for ax, i in zip(axes, positions, strict=True):
        ax.imshow(ds.images[i], cmap="gray", vmin=0, vmax=255)
        ax.set(xticks=(), yticks=())
        ax.set_xlabel(fill(ds.patients[i], 18), fontsize=7)


def step_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    chance: float = 0.5,
    trained_steps: int | None = None,
) -> Figure:
    """AUROC after each inner step of each method, with its interval as a band.

    Args:
        curves: by method the mean, low and high end of AUROC in 0..1 after 0..S steps, (S+1,) each; S of 1 or
            more may differ between methods.
        chance: AUROC of a guess, dashed.
        trained_steps: inner steps of meta-training, a thin vertical line; None for no line.

    Raises:
        DataError: no curves, arrays of different lengths or not finite, or trained_steps below 0.
    """
    if not curves or (trained_steps is not None and trained_steps < 0):
        raise DataError(f"{len(curves)} curves, trained_steps = {trained_steps}; give a curve and 0 or more")
    fig = figure(7.8, 4.2)
    ax = fig.subplots()
    for i, (name, parts) in enumerate(curves.items()):
        mean, low, high = _checked(name, parts)
        look = _look(i)
        ax.fill_between(range(len(mean)), low, high, color=look["color"], alpha=0.15, linewidth=0)
        ax.plot(range(len(mean)), mean, label=name, **look)
    ax.axhline(chance, color=GREY, linestyle="--", linewidth=1.2, label="chance")
    if trained_steps is not None:
        said = f"meta-training: {trained_steps} steps"
        ax.axvline(trained_steps, color=GREY, linewidth=0.9, zorder=0, label=said)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(alpha=0.3)
    tidy(ax, x="inner steps on the support images", y="AUROC")
    fig.legend(loc="outside right upper", frameon=False, fontsize=9, handlelength=3.2)
    fig.supxlabel("line: mean over episodes, band: 95% interval", fontsize=9)
    return fig


def _checked(name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Mean, low and high as one array (3, S+1)."""
    shapes = [np.shape(part) for part in parts]
    if len(shapes) != 3 or len(set(shapes)) > 1 or len(shapes[0]) != 1 or shapes[0][0] < 2:
        raise DataError(f"{name}: shapes {shapes}; give mean, low and high after 0 to S steps, S > 0")
    values = np.array(parts, float)
    if not np.isfinite(values).all():
        raise DataError(f"{name}: {(~np.isfinite(values)).sum()} values are not finite; leave the method out")
    return values


def _look(i: int) -> dict:
    """Line and marks of method i, different for 16 of them without colour: the second eight are hollow."""
    turn = i // len(MARKERS)
    hollow = {"markerfacecolor": "white"} if turn % 2 else {}
    return {
        "color": TINTS[i % len(TINTS)],
        "linestyle": LINES[(i + turn) % len(LINES)],
        "marker": MARKERS[(i + turn) % len(MARKERS)],
        **{"markersize": 5.5, "linewidth": 1.5, **hollow},
    }


def episode_shots(scores: Mapping[tuple[str, int], Interval], *, metric: str = "AUROC") -> Figure:
    """Score against the shots, a curve a method with the 95% interval as a bar; up to 12 methods.

    Unlike `shots.shot_curves` without bands, which hide each other, and without the spread of episodes,
    beside which no difference between methods could be seen.

    Args:
        scores: by method and support images a class; a method may lack some shots. Methods keep their
            colours in the order given, the legend is by the score at a method's most shots, best first.

    Raises:
        DataError: no scores, shots that are no positive numbers, or a score that is not finite.
    """
    for (method, k), score in scores.items():
        if not (isinstance(k, int | float | np.integer) and k > 0 and np.isfinite(score.value)):
            raise DataError(f"{method} at {k!r} shots: {score}; a curve needs numbers of shots and a score")
    if not scores:
        raise DataError("episode_shots needs at least one score; got none")
    methods, shots = list(dict.fromkeys(m for m, _ in scores)), sorted({k for _, k in scores})
    fig = figure(3.6 + 1.75 * len(shots), 5.0)
    ax = fig.subplots()
    ends, dodge = [], min(DODGE, SPAN / len(methods))
    for i, method in enumerate(methods):
        where = [at for at, k in enumerate(shots) if (method, k) in scores]
        found = [scores[method, shots[at]] for at in where]
        x, look = np.array(where) + dodge * (i - (len(methods) - 1) / 2), _look(i)
        ax.vlines(x, [s.ci_low for s in found], [s.ci_high for s in found], color=look["color"])
        ends.append((found[-1].value, *ax.plot(x, [s.value for s in found], label=method, **look)))
    ax.set_xticks(range(len(shots)), [f"{k:g}" for k in shots])
    ax.set_xlim(-0.5, len(shots) - 0.5)
    for border in np.arange(len(shots) - 1) + 0.5:
        ax.axvline(border, color=GREY, linewidth=0.6, alpha=0.4, zorder=0)
    if metric == "AUROC":
        ax.axhline(0.5, color=GREY, linestyle="--", linewidth=1, zorder=0)
    ax.grid(axis="y", alpha=0.3)
    tidy(ax, x="labelled images a class (bars: 95% interval, dashed: a guess)", y=metric)
    lines = [line for _, line in sorted(ends, key=lambda end: end[0], reverse=True)]
    looks = {"frameon": False, "fontsize": 9, "title_fontsize": 9, "alignment": "left", "handlelength": 3.2}
    fig.legend(handles=lines, loc="outside right upper", title="best first", **looks)
    return fig


def difference_forest(
    differences: Mapping[str, Interval], *, unit: str = "AUROC", planned: int = 0
) -> Figure:
    """Each difference with its 95% interval; filled where that excludes 0, hollow where it does not.

    Each interval is for one difference by itself: among twenty, one may exclude 0 by chance.

    Args:
        differences: by name, such as ``"MAML minus kNN"``, the difference in `unit`, from top to bottom.
        planned: so many of the first were planned beforehand; a line below them, the others in grey.

    Raises:
        DataError: no differences, or one that is not finite.
    """
    wrong = {n: str(d) for n, d in differences.items() if not np.isfinite(d.value + d.ci_low + d.ci_high)}
    if wrong or not differences:
        raise DataError(f"{len(differences)} differences, not finite: {wrong}; give one with its interval")
    names = [fill(name, 46) for name in differences]
    lines = 1 + max(name.count("\n") for name in names)
    fig = figure(8.6, 1.4 + (0.1 + 0.16 * lines) * len(names))
    ax = fig.subplots()
    ax.axvline(0, color="black", linewidth=1)
    for row, d in enumerate(differences.values()):
        clear = d.ci_low > 0 or d.ci_high < 0
        colour = COLOURS[0] if clear and (row < planned or not planned) else GREY
        ax.hlines(row, d.ci_low, d.ci_high, color=colour, linewidth=1.8)
        face = {"facecolors": colour if clear else "white", "edgecolors": colour}
        ax.scatter([d.value], [row], s=46, linewidths=1.6, zorder=3, **face)
        said = f"{d.value:+z.3f} [{d.ci_low:+z.3f}, {d.ci_high:+z.3f}]"
        ax.text(1.03, row, said, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.set_ylim(len(names) - 0.4, -0.6)
    if 0 < planned < len(names):
        ax.axhline(planned - 0.5, color="black", linewidth=0.8, linestyle=":")
    ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    ax.grid(axis="x", alpha=0.3)
    tidy(ax, x=f"difference in {unit}")
    above = "; planned: above the dotted line" if 0 < planned < len(names) else ""
    fig.supxlabel(f"bar: 95% interval; filled: it excludes 0, hollow: it does not{above}", fontsize=9)
    return fig


def few_tasks(differences: np.ndarray, *, observed: float, n: int = 10) -> Figure:
    """What a paper with few episodes could have reported: the mean difference over n of them, R times.

    Args:
        differences: (R,), each the mean difference between two methods over `n` episodes chosen at random.
        observed: the mean difference over all episodes; of 0 nothing is the opposite.
        n: episodes of a choice.

    Raises:
        DataError: no choices or some that are not finite, an observed difference without a sign, or n < 1.
    """
    d = np.asarray(differences, float)
    if d.ndim != 1 or len(d) == 0 or not np.isfinite(d).all():
        raise DataError(f"differences of shape {d.shape}, {np.isfinite(d).sum()} of them finite; give (R,)")
    if not np.isfinite(observed) or n < 1:
        raise DataError(f"observed = {observed}, n = {n}; give a finite difference, 1 episode or more")
    opposite = np.sign(d) * np.sign(observed) < 0
    width = max(np.ptp([*d, 0.0]), 1e-6) / BINS
    first, last = np.floor(d.min() / width - 1e-6), np.floor(d.max() / width + 1e-6)
    edges = width * np.arange(first, last + 2)  # 0 is among them or beside them all
    fig = figure(8.2, 3.8)
    ax = fig.subplots()
    looks = {"edgecolor": "white", "linewidth": 0.6}
    ax.hist(d[~opposite], edges, color=COLOURS[0], label="same sign as all", **looks)
    ax.hist(d[opposite], edges, color=COLOURS[1], hatch="////", label="opposite sign", **looks)
    ax.axvline(0, color="black", linewidth=1.2, label="no difference")
    ax.axvline(observed, color="black", linestyle="--", linewidth=1.6, label=f"all episodes: {observed:+.3f}")
    share = f"{opposite.mean():.1%} of {len(d)} choices of {n} episodes have the opposite sign"
    tidy(ax, title=share, x=f"mean difference over {n} episodes", y="random choices")
    fig.legend(loc="outside right upper", frameon=False, fontsize=9)
    return fig
