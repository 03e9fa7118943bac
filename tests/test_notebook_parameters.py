"""What notebooks declare, and what may be passed to them."""

from pathlib import Path

import pytest
import toy_notebooks as toys
from hypothesis import given
from hypothesis import strategies as st

from xraykit import notebook_parameters as nbp
from xraykit.errors import RunError

DECLARED = (
    "dataset = 'synthetic'\nseed = 0\nrate = 0.5\nfast = True\nshots = (1, 5)\nlimit = None\nshift = -1"
)
READS_ALL = "print(dataset, seed, rate, fast, shots, limit, shift)"


@pytest.fixture
def notebook(tmp_path: Path) -> nbp.Notebook:
    return nbp.read(toys.write(tmp_path, "01_toy", READS_ALL, parameters=DECLARED))


def test_declarations_are_read(tmp_path: Path) -> None:
    path = toys.write(tmp_path, "07_toy", "print(seed)", datasets=["nih", "kermany"])
    found = nbp.read(path)
    assert (found.number, found.name, found.datasets) == ("07", "07_toy", ("nih", "kermany"))
    assert found.parameters["seed"] == 0
    assert found.unread == ()


def test_values_take_the_declared_type(notebook: nbp.Notebook) -> None:
    given = {"dataset": "5", "seed": "7", "rate": "1", "fast": "False", "shots": "(2,)", "limit": "x"}
    bound = nbp.bind(notebook, given)
    assert bound == {"dataset": "5", "seed": 7, "rate": 1.0, "fast": False, "shots": (2,), "limit": "x"}
    assert type(bound["rate"]) is float


@pytest.mark.parametrize(
    ("name", "text", "declared"),
    [("seed", "1.5", "int"), ("seed", "x", "int"), ("seed", "True", "int"), ("fast", "1", "bool"),
     ("fast", "true", "bool"), ("rate", "fast", "float"), ("rate", "True", "float"),
     ("shots", "[1]", "tuple")],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(
    name: str, text: str, declared: str, notebook: nbp.Notebook
) -> None:
    with pytest.raises(RunError, match=f"01_toy: .*{name}=.* must be {declared}"):
        nbp.bind(notebook, {name: text})


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20))
def test_every_value_survives(seed: int, rate: float, dataset: str) -> None:
    notebook = nbp.Notebook("01", Path("01_x.ipynb"), {"seed": 0, "rate": 0.5}, (), (), ())
    assert nbp.bind(notebook, {"seed": repr(seed), "rate": repr(rate)}) == {"seed": seed, "rate": rate}
    assert nbp.parse_assignments([f"dataset={dataset}"]) == {"dataset": dataset}


def test_an_unknown_parameter_names_the_known_ones(notebook: nbp.Notebook) -> None:
    with pytest.raises(RunError, match="01_toy has no parameter epochs; it has dataset, seed, rate"):
        nbp.bind(notebook, {"epochs": "3"})


def test_a_parameter_that_is_never_read_is_refused(tmp_path: Path) -> None:
    notebook = nbp.read(toys.write(tmp_path, "01_toy", parameters=toys.PARAMETERS + "\nepochs = 3"))
    with pytest.raises(RunError, match=r"declares epochs .* no later cell reads it"):
        nbp.bind(notebook, {})


@pytest.mark.parametrize(
    ("sources", "unread"),
    [
        (["print(a)"], []),
        (["f'{a:.2f}'"], []),
        (["f(b=a)"], []),
        (["f(a=1)"], ["a"]),
        (["x.a"], ["a"]),
        (["'a'"], ["a"]),
        (["def f(a):\n    return a"], ["a"]),
        (["def f():\n    return a"], []),
        (["def f():\n    a = 1\n    return a"], ["a"]),
        (["[a for a in range(3)]"], ["a"]),
        (["[b for b in range(a)]"], []),
        (["[[a for a in b] for b in range(3)]"], ["a"]),
        (["[b for a in range(3) for b in a]"], ["a"]),
        (["{b: a for b in range(3)}"], []),
        (["sum(a for a in a)"], []),
        (["class C:\n    b = a"], []),
        (["a = 2", "print(a)"], ["a"]),
        (["a = a or 2"], []),
        (["a += 1"], []),
        (["%matplotlib inline\nprint(a)"], []),
        (["%%time\nprint(a)"], []),
        (["!ls\nb = %pwd", "a"], []),
        (["# a", ""], ["a"]),
    ],
)
def test_reading_is_found_by_scope(sources: list[str], unread: list[str]) -> None:
    assert nbp.unread(["a"], sources) == unread


@pytest.mark.parametrize(
    "source",
    ["seed = 1 + x", "import os", "a = b = 1", "a, b = 1, 2", "seed = int(1)", "print(1)", "d[0] = 1"],
)
def test_only_plain_literals_are_parameters(source: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="may hold only NAME = literal"):
        nbp.read(toys.write(tmp_path, "01_toy", parameters=source))


def test_broken_notebooks_are_named(tmp_path: Path) -> None:
    for text in ("no notebook", "", "[]", "{}", '{"cells": [{}]}', '{"cells": 1}'):
        (tmp_path / "01_text.ipynb").write_text(text)
        with pytest.raises(RunError, match=r"01_text\.ipynb cannot be read as a notebook"):
            nbp.read(tmp_path / "01_text.ipynb")
    with pytest.raises(RunError, match="not valid Python"):
        nbp.read(toys.write(tmp_path, "02_syntax", "def f(:"))
    two = toys.code("x = 1", "parameters")
    with pytest.raises(RunError, match="2 cells carry the tag 'parameters'"):
        nbp.read(toys.write(tmp_path, "03_two", two))


def test_find_and_select(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no notebook named NN_name\.ipynb"):
        nbp.find(tmp_path)
    for name in ("02_b", "01_a", "notes", "10_c"):
        toys.write(tmp_path, name)
    available = nbp.find(tmp_path)
    assert list(available) == ["01", "02", "10"]
    assert nbp.select(available, []) == ["01", "02", "10"]
    assert nbp.select(available, ["2", "10", "02"]) == ["02", "10"]
    with pytest.raises(RunError, match="no notebook 03, 99; the notebooks are 01, 02, 10"):
        nbp.select(available, ["99", "1", "3"])
    toys.write(tmp_path, "01_again")
    with pytest.raises(RunError, match="share a number"):
        nbp.find(tmp_path)


@pytest.mark.parametrize("text", ["seed", "=1", "two words=1", "1a=2", ""])
def test_assignments_need_a_name_and_a_value(text: str) -> None:
    with pytest.raises(RunError, match="NAME=VALUE"):
        nbp.parse_assignments([text])


def test_an_assignment_may_hold_equals_signs_but_not_repeat() -> None:
    assert nbp.parse_assignments(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(RunError, match="given twice"):
        nbp.parse_assignments(["a=1", "a=2"])
