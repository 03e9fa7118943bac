"""What code made a number or a figure: commit and versions."""

import functools
import importlib.metadata
import platform
import subprocess

from xraykit import paths

PACKAGES = (
    "xraykit",
    "numpy",
    "pandas",
    "scikit-learn",
    "imbalanced-learn",
    "opencv-python-headless",
    "matplotlib",
    "torch",
    "torchvision",
    "openvino",
    "umap-learn",
    "optuna",
)


@functools.cache
def commit() -> str:
    """Commit of the checkout, with ``-dirty`` where tracked files differ; ``unknown`` outside git.

    As it was when this process first asked: a run that writes figures is not made dirty by them.
    """
    git = ["git", "-C", str(paths.project_root())]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a number or a figure looks like."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # OpenVINO is not made for every machine
        return "absent"
