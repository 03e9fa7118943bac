"""xraykit doctor: each check finds what is wrong and says what to do."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import toy_notebooks as toys
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

import xraykit
from xraykit import cli, doctor, paths
from xraykit import doctor_machine as machine
from xraykit.doctor import Finding


def one(findings: object, topic: str) -> Finding:
    return next(f for f in findings if f.topic == topic)


def test_this_machine_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.write(tmp_path, "01_toy")
    monkeypatch.setattr(paths, "notebooks_dir", lambda: tmp_path)
    findings = doctor.examine(data_dir=tmp_path / "data", figures_dir=tmp_path / "figures")
    assert [f for f in findings if f.status == "problem"] == []
    topics = {f.topic for f in findings}
    assert topics >= {"python", "packages", "device", "threads", "cpu", "memory", "data folder", "kermany"}
    assert one(findings, "kernel").text.startswith("starts with")
    assert not (tmp_path / "data").exists()


def test_an_old_python() -> None:
    found = machine.check_python((3, 10))
    assert (found.status, found.todo) == (
        "problem",
        "install Python 3.11 or newer and make a new environment",
    )
    assert machine.check_python().status == "ok"


def test_missing_and_unfit_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numpy": "1.26", "pandas": "3.0"}
    wanted = [
        "numpy>=2.0",
        "pandas>=2.2",
        "papermill>=2.6",
        "streamlit>=1; extra == 'app'",
        "foo; python_version<'3'",
    ]
    monkeypatch.setattr(machine.importlib.metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(machine, "_installed", versions.get)
    found = list(machine.check_packages())
    assert [f.status for f in found] == ["problem", "problem", "ok"]
    assert found[0].text == "numpy 1.26 is installed; >=2.0 is needed"
    assert found[0].todo == "pip install 'numpy>=2.0'"
    assert found[1].text == "papermill is missing"
    assert found[2].text == "1 requirements of xraykit are met"


def test_a_package_that_is_not_installed() -> None:
    found = list(machine.check_packages("no-such-distribution"))
    assert [(f.status, f.todo) for f in found] == [("problem", "pip install -e .")]


def test_what_the_package_imports_is_declared() -> None:
    root = Path(machine.__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["app"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    imported = set()
    for file in (root / "xraykit").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    owners = machine.importlib.metadata.packages_distributions()
    for module in sorted(imported - sys.stdlib_module_names - {"xraykit"}):
        assert declared & {canonicalize_name(name) for name in owners[module]}, module


def test_drift_from_the_tested_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("# tested\nnumpy==2.1\ntorch==2.8.0\nabsent==1\n")
    monkeypatch.setattr(machine, "_installed", {"numpy": "2.1", "torch": "2.8.0+cpu"}.get)
    assert next(machine.check_constraints(path)).status == "ok"
    monkeypatch.setattr(machine, "_installed", {"numpy": "2.2", "torch": "2.8.0"}.get)
    found = next(machine.check_constraints(path))
    assert (found.status, found.text) == ("note", "1 packages differ: numpy 2.2 (tested: 2.1)")
    assert next(machine.check_constraints(tmp_path / "none.txt")).status == "note"


def test_threads_that_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = machine.check_threads()
    assert found.status == "note"
    assert "OMP_NUM_THREADS=1" in found.text
    monkeypatch.setenv("XRAYKIT_THREADS", "none")
    assert machine.check_threads().status == "problem"


def test_cpu_flags(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: Big CPU\nflags\t\t: fpu avx2 amx_bf16 avx512f_not\n")
    assert machine.check_cpu(tmp_path / "cpuinfo").text == "Big CPU: avx2, amx_bf16"
    assert machine.check_cpu(tmp_path / "none").status == "ok"


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = list(doctor.check_folders(tmp_path / "file" / "data", tmp_path / "figures"))
    assert [f.status for f in found] == ["problem", "ok"]
    assert "--data-dir or XRAYKIT_DATA_DIR" in found[0].todo


def test_data_sets_that_are_there_absent_or_misnamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KERMANY", "NIH", "FOLDER"):
        monkeypatch.delenv(f"XRAYKIT_{name}_DIR", raising=False)
    (tmp_path / "kermany" / "train" / "NORMAL").mkdir(parents=True)
    monkeypatch.setenv("XRAYKIT_CHESTMNIST_DIR", str(tmp_path / "typo"))
    found = list(doctor.check_data(tmp_path))
    assert one(found, "synthetic").status == "ok"
    assert one(found, "kermany") == Finding("ok", "kermany", str(tmp_path / "kermany"))
    assert one(found, "nih").status == "note"
    assert "xraykit data fetch nih" in one(found, "nih").todo
    assert one(found, "chestmnist").status == "problem"
    assert "correct XRAYKIT_CHESTMNIST_DIR" in one(found, "chestmnist").todo


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    ("name", "wrong", "right", "lacks"),
    [
        ("kermany", ["thesis.tex"], ["chest_xray/test/NORMAL/a.jpeg"], "no train|val|test/NORMAL|PNEUMONIA"),
        ("nih", ["thesis.tex"], ["Data_Entry_2017.csv", "images/a.png"], "no Data_Entry_2017*.csv[.gz]"),
        ("nih", ["Data_Entry_2017.csv"], ["images_001/images/a.png"], "no image below images*/"),
        ("chestmnist", ["pneumoniamnist.npz"], ["chestmnist_64.npz"], "no chestmnist_224.npz"),
        ("folder", ["one/a.png"], ["two/b.png"], "two classes or more are needed; found one"),
    ],
)
def test_a_folder_that_holds_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wrong: list, right: list, lacks: str
) -> None:
    variable, root = f"XRAYKIT_{name.upper()}_DIR", tmp_path / name
    for file in wrong:
        put(root / file)
    monkeypatch.setenv(variable, str(root))
    found = one(doctor.check_data(), name)
    assert (found.status, found.todo) == ("problem", f"correct {variable} or unset it")
    assert found.text.startswith(f"{variable}={root}: ")
    assert lacks in found.text
    assert wrong[0].split("/")[0] in found.text
    monkeypatch.delenv(variable)
    found = one(doctor.check_data(tmp_path), name)
    assert found.status == "note"
    assert lacks in found.text
    for file in right:
        put(root / file)
    assert one(doctor.check_data(tmp_path), name) == Finding("ok", name, str(root))


def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XRAYKIT_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("XRAYKIT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    put(tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    found = list(doctor.check_weights())
    assert one(found, "phantom").status == "ok"
    assert re.fullmatch(r"\d+ features of \d+ pixels, weights [0-9a-f]{8}", one(found, "phantom").text)
    weights = one(found, "weights")
    assert (weights.status, weights.text.split(": ")[0]) == ("ok", str(tmp_path / "data" / "weights"))
    assert "no files (optional; XRAYKIT_WEIGHTS_DIR" in weights.text
    assert one(found, "imagenet").text.startswith(f"1 of torchvision's files in {tmp_path / 'torch'}")
    monkeypatch.setenv("XRAYKIT_WEIGHTS_DIR", str(tmp_path))
    put(tmp_path / "mine.safetensors")
    put(tmp_path / "notes.txt")
    assert one(doctor.check_weights(), "weights").text == f"{tmp_path}: mine.safetensors"
    monkeypatch.setenv("XRAYKIT_WEIGHTS_DIR", str(tmp_path / "none"))
    weights = one(doctor.check_weights(), "weights")
    assert (weights.status, weights.todo) == ("problem", "correct it or unset it")


def test_a_packaged_phantom_that_is_missing_or_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xraykit.backbones import own

    monkeypatch.setattr(own, "PHANTOM", tmp_path / "phantom.safetensors")
    for text in ("is missing, the installation is not complete", "is no complete safetensors file"):
        found = one(doctor.check_weights(), "phantom")
        assert (found.status, found.todo) == ("problem", "install xraykit again: pip install -e .")
        assert text in found.text
        (tmp_path / "phantom.safetensors").write_bytes(b"cut off")


def test_torch_and_torchvision_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "xraykit.backbones", raising=False)
    monkeypatch.delattr(xraykit, "backbones", raising=False)
    monkeypatch.setitem(sys.modules, "xraykit.backbones", None)
    found = list(doctor.check_weights())
    assert [f.status for f in found] == ["problem"]
    assert "torch or torchvision cannot be imported" in found[0].text
    assert "pytorch.org/get-started" in found[0].todo


def test_no_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "notebooks_dir", lambda: tmp_path)
    assert doctor.check_notebooks().status == "problem"


def test_a_kernel_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    assert doctor.check_kernel().status == "problem"


def test_table_and_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = [Finding("ok", "cpu", "fast"), Finding("note", "kermany", "not here", "fetch it\nor set it")]
    for findings, status in ((fine, 0), ([*fine, Finding("problem", "kernel", "dead", "reinstall")], 1)):
        monkeypatch.setattr(doctor, "examine", lambda found=findings, **_: found)
        result = CliRunner().invoke(cli.app, ["doctor"])
        assert result.exit_code == status
        assert "note     kermany  not here\n" in result.stdout
        assert "                  -> fetch it\n                  -> or set it\n" in result.stdout
        assert result.stdout.rstrip().endswith("1 problem" if status else "no problems")
