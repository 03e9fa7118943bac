"""`load`: from a name to an `XrayDataset`. Loaders are imported only when their set is asked for."""

import inspect
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xraykit import paths
from xraykit.datasets.base import XrayDataset
from xraykit.datasets.catalogue import CATALOGUE, DatasetInfo
from xraykit.errors import DataError, DataNotFoundError

if TYPE_CHECKING:
    from xraykit.images import Preprocess

__all__ = ["DatasetInfo", "info", "load", "locate", "names"]

DEFAULT_SIZE = 224
# What `load` itself passes to a loader; every other keyword of the loader is an option of its set.
_COMMON = {"name", "root", "labels", "preprocess", "cache_dir", "progress", "size", "data_dir"}


def names() -> list[str]:
    """Names that `load` knows."""
    return list(CATALOGUE)


def info(name: str) -> DatasetInfo:
    """What is known about data set `name` without opening it; raises DataError for an unknown name."""
    if name not in CATALOGUE:
        raise DataError(f"no data set is called {name!r}; the names are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def locate(name: str, *, data_dir: str | Path | None = None, source: str | Path | None = None) -> Path:
    """Folder of data set `name`: `source`, else ``XRAYKIT_<NAME>_DIR``, else ``<data_dir>/<name>``.

    Raises:
        DataNotFoundError: nothing is there; the message says where it looked, what was found and what to do.
    """
    entry = info(name)
    root = Path(source).expanduser() if source else paths.dataset_source(name)
    asked = "the argument `source`" if source else entry.variable
    if root is None:
        root, asked = paths.data_dir(data_dir) / name, f"{entry.variable} is not set, so the data folder"
    if not root.is_dir():
        what = "a file, not a folder" if root.exists() else "no such folder"
        raise DataNotFoundError(missing_message(name, f"{root} ({asked}): {what}; {_nearest(root)}"))
    return root


def missing_message(name: str, where: str) -> str:
    """Text of a DataNotFoundError: where it looked and what was there, then every way to get the set."""
    return f"data set {name!r} was not found. Looked in {where}.\n{info(name).how_to_get_text()}"


def describe(folder: Path, limit: int = 8) -> str:
    """What a folder holds, for error messages."""
    found = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return f"{folder} holds {', '.join(found[:limit])}{more}" if found else f"{folder} is empty"


def _nearest(path: Path) -> str:
    """What the nearest existing parent folder of `path` holds."""
    parent = next((p for p in path.parents if p.is_dir()), Path("."))
    return describe(parent)


def load(
    name: str,
    *,
    size: int | None = None,
    labels: str | None = None,
    preprocess: "Preprocess | None" = None,
    data_dir: str | Path | None = None,
    source: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> XrayDataset:
    """Data set `name` as grey uint8 images with their records.

    Args:
        name: one of `names()`.
        size: side of the square images in pixels; None is that of `preprocess`, or 224 without it.
        labels: one of ``info(name).labels``; None is the first of them.
        preprocess: how images are resized and enhanced.
        data_dir: root of downloads and caches; default ``XRAYKIT_DATA_DIR``, else ``<project>/data``.
        source: existing copy in its published layout; else ``XRAYKIT_<NAME>_DIR``, else
            ``<data_dir>/<name>``. A set that the package makes has none.
        progress: show progress bars.
        **options: options of this set alone, such as ``split_seed`` of ``nih``.

    Raises:
        DataError: unknown name, labels or option, arguments that contradict each other or that this set would
            ignore, data that cannot be used.
        DataNotFoundError: the data set is not there; the message says how to get it.
    """
    entry = info(name)
    labels = _check_labels(entry, labels)
    preprocess = _check_size(size, preprocess)
    loader = import_module(f"xraykit.datasets.{entry.module}").load
    _check_options(name, loader, options)
    if not entry.files:
        _check_no_source(name, source)
        ds = loader(name, size=preprocess.size, data_dir=data_dir, progress=progress, **options)
        return _finish(ds, labels, preprocess)
    return loader(
        name,
        root=locate(name, data_dir=data_dir, source=source),
        labels=labels,
        preprocess=preprocess,
        cache_dir=paths.data_dir(data_dir) / "cache",
        progress=progress,
        **options,
    )


def _check_labels(entry: DatasetInfo, labels: str | None) -> str:
    if labels is not None and labels not in entry.labels:
        raise DataError(f"{entry.name} has no labels={labels!r}; choose from {', '.join(entry.labels)}")
    return labels or entry.labels[0]


def _check_no_source(name: str, source: str | Path | None) -> None:
    if source:
        raise DataError(
            f"{name} is made by the package, so source={str(source)!r} would be ignored; leave `source` "
            "out, or choose a data set that is read from files"
        )


def _check_size(size: int | None, preprocess: "Preprocess | None") -> "Preprocess":
    from xraykit.images import Preprocess

    if preprocess is None:
        return Preprocess(size=DEFAULT_SIZE if size is None else size)
    if size not in (None, preprocess.size):
        raise DataError(
            f"size={size} but preprocess.size={preprocess.size}; leave `size` out, or make them equal"
        )
    return preprocess


def _check_options(name: str, loader: Any, options: dict[str, Any]) -> None:
    known = sorted(set(inspect.signature(loader).parameters) - _COMMON)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise DataError(f"{name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")


def _finish(ds: XrayDataset, labels: str, preprocess: "Preprocess") -> XrayDataset:
    """Give a set that is made, not read, what loaders of files do: CLAHE, brightness and binary labels."""
    if preprocess.clahe_clip is not None or preprocess.brightness != 0:
        ds = replace(ds, images=np.stack([preprocess.apply(image) for image in ds.images]))
    return ds.binary() if labels == "binary" else ds
