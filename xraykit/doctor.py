"""``xraykit doctor``: what this machine has, what is missing, and what to do about it."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from xraykit import doctor_machine as machine
from xraykit import paths
from xraykit.doctor_machine import Finding
from xraykit.errors import XraykitError

MIN_DISK_GIB = 2
KERNEL_SECONDS = 60


def examine(
    *, data_dir: str | Path | None = None, figures_dir: str | Path | None = None, kernel: bool = True
) -> list[Finding]:
    """Every check, in the order of the report. `kernel` starts a Jupyter kernel, in a second or two."""
    findings = [machine.check_python(), *machine.check_packages(), *machine.check_constraints()]
    findings += [machine.check_device(), machine.check_threads(), machine.check_cpu(), machine.check_memory()]
    findings += [*check_folders(data_dir, figures_dir), *check_data(data_dir), *check_weights()]
    findings.append(check_notebooks())
    return [*findings, check_kernel()] if kernel else findings


def table(findings: list[Finding]) -> str:
    """The findings as aligned text, each thing to do on the line below, and a closing count."""
    width = max(len(f.topic) for f in findings)
    lines = []
    for f in findings:
        first, *rest = f.text.splitlines() or [""]
        lines.append(f"{f.status:<7}  {f.topic:<{width}}  {first}")
        lines += [" " * (width + 11) + line for line in rest]
        lines += [f"{'':7}  {'':<{width}}  -> {line}" for line in f.todo.splitlines()]
    problems = sum(f.status == "problem" for f in findings)
    lines.append(f"\n{problems} problem{'s' * (problems != 1)}" if problems else "\nno problems")
    return "\n".join(lines)


def check_folders(data_dir: str | Path | None, figures_dir: str | Path | None) -> Iterator[Finding]:
    """That the data and figures folders can be written, and the free disk under each; nothing is created."""
    folders = {
        "data folder": (paths.data_dir(data_dir), "--data-dir or XRAYKIT_DATA_DIR"),
        "figures folder": (paths.figures_dir(figures_dir), "--figures-dir or XRAYKIT_FIGURES_DIR"),
    }
    for topic, (folder, option) in folders.items():
        nearest = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            yield Finding(
                "problem", topic, f"{folder}: {nearest} cannot be written", f"choose another with {option}"
            )
            continue
        free = shutil.disk_usage(nearest).free / 2**30
        text = f"{folder}: {free:.1f} GiB free"
        if free < MIN_DISK_GIB:
            yield Finding("note", topic, text, f"free some space, or choose another with {option}")
        else:
            yield Finding("ok", topic, text)


def check_data(data_dir: str | Path | None = None) -> Iterator[Finding]:
    """Where each data set is, and how to get the others; none but the synthetic ones is needed."""
    from xraykit import datasets

    for name in datasets.names():
        entry = datasets.info(name)
        variable, source = entry.variable, paths.dataset_source(name)
        folder = source or paths.data_dir(data_dir) / name
        if not entry.files:
            yield Finding("ok", name, "made by the package")
            continue
        lacks = _lacks(name, folder) if folder.is_dir() else ""
        if folder.is_dir() and not lacks:
            yield Finding("ok", name, str(folder))
        elif source:
            text = f"{variable}={source}: {lacks or 'no folder'}"
            yield Finding("problem", name, text, f"correct {variable} or unset it")
        elif name == "folder":
            todo = f"set {variable} to your own folder of images by class"
            yield Finding("note", name, lacks or "none chosen", todo)
        else:
            todo = f"xraykit data fetch {name}\nor set {variable} to an existing copy"
            yield Finding("note", name, f"not at {folder} (optional){lacks and f': {lacks}'}", todo)


def _lacks(name: str, folder: Path) -> str:
    """What the loader of `name` does not find in `folder`, and what is there; empty if nothing is missing."""
    from xraykit.datasets.folder import list_files
    from xraykit.datasets.kermany import find_root
    from xraykit.datasets.medmnist_sets import SIZES, file_name
    from xraykit.datasets.nih import list_images
    from xraykit.datasets.nih_labels import find_table
    from xraykit.datasets.registry import describe
    from xraykit.errors import DataError, DataNotFoundError

    if name == "kermany":
        try:
            find_root(folder)
        except DataNotFoundError:
            return f"no train|val|test/NORMAL|PNEUMONIA; {describe(folder)}"
    elif name == "nih":
        if find_table(folder, "Data_Entry_2017") is None:
            return f"no Data_Entry_2017*.csv[.gz]; {describe(folder)}"
        if list_images(folder)[0].empty:
            return f"labels, but no image below images*/; {describe(folder)}"
    elif name == "folder":
        try:
            list_files(folder)
        except DataError as error:
            return str(error)
    elif not any((folder / file_name(name, size)).is_file() for size in SIZES):
        return f"no {file_name(name, SIZES[-1])} or of a smaller size; {describe(folder)}"
    return ""


def check_weights() -> Iterator[Finding]:
    """That phantom comes with the package and loads, the folder of weight files, torchvision's downloads."""
    try:
        import torch

        from xraykit import backbones
        from xraykit.backbones.weight_files import SUFFIXES
    except (ImportError, OSError, RuntimeError) as error:  # torch and torchvision of different builds
        todo = "reinstall both with the command from https://pytorch.org/get-started/locally/"
        yield Finding("problem", "weights", f"torch or torchvision cannot be imported: {error}", todo)
        return
    try:
        phantom = backbones.load("phantom")
        text = f"{phantom.dim} features of {phantom.size} pixels, weights {phantom.weights_hash[:8]}"
        yield Finding("ok", "phantom", text)
    except XraykitError as error:
        yield Finding("problem", "phantom", str(error), "install xraykit again: pip install -e .")
    variable, folder = os.environ.get("XRAYKIT_WEIGHTS_DIR"), backbones.weights_dir()
    if variable and not folder.is_dir():
        text = f"XRAYKIT_WEIGHTS_DIR={variable} is no folder"
        yield Finding("problem", "weights", text, "correct it or unset it")
    else:
        files = sorted(f.name for f in folder.glob("*") if f.suffix in SUFFIXES)
        held = ", ".join(files) or "no files (optional; XRAYKIT_WEIGHTS_DIR names another folder)"
        yield Finding("ok", "weights", f"{folder}: {held}")
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    count = len(list(cache.glob("*.pth")))
    text = f"{count} of torchvision's files in {cache}; others are downloaded when asked for"
    yield Finding("ok", "imagenet", text)


