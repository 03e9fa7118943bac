"""The table of mistakes beside the right way."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from xraykit import intervals, results
from xraykit.errors import DataError
from xraykit.intervals import Interval
from xraykit.mistake_table import MistakeTable
from xraykit.results import Run

BOOT = {"n_boot": 50, "seed": 3}
Y, PATIENTS = np.arange(40) % 2, np.array([f"p{i // 2}" for i in range(40)])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(notebook="05", dataset="synthetic", profile="quick", seed=0, figures_dir=tmp_path)


@pytest.fixture
def table(run: Run) -> MistakeTable:
    return MistakeTable(run, Y, PATIENTS, backbone="cnn-small", boot=BOOT)


def scores(seed: int, *, shift: float) -> np.ndarray:
    """Probabilities (40,), higher by `shift` where the label is 1."""
    return np.random.default_rng(seed).uniform(0, 0.5, 40) + shift * Y


def test_a_note_is_a_row_and_two_lines_of_the_ledger(run: Run, table: MistakeTable) -> None:
    honest, published = Interval(0.5, 0.25, 0.75), Interval(0.875, 0.75, 1.0, n_draws=3, n_test=40)
    table.note("shuffled", "accuracy", honest=honest, published=published, remark="chance")
    assert table.rows == [
        {
            "mistake": "shuffled",
            "metric": "accuracy",
            "honest": "0.500 [0.250, 0.750]",
            "as published": "0.875 [0.750, 1.000]",
            "note": "chance",
        }
    ]
    ledger = results.numbers(run.folder).set_index("method")
    assert sorted(ledger.index) == ["shuffled, as published", "shuffled, honest"]
    assert ledger["value"].to_dict() == {"shuffled, honest": 0.5, "shuffled, as published": 0.875}
    about = {"notebook": "05", "task": "binary", "backbone": "cnn-small", "split": "development"}
    for column, value in (about | {"metric": "accuracy", "target": ""}).items():
        assert set(ledger[column]) == {value}
    last = ledger.loc["shuffled, as published"]
    assert last[["ci_low", "ci_high", "n_draws", "n_test"]].tolist() == [0.75, 1, 3, 40]
    assert table.gained == {}
    assert not (run.folder / "test_log.csv").exists()


def test_against_is_scored_and_compared_in_pairs(run: Run, table: MistakeTable) -> None:
    right = [scores(0, shift=0.1), scores(1, shift=0.1)]
    wrong = [scores(2, shift=0.3), scores(3, shift=0.3)]
    table.against("rotated", wrong, right, remark="worse")
    # Of two seeds the median is the mean.
    honest, published = (float(np.mean([roc_auc_score(Y, p) for p in ps])) for ps in (right, wrong))
    (row,) = table.rows
    assert (row["mistake"], row["metric"], row["note"]) == ("rotated", "auroc", "worse")
    assert row["honest"].startswith(f"{honest:.3f} [")
    assert row["as published"].startswith(f"{published:.3f} [")
    expected = intervals.bootstrap(Y, wrong, PATIENTS, names=["auroc"], **BOOT)["auroc"]
    assert row["as published"] == str(expected)
    gained = table.gained["rotated"]
    assert gained.value == pytest.approx(published - honest, abs=1e-7)
    assert gained.ci_low < gained.value < gained.ci_high
    assert gained == intervals.paired_differences(Y, wrong, right, PATIENTS, names=["auroc"], **BOOT)["auroc"]
    ledger = results.numbers(run.folder).set_index("method")["value"]
    assert ledger["rotated, honest"] == pytest.approx(honest, abs=1e-6)
    assert ledger["rotated, as published"] == pytest.approx(published, abs=1e-6)


def test_another_metric_is_shown_but_auroc_is_compared(table: MistakeTable) -> None:
    right = np.where(Y == 1, 0.9, 0.1)
    table.against("shifted", [right * 0.5], [right], metric="sensitivity", remark="the threshold")
    (row,) = table.rows
    assert row["metric"] == "sensitivity"
    assert row["honest"] == "1.000 [1.000, 1.000]"
    assert row["as published"] == "0.000 [0.000, 0.000]"
    assert table.gained["shifted"].value == 0  # the order is the same


def test_another_task_is_written_to_the_ledger(run: Run) -> None:
    table = MistakeTable(run, Y, PATIENTS, backbone="cnn-small", boot=BOOT, task="localisation")
    table.note("turned", "energy_inside", honest=Interval(0.5, 0, 1), published=Interval(0, 0, 1), remark="")
    ledger = results.numbers(run.folder)
    assert ledger[["task", "method"]].to_numpy().tolist() == [
        ["localisation", "turned, as published"],
        ["localisation", "turned, honest"],
    ]
    unknown = MistakeTable(run, Y, PATIENTS, backbone="", boot=BOOT, task="heat maps")
    with pytest.raises(DataError, match="'heat maps' is not one of"):
        unknown.note("turned", "iou", honest=Interval(0, 0, 1), published=Interval(0, 0, 1), remark="")


def test_the_frame_has_the_mistakes_in_order(table: MistakeTable) -> None:
    for name in ("b", "a"):
        table.note(name, "f1", honest=Interval(1, 1, 1), published=Interval(0, 0, 0), remark="")
    frame = table.frame()
    assert frame.index.tolist() == ["b", "a"]
    assert frame.index.name == "mistake"
    assert list(frame) == ["metric", "honest", "as published", "note"]
    assert isinstance(frame, pd.DataFrame)


def test_what_cannot_be_compared(run: Run, table: MistakeTable) -> None:
    with pytest.raises(DataError, match="equally many draws; got 1 and 2"):
        table.against("uneven", [scores(0, shift=0.1)], [scores(1, shift=0.1)] * 2, remark="")
    nothing = Interval(float("nan"), 0, 1)
    with pytest.raises(DataError, match="only finite numbers are recorded"):
        table.note("lost", "auroc", honest=nothing, published=nothing, remark="")
    with pytest.raises(DataError, match="40 labels but 3 patient ids"):
        MistakeTable(run, Y, PATIENTS[:3], backbone="", boot=BOOT).against(
            "short", [scores(0, shift=0.1)], [scores(1, shift=0.1)], remark=""
        )
    assert results.load(run.folder).empty
