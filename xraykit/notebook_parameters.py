"""What a notebook declares: its parameters, which of them it reads, and the data sets it runs on.

A notebook's number is the two leading digits of ``NN_name.ipynb``. Its parameters are the assignments in the
one cell tagged ``parameters``; its data sets stand in the metadata: ``{"xraykit": {"datasets": [...]}}``.
"""

import ast
import json
import re
import symtable
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xraykit import paths
from xraykit.errors import RunError


@dataclass(frozen=True)
class Notebook:
    """One notebook as it declares itself, before anything runs.

    Attributes:
        number: its two digits, such as ``"02"``.
        path: the file.
        parameters: name -> default, plain literals, in the order of the parameters cell.
        unread: names in `parameters` that no later cell reads before it is assigned again.
        datasets: data sets it runs on; empty where the metadata name none (then any is tried).
        cells: sources of all cells, in order.
    """

    number: str
    path: Path
    parameters: dict[str, object]
    unread: tuple[str, ...]
    datasets: tuple[str, ...]
    cells: tuple[str, ...]

    @property
    def name(self) -> str:
        """File name without ``.ipynb``."""
        return self.path.stem


def find(folder: str | Path | None = None) -> dict[str, Path]:
    """Number -> path of every ``NN_name.ipynb`` in `folder` (default: the project's notebooks), sorted.

    Raises:
        RunError: there is none, or two share a number.
    """
    folder = Path(folder) if folder else paths.notebooks_dir()
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.ipynb")):
        if not re.match(r"\d\d_", path.name):
            continue
        if path.name[:2] in found:
            raise RunError(f"{path.name} and {found[path.name[:2]].name} share a number; rename one of them")
        found[path.name[:2]] = path
    if not found:
        raise RunError(f"no notebook named NN_name.ipynb in {folder}; run from a checkout of xraykit")
    return found


def select(available: Mapping[str, Path], numbers: Sequence[str]) -> list[str]:
    """The wanted numbers as two digits, sorted and without repeats; all of them where none is given.

    Raises:
        RunError: a number that no notebook has.
    """
    wanted = sorted({number.zfill(2) for number in numbers} or available)
    unknown = [number for number in wanted if number not in available]
    if unknown:
        raise RunError(f"no notebook {', '.join(unknown)}; the notebooks are {', '.join(available)}")
    return wanted


