"""Anyone's images, one folder a class: ``<root>/<class>/*`` or ``<root>/<train|val|test>/<class>/*``.

Patients come from ``<root>/patients.csv`` with the columns ``path,patient_id`` (paths relative to the root,
with forward slashes). An image that it does not name, and every image without it, is a patient of its own.
Without split folders the images are divided .7/.1/.2 into train, val and test, patients whole and classes
stratified.
"""

from pathlib import Path

import pandas as pd

from xraykit.datasets.base import SPLITS, XrayDataset
from xraykit.datasets.catalogue import CATALOGUE
from xraykit.datasets.files import (
    SPLIT_FRACTIONS,
    Listing,
    excluded_frame,
    foreign,
    from_table,
    patient_split,
    read_csv,
    scan,
)
from xraykit.datasets.registry import describe
from xraykit.errors import DataError
from xraykit.images import Preprocess

LAYOUT = "<root>/<class>/<images> or <root>/<train|val|test>/<class>/<images>"
PATIENTS = "patients.csv"


def class_order(names: set[str]) -> tuple[str, ...]:
    """Class names sorted, with ``normal`` (in any case) first, as it is the reference of every comparison."""
    return tuple(sorted(names, key=lambda name: (name.lower() != "normal", name)))


def list_files(root: Path) -> tuple[pd.DataFrame, list[tuple[str, str]], bool]:
    """(One row an image, sorted by path: path, image_id, label, split or None; ``(path, reason)`` of other
    files; whether the folders give the splits).

    Raises:
        DataError: a layout that is not known, fewer than two classes, or a class folder without any image.
    """
    top = scan(root)
    if top.images:
        raise DataError(f"{root}: {top.images[0]} lies outside a class folder; the layout is {LAYOUT}")
    if not top.folders:
        raise DataError(f"{describe(root)}, but no class folder; the layout is {LAYOUT}")
    has_splits = bool(set(top.folders) & set(SPLITS))
    stray = sorted(set(top.folders) - set(SPLITS)) if has_splits else []
    if stray:
        raise DataError(
            f"{root}: {stray[0]!r} lies beside split folders; rename it to one of {SPLITS} or take it out"
        )
    rows: list[tuple[str, str, str, str | None]] = []
    left_out = foreign([name for name in top.others if name != PATIENTS])
    for split in top.folders if has_splits else [None]:
        folder = root / split if split else root
        for label in scan(folder).folders:
            inside = f"{split}/{label}" if split else label
            listing = _class_folder(root / inside)
            rows += [(f"{inside}/{name}", f"{inside}/{name}", label, split) for name in listing.images]
            left_out += foreign([f"{inside}/{name}" for name in listing.others])
    table = pd.DataFrame(rows, columns=["path", "image_id", "label", "split"])
    if table["label"].nunique() < 2:
        found = ", ".join(sorted(set(table["label"]))) or "none"
        raise DataError(f"{root}: two classes or more are needed; found {found}; the layout is {LAYOUT}")
    return table.sort_values("path", ignore_index=True), left_out, has_splits


def _class_folder(folder: Path) -> Listing:
    listing = scan(folder)
    if listing.folders:
        raise DataError(f"{folder} holds a folder, {listing.folders[0]}; the layout is {LAYOUT}")
    if not listing.images:
        raise DataError(f"{folder}: no image in this class folder; remove the folder or fill it")
    return listing


def read_patients(root: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """`table` with ``patient_id`` and ``patient_known`` (False where the patient is a stand-in), and the rows
    of ``patients.csv`` without a file.

    Raises:
        DataError: ``patients.csv`` lacks a column, has an empty cell or names a path twice.
    """
    file = root / PATIENTS
    if not file.is_file():
        return table.assign(patient_id=table["path"], patient_known=False), []
    patients = read_csv(file, dtype=str)
    missing = {"path", "patient_id"} - set(patients.columns)
    if missing:
        raise DataError(f"{file}: no column {sorted(missing)[0]!r}; it needs path,patient_id")
    patients = patients[["path", "patient_id"]]
    if patients.isna().any(axis=None):
        row = int(patients.isna().any(axis=1).to_numpy().argmax()) + 2
        raise DataError(f"{file}: line {row} has an empty cell; leave the line out if the patient is unknown")
    patients["path"] = patients["path"].str.replace("\\", "/").str.removeprefix("./")
    repeated = patients["path"][patients["path"].duplicated()]
    if len(repeated):
        raise DataError(f"{file}: {repeated.iloc[0]!r} is named more than once; one line an image")
    known = table["path"].map(patients.set_index("path")["patient_id"])
    absent = patients["path"][~patients["path"].isin(table["path"])]
    left_out = [(path, f"in {PATIENTS}, but no such image") for path in absent]
    return table.assign(patient_id=known.fillna(table["path"]), patient_known=known.notna()), left_out


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
    """The images below `root`; ``labels="binary"`` is normal against the rest, else classes are the folders.

    Raises:
        DataError: see `list_files` and `read_patients`; binary without a class named normal.
    """
    table, left_out, has_splits = list_files(root)
    classes = class_order(set(table["label"]))
    if labels == "binary":
        if classes[0].lower() != "normal":
            raise DataError(f"{root}: labels='binary' needs a class folder named normal; it has {classes}")
        table["label"] = table["label"].where(table["label"] != classes[0], "normal")
        classes = ("normal", *classes[1:])
    table, absent = read_patients(root, table)
    if not has_splits:
        codes = pd.Categorical(table["label"], categories=list(classes)).codes
        patients = table["patient_id"].to_numpy(object)
        table["split"] = patient_split(codes, patients, fractions=SPLIT_FRACTIONS, seed=split_seed)
    ds = from_table(
        CATALOGUE[name],
        table,
        root=root,
        preprocess=preprocess,
        cache_dir=cache_dir,
        progress=progress,
        classes=classes,
        task="multiclass",
        excluded=excluded_frame(left_out + absent),
    )
    return ds.binary() if labels == "binary" else ds
