"""Figures of a search over hyperparameters."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from xraykit.errors import DataError
from xraykit.plots.scores import TITLES
from xraykit.plots.style import COLOURS, GREY, figure, tidy
from xraykit.plots.training import STAR

MARKS = {
    "complete": {"marker": "o", "color": COLOURS[0], "s": 22, "alpha": 0.8, "linewidths": 0},
    "pruned": {"marker": "v", "facecolors": "none", "edgecolors": GREY, "s": 22},
    "failed": {"marker": "x", "color": COLOURS[1], "s": 24},
}


def study(
    trials: pd.DataFrame,
    *,
    parameters: Sequence[str],
    value: str,
    direction: str = "maximize",
    log: Sequence[str] = ("learning_rate", "weight_decay"),
    importances: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """A search over hyperparameters: the best value so far, and the value against each hyperparameter.

    Args:
        trials: one row a trial, as `optuna.Study.trials_dataframe` gives them: ``number``, `value`, the
            `parameters`, with or without ``params_`` in front, and, where not all were completed, ``state``.
            What is neither COMPLETE nor PRUNED, or has no value, has failed. Only a complete one is best.
        parameters: the small panels. Words, and up to six whole numbers, are spaced evenly.
        value: the column of what was optimised; a trial without one is drawn at the bottom.
        direction: ``"maximize"`` or ``"minimize"``.
        log: the parameters with a logarithmic axis, where all values are positive.
        importances: for each parameter its share of what varies in the value, in 0..1; a last panel of bars.

    Raises:
        DataError: a column that is missing, no completed trial, or an unknown direction.
    """
    parameters = [_bare(p) for p in parameters]
    if direction not in ("maximize", "minimize"):
        raise DataError(f"direction {direction!r}; choose maximize or minimize")
    trials = _marked(trials.rename(columns=_bare), parameters, value)
    sign = 1 if direction == "maximize" else -1
    goodness = sign * trials[value].where(trials["mark"] == "complete")
    n_panels = len(parameters) + bool(importances)
    rows, columns = (-(-n_panels // 2), 2) if n_panels > 2 else (n_panels, 1)
    fig = figure(5.4 + 2.8 * columns, max(4.4, 1.0 + 2.2 * rows))
    grid = fig.add_gridspec(rows, 1 + columns, width_ratios=[1.8] + [1] * columns)
    ax = fig.add_subplot(grid[:, 0])
    so_far = sign * goodness.cummax().ffill()
    ax.step(trials["number"], so_far, where="post", color="black", label="best so far")
    _trials(ax, trials["number"], trials, value=value, best=goodness.idxmax())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(ax, x="trial", y=TITLES.get(value, value.replace("_", " ")))
    if trials[value].isna().any():
        ax.margins(y=0.12)  # room for those at the bottom
    cells = [grid[i // columns, 1 + i % columns] for i in range(n_panels)]
    if n_panels % columns:
        cells[-1] = grid[-1, 1:]
    for cell, parameter in zip(cells, parameters, strict=False):
        small = fig.add_subplot(cell, sharey=ax)
        x = _places(small, trials[parameter], log=parameter in log)
        _trials(small, x, trials, value=value, best=goodness.idxmax())
        tidy(small, x=parameter.replace("_", " ")).tick_params(labelleft=cell.colspan.start == 1)
    if importances:
        _importances(fig.add_subplot(cells[-1]), importances)
    fig.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9
    )
    fig.suptitle(title, fontsize=12)
    return fig


def _bare(column: str) -> str:
    return column.removeprefix("params_")


def _marked(trials: pd.DataFrame, parameters: Sequence[str], value: str) -> pd.DataFrame:
    """Trials by number, their value finite or NaN, with a column ``mark``: complete, pruned or failed."""
    lost = [c for c in ("number", value, *parameters) if c not in trials]
    if lost or not parameters:
        raise DataError(f"trials lack the columns {lost or 'of any parameter'}; they have {list(trials)}")
    values = trials[value].astype(float).replace([np.inf, -np.inf], np.nan)
    state = trials["state"] if "state" in trials else pd.Series("COMPLETE", trials.index)
    complete = (state == "COMPLETE") & values.notna()
    if not complete.any():
        raise DataError(f"none of the {len(trials)} trials was completed with a finite {value}; run more")
    mark = np.select([complete, state == "PRUNED"], ["complete", "pruned"], "failed")
    return trials.assign(**{value: values, "mark": mark}).sort_values("number", ignore_index=True)


def _places(ax: Axes, values: pd.Series, *, log: bool) -> pd.Series:
    """Where each value lies on the horizontal axis, which is set up for them."""
    some = values.dropna()
    numbers = is_numeric_dtype(some) and not is_bool_dtype(some)
    if numbers and (some.nunique() > 6 or (some % 1 != 0).any()):
        if log and (some > 0).all():
            _logarithmic(ax, some.min(), some.max())
        return values
    names = sorted(some.unique()) if numbers else sorted(some.unique(), key=str)
    ax.set_xticks(range(len(names)), [f"{n:g}" if numbers else str(n) for n in names])
    ax.set_xlim(-0.5, len(names) - 0.5)
    return values.map({n: i for i, n in enumerate(names)})


def _logarithmic(ax: Axes, low: float, high: float) -> None:
    """A logarithmic axis with three ticks, however little of a decade it spans."""
    ax.set_xscale("log")
    ticks = np.geomspace(low, high, 3) if high > low else [low]
    ax.set_xticks(ticks, [f"{tick:.0e}".replace("e-0", "e-") for tick in ticks])
    ax.minorticks_off()
    beside = max(high / low, 1.1) ** 0.12
    ax.set_xlim(low / beside, high * beside)


def _trials(ax: Axes, x: pd.Series, trials: pd.DataFrame, *, value: str, best: int) -> None:
    for mark, look in MARKS.items():
        mine, valued = trials["mark"] == mark, trials[value].notna()
        if mine.any():
            ax.scatter(x[mine & valued], trials.loc[mine & valued, value], label=mark, zorder=3, **look)
            bottom = np.full((mine & ~valued).sum(), 0.03)
            ax.scatter(x[mine & ~valued], bottom, transform=ax.get_xaxis_transform(), zorder=3, **look)
    ax.plot(x[[best]], trials.loc[[best], value], label="best", color=COLOURS[3], zorder=4, **STAR)
    ax.grid(alpha=0.3)


def _importances(ax: Axes, importances: Mapping[str, float]) -> None:
    named = sorted((share, _bare(name).replace("_", " ")) for name, share in importances.items())
    bars = ax.barh([name for _, name in named], [share for share, _ in named], color=COLOURS[0])
    ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    ax.set_xlim(0, 1.15)
    tidy(ax, x="importance")
