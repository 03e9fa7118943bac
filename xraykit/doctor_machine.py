"""What ``xraykit doctor`` says about the machine: Python, packages, device, threads, memory."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xraykit import paths
from xraykit.errors import RunError

MIN_PYTHON = (3, 11)
MIN_MEMORY_GIB = 4
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # what bf16 inference and training gain from


@dataclass(frozen=True)
class Finding:
    """One line of the report: `status` is ``ok``, ``note`` or ``problem``; `todo` may be empty."""

    status: str
    topic: str
    text: str
    todo: str = ""


def check_python(version: tuple[int, int] | None = None) -> Finding:
    """Python itself against what pyproject.toml asks for."""
    version = version or sys.version_info[:2]
    text = f"{platform.python_version()} at {sys.executable}"
    if version < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        return Finding(
            "problem", "python", text, f"install Python {wanted} or newer and make a new environment"
        )
    return Finding("ok", "python", text)


def check_packages(distribution: str = "xraykit") -> Iterator[Finding]:
    """Installed versions against the requirements of `distribution` (of extras, what is installed)."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires(distribution) or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("problem", "packages", f"{distribution} is not installed", "pip install -e .")
        return
    fits = 0
    for requirement in requirements:
        extra = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        version = _installed(requirement.name)
        if version is None and not extra:
            yield Finding(
                "problem", "packages", f"{requirement.name} is missing", f"pip install '{requirement}'"
            )
        elif version is not None and not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            text = f"{requirement.name} {version} is installed; {requirement.specifier} is needed"
            yield Finding("problem", "packages", text, f"pip install '{wanted}'")
        elif version is not None:
            fits += 1
    yield Finding("ok", "packages", f"{fits} requirements of {distribution} are met")


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_constraints(path: Path | None = None) -> Iterator[Finding]:
    """Which installed versions differ from the newest set that the tests passed with."""
    path = path or paths.project_root() / "constraints.txt"
    if not path.is_file():
        yield Finding("note", "tested set", f"no {path.name}; versions are not compared", "")
        return
    pins = re.findall(r"^([\w.-]+)==([^\s;#]+)", path.read_text(), flags=re.MULTILINE)
    found = [(name, pin, _installed(name)) for name, pin in pins]
    drift = [
        f"{n} {v} (tested: {p})" for n, p, v in found if v and v.partition("+")[0] != p.partition("+")[0]
    ]
    if drift:
        yield Finding(
            "note",
            "tested set",
            f"{len(drift)} packages differ: {', '.join(drift[:6])}{', ...' if len(drift) > 6 else ''}",
            f"if something fails: pip install -c {path.name} -e .",
        )
    else:
        yield Finding("ok", "tested set", f"installed packages are those of {path.name}")


def check_device() -> Finding:
    """What torch computes on."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of the wrong build
        todo = "reinstall it with the command for your machine from https://pytorch.org/get-started/locally/"
        return Finding("problem", "device", f"torch cannot be imported: {error}", todo)
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        text = f"cuda: {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB"
        return Finding("ok", "device", f"{text}, torch {torch.__version__}")
    if torch.backends.mps.is_available():
        return Finding("ok", "device", f"mps, torch {torch.__version__}")
    return Finding("ok", "device", f"cpu, torch {torch.__version__}; the quick profile needs no more")


def check_threads() -> Finding:
    """Cores that this process may use, and limits that the environment sets."""
    from xraykit.notebook_process import THREAD_VARIABLES
    from xraykit.runner import cores

    limits = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    try:
        text = f"{cores()} of {os.cpu_count()} cores"
    except RunError as error:
        return Finding("problem", "threads", str(error), "correct XRAYKIT_THREADS or unset it")
    if limits:
        return Finding(
            "note", "threads", f"{text}; limited by {', '.join(limits)}", "unset them to use every core"
        )
    return Finding("ok", "threads", text)


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Instructions that speed up CPU inference, where the system lists them."""
    if not cpuinfo.is_file():
        return Finding("ok", "cpu", platform.processor() or platform.machine())
    text = cpuinfo.read_text("utf-8", "replace")
    model = re.search(r"^model name\s*:\s*(.*)$", text, flags=re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.*)$", text, flags=re.MULTILINE)
    present = [flag for flag in CPU_FLAGS if flags and flag in flags[1].split()]
    name = model[1] if model else platform.machine()
    return Finding("ok", "cpu", f"{name}: {', '.join(present) or 'no wide vector instructions listed'}")


def check_memory() -> Finding:
    """Memory that is free now."""
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    if memory.available < MIN_MEMORY_GIB * 2**30:
        return Finding("note", "memory", text, "close other programs, or run with --jobs 1")
    return Finding("ok", "memory", text)
