"""The size of each published mistake, from ledgers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xraykit import mistake_sizes, paths
from xraykit.committed import SHOWN
from xraykit.errors import DataError
from xraykit.intervals import Interval
from xraykit.results import Run

ROOT = paths.project_root()


def ledger(folder: Path) -> Path:
    """A folder with five numbers of notebook 04 and two of 05."""
    run = Run(notebook="04", dataset="toy", profile="quick", seed=0, figures_dir=folder)
    for shots, best, median in ((10, 0.9, 0.75), (50, 0.95, 0.85)):
        about = {"task": "binary", "method": "SVC", "backbone": "net", "shots": shots}
        run.record(metric="f1 of the best draw on test", value=best, **about)
        run.record(metric="f1", value=Interval(median, median - 0.1, median + 0.1), split="test", **about)
    gap = Interval(0.04, 0.01, 0.07)
    run.record(metric="macro_f1 difference", value=gap, task="binary", method="tuned minus right", shots=10)
    run = Run(notebook="05", dataset="toy", profile="quick", seed=0, figures_dir=folder)
    for way, value in {"honest": 0.5, "as published": 0.625}.items():
        run.record(metric="auroc", value=value, task="3-class", method=f"swapped, {way}", split="development")
    return run.folder


def table(**columns: str) -> pd.DataFrame:
    """One mistake, `read`'s columns."""
    row = (
        dict.fromkeys(mistake_sizes.COLUMNS, "")
        | {"project": "A", "mistake": "m", "notebook": "04"}
        | columns
    )
    return pd.DataFrame([row])


def test_two_methods_are_subtracted_and_shown_both(tmp_path: Path) -> None:
    about = {"published": "swapped, as published", "honest": "swapped, honest"}
    rows = table(notebook="05", task="binary;3-class", metric="auroc", **about)
    found = mistake_sizes.sizes(rows, {"toy": ledger(tmp_path)})
    (row,) = found.to_dict("records")
    assert (row["data"], row["metric"], row["honest"], row["published"]) == ("toy", "auroc", "0.500", "0.625")
    assert row["difference"] == 0.125
    assert np.isnan(row["ci_low"])


def test_a_recorded_difference_keeps_its_interval(tmp_path: Path) -> None:
    rows = table(task="binary", metric="macro_f1 difference", published="tuned minus right")
    (row,) = mistake_sizes.sizes(rows, {"toy": ledger(tmp_path)}).to_dict("records")
    assert (row["metric"], row["honest"], row["published"]) == ("macro_f1", "", "")
    assert [row["difference"], row["ci_low"], row["ci_high"]] == [0.04, 0.01, 0.07]


def test_the_best_draw_is_set_beside_the_median_of_as_many_shots(tmp_path: Path) -> None:
    rows = table(task="binary", metric="f1 of the best draw on test|f1")
    (row,) = mistake_sizes.sizes(rows, {"toy": ledger(tmp_path)}).to_dict("records")
    assert row["difference"] == pytest.approx(0.15)  # of ten shots; of fifty it would be .1
    assert row["honest"] == "0.750 [0.650, 0.850]"


def test_a_number_may_stand_for_the_honest_side(tmp_path: Path) -> None:
    rows = table(notebook="05", task="3-class", metric="auroc", published="swapped, honest", honest="0")
    (row,) = mistake_sizes.sizes(rows, {"toy": ledger(tmp_path)}).to_dict("records")
    assert row["difference"] == 0.5


def test_what_was_not_measured_has_no_row(tmp_path: Path) -> None:
    folder = ledger(tmp_path)
    absent = table(task="binary", metric="auroc", published="nobody")
    one_side = table(
        notebook="05", task="3-class", metric="auroc", published="swapped, honest", honest="nobody"
    )
    for rows in (absent, one_side, table(remark="cannot be shown")):
        assert len(mistake_sizes.sizes(rows, {"toy": folder})) == 0
    rows = table(task="binary", metric="macro_f1 difference", published="tuned minus right", notebook="05")
    assert len(mistake_sizes.sizes(rows, {"toy": folder, "none": tmp_path})) == 0


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mistakes.csv"
    table().drop(columns="tag").to_csv(path, index=False)
    with pytest.raises(DataError, match=r"it must have \['project'"):
        mistake_sizes.read(path)
    table().to_csv(path, index=False)
    with pytest.raises(DataError, match="'m' has no metric; say in its remark why not"):
        mistake_sizes.read(path)


def test_every_mistake_of_the_project_has_a_size_or_a_reason() -> None:
    rows = mistake_sizes.read(ROOT / "tests" / "mistakes.csv")
    found = mistake_sizes.sizes(rows, {name: ROOT / "figures" / name for name in SHOWN})
    measured = rows[rows["metric"] != ""]
    assert set(measured["mistake"]) == set(found["mistake"])
    assert (rows.loc[rows["metric"] == "", "remark"] != "").all()
    assert np.isfinite(found["difference"]).all()
    by = found.set_index(["mistake", "data"])["difference"]
    tuned = by["hyperparameters tuned on the test set", "kermany"]
    assert tuned.round(3) == 0.042  # "tuned on test minus right" of notebook 04
