"""The NIH ChestX-ray14 tables: labels, finding boxes and the official lists, without any image.

Wang et al., ChestX-ray8, CVPR 2017; the label table in its 2017 and v2020 revisions.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from xraykit.datasets.catalogue import FINDINGS, NO_FINDING
from xraykit.datasets.files import read_csv
from xraykit.datasets.registry import describe, missing_message
from xraykit.errors import DataError, DataNotFoundError

CLASSES = (*FINDINGS, NO_FINDING)
# Boxes are drawn on the released 1024 x 1024 PNG files, not on the original detector size that the label
# table gives (about 2500 x 3000): over all 984 boxes the largest x + w is 1012 and the largest y + h 1022.
# The PNG files are squashed to a square, so that fractions of 1024 hold for the original as well.
BOX_SIDE = 1024.0
MAX_AGE = 120
TRAIN_VAL_LIST, TEST_LIST = "train_val_list.txt", "test_list.txt"
_BOX_NAMES = {"Infiltrate": "Infiltration"}
_COLUMNS = {
    "Image Index": "image_id",
    "Finding Labels": "findings",
    "Follow-up #": "follow_up",
    "Patient ID": "patient_id",
    "Patient Age": "age",
    "Patient Gender": "sex",
    "Patient Sex": "sex",
    "View Position": "view",
}
_YEARS = {"Y": 1.0, "M": 12.0, "W": 52.0, "D": 365.0}


def find_table(folder: Path, stem: str) -> Path | None:
    """``<stem>*.csv`` or ``.csv.gz`` in `folder`; the newest revision (v2020) where there are several."""
    found = sorted(p for p in folder.glob(f"{stem}*.csv*") if p.name.endswith((".csv", ".csv.gz")))
    return max(found, key=lambda p: ("v2020" in p.name, p.name.endswith(".csv"))) if found else None


def read_labels(path: str | Path) -> pd.DataFrame:
    """The label table, one row an image, in the order of the file.

    Args:
        path: ``Data_Entry_2017*.csv[.gz]``, or the folder that holds it.

    Returns:
        DataFrame with ``image_id`` (file name), ``patient_id`` (8 digits, as in the file name), ``age``
        (years, float32; NaN where recorded above 120), ``sex``, ``view``, ``follow_up`` and the 14 findings
        and ``No Finding`` as uint8 columns. ``attrs["notes"]`` lists what was changed on the way.

    Raises:
        DataNotFoundError: no such table.
        DataError: missing columns, duplicate image ids, unknown or contradictory findings, unreadable ages.
    """
    path = Path(path).expanduser()
    table = find_table(path, "Data_Entry_2017") if path.is_dir() else path
    if table is None or not table.is_file():
        where = describe(path) if path.is_dir() else f"{path}: no such file"
        raise DataNotFoundError(missing_message("nih", f"{path} for Data_Entry_2017*.csv[.gz]: {where}"))
    raw = _named_columns(read_csv(table), table)
    _check_unique(raw["image_id"], table)
    age, notes = _ages(raw["age"], table)
    frame = pd.DataFrame(
        {
            "image_id": raw["image_id"],
            "patient_id": _whole(raw["patient_id"], table).map("{:08d}".format),
            "age": age,
            "sex": raw["sex"].astype("category"),
            "view": raw["view"].astype("category"),
            "follow_up": _whole(raw["follow_up"], table).astype(np.int16),
        }
    )
    frame[list(CLASSES)] = _indicators(raw["findings"], table)
    frame.attrs["notes"] = notes
    return frame


def _named_columns(raw: pd.DataFrame, table: Path) -> pd.DataFrame:
    """The columns that are used, under our names."""
    columns = {old: new for old, new in _COLUMNS.items() if old in raw.columns}
    missing = sorted(set(_COLUMNS.values()) - set(columns.values()))
    if missing:
        wanted = [" or ".join(old for old, new in _COLUMNS.items() if new == name) for name in missing]
        raise DataError(
            f"{table}: no column {', '.join(wanted)}; it has {list(raw.columns)}; download it again"
        )
    return raw[list(columns)].rename(columns=columns)


def _check_unique(ids: pd.Series, table: Path) -> None:
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        shown = ", ".join(map(str, repeated[:3]))
        raise DataError(
            f"{table}: {len(repeated)} image ids occur more than once, such as {shown}; keep one row each"
        )


def _whole(values: pd.Series, table: Path) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    bad = numbers.isna() | (numbers % 1 != 0)
    if bad.any():
        row = int(bad.to_numpy().argmax()) + 2
        raise DataError(
            f"{table}: line {row} has {values[bad].iloc[0]!r} as {values.name}, not a whole number"
        )
    return numbers.astype(np.int64)


def _ages(ages: pd.Series, table: Path) -> tuple[pd.Series, list[str]]:
    """Ages in years from numbers (v2020) or from text like 058Y, 013M (2017); above MAX_AGE they are
    missing."""
    parts = ages.astype(str).str.strip().str.extract(r"^(\d+(?:\.\d+)?)([YMWD]?)$")
    if parts[0].isna().any():
        bad = ages[parts[0].isna()].iloc[0]
        raise DataError(
            f"{table}: age {bad!r} is neither a number of years nor like 058Y, 013M, 002W or 001D"
        )
    years = parts[0].astype(np.float32) / parts[1].replace("", "Y").map(_YEARS).astype(np.float32)
    impossible = years > MAX_AGE
    notes = [f"{int(impossible.sum())} ages above {MAX_AGE} years set to missing"] if impossible.any() else []
    return years.mask(impossible).astype(np.float32), notes


def _indicators(findings: pd.Series, table: Path) -> np.ndarray:
    """0/1 matrix (N, 15) of texts like ``Cardiomegaly|Effusion``; each different text is parsed once."""
    if findings.isna().any():
        raise DataError(f"{table}: {int(findings.isna().sum())} rows without findings; expected 'No Finding'")
    codes, texts = pd.factorize(findings)
    rows = np.zeros((len(texts), len(CLASSES)), dtype=np.uint8)
    for row, text in zip(rows, texts, strict=True):
        names = [name.strip() for name in text.split("|")]
        unknown = [name for name in names if name not in CLASSES]
        if unknown:
            raise DataError(
                f"{table}: unknown finding {unknown[0]!r} in {text!r}; the names are {', '.join(CLASSES)}"
            )
        if NO_FINDING in names and len(names) > 1:
            raise DataError(f"{table}: {text!r} says no finding and a finding at once; correct that row")
        row[[CLASSES.index(name) for name in names]] = 1
    return rows[codes]


def read_boxes(path: str | Path) -> pd.DataFrame | None:
    """Finding boxes ``image_id, finding, x, y, w, h``: the top left corner and the size, in fractions of the
    image's width and height. `path` is the table or its folder; None where the folder has none.

    Raises:
        DataError: a layout or a finding that is not known, or a box outside the image.
    """
    path = Path(path).expanduser()
    table = find_table(path, "BBox_List_2017") if path.is_dir() else path
    if table is None:
        return None
    raw = read_csv(table)
    # The header splits "Bbox [x,y,w,h]" at its commas, and empty columns follow: only the order is reliable.
    if raw.shape[1] < 6 or list(raw.columns[:2]) != ["Image Index", "Finding Label"]:
        raise DataError(
            f"{table}: expected Image Index, Finding Label, Bbox [x,y,w,h]; it has {list(raw.columns)}"
        )
    boxes = pd.DataFrame({"image_id": raw.iloc[:, 0], "finding": raw.iloc[:, 1].replace(_BOX_NAMES)})
    boxes[["x", "y", "w", "h"]] = raw.iloc[:, 2:6].to_numpy(float) / BOX_SIDE
    unknown = sorted(set(boxes["finding"]) - set(FINDINGS))
    if unknown:
        raise DataError(f"{table}: unknown finding {unknown[0]!r}; the names are {', '.join(FINDINGS)}")
    inside = (boxes[["x", "y"]] >= 0).all(axis=1) & (boxes[["w", "h"]] > 0).all(axis=1)
    inside &= (boxes["x"] + boxes["w"] <= 1) & (boxes["y"] + boxes["h"] <= 1)
    if not inside.all():
        raise DataError(
            f"{table}: box of {boxes['image_id'][~inside].iloc[0]} is not within {BOX_SIDE:g} pixels"
        )
    return boxes


def read_lists(folder: Path) -> tuple[set[str], set[str]] | None:
    """Image ids of the official train_val and test lists, or None where neither file is there.

    Raises:
        DataError: only one of the two is there, or they share images.
    """
    files = [folder / TRAIN_VAL_LIST, folder / TEST_LIST]
    present = [file for file in files if file.is_file()]
    if not present:
        return None
    if len(present) == 1:
        absent = next(file for file in files if file not in present)
        raise DataError(f"{present[0]} is there but {absent.name} is not; the official split needs both")
    train_val, test = (set(file.read_text(encoding="utf-8").split()) for file in files)
    if train_val & test:
        raise DataError(
            f"{folder}: {len(train_val & test)} images are in {TRAIN_VAL_LIST} and in {TEST_LIST}"
        )
    return train_val, test
