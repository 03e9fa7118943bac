"""NIH ChestX-ray14: images beside their labels, boxes and a split that keeps patients whole."""

from pathlib import Path

import numpy as np
import pandas as pd

from xraykit.datasets.base import NO_IMAGE, XrayDataset
from xraykit.datasets.catalogue import CATALOGUE
from xraykit.datasets.files import (
    SPLIT_FRACTIONS,
    excluded_frame,
    foreign,
    from_table,
    patient_split,
    scan,
)
from xraykit.datasets.nih_labels import (
    CLASSES,
    TEST_LIST,
    TRAIN_VAL_LIST,
    read_boxes,
    read_labels,
    read_lists,
)
from xraykit.datasets.registry import describe
from xraykit.errors import DataError
from xraykit.images import Preprocess

__all__ = ["list_images", "load", "read_boxes", "read_labels", "splits"]


def list_images(root: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Images below ``images*/`` and ``images*/images/``: a frame ``image_id, path`` sorted by both, and
    ``(path, reason)`` of what is left out (other files, a second file of the same name). One pass a
    folder."""
    folders: list[str] = []
    for name in scan(root).folders:
        if name.startswith("images"):
            nested = "images" in scan(root / name).folders
            folders += [name, f"{name}/images"] if nested else [name]
    rows: list[tuple[str, str]] = []
    left_out: list[tuple[str, str]] = []
    for folder in folders:
        listing = scan(root / folder)
        rows += [(name, f"{folder}/{name}") for name in listing.images]
        left_out += foreign([f"{folder}/{name}" for name in listing.others])
    files = pd.DataFrame(sorted(rows), columns=["image_id", "path"])
    repeated = files["image_id"].duplicated()
    left_out += [
        (path, "the same file name is in another image folder") for path in files.loc[repeated, "path"]
    ]
    return files[~repeated].reset_index(drop=True), left_out


def splits(labels: pd.DataFrame, lists: tuple[set[str], set[str]] | None, *, seed: int) -> pd.Series:
    """Split of each row of the label table: train, val, test, or missing for an image in neither official
    list.

    With the official lists, test is theirs and an eighth of train_val becomes val; else all rows are divided
    .7/.1/.2. Patients stay whole and findings are stratified. The whole table is divided, not only the images
    at hand, so that a patient stays on one side when more archives are downloaded.
    """
    split = pd.Series(None, index=labels.index, dtype=object)
    fractions, pool = SPLIT_FRACTIONS, pd.Series(True, index=labels.index)
    if lists is not None:
        train_val, test = lists
        split[labels["image_id"].isin(test)] = "test"
        fractions, pool = {"train": 0.875, "val": 0.125}, labels["image_id"].isin(train_val)
    rows = labels[pool].sort_values("image_id")
    if not rows.empty:
        names = patient_split(
            rows[list(CLASSES)].to_numpy(),
            rows["patient_id"].to_numpy(object),
            fractions=fractions,
            seed=seed,
        )
        split[rows.index] = names
    return split


def _join(
    labels: pd.DataFrame, files: pd.DataFrame, split: pd.Series, root: Path
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Labelled images that are there, sorted by image id, and ``(path, reason)`` of all others."""
    left_out = [(str(path), "no row in the label table") for path in _missing(files, labels, "path")]
    left_out += [(image, NO_IMAGE) for image in _missing(labels, files, "image_id")]
    table = labels.assign(split=split).merge(files, on="image_id", how="inner").sort_values("image_id")
    if table.empty:
        first = files["image_id"].iloc[0] if len(files) else f"no image below images*/: {describe(root)}"
        raise DataError(
            f"nih: none of the {len(labels)} labelled images (such as {labels['image_id'].iloc[0]}) is in "
            f"{root} ({first}); put them into images/, or run: xraykit data fetch nih --archives 1"
        )
    unlisted = table["split"].isna()
    reason = f"in neither {TRAIN_VAL_LIST} nor {TEST_LIST}"
    left_out += [(path, reason) for path in table.loc[unlisted, "path"]]
    return table[~unlisted].reset_index(drop=True), left_out


def _missing(frame: pd.DataFrame, other: pd.DataFrame, column: str) -> np.ndarray:
    return frame.loc[~frame["image_id"].isin(other["image_id"]), column].to_numpy(object)


def load(
    name: str,
    *,
    root: Path,
    labels: str,
    preprocess: Preprocess,
    cache_dir: Path,
    progress: bool,
    split_seed: int = 0,
) -> XrayDataset:
    """The set with ``labels="multilabel"`` (14 findings and No Finding) or ``"binary"`` (normal, abnormal).

    Reads ``Data_Entry_2017*.csv[.gz]``, ``BBox_List_2017*.csv[.gz]`` and the official lists where they are
    present, and the images below ``images/`` or ``images_001/images/`` and so on; see `splits`. Labels
    without a file and files without a label are listed in ``excluded``; that nothing is left is an error.
    """
    table = read_labels(root)
    files, left_out = list_images(root)
    split = splits(table, read_lists(root), seed=split_seed)
    table, unmatched = _join(table, files, split, root)
    ds = from_table(
        CATALOGUE[name],
        table,
        root=root,
        preprocess=preprocess,
        cache_dir=cache_dir,
        progress=progress,
        classes=CLASSES,
        task="multilabel",
        excluded=excluded_frame(left_out + unmatched),
        boxes=read_boxes(root),
    )
    return ds.binary() if labels == "binary" else ds
