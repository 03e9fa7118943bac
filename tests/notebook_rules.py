"""The rules that every notebook of the series keeps, as functions that return what breaks them."""

import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from xraykit import notebook_parameters, paths
from xraykit.errors import RunError

CELLS = (35, 68)
MEDIAN_LINES, MOST_LINES = 8, 25  # of a code cell, blank lines not counted
PROSE = 1.4  # words of markdown for each word of code, both split at white space: "about one and a half"
CHECKED_CELLS = 5
NEEDED = {"dataset", "profile", "seed", "data_dir", "figures_dir"}
DISCLAIMER = "for teaching and research, not for clinical use"
UNANSWERED = "not answered yet"
EXERCISES = (1, 2, 3)
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt|opt|var|usr)/|\b[A-Z]:\\\\?Users")


def tagged(nb: NotebookNode, tag: str) -> list[NotebookNode]:
    """Cells of `nb` that carry `tag`."""
    return [cell for cell in nb.cells if tag in cell.metadata.get("tags", [])]


def texts(cell: NotebookNode) -> Iterator[str]:
    """Every text among the outputs of a code cell."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.text
        for mime, value in output.get("data", {}).items():
            if mime.startswith("text/") or mime == "image/svg+xml":
                yield value


def form(nb: NotebookNode) -> Iterator[str]:
    """Title, number of cells, length of code cells, prose against code."""
    codes = [cell for cell in nb.cells if cell.cell_type == "code"]
    prose = [cell for cell in nb.cells if cell.cell_type == "markdown"]
    first = nb.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell is not a title"
    if DISCLAIMER not in " ".join(first.source.lower().split()):
        yield f"the first cell does not say {DISCLAIMER!r}"
    if not CELLS[0] <= len(nb.cells) <= CELLS[1]:
        yield f"{len(nb.cells)} cells, not {CELLS[0]} to {CELLS[1]}"
    lines = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in codes]
    if statistics.median(lines) > MEDIAN_LINES:
        yield f"the median code cell has {statistics.median(lines)} lines, more than {MEDIAN_LINES}"
    for cell, n in zip(codes, lines, strict=True):
        if n > MOST_LINES:
            yield f"a code cell has {n} lines, more than {MOST_LINES}: {cell.source.splitlines()[0]!r}"
    words = [sum(len(cell.source.split()) for cell in group) for group in (prose, codes)]
    if words[0] < PROSE * words[1]:
        yield f"{words[0]} words of prose for {words[1]} of code, less than {PROSE} times as many"


def declarations(path: Path) -> Iterator[str]:
    """Parameters: literals, the needed ones among them, each of them read; data sets in the metadata."""
    try:
        notebook = notebook_parameters.read(path)
    except RunError as error:
        yield str(error)
        return
    missing = NEEDED - set(notebook.parameters)
    if missing:
        yield f"the parameters cell lacks {sorted(missing)}"
    if notebook.unread:
        yield f"no later cell reads {list(notebook.unread)}"
    if notebook.parameters.get("dataset") not in notebook.datasets:
        yield f"metadata xraykit.datasets {list(notebook.datasets)} lacks the default data set"


def execution(nb: NotebookNode) -> Iterator[str]:
    """Committed as executed: in order, without errors or warnings, without a trace of the machine."""
    codes = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in codes]
    if counts != list(range(1, len(codes) + 1)):
        yield f"code cells were not executed once, in order: {counts}"
    for cell in codes:
        start = cell.source.splitlines()[0]
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"an error is stored: {output.ename} in {start!r}"
            if output.output_type == "stream" and output.name == "stderr":
                yield f"a warning is stored: {output.text.strip()[:80]!r} in {start!r}"
            if "<Figure" in output.get("data", {}).get("text/plain", "") and "image/png" not in output.data:
                yield f"a figure is not shown: put %matplotlib inline before the imports, in {start!r}"
        for text in texts(cell):
            if MACHINE_PATH.search(text) or str(paths.project_root()) in text:
                yield f"an output holds a path of the machine, in {start!r}"
    if "papermill" in nb.metadata or nb.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "metadata of a run are stored; execute it with make notebooks"


def checked(nb: NotebookNode) -> Iterator[str]:
    """Cells whose output nbval compares, the verdict among them."""
    cells = tagged(nb, "nbval-check-output")
    if len(cells) < CHECKED_CELLS:
        yield f"{len(cells)} cells carry the tag nbval-check-output, fewer than {CHECKED_CELLS}"
    for cell in cells:
        if not any(text.strip() for text in texts(cell)):
            yield f"a checked cell prints nothing: {cell.source.splitlines()[0]!r}"
    if not any("verdict" in cell.metadata["tags"] for cell in cells):
        yield "no checked cell carries the tag verdict"


def exercises(nb: NotebookNode, solutions: NotebookNode) -> Iterator[str]:
    """Three exercises, unanswered, each with a check, a solution and a plausible wrong answer."""
    position = {id(cell): i for i, cell in enumerate(nb.cells)}
    for k in EXERCISES:
        here, check = tagged(nb, f"exercise-{k}"), tagged(nb, f"check-{k}")
        if len(here) != 1 or len(check) != 1:
            yield f"{len(here)} cells exercise-{k} and {len(check)} cells check-{k}, not one of each"
        elif position[id(here[0])] > position[id(check[0])]:
            yield f"check-{k} stands before exercise-{k}"
        elif UNANSWERED not in "".join(texts(check[0])):
            yield f"check-{k} does not print {UNANSWERED!r} as committed"
        for tag in (f"exercise-{k}", f"wrong-{k}"):
            if len(tagged(solutions, tag)) != 1:
                yield f"the solutions have {len(tagged(solutions, tag))} cells {tag}, not one"
    if any(tagged(nb, f"exercise-{k}") for k in range(EXERCISES[-1] + 1, 10)):
        yield f"more than {len(EXERCISES)} exercises"


def broken(path: Path, solutions: Path) -> list[str]:
    """Everything that breaks a rule in the notebook at `path`."""
    nb = nbformat.read(path, as_version=4)
    found = [*form(nb), *declarations(path), *execution(nb), *checked(nb)]
    if not solutions.is_file():
        return [*found, f"{solutions.name} is missing from {solutions.parent.name}/"]
    return [*found, *exercises(nb, nbformat.read(solutions, as_version=4))]


def answered(nb: NotebookNode, solutions: NotebookNode) -> NotebookNode:
    """`nb` with the solutions in its answer cells, and at its end every wrong answer put to its check.

    Executing it fails when a check rejects the solution or accepts the wrong answer.
    """
    answers = {k: tagged(solutions, f"exercise-{k}")[0].source for k in EXERCISES}
    for k in EXERCISES:
        tagged(nb, f"exercise-{k}")[0].source = answers[k]
    for k in EXERCISES:
        check = tagged(nb, f"check-{k}")[0].source
        verdict = (
            f"try:\n    exec({check!r}, globals())\nexcept AssertionError:\n    print('rejected')\n"
            f"else:\n    raise RuntimeError('check-{k} accepts the wrong answer')"
        )
        wrong = tagged(solutions, f"wrong-{k}")[0].source
        nb.cells += [new_code_cell(wrong), new_code_cell(verdict), new_code_cell(answers[k])]
    return nb
