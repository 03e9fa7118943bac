"""Small notebooks for the tests of the runner, of nbval and of the rules."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = "dataset = 'synthetic'\nprofile = 'quick'\nseed = 0\ndata_dir = ''\nfigures_dir = ''"
READS = "print(dataset, profile, seed, data_dir, figures_dir)"


def code(source: str, *tags: str) -> NotebookNode:
    """A code cell with these tags."""
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def notebook(
    cells: Sequence[NotebookNode | str],
    *,
    parameters: str = PARAMETERS,
    datasets: Sequence[str] = ("synthetic",),
    smaller: Mapping[str, object] | None = None,
) -> NotebookNode:
    """A title, the parameters cell, and `cells` (a text is a code cell)."""
    nb = new_notebook(
        cells=[
            new_markdown_cell("# Toy\nFor teaching and research, not for clinical use."),
            code(parameters, "parameters"),
            *(code(cell) if isinstance(cell, str) else cell for cell in cells),
        ]
    )
    nb.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb.metadata["xraykit"] = {"datasets": list(datasets), **({"smaller": dict(smaller)} if smaller else {})}
    return nb


def write(folder: Path, name: str, *cells: NotebookNode | str, **options: object) -> Path:
    """Write a notebook of these cells, the parameters read in the first, as ``folder/name.ipynb``."""
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook([READS, *cells], **options), path)
    return path


def conforming() -> NotebookNode:
    """A notebook, not yet executed, that keeps every rule of the series."""
    cells: list[NotebookNode] = [code(READS)]
    for i in range(5):
        tags = ("nbval-check-output", "verdict") if i == 4 else ("nbval-check-output",)
        cells += [new_markdown_cell("One idea in a few words of prose."), code(f"print({i})", *tags)]
    for k in (1, 2, 3):
        check = (
            f"if answer_{k} is None:\n    print('not answered yet')\nelse:\n"
            f"    assert answer_{k} == {k * k}, 'not the square of {k}'\n    print('correct')"
        )
        text = new_markdown_cell(f"Exercise {k}: what is the square of {k}?")
        cells += [text, code(f"answer_{k} = None", f"exercise-{k}"), code(check, f"check-{k}")]
    nb = notebook(cells)
    filler = "A longer paragraph that explains what was just shown, and why it matters to the reader here."
    nb.cells += [new_markdown_cell(filler) for _ in range(35 - len(nb.cells))]
    return nb


def solutions() -> NotebookNode:
    """Solutions and plausible wrong answers for `conforming`."""
    cells = [code(f"answer_{k} = {k}**2", f"exercise-{k}") for k in (1, 2, 3)]
    return new_notebook(cells=cells + [code(f"answer_{k} = {k} + {k} + 1", f"wrong-{k}") for k in (1, 2, 3)])
