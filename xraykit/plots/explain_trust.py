"""Figures of how far explanations can be trusted: randomised networks, occluded pixels, moved markers."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xraykit.errors import DataError
from xraykit.intervals import Interval, patient_weights
from xraykit.plots.episodes import TINTS
from xraykit.plots.shots import LINES, MARKERS
from xraykit.plots.style import GREY, figure, tidy

DODGE, SPAN = 0.12, 0.6  # of the room between two labels: between two sets of points, and of all at most
KINDS = ("deletion", "insertion")


def randomisation(curves: Mapping[str, Sequence[tuple[str, Interval]]]) -> Figure:
    """How like the trained network's map those of networks are that know less: randomised or mistaught.

    Args:
        curves: by method the stages, from the trained network on, each with the similarity of the maps
            (a rank correlation, -1..1) and its 95% interval; all methods have the same stages.

    Raises:
        DataError: no curves, no stages, methods of different stages, or a similarity that is not
            finite or leaves -1..1.
    """
    stages = {name: tuple(stage for stage, _ in curve) for name, curve in curves.items()}
    if len(set(stages.values())) != 1 or () in stages.values():
        raise DataError(f"stages by method {stages}; give at least one stage, the same ones for each method")
    (labels,) = set(stages.values())
    _check({f"{name}, {stage}": s for name, curve in curves.items() for stage, s in curve}, low=-1)
    fig = figure(3.6 + 0.75 * len(labels), 4.4)
    ax = fig.subplots()
    ax.axhline(0, color=GREY, linestyle="--", linewidth=1, label="unrelated maps")
    for i, (name, curve) in enumerate(curves.items()):
        x = np.arange(len(labels)) + _dodge(i, len(curves))
        _points(ax, x, [s for _, s in curve], i=i, label=name)
    lowest = min(s.ci_low for curve in curves.values() for _, s in curve)
    ax.set_ylim(min(-0.2, lowest - 0.03), 1.04)
    ax.grid(axis="y", alpha=0.3)
    words = [fill(label, 26) for label in labels]
    ax.set_xticks(range(len(labels)), words, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    x = "network compared with the trained one\n(bars: 95% interval over patients)"
    tidy(ax, x=x, y="rank correlation with the trained map")
    fig.legend(loc="outside right upper", frameon=False, fontsize=9)
    return fig


def occlusion(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    shares: np.ndarray,
    *,
    score: str,
    patients: np.ndarray,
    seed: int,
    n_boot: int = 1000,
) -> Figure:
    """Mean score while the pixels of the map's largest values are replaced, and while they are put back.

    Args:
        curves: by method ``{"deletion": (M, K), "insertion": (M, K)}``: score of each image at each share.
        shares: (K,) of the pixels, rising in 0..1.
        score: what the score is, such as ``"logit of pneumonia"``.
        patients: (M,) ids; the band is the 95% interval of the mean, these resampled.
        seed, n_boot: of the resamplings, the same for all methods, and how many.

    Raises:
        DataError: no curves, shares that do not rise in 0..1, or scores not finite or of another shape.
    """
    if not curves:
        raise DataError("occlusion needs the curves of at least one method; got none")
    percent = 100 * _rising(shares)
    weights = patient_weights(patients, n_boot=n_boot, rng=np.random.default_rng(seed))
    fig = figure(9.6, 3.9)
    axes = fig.subplots(1, 2, sharey=True)
    for i, (name, parts) in enumerate(curves.items()):
        for ax, kind in zip(axes, KINDS, strict=True):
            values = _scores(name, parts, kind, shape=(len(patients), len(percent)))
            low, high = np.percentile(weights @ values / weights.sum(axis=1)[:, None], [2.5, 97.5], axis=0)
            look = {"color": TINTS[i % len(TINTS)], "linestyle": LINES[i % len(LINES)], "linewidth": 1.8}
            ax.fill_between(percent, low, high, color=look["color"], alpha=0.15, linewidth=0)
            ax.plot(percent, values.mean(axis=0), label=name, **look)
            ax.grid(alpha=0.3)
    tidy(axes[0], title="deletion: a good map falls early", x="pixels replaced (%)", y=score)
    tidy(axes[1], title="insertion: a good map rises early", x="pixels put back (%)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    fig.supxlabel("largest values of the map first; line: mean, band: 95% interval", fontsize=9)
    return fig


def shortcut(table: Mapping[tuple[str, str], Interval], *, metric: str = "accuracy") -> Figure:
    """Score of networks where a marker stands as in training, and where it does not.

    Args:
        table: by network and place of the marker the score, 0..1, with its interval; both in this order.
        metric: what the score is, of which a guess gets 0.5.

    Raises:
        DataError: no scores, or one that is not finite or leaves 0..1.
    """
    _check({f"{network}, {place}": score for (network, place), score in table.items()}, low=0)
    networks, places = (list(dict.fromkeys(key[part] for key in table)) for part in (0, 1))
    fig = figure(3.4 + 1.4 * len(places), 3.8)
    ax = fig.subplots()
    ax.axhline(0.5, color=GREY, linestyle="--", linewidth=1, label="a guess")
    for i, network in enumerate(networks):
        where = [at for at, place in enumerate(places) if (network, place) in table]
        x = np.array(where) + _dodge(i, len(networks))
        _points(ax, x, [table[network, places[at]] for at in where], i=i, label=network)
    ax.set(xlim=(-0.5, len(places) - 0.5), ylim=(0, 1.02))
    ax.set_xticks(range(len(places)), [fill(place, 16) for place in places])
    ax.grid(axis="y", alpha=0.3)
    tidy(ax, x="where the marker stands (bars: 95% interval)", y=metric)
    fig.legend(loc="outside right upper", frameon=False, fontsize=9)
    return fig


def _check(scores: Mapping[str, Interval], *, low: float) -> None:
    """Refuse no scores, and those that are not finite or leave low..1 by more than rounding."""
    wrong = {
        name: str(s)
        for name, s in scores.items()
        if not (np.isfinite([s.ci_low, s.ci_high]).all() and low - 1e-6 <= s.value <= 1 + 1e-6)
    }
    if wrong or not scores:
        raise DataError(
            f"{len(scores)} scores, of which {wrong} are not finite or not in {low}..1; leave these out"
        )


def _dodge(i: int, n: int) -> float:
    """How far right of the label the points of set i of n stand."""
    return min(DODGE, SPAN / n) * (i - (n - 1) / 2)


def _points(ax: Axes, x: np.ndarray, scores: Sequence[Interval], *, i: int, label: str) -> None:
    """Points with their intervals as bars."""
    colour = TINTS[i % len(TINTS)]
    ax.vlines(x, [s.ci_low for s in scores], [s.ci_high for s in scores], color=colour, linewidth=1.8)
    look = {"marker": MARKERS[i % len(MARKERS)], "markersize": 6.5, "linestyle": ""}
    ax.plot(x, [s.value for s in scores], color=colour, label=label, **look)


def _rising(shares: np.ndarray) -> np.ndarray:
    shares = np.asarray(shares, float)
    rise = shares.ndim == 1 and len(shares) > 1 and np.all(np.diff(shares) > 0)
    if not rise or shares[0] < 0 or shares[-1] > 1:
        raise DataError(f"shares {shares.tolist()}; give two or more that rise in 0..1")
    return shares


def _scores(name: str, parts: Mapping[str, np.ndarray], kind: str, *, shape: tuple[int, int]) -> np.ndarray:
    values = np.asarray(parts.get(kind, ()), float)
    if values.shape != shape or not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise DataError(
            f"{name}: {kind} has shape {values.shape} and {bad} scores that are not finite; "
            f"give {shape}, a row a patient id and a column a share, all finite"
        )
    return values