def check_notebooks() -> Finding:
    """That the committed notebooks are there."""
    from xraykit import notebook_parameters
    from xraykit.errors import RunError

    try:
        found = notebook_parameters.find()
    except RunError as error:
        return Finding("problem", "notebooks", str(error), "git clone the project and pip install -e . there")
    return Finding("ok", "notebooks", f"{len(found)} in {paths.notebooks_dir()}: {', '.join(found)}")


def check_kernel() -> Finding:
    """That a Jupyter kernel starts with this interpreter and can import the package."""
    from xraykit.notebook_process import kernel_environment

    code = (
        "from jupyter_client.manager import start_new_kernel\n"
        f"manager, client = start_new_kernel(kernel_name='python3', startup_timeout={KERNEL_SECONDS})\n"
        "try:\n"
        f"    reply = client.execute_interactive('import xraykit', timeout={KERNEL_SECONDS})\n"
        "    assert reply['content']['status'] == 'ok', reply['content']\n"
        "finally:\n"
        "    client.stop_channels()\n"
        "    manager.shutdown_kernel(now=True)\n"
    )
    if importlib.util.find_spec("ipykernel") is None:
        return Finding("problem", "kernel", "ipykernel is missing", "pip install ipykernel")
    with kernel_environment(1) as env:
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=env,
                capture_output=True,
                text=True,
                timeout=2 * KERNEL_SECONDS,
            )
            error = (done.stderr.strip() or "it ended without a word").splitlines()[-1:]
            error = error if done.returncode else []
        except subprocess.TimeoutExpired:
            error = [f"it did not answer within {2 * KERNEL_SECONDS} s"]
    if error:
        todo = "pip install --force-reinstall ipykernel jupyter-client pyzmq; a firewall must allow 127.0.0.1"
        return Finding("problem", "kernel", f"a Jupyter kernel does not start: {error[0]}", todo)
    return Finding("ok", "kernel", f"starts with {sys.executable}")
