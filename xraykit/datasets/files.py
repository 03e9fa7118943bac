"""What the loaders of image folders share: listing files, and from a table of paths to an `XrayDataset`."""

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xraykit.datasets.base import XrayDataset
from xraykit.datasets.catalogue import DatasetInfo
from xraykit.errors import DataError
from xraykit.images import Preprocess

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ".dicom")
# Left behind by macOS and Windows: no part of any data set, so not worth a line in `excluded` either.
_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
# Whole-table split where nothing official exists; val and test are of images, patients stay whole.
SPLIT_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


class Listing(NamedTuple):
    """Sorted names in one folder."""

    folders: list[str]
    images: list[str]
    others: list[str]


def scan(folder: Path) -> Listing:
    """Names in `folder`, in one pass without opening any file; hidden and junk files are left out."""
    found = Listing([], [], [])
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _JUNK:
                continue
            if entry.is_dir():
                found.folders.append(entry.name)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                found.images.append(entry.name)
            else:
                found.others.append(entry.name)
    return Listing(*(sorted(names) for names in found))


def excluded_frame(rows: Sequence[tuple[str, str]] = ()) -> pd.DataFrame:
    """Rows ``(path, reason)`` as the frame that `XrayDataset.excluded` holds."""
    return pd.DataFrame(list(rows), columns=["path", "reason"], dtype=str)


def foreign(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Exclusion rows for files that are no images by their suffix."""
    return [(path, f"not an image by its suffix; {', '.join(IMAGE_SUFFIXES)} are read") for path in paths]


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """``pandas.read_csv``, with a DataError that names the file when it is no table at all."""
    try:
        return pd.read_csv(path, **options)
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
        EOFError,
        gzip.BadGzipFile,
    ) as error:
        raise DataError(f"{path} is not a table ({error}); delete it and download it again") from error


def patient_split(
    labels: np.ndarray, patients: np.ndarray, *, fractions: dict[str, float], seed: int
) -> np.ndarray:
    """Name of the split of each row, patients kept whole and labels stratified; deterministic by `seed`."""
    from xraykit.splits import patient_folds

    folds = patient_folds(
        labels, patients, fractions=list(fractions.values()), rng=np.random.default_rng(seed)
    )
    return np.array(list(fractions), dtype=object)[folds]


def from_table(
    info: DatasetInfo,
    table: pd.DataFrame,
    *,
    root: Path,
    preprocess: Preprocess,
    cache_dir: Path,
    progress: bool,
    classes: tuple[str, ...],
    task: str,
    excluded: pd.DataFrame,
    boxes: pd.DataFrame | None = None,
) -> XrayDataset:
    """Decode the files of `table` (through the cache) and put them beside their records.

    Args:
        table: records with a column ``path`` relative to `root`, one row a file.
        excluded: files the loader itself left out; those that cannot be decoded are added.

    Raises:
        DataError: the table is empty, or no file of it can be decoded.
    """
    from xraykit import image_cache

    if table.empty:
        raise DataError(f"{info.name}: no image is left in {root}; left out: {_reasons(excluded)}")
    paths = table["path"].tolist()
    cached = image_cache.build(root, paths, preprocess, cache_dir=cache_dir, progress=progress)
    records = _records(table, cached.files)
    if boxes is not None:
        boxes = boxes[boxes["image_id"].isin(records["image_id"])].reset_index(drop=True)
    return XrayDataset(
        name=info.name,
        images=cached.images,
        records=records,
        classes=classes,
        task=task,
        licence=info.licence,
        citation=info.citation,
        boxes=boxes,
        excluded=pd.concat([excluded, cached.excluded[["path", "reason"]]], ignore_index=True),
    )


def _reasons(excluded: pd.DataFrame) -> str:
    """The three most frequent reasons with their counts."""
    return str(excluded["reason"].value_counts().head(3).to_dict() or "nothing, it is empty")


def _records(table: pd.DataFrame, files: pd.DataFrame) -> pd.DataFrame:
    """Rows of `table` for the decoded `files`, in their order, with what the cache knows of them."""
    records = table.set_index("path").loc[files["path"]].reset_index()
    for column in ("sha256", "height", "width"):
        records[column] = files[column].to_numpy()
    leading = ["image_id", "patient_id", "split"]
    return records[leading + [column for column in records.columns if column not in leading]]