def read(path: Path) -> Notebook:
    """Read and check the declarations of one notebook.

    Raises:
        RunError: the file is no notebook, has not exactly one cell tagged ``parameters``, or that cell holds
            anything but assignments of plain literals.
    """
    try:  # plain JSON, as importing nbformat takes two seconds; it checks the file when the notebook runs
        nb = json.loads(path.read_text(encoding="utf-8"))
        cells = [(cell["cell_type"], cell["metadata"], "".join(cell["source"])) for cell in nb["cells"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read as a notebook: {error}; restore it with git checkout"
        ) from error
    tagged = [i for i, (_, metadata, _) in enumerate(cells) if "parameters" in metadata.get("tags", [])]
    if len(tagged) != 1:
        raise RunError(f"{path.name}: {len(tagged)} cells carry the tag 'parameters'; exactly one must")
    parameters = _literals(cells[tagged[0]][2], path.name)
    later = [source for kind, _, source in cells[tagged[0] + 1 :] if kind == "code"]
    return Notebook(
        number=path.name[:2],
        path=path,
        parameters=parameters,
        unread=tuple(unread(parameters, later, path.name)),
        datasets=tuple(nb["metadata"].get("xraykit", {}).get("datasets", ())),
        cells=tuple(source for _, _, source in cells),
    )


def _literals(source: str, name: str) -> dict[str, object]:
    values: dict[str, object] = {}
    for node in _parse(source, name).body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        try:
            if not isinstance(target, ast.Name):
                raise ValueError(ast.unparse(node))
            values[target.id] = ast.literal_eval(node.value)
        except ValueError:
            raise RunError(
                f"{name}: the parameters cell may hold only NAME = literal, not {ast.unparse(node)!r}; "
                "move it to the next cell"
            ) from None
    return values


def _parse(source: str, name: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise RunError(f"{name}: cell is not valid Python ({error.msg}): {error.text!r}") from error


def unread(names: Iterable[str], sources: Sequence[str], name: str = "notebook") -> list[str]:
    """Which `names` no cell of `sources` reads, or that a cell assigns before the first one that reads it.

    Scopes are resolved, so that the argument ``seed`` of a function does not count as reading the parameter.
    IPython magics are understood; the body of a cell magic counts as code.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    transform = TransformerManager().transform_cell
    waiting, missed = list(names), []
    for source in sources:
        body = re.sub(r"\A\s*%%[^\n]*", "", source)
        reads, writes = _globals(transform(body), name)
        missed += [n for n in waiting if n in writes and n not in reads]
        waiting = [n for n in waiting if n not in reads and n not in writes]
    return sorted(waiting + missed)


class _OwnNames(ast.NodeTransformer):
    """Renames what a comprehension binds: from Python 3.12 on its names count to the scope around it."""

    def _visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        first = node.generators[0]
        outer, first.iter = first.iter, ast.Constant(None)  # evaluated outside
        targets = [n for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)]
        own = {n.id: f"_{n.id}_of_comprehension" for n in targets}
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                inner.id = own.get(inner.id, inner.id)
        first.iter = outer
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit


def _globals(source: str, name: str) -> tuple[set[str], set[str]]:
    """Global names that `source` reads, and those it assigns at its top level."""
    tree = _OwnNames().visit(_parse(source, name))
    top = symtable.symtable(ast.unparse(tree), name, "exec")
    # seed += 1 reads seed, but the symbol table only calls it assigned
    reads = {n.target.id for n in ast.walk(tree) if isinstance(n, ast.AugAssign) and hasattr(n.target, "id")}
    tables = [top]
    while tables:
        table = tables.pop()
        reads |= {
            s.get_name() for s in table.get_symbols() if s.is_referenced() and (table is top or s.is_global())
        }
        tables += table.get_children()
    return reads, {s.get_name() for s in top.get_symbols() if s.is_assigned()}


def bind(notebook: Notebook, given: Mapping[str, str]) -> dict[str, object]:
    """The texts `given` as values of the types that `notebook` declares.

    Each text is read as a Python literal, and as itself where it is none or the parameter is a string.

    Raises:
        RunError: an undeclared name, a parameter that no later cell reads, a value of another type.
    """
    if notebook.unread:
        raise RunError(
            f"{notebook.name} declares {', '.join(notebook.unread)} in its parameters cell, but no later "
            "cell reads it; use it or take it out"
        )
    unknown = [name for name in given if name not in notebook.parameters]
    if unknown:
        raise RunError(
            f"{notebook.name} has no parameter {', '.join(unknown)}; it has {', '.join(notebook.parameters)}"
        )
    return {name: _value(text, notebook, name) for name, text in given.items()}


def _value(text: str, notebook: Notebook, name: str) -> object:
    default = notebook.parameters[name]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, str) and not isinstance(value, str):
        return text
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise RunError(
            f"{notebook.name}: {name}={text} must be {type(default).__name__}, such as {name}={default!r}, "
            f"not {type(value).__name__}"
        )
    return value


def parse_assignments(texts: Sequence[str]) -> dict[str, str]:
    """``["seed=1", "name=x"]`` as a dict; raises RunError on anything else, or on a name given twice."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise RunError(f"-p takes NAME=VALUE, such as -p seed=1; got {text!r}")
        if name in values:
            raise RunError(f"-p {name} is given twice, as {values[name]!r} and {value!r}; keep one")
        values[name] = value
    return values
