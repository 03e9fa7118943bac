"""Figures of training and of searches show the numbers that they were given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from sklearn.metrics import roc_curve

from xraykit import decisions, plots
from xraykit.errors import DataError
from xraykit.plots.style import COLOURS, GREY


def history(n: int = 3, shift: float = 0.0) -> pd.DataFrame:
    epoch = np.arange(n)
    columns = {
        "epoch": epoch,
        "train_loss": 1 / (1 + epoch) + shift,
        "val_loss": 1 / (2 + epoch) + shift,
        "val_auroc": 0.9 + 0.01 * epoch,
    }
    return pd.DataFrame(columns)[::-1]  # the figure sorts by epoch


def lines(ax: Axes, style: str) -> list[list[float]]:
    return [
        list(line.get_ydata()) for line in ax.lines if line.get_linestyle() == style and len(line.get_ydata())
    ]


def stars(ax: Axes) -> list[tuple[float, float, str]]:
    found = [line for line in ax.lines if line.get_marker() == "*" and len(line.get_xdata())]
    return [(*line.get_xydata()[0].tolist(), to_hex(line.get_color())) for line in found]


def legend(fig) -> list[str]:
    return [text.get_text() for text in fig.legends[0].get_texts()]


def test_learning_curves_of_one_history() -> None:
    fig = plots.learning_curves(history(), metrics=["loss", "auroc"], best=1, title="one")
    loss, auroc = fig.axes
    assert lines(loss, "--") == [pytest.approx([1, 1 / 2, 1 / 3])]
    assert lines(loss, "-") == [pytest.approx([1 / 2, 1 / 3, 1 / 4])]
    assert lines(auroc, "--") == []
    assert lines(auroc, "-") == [pytest.approx([0.9, 0.91, 0.92])]
    assert stars(loss) == [(1, pytest.approx(1 / 3), COLOURS[0].lower())]
    assert stars(auroc) == [(1, pytest.approx(0.91), COLOURS[0].lower())]
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["loss", "AUROC"]
    assert legend(fig) == ["training", "validation", "epoch kept"]
    assert fig.get_suptitle() == "one"


def test_learning_curves_tell_runs_apart_by_colour_and_marker() -> None:
    runs = {"seed 0": history(), "seed 1": history(5, 0.1)}
    fig = plots.learning_curves(runs, metrics=["loss"], best={"seed 1": 4})
    ax = fig.axes[0]
    drawn = [line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]
    assert [len(line.get_xdata()) for line in drawn] == [3, 5]
    assert len({line.get_color() for line in drawn}) == len({line.get_marker() for line in drawn}) == 2
    assert stars(ax) == [(4, pytest.approx(1 / 6 + 0.1), COLOURS[1].lower())]
    assert legend(fig) == ["seed 0", "seed 1", "training", "validation", "epoch kept"]
    assert legend(plots.learning_curves(history(), metrics=["auroc"])) == ["validation"]


def test_one_epoch_has_one_whole_tick() -> None:
    ax = plots.learning_curves(history(1), metrics=["loss"]).axes[0]
    low, high = ax.get_xlim()
    assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [0]


def test_learning_curves_refuse_what_has_no_place() -> None:
    with pytest.raises(DataError, match=r"'' of 3 epochs lacks \['accuracy'\]; its columns: \['epoch'"):
        plots.learning_curves(history())
    with pytest.raises(DataError, match="'cut' of 0 epochs"):
        plots.learning_curves({"cut": history(0)}, metrics=["loss"])
    with pytest.raises(DataError, match="lacks epoch"):
        plots.learning_curves(history().drop(columns="epoch"), metrics=["loss"])
    with pytest.raises(DataError, match=r"best epoch 3 of '' is in no history"):
        plots.learning_curves(history(), metrics=["loss"], best=3)
    with pytest.raises(DataError, match=r"best epoch 1 of 'b' is in no history; the names are \['a'\]"):
        plots.learning_curves({"a": history()}, metrics=["loss"], best={"b": 1})
    with pytest.raises(DataError, match=r"got 0 and \['loss'\]"):
        plots.learning_curves({}, metrics=["loss"])
    with pytest.raises(DataError, match=r"got 1 and \[\]"):
        plots.learning_curves(history(), metrics=[])


Y, P = np.array([0, 1, 0, 1]), np.array([0.2, 0.4, 0.6, 0.8])


def test_trade_off_draws_steps_and_marks_the_same_decision_on_both_sides() -> None:
    named = {"default": 0.5, "nothing": 0.9, "on a score": 0.4, "all": 0.0}
    fig = plots.trade_off(decisions.trade_off(Y, P)[::-1], thresholds=named, title="validation")
    left, right = fig.axes
    sensitivity, specificity, precision, *verticals = left.lines
    assert {line.get_drawstyle() for line in (sensitivity, specificity, precision)} == {"steps-pre"}
    assert sensitivity.get_xdata().tolist() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert sensitivity.get_ydata().tolist() == [1, 1, 1, 0.5, 0.5, 0]
    assert specificity.get_ydata().tolist() == [0, 0, 0.5, 0.5, 1, 1]
    np.testing.assert_allclose(precision.get_ydata(), [0.5, 0.5, 2 / 3, 0.5, 1, np.nan])
    assert [line.get_xdata()[0] for line in verticals] == list(named.values())
    _, _, *points = right.lines
    assert [p.get_xydata()[0].tolist() for p in points] == [[0.5, 0.5], [0, 0], [0.5, 1], [1, 1]]
    assert [p.get_marker() for p in points] == [v.get_marker() for v in verticals]
    assert [p.get_color() for p in points] == [v.get_color() for v in verticals]
    assert legend(fig)[:4] == [
        "sensitivity",
        "specificity",
        "precision",
        "default: 0.5\n(sens. 0.500, spec. 0.500)",
    ]


def test_trade_off_draws_the_roc_curve_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    p = np.round(rng.random(200) * 0.5 + 0.3 * y, 2)
    curve = plots.trade_off(decisions.trade_off(y, p), thresholds={}).axes[1].lines[1]
    fpr, tpr, _ = roc_curve(y, p, drop_intermediate=False)
    np.testing.assert_allclose(curve.get_xydata()[1:], np.stack([fpr, tpr], axis=1)[::-1], atol=1e-15)


def test_trade_off_of_scores_beyond_0_and_1() -> None:
    left = plots.trade_off(decisions.trade_off(Y, 10 * P - 5), thresholds={}).axes[0]
    assert left.lines[0].get_xdata().tolist() == [-3, -3, -1, 1, 3, 3]


def test_trade_off_refuses_what_it_cannot_draw() -> None:
    table = decisions.trade_off(Y, P)
    with pytest.raises(DataError, match=r"got 4, without \['precision'\]"):
        plots.trade_off(table.drop(columns="precision"), thresholds={})
    with pytest.raises(DataError, match="got 0"):
        plots.trade_off(table[:0], thresholds={})
    with pytest.raises(DataError, match=r"thresholds {'b': nan} are not finite"):
        plots.trade_off(table, thresholds={"a": 0.5, "b": np.nan})


def trials() -> pd.DataFrame:
    columns = {
        "number": [0, 1, 2, 3, 4, 5],
        "value": [0.7, np.nan, 0.8, 0.99, 0.75, np.nan],
        "params_learning_rate": [1e-4, 1e-3, 1e-2, 2e-3, 5e-4, 3e-4],
        "params_batch_size": [8, 16, 32, 16, 8, 32],
        "params_optimiser": ["SGD", "AdamW", "SGD", "AdamW", "AdamW", "SGD"],
        "state": ["COMPLETE", "FAIL", "COMPLETE", "PRUNED", "COMPLETE", "PRUNED"],
    }
    return pd.DataFrame(columns)[::-1]


PARAMETERS = ["learning_rate", "batch_size", "optimiser"]


def dots(ax: Axes) -> list[list[list[float]]]:
    """Points of complete, pruned and failed trials, each with a value and then without."""
    return [c.get_offsets().tolist() for c in ax.collections if isinstance(c, PathCollection)]


def test_study_draws_every_trial_and_the_best_complete_one_so_far() -> None:
    fig = plots.study(trials(), parameters=PARAMETERS, value="value", title="search")
    ax = fig.axes[0]
    assert ax.lines[0].get_ydata().tolist() == [0.7, 0.7, 0.8, 0.8, 0.8, 0.8]
    assert ax.lines[0].get_drawstyle() == "steps-post"
    by_mark = [[0, 0.7], [2, 0.8], [4, 0.75]], [], [[3, 0.99]], [[5, 0.03]], [], [[1, 0.03]]
    assert dots(ax) == list(by_mark)
    assert stars(ax) == [(2, 0.8, COLOURS[3].lower())]  # .99 was pruned
    assert legend(fig) == ["best so far", "complete", "pruned", "failed", "best"]
    assert len({c.get_paths()[0].vertices.shape for c in ax.collections[::2]}) > 1
    assert to_hex(ax.collections[2].get_edgecolor()[0]) == GREY


def test_study_places_numbers_powers_and_words() -> None:
    fig = plots.study(trials(), parameters=[f"params_{p}" for p in PARAMETERS], value="value")
    _, rate, batch, optimiser = fig.axes
    assert [ax.get_xlabel() for ax in fig.axes[1:]] == ["learning rate", "batch size", "optimiser"]
    assert (rate.get_xscale(), batch.get_xscale()) == ("log", "linear")
    assert dots(rate)[0] == [[1e-4, 0.7], [1e-2, 0.8], [5e-4, 0.75]]
    assert [t.get_text() for t in batch.get_xticklabels()] == ["8", "16", "32"]
    assert dots(batch)[0] == [[0, 0.7], [2, 0.8], [0, 0.75]]
    assert [t.get_text() for t in optimiser.get_xticklabels()] == ["AdamW", "SGD"]
    assert dots(optimiser)[0] == [[1, 0.7], [1, 0.8], [0, 0.75]]
    assert stars(batch) == [(2, 0.8, COLOURS[3].lower())]
    assert {ax.get_ylim() for ax in fig.axes} == {fig.axes[0].get_ylim()}
    zero = trials().replace({"params_learning_rate": {1e-4: 0.0}})
    assert plots.study(zero, parameters=PARAMETERS, value="value").axes[1].get_xscale() == "linear"
    assert (
        plots.study(trials(), parameters=PARAMETERS, value="value", log=()).axes[1].get_xscale() == "linear"
    )


def test_study_minimises_without_states_and_shows_importances() -> None:
    table = trials().drop(columns="state").rename(columns={"value": "loss"})
    shares = {"params_learning_rate": 0.75, "batch_size": 0.25}
    how = {"parameters": ["learning_rate"], "value": "loss", "direction": "minimize"}
    fig = plots.study(table, **how, importances=shares)
    assert fig.axes[0].lines[0].get_ydata().tolist() == [0.7] * 6
    assert stars(fig.axes[0]) == [(0, 0.7, COLOURS[3].lower())]
    assert legend(fig) == ["best so far", "complete", "failed", "best"]
    bars = fig.axes[-1]
    assert [patch.get_width() for patch in bars.patches] == [0.25, 0.75]
    assert [t.get_text() for t in bars.get_yticklabels()] == ["batch size", "learning rate"]
    assert [t.get_text() for t in bars.texts] == ["0.25", "0.75"]


def test_study_of_optuna_itself() -> None:
    optuna = pytest.importorskip("optuna")
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    search = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: "optuna.Trial") -> float:
        rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        if trial.number == 3:
            raise optuna.TrialPruned
        if trial.number == 5:
            raise ValueError
        return -abs(np.log10(rate) + 3)

    search.optimize(objective, n_trials=8, catch=(ValueError,))
    optuna.logging.set_verbosity(before)
    fig = plots.study(search.trials_dataframe(), parameters=["learning_rate"], value="value")
    assert stars(fig.axes[0])[0][:2] == (search.best_trial.number, search.best_value)
    assert stars(fig.axes[1])[0][0] == search.best_params["learning_rate"]
    assert [len(points) for points in dots(fig.axes[0])] == [6, 0, 0, 1, 0, 1]


def test_study_refuses_what_has_no_place() -> None:
    with pytest.raises(DataError, match=r"lack the columns \['width'\]; they have \['number', 'value'"):
        plots.study(trials(), parameters=["width"], value="value")
    with pytest.raises(DataError, match="lack the columns of any parameter"):
        plots.study(trials(), parameters=[], value="value")
    with pytest.raises(DataError, match="direction 'up'; choose maximize or minimize"):
        plots.study(trials(), parameters=PARAMETERS, value="value", direction="up")
    for table in (trials().assign(state="PRUNED"), trials().assign(value=np.inf), trials()[:0]):
        with pytest.raises(DataError, match=rf"none of the {len(table)} trials was completed"):
            plots.study(table, parameters=PARAMETERS, value="value")
