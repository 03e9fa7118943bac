"""Committed numbers and charts beside a run's own."""

from IPython.display import Image
from matplotlib.figure import Figure

from xraykit import committed, paths
from xraykit.results import Run


def test_own_numbers_replace_the_committed_ones_of_the_same_set(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path / "project")
    for folder, dataset, value in (("project/figures", "kermany", 0.5), ("project/figures", "nih", 0.25)):
        about = {"notebook": "01", "profile": "full", "seed": 0, "figures_dir": tmp_path / folder}
        Run(dataset=dataset, **about).record(task="binary", method="m", metric="auroc", value=value)
    mine = Run(notebook="01", dataset="kermany", profile="quick", seed=0, figures_dir=tmp_path / "mine")
    mine.record(task="binary", method="m", metric="auroc", value=0.75)
    rows = committed.rows(mine)
    assert rows.set_index("data")["value"].to_dict() == {"kermany": 0.75, "nih": 0.25}
    other = Run(notebook="02", dataset="nih", profile="quick", seed=0, figures_dir=tmp_path / "mine")
    assert committed.rows(other).empty


def test_charts_are_shown_or_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    run = Run(notebook="01", dataset="nih", profile="full", seed=0, figures_dir=tmp_path / "figures")
    run.save_figure(Figure(figsize=(1, 1)), "01_bars")
    shown = committed.charts(["nih/01_bars", "nih/01_none"])
    assert isinstance(shown[0], Image)
    assert shown[1] == "nih/01_none: not made yet"


def test_a_run_without_the_numbers_of_others_reads_the_committed_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path / "project")
    about = {"dataset": "nih", "profile": "quick", "seed": 0, "figures_dir": tmp_path / "mine"}
    run = Run(notebook="09", **about)
    assert committed.ledger(run, notebooks=["04"]) == tmp_path / "project" / "figures" / "nih"
    Run(notebook="04", **about).record(task="binary", method="m", metric="auroc", value=0.75)
    assert committed.ledger(run, notebooks=["04"]) == run.folder
    assert committed.ledger(run, notebooks=["04", "05"]) == tmp_path / "project" / "figures" / "nih"
