"""The committed figures and numbers hang together: manifest, ledgers, README."""

import json
import re
from pathlib import Path

import pytest
from ledgers import differences

from xraykit import paths, results
from xraykit.intervals import Interval

FIGURES = paths.project_root() / "figures"
FOLDERS = sorted(p for p in FIGURES.iterdir() if p.is_dir())
each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)


def test_synthetic_and_real_results_are_committed():
    assert {"synthetic", "synthetic-nih", "synthetic-nih-full", "kermany", "nih"} <= {p.name for p in FOLDERS}


@each_folder
def test_every_figure_has_its_line_in_the_manifest(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(p.stem for p in folder.glob("*.png")) == sorted(manifest)
    for name, entry in manifest.items():
        assert entry["dataset"] == folder.name.removesuffix("-full")
        assert name.startswith(f"{entry['notebook']}_")
        assert entry["profile"] == ("quick" if folder.name in ("synthetic", "synthetic-nih") else "full")


@each_folder
def test_no_picture_of_a_downloaded_xray_is_committed(folder: Path):
    if not folder.name.startswith("synthetic"):
        assert not {"01_samples", "01_preprocessing", "02_samples"} & {p.stem for p in folder.glob("*.png")}


@each_folder
def test_test_scores_have_intervals_and_a_line_in_the_log(folder: Path):
    rows = results.numbers(folder)
    scored = rows[rows["split"] == "test"]
    assert scored[["ci_low", "ci_high"]].notna().all(axis=None)
    log = folder / "test_log.csv"
    if not folder.name.startswith("synthetic"):
        assert len(log.read_text().splitlines()) > scored["task"].nunique()


def only_text(dataset: str, **wanted: str | list[str]) -> str:
    """The value as it is shown of the one row of a ledger whose columns have the `wanted` values."""
    rows = results.numbers(FIGURES / dataset)
    for column, value in ({"target": "", "setting": "inductive"} | wanted).items():
        rows = rows[rows[column].isin([value] if isinstance(value, str) else value)]
    assert len(rows) == 1, (dataset, wanted)
    return rows["text"].item()


def readme_rows(n_columns: int) -> list[list[str]]:
    """The README's table rows of so many cells that begin with a data set and a notebook."""
    text = (paths.project_root() / "README.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [row for row in rows if len(row) == n_columns and re.fullmatch(r"`[\w-]+`", row[0])]


def test_each_number_in_the_readme_is_a_row_of_a_ledger():
    rows = readme_rows(7)
    assert len(rows) >= 6
    for dataset, notebook, task, method, split, metric, shown in rows:
        about = {"notebook": notebook, "task": task, "method": method, "split": split, "metric": metric}
        if notebook < "05":  # there, methods are repeated on many backbones
            about["backbone"] = ["", "16x16 pixels"]
        assert only_text(dataset.strip("`"), shots="", **about) == shown


def test_each_number_of_episodes_in_the_readme_is_a_row_of_a_ledger():
    rows = readme_rows(8)
    assert len(rows) >= 6
    for dataset, notebook, task, method, shots, split, metric, shown in rows:
        about = {"notebook": notebook, "task": task, "method": method, "split": split, "metric": metric}
        assert only_text(dataset.strip("`"), shots=shots, **about) == shown


def test_each_few_shot_number_in_the_readme_is_a_row_of_a_ledger():
    rows = readme_rows(9)
    assert len(rows) >= 8
    for dataset, task, method, backbone, shots, metric, shown, best, _ in rows:
        about = {"notebook": "04", "task": task, "backbone": backbone, "shots": shots, "metric": metric}
        assert only_text(dataset.strip("`"), method=method, split="test", **about) == shown
        if best:
            about["metric"] = f"{metric} of the best draw on test"
            assert f"{float(only_text(dataset.strip('`'), method=method, **about)):.3f}" == best


def test_what_the_readme_says_of_the_choice_is_in_the_ledger():
    assert "the last of eighteen pairs" in (paths.project_root() / "README.md").read_text()
    rows = results.numbers(FIGURES / "kermany")
    rank = rows[(rows["metric"] == "rank on test") & (rows["task"] == "binary")]
    assert rank["value"].tolist() == [18]


def test_the_readme_is_filled_in_and_its_links_exist():
    text = (paths.project_root() / "README.md").read_text()
    assert not re.findall(r"@[A-Z]+@", text)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert len(links) >= 5
    assert [link for link in links if not (paths.project_root() / link).exists()] == []


def ledger(folder: Path, value: float, **changes: str) -> Path:
    run = results.Run(notebook="01", dataset="d", profile="quick", seed=0, figures_dir=folder)
    about = {"task": "binary", "method": "m", "metric": "auroc", **changes}
    run.record(value=Interval(value, 0.4, 0.6), **about)
    run.record(**{**about, "metric": "count"}, value=100.0)
    return folder / "d"


def test_numbers_of_trained_networks_may_move_as_with_another_seed(tmp_path: Path):
    """By twice the interval's width, here .4, or by a tenth; a count may not move."""

    def trained(name: str, *, score: float, share: float, count: float) -> Path:
        run = results.Run(notebook="08", dataset="d", profile="quick", seed=0, figures_dir=tmp_path / name)
        about = {"task": "binary", "method": "m"}
        run.record(value=Interval(score, 0.4, 0.6), metric="auroc", **about)
        run.record(value=Interval(score, 0.499, 0.501), metric="similarity", **about)
        run.record(value=share, metric="share", **about)
        run.record(value=count, metric="count", **about)
        return tmp_path / name / "d"

    committed = trained("a", score=0.5, share=0.0, count=100.0)
    assert differences(trained("b", score=0.59, share=0.09, count=100.0), committed, "08") == []
    assert len(differences(trained("c", score=0.7, share=0.0, count=100.0), committed, "08")) == 1
    assert len(differences(trained("d", score=0.95, share=0.2, count=101.0), committed, "08")) == 4


def test_ledgers_are_compared_by_a_quarter_of_the_interval(tmp_path: Path):
    committed = ledger(tmp_path / "a", 0.5)
    assert differences(ledger(tmp_path / "b", 0.54), committed, "01") == []
    assert len(differences(ledger(tmp_path / "c", 0.56), committed, "01")) == 1
    assert len(differences(ledger(tmp_path / "d", 0.5, method="other"), committed, "01")) == 4
    run = results.Run(notebook="01", dataset="d", profile="quick", seed=0, figures_dir=tmp_path / "b")
    run.record(task="binary", method="m", metric="count", value=101.0)
    assert "101.0 and 100.0" in differences(tmp_path / "b" / "d", committed, "01")[0]
