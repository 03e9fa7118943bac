"""The ledger: upsert by key under a lock, atomic files, profiles, provenance."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from matplotlib.figure import Figure

from xraykit import results, storage
from xraykit.errors import DataError, StorageError
from xraykit.intervals import Interval


def run(tmp_path, **kwargs):
    defaults = {"notebook": "02", "dataset": "synthetic", "profile": "quick", "seed": 0}
    return results.Run(**{**defaults, "figures_dir": tmp_path, **kwargs})


def figure(label=""):
    fig = Figure(figsize=(2, 1))
    fig.subplots().plot([1, 2])
    fig.set_label(label)
    return fig


def test_a_row_has_the_contracted_columns_and_is_replaced_by_key(tmp_path):
    ledger = run(tmp_path)
    ledger.record(task="binary", method="logistic", metric="auroc", value=0.25, shots=10)
    value = Interval(0.5, 0.4, 0.6, n_test=7)
    ledger.record(task="binary", method="logistic", metric="auroc", value=value, shots=10, train_seconds=3.0)
    text = (tmp_path / "synthetic" / "results.csv").read_text().splitlines()
    assert text[0] == (
        "notebook,task,target,method,backbone,shots,setting,split,metric,value,ci_low,ci_high,"
        "spread_low,spread_high,n_draws,n_test,train_seconds,seed,profile"
    )
    assert text[1:] == ["02,binary,,logistic,,10,inductive,,auroc,0.5,0.4,0.6,,,1,7,,0,quick"]


def test_quick_leaves_full_rows_and_full_keeps_seconds_to_two_digits(tmp_path):
    for profile, value in (("full", 0.9), ("quick", 0.1)):
        run(tmp_path, dataset="kermany", profile=profile).record(
            task="binary", method="m", metric="auroc", value=value, train_seconds=123.456
        )
    rows = results.numbers(tmp_path / "kermany").set_index("profile")
    assert rows.loc["full", ["value", "train_seconds"]].tolist() == [0.9, 120.0]
    assert rows.loc["quick", ["value", "text"]].tolist() == [0.1, "0.1"]
    assert pd.isna(rows.loc["quick", "train_seconds"])
    assert len(results.numbers(tmp_path / "kermany", profile="full")) == 1


def test_a_full_run_on_synthetic_patients_has_a_folder_of_its_own(tmp_path):
    for profile in ("quick", "full"):
        ledger = run(tmp_path, dataset="synthetic-nih", profile=profile)
        ledger.record(task="data", method="m", metric="count", value=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["synthetic-nih", "synthetic-nih-full"]


def test_rows_are_sorted_with_shots_as_numbers(tmp_path):
    for shots in (100, 5, 10):
        run(tmp_path).record(task="3-class", method="m", metric="auroc", value=0.5, shots=shots)
    assert results.load(tmp_path / "synthetic")["shots"].tolist() == ["5", "10", "100"]


def test_several_metrics_at_once(tmp_path):
    scores = {"auroc": Interval(0.5, 0.4, 0.6), "macro_f1": Interval(0.25, 0.2, 0.3)}
    run(tmp_path).record_scores(scores, task="3-class", method="m", split="test")
    rows = results.numbers(tmp_path / "synthetic").set_index("metric")
    assert rows["value"].to_dict() == {"auroc": 0.5, "macro_f1": 0.25}
    assert rows["text"].to_dict() == {"auroc": "0.500 [0.400, 0.600]", "macro_f1": "0.250 [0.200, 0.300]"}
    assert set(rows["split"]) == {"test"}


def test_many_numbers_in_one_write_are_those_of_one_write_each(tmp_path):
    rows = [
        {"task": "binary", "method": m, "metric": "auroc", "value": v, "shots": 10}
        for m, v in (("b", 0.5), ("a", 0.25), ("b", 0.75))
    ]
    run(tmp_path / "many").record_many(rows)
    one_by_one = run(tmp_path / "one")
    for row in rows:
        one_by_one.record(**row)
    many, one = ((tmp_path / name / "synthetic" / "results.csv").read_text() for name in ("many", "one"))
    assert many == one
    assert many.count("\n") == 3


def test_two_writers_lose_nothing(tmp_path):
    code = (
        "import sys; from xraykit.results import Run\n"
        "r = Run(notebook='02', dataset='synthetic', profile='quick', seed=0, figures_dir=sys.argv[1])\n"
        "for i in range(25): r.record(task='binary', method=f'{sys.argv[2]}{i}', metric='auroc', value=.5)\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [w.wait() for w in workers] == [0, 0]
    assert len(results.load(tmp_path / "synthetic")) == 50


def test_bad_rows_are_refused(tmp_path):
    with pytest.raises(DataError, match="'two-class' is not one of"):
        run(tmp_path).record(task="two-class", method="m", metric="auroc", value=0.5)
    for value in (float("nan"), float("inf")):
        with pytest.raises(DataError, match=f"the value is {value}; only finite"):
            run(tmp_path).record(task="binary", method="m", metric="auroc", value=value)
    with pytest.raises(DataError, match="profile 'quikc' is not one of"):
        run(tmp_path, profile="quikc")
    with pytest.raises(DataError, match="two digits"):
        run(tmp_path, notebook="2")
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="move it away"):
        run(tmp_path).record(task="binary", method="m", metric="auroc", value=0.5)


def test_a_figure_is_reproducible_and_says_what_made_it(tmp_path):
    ledger = run(tmp_path, parameters={"seed": 0, "data_dir": "/private/home", "dataset": "synthetic"})
    first = ledger.save_figure(figure(), "02_bars").read_bytes()
    assert ledger.save_figure(figure(), "02_bars").read_bytes() == first
    entry = json.loads((tmp_path / "synthetic" / "manifest.json").read_text())["02_bars"]
    assert entry["parameters"] == {"seed": 0, "dataset": "synthetic"}
    assert (entry["notebook"], entry["profile"], entry["precision"]) == ("02", "quick", "fp32")
    assert {"python", "numpy", "matplotlib"} <= set(entry["versions"])
    with pytest.raises(DataError, match="must be named '02_…'"):
        ledger.save_figure(figure(), "03_bars")


def test_quick_never_replaces_a_full_figure(tmp_path):
    real = {"dataset": "kermany"}
    path = run(tmp_path, **real, profile="full").save_figure(figure(), "02_bars")
    before = path.read_bytes()
    other = figure()
    other.axes[0].set_title("changed")
    with pytest.warns(UserWarning, match="made by a full run"):
        assert run(tmp_path, **real).save_figure(other, "02_bars") is None
    assert path.read_bytes() == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path, **real, profile="full").save_figure(other, "02_bars")
    assert path.read_bytes() != before


def test_pictures_of_downloaded_xrays_stay_out_of_the_committed_folder(tmp_path):
    kermany = run(tmp_path, dataset="kermany").save_figure(figure(results.PICTURES), "02_grid")
    assert kermany == tmp_path / "kermany" / "pictures" / "02_grid.png"
    assert not (tmp_path / "kermany" / "manifest.json").exists()
    synthetic = run(tmp_path).save_figure(figure(results.PICTURES), "02_grid")
    assert synthetic == tmp_path / "synthetic" / "02_grid.png"


RECORDS = pd.DataFrame({"image_id": ["i1", "i2"], "patient_id": ["p1", "p2"]})


def predictions(score):
    return np.array([[1 - score, score], [0.75, 0.25]])


def test_predictions_are_replaced_by_key(tmp_path):
    ledger = run(tmp_path)
    about = {"classes": ("normal", "viral"), "labels": np.array([1, 0]), "task": "binary"}
    ledger.record_predictions(RECORDS, [predictions(0.5)], method="a", **about)
    ledger.record_predictions(RECORDS, [predictions(0.5)] * 3, method="b", **about)
    ledger.record_predictions(RECORDS, [predictions(0.875)], method="a", **about)
    table = pd.read_parquet(tmp_path / "synthetic" / "predictions.parquet")
    assert tuple(table.columns) == results.PREDICTION_COLUMNS
    assert table.groupby("method").size().to_dict() == {"a": 4, "b": 12}
    row = table.query("method == 'a' and image_id == 'i1'").set_index("class")
    assert row["score"].to_dict() == {"normal": 0.125, "viral": 0.875}
    assert row["label"].to_dict() == {"normal": 0, "viral": 1}
    with pytest.raises(DataError, match=r"must be \(2, 2\); got \[\(2,\)\]"):
        ledger.record_predictions(RECORDS, [np.zeros(2)], method="a", **about)


def test_every_look_at_test_is_appended(tmp_path):
    for accuracy in (0.8, 0.8123456789):
        run(tmp_path).log_test({"method": "m", "k": 10}, {"accuracy": accuracy})
    log = pd.read_csv(tmp_path / "synthetic" / "test_log.csv")
    assert list(log.columns) == ["commit", "notebook", "profile", "configuration", "scores"]
    assert [json.loads(s)["accuracy"] for s in log["scores"]] == [0.8, 0.812346]
    assert json.loads(log["configuration"][0]) == {"k": 10, "method": "m"}


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    storage.write_atomic(path, b"old")

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(StorageError, match=r"No space left on device\); free space"):
        storage.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(StorageError, match="pass another --figures-dir"):
        run(tmp_path / "figures").record(task="binary", method="m", metric="auroc", value=0.5)


def test_a_lock_that_is_never_released_or_never_granted_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "LOCK_SECONDS", 0.2)
    ledger = run(tmp_path)
    ledger.folder.mkdir()
    with (
        FileLock(ledger.folder / ".ledger.lock"),
        pytest.raises(StorageError, match=r"held for 0\.2 s; end the other run"),
    ):
        ledger.record(task="binary", method="m", metric="auroc", value=0.5)

    def refused(self, timeout=None):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", refused)
    with pytest.raises(StorageError, match=r"\(Permission denied\); pass another --figures-dir"):
        ledger.record(task="binary", method="m", metric="auroc", value=0.5)
