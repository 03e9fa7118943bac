"""Where things live. Nothing here creates a folder; whoever writes a file does."""

import os
from pathlib import Path


def project_root() -> Path:
    """Folder of the checkout that this package was imported from, whatever the working directory.

    Installed without a checkout (no ``pyproject.toml`` beside the package), it is the working directory.
    """
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def data_dir(path: str | Path | None = None) -> Path:
    """Root of downloads and caches: the argument, else ``XRAYKIT_DATA_DIR``, else ``<project>/data``."""
    return Path(path or os.environ.get("XRAYKIT_DATA_DIR") or project_root() / "data").expanduser()


def figures_dir(path: str | Path | None = None) -> Path:
    """Root of figures and ledgers: the argument, else ``XRAYKIT_FIGURES_DIR``, else ``<project>/figures``."""
    return Path(path or os.environ.get("XRAYKIT_FIGURES_DIR") or project_root() / "figures").expanduser()


def notebooks_dir() -> Path:
    """Folder of the committed notebooks."""
    return project_root() / "notebooks"


def dataset_source(name: str) -> Path | None:
    """Existing copy of data set `name`, from ``XRAYKIT_<NAME>_DIR`` (upper case, ``-`` as ``_``), or None."""
    value = os.environ.get(f"XRAYKIT_{name.upper().replace('-', '_')}_DIR")
    return Path(value).expanduser() if value else None
