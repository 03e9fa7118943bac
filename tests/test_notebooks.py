"""The committed notebooks keep the rules, their exercises can be solved, and their parameters are read."""

import copy
import io
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import notebook_rules as rules
import pytest
import toy_notebooks as toys
from ledgers import differences

from xraykit import mistake_sizes, notebook_parameters, paths, results, runner

NOTEBOOKS = sorted(paths.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
SOLUTIONS = paths.notebooks_dir() / "solutions"
MISTAKES = Path(__file__).parent / "mistakes.csv"
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def execute(path: Path, folder: Path, *, inplace: bool = False, **parameters: str) -> runner.Result:
    planned = runner.plan([path.name[:2]], notebooks_dir=path.parent, parameters=parameters)
    stream = io.StringIO()
    result = runner.run(planned, output_dir=folder, jobs=1, inplace=inplace, stream=stream)[0]
    assert result.status == "ok", stream.getvalue()
    return result


def solutions_of(path: Path) -> Path:
    return SOLUTIONS / f"{path.name[:2]}_solutions.ipynb"


def test_there_are_notebooks_and_the_runner_knows_them_all() -> None:
    assert NOTEBOOKS
    assert sorted(runner.DEPENDS) == [path.name[:2] for path in NOTEBOOKS]
    assert all(needed < number for number, needs in runner.DEPENDS.items() for needed in needs)


@each_notebook
def test_rules(path: Path) -> None:
    assert rules.broken(path, solutions_of(path)) == []


@each_notebook
def test_the_committed_numbers_come_out_again_and_the_exercises_check_their_answers(
    path: Path, tmp_path: Path
) -> None:
    """One execution for both: solutions accepted, wrong answers rejected, the ledger as committed."""
    nb = nbformat.read(path, as_version=4)
    nb = rules.answered(nb, nbformat.read(solutions_of(path), as_version=4))
    nbformat.write(nb, tmp_path / path.name)
    figures = tmp_path / "figures"
    result = execute(tmp_path / path.name, tmp_path / "runs", figures_dir=str(figures))
    done = nbformat.read(result.output, as_version=4)
    for k in rules.EXERCISES:
        assert rules.UNANSWERED not in "".join(rules.texts(rules.tagged(done, f"check-{k}")[0]))
    committed = paths.project_root() / "figures"
    made = sorted(folder for folder in figures.iterdir() if folder.is_dir())
    assert made
    for folder in made:
        assert differences(folder, committed / folder.name, path.name[:2]) == []


@each_notebook
def test_runs_with_smaller_parameters(path: Path, tmp_path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    smaller = {name: str(value) for name, value in nb.metadata["xraykit"].get("smaller", {"seed": 1}).items()}
    figures = tmp_path / "figures"
    result = execute(path, tmp_path / "runs", figures_dir=str(figures), **smaller)
    assert result.peak_mib > 10
    assert result.output.with_suffix(".html").stat().st_size > 1000
    folders = [folder for folder in sorted(figures.iterdir()) if folder.is_dir()]
    assert [p for folder in folders for p in folder.glob(f"{path.name[:2]}_*.png")]
    assert any(path.name[:2] in set(results.load(folder)["notebook"]) for folder in folders)


def test_mistakes_are_each_measured_in_a_cell_or_have_a_reason() -> None:
    rows = mistake_sizes.read(MISTAKES).to_dict("records")
    assert {row["project"] for row in rows} == set("ABCDE")
    available = notebook_parameters.find()
    for row in rows:
        if not row["notebook"]:
            assert row["remark"], row
            continue
        nb = nbformat.read(available[row["notebook"]], as_version=4)
        assert rules.tagged(nb, row["tag"]), row


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conforming toy notebook, executed in place, with its solutions beside it."""
    folder = tmp_path_factory.mktemp("toy")
    nbformat.write(toys.conforming(), folder / "01_toy.ipynb")
    nbformat.write(toys.solutions(), folder / "solutions.ipynb")
    execute(folder / "01_toy.ipynb", folder / "runs", inplace=True)
    return folder / "01_toy.ipynb"


def test_a_toy_keeps_the_rules(toy: Path) -> None:
    assert rules.broken(toy, toy.parent / "solutions.ipynb") == []


def _break_output(nb: nbformat.NotebookNode, **output: object) -> None:
    nb.cells[2].outputs = [nbformat.from_dict({"output_type": "stream", **output})]


BREAKS = {
    "is not a title": lambda nb: nb.cells[0].update(source="Toy"),
    "does not say": lambda nb: nb.cells[0].update(source="# Toy"),
    "cells, not 35": lambda nb: nb.cells.pop(),
    "the median code cell": lambda nb: [
        c.update(source=c.source + "\n1" * 9) for c in nb.cells if c.cell_type == "code"
    ],
    "more than 25": lambda nb: nb.cells[2].update(source=nb.cells[2].source + "\n1" * 25),
    "words of prose": lambda nb: nb.cells[2].update(source="print(" + "1, " * 400 + ")"),
    "exactly one must": lambda nb: nb.cells[1].metadata.update(tags=[]),
    "lacks ['seed']": lambda nb: nb.cells[1].update(source=nb.cells[1].source.replace("seed = 0\n", "")),
    "no later cell reads": lambda nb: nb.cells[1].update(source=nb.cells[1].source + "\nunused = 1"),
    "lacks the default data set": lambda nb: nb.metadata.update(xraykit={"datasets": ["nih"]}),
    "not executed once, in order": lambda nb: nb.cells[2].update(execution_count=7),
    "an error is stored": lambda nb: nb.cells[2].update(
        outputs=[nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    ),
    "a warning is stored": lambda nb: _break_output(nb, name="stderr", text="Warning"),
    "a figure is not shown": lambda nb: nb.cells[2].update(
        outputs=[nbformat.v4.new_output("display_data", {"text/plain": "<Figure size 10x10>"})]
    ),
    "a path of the machine": lambda nb: _break_output(nb, name="stdout", text="at /home/ann/data"),
    "metadata of a run": lambda nb: nb.metadata.update(papermill={}),
    "fewer than 5": lambda nb: nb.cells[4].metadata.update(tags=[]),
    "a checked cell prints nothing": lambda nb: nb.cells[4].update(outputs=[]),
    "no checked cell carries the tag verdict": lambda nb: rules.tagged(nb, "verdict")[0].metadata.update(
        tags=["nbval-check-output"]
    ),
    "not one of each": lambda nb: rules.tagged(nb, "check-2")[0].metadata.update(tags=[]),
    "does not print 'not answered yet'": lambda nb: rules.tagged(nb, "check-1")[0].update(outputs=[]),
    "more than 3 exercises": lambda nb: nb.cells[2].metadata.update(tags=["exercise-4"]),
}


@pytest.mark.parametrize("message", BREAKS)
def test_each_rule_can_fail(message: str, toy: Path, tmp_path: Path) -> None:
    nb = nbformat.read(toy, as_version=4)
    BREAKS[message](nb)
    nbformat.write(nb, tmp_path / toy.name)
    found = rules.broken(tmp_path / toy.name, toy.parent / "solutions.ipynb")
    assert any(message in text for text in found), found


def test_missing_solutions_are_found(toy: Path, tmp_path: Path) -> None:
    assert "none.ipynb is missing" in rules.broken(toy, tmp_path / "none.ipynb")[-1]
    answers = toys.solutions()
    answers.cells.pop()
    assert "wrong-3" in "".join(rules.exercises(nbformat.read(toy, as_version=4), answers))


def test_answered_toy_runs_and_a_lenient_check_is_caught(toy: Path, tmp_path: Path) -> None:
    good = rules.answered(nbformat.read(toy, as_version=4), toys.solutions())
    lenient = copy.deepcopy(nbformat.read(toy, as_version=4))
    rules.tagged(lenient, "check-2")[0].source = "assert answer_2"
    for name, nb in (("01_good", good), ("02_lenient", rules.answered(lenient, toys.solutions()))):
        nbformat.write(nb, tmp_path / f"{name}.ipynb")
    planned = runner.plan(notebooks_dir=tmp_path)
    done = runner.run(planned, output_dir=tmp_path / "runs", stream=io.StringIO())
    assert [result.status for result in done] == ["ok", "failed"]
    assert done[1].error == "RuntimeError: check-2 accepts the wrong answer"


def nbval(path: Path) -> subprocess.CompletedProcess[str]:
    options = ["--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-p", "no:xdist", "-q"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", path.parent, "-c", os.devnull, path],
        capture_output=True, text=True, cwd=path.parent, env=env, check=False,
    )  # fmt: skip


def test_nbval_catches_a_changed_output(toy: Path, tmp_path: Path) -> None:
    same = nbval(toy)
    assert same.returncode == 0, same.stdout
    nb = nbformat.read(toy, as_version=4)
    rules.tagged(nb, "verdict")[0].outputs[0].text = "5\n"  # it prints 4
    nbformat.write(nb, tmp_path / toy.name)
    changed = nbval(tmp_path / toy.name)
    assert changed.returncode == 1
    assert "1 failed" in changed.stdout, changed.stdout
