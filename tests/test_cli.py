"""The command line: exit status, messages without a traceback, any working directory, quick help."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import toy_notebooks as toys
from typer.testing import CliRunner

from xraykit import cli, datasets, paths, runner

HEAVY = ("torch", "pandas", "numpy", "matplotlib", "papermill", "nbformat", "xraykit.datasets")


def xraykit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xraykit.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two toy notebooks that this process takes for the checkout."""
    (tmp_path / "notebooks").mkdir()
    toys.write(tmp_path / "notebooks", "01_ok", datasets=["synthetic", "nih"])
    toys.write(tmp_path / "notebooks", "02_fails", "1 / 0")
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    return tmp_path


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = f"import sys, xraykit.cli; print(sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_lists_the_commands(tmp_path: Path) -> None:
    done = xraykit("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("doctor", "run", "pretrain", "embed", "train", "data", "not for clinical use"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "77"], 1, "error: no notebook 77; the notebooks are 01, 02"),
        (["run", "-p", "seed"], 1, "error: -p takes NAME=VALUE"),
        (["run", "--profile", "fast"], 1, "error: no profile 'fast'"),
        (["run", "--jobs", "two"], 2, "--jobs"),
        (["data", "fetch", "mnist"], 1, "error: no data set is called 'mnist'"),
        (["data", "check", "mnist"], 1, "error: no data set is called 'mnist'"),
        (["data", "fetch", "nih", "--archives", "13"], 2, "--archives"),
        (["data", "fetch", "kermany", "--size", "64"], 1, "error: kermany is published at one size"),
        (["train"], 2, "Missing option '--out'"),
        (["distil"], 2, "No such command"),
    ],
)
def test_a_mistake_is_one_message(arguments: list[str], status: int, message: str, tmp_path: Path) -> None:
    done = xraykit(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_run_reports_a_failure_and_its_exit_status(project: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["run", "--figures-dir", "somewhere", "-p", "seed=3"])
    assert result.exit_code == 1
    assert "ZeroDivisionError: division by zero" in result.stderr
    copy = nbformat.read(project / "runs" / "synthetic-quick" / "01_ok.ipynb", as_version=4)
    assert copy.cells[3].outputs[0].text == f"synthetic quick 3  {Path.cwd() / 'somewhere'}\n"


def test_run_without_numbers_says_what_it_leaves_out(project: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli.app, ["run", "--dataset", "nih", "--output-dir", str(tmp_path / "elsewhere")]
    )
    assert result.exit_code == 0, result.stderr
    assert "left out, as they do not run on nih: 02" in result.stderr
    assert (tmp_path / "elsewhere" / "01_ok.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inplace", "-p", "seed=1"], "--inplace runs the declared parameters"),
        (["--inplace", "--dataset", "nih"], "--inplace runs the declared parameters"),
        (["-p", "dataset=nih"], "-p dataset repeats an option; use --dataset"),
        (["-p", "data_dir=x", "--data-dir", "y"], "-p data_dir repeats an option; use --data-dir"),
    ],
)
def test_options_that_contradict(arguments: list[str], message: str, project: Path) -> None:
    result = CliRunner().invoke(cli.app, ["run", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (project / "runs").exists()


def test_an_unreadable_number_of_threads(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYKIT_THREADS", "0")
    with pytest.raises(runner.RunError, match="XRAYKIT_THREADS=0"):
        CliRunner().invoke(cli.app, ["run", "01"], catch_exceptions=False)


def test_data_check_fails_where_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for verdict, status in (("ok", 0), ("note", 0), ("partial", 1), ("differs", 1), ("missing", 1)):
        row = {"item": "train", "found": 1, "published": 2, "verdict": verdict}
        monkeypatch.setattr(datasets, "check", lambda name, row=row, **_: pd.DataFrame([row]))
        result = CliRunner().invoke(cli.app, ["data", "check", "kermany"])
        assert result.exit_code == status
        assert verdict in result.stdout


def test_data_fetch_passes_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    monkeypatch.setattr(datasets, "fetch", lambda name, **options: calls.append((name, options)) or tmp_path)
    arguments = ["data", "fetch", "nih", "--labels-only", "--archives", "2", "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0
    assert calls == [("nih", {"data_dir": tmp_path, "labels_only": True, "archives": 2, "size": None})]
    assert result.stdout == f"nih is in {tmp_path}\n"
