"""Kermany paediatric chest X-rays: official split, patient keys and the kind of pneumonia from file names.

Kermany, Zhang and Goldbaum, Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for
Classification, Mendeley Data v2, 2018. The patient key is a guess from the file name, as nobody documents it:
``person<N>`` numbers occur both as bacteria and as virus, and in train as well as in test, so images are
grouped by the bare number; `patient_typed` keeps the kind (and ``NORMAL2-``) apart for a sensitivity
analysis.
"""

import re
from pathlib import Path

import pandas as pd

from xraykit.datasets.base import SPLITS, XrayDataset
from xraykit.datasets.catalogue import CATALOGUE
from xraykit.datasets.files import excluded_frame, foreign, from_table, scan
from xraykit.datasets.registry import describe, missing_message
from xraykit.errors import DataNotFoundError
from xraykit.images import Preprocess

FOLDERS = {"NORMAL": "normal", "PNEUMONIA": "pneumonia"}
KINDS = {"bacteria": "bacterial", "virus": "viral"}
# person1000_virus_1681.jpeg, person447_virus_921_1.jpeg; the kind is missing in a name like person7_12.jpeg.
_PERSON = re.compile(r"(?P<bare>person\d+)(?:_(?P<kind>bacteria|virus))?(?:_\d+)*$", re.IGNORECASE)
# IM-0115-0001.jpeg, IM-0656-0001-0002.jpeg, NORMAL2-IM-0027-0001.jpeg
_NORMAL = re.compile(r"(?P<series>NORMAL2-)?(?P<bare>IM-\d+)(?:-\d+)*$", re.IGNORECASE)


def find_root(root: Path) -> Path:
    """The folder that holds ``train|val|test/NORMAL|PNEUMONIA``: `root`, or ``chest_xray`` once or twice in
    it.

    Raises:
        DataNotFoundError: none does; the message says what was found.
    """
    for candidate in (root, root / "chest_xray", root / "chest_xray" / "chest_xray"):
        if any((candidate / split / folder).is_dir() for split in SPLITS for folder in FOLDERS):
            return candidate
    where = f"{root} for train|val|test/NORMAL|PNEUMONIA, also below chest_xray/: {describe(root)}"
    raise DataNotFoundError(missing_message("kermany", where))


def patient_keys(stem: str) -> tuple[str, str, str | None, bool]:
    """(bare key, typed key, bacterial|viral|None, whether the name matched a known pattern) of a file stem.

    A name that matches no pattern is a patient of its own: both keys are the stem.
    """
    if match := _PERSON.match(stem):
        bare, kind = match["bare"], (match["kind"] or "").lower()
        return bare, f"{bare}_{kind}" if kind else bare, KINDS.get(kind), True
    if match := _NORMAL.match(stem):
        return match["bare"], f"{match['series'] or ''}{match['bare']}", None, True
    return stem, stem, None, False


def list_files(root: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """One row an image (path, image_id, patient_id, patient_typed, patient_known, split, folder, kind),
    sorted by path, and the ``(path, reason)`` of files that are no images. `root` is as `find_root` gives
    it."""
    rows: list[tuple] = []
    left_out: list[tuple[str, str]] = []
    for split in SPLITS:
        for folder, label in FOLDERS.items():
            if not (root / split / folder).is_dir():
                continue
            listing = scan(root / split / folder)
            left_out += foreign([f"{split}/{folder}/{name}" for name in listing.others])
            for name in listing.images:
                path = f"{split}/{folder}/{name}"
                rows.append((path, path, *patient_keys(Path(name).stem), split, label))
    columns = ["path", "image_id", "patient_id", "patient_typed", "kind", "patient_known", "split", "folder"]
    return pd.DataFrame(rows, columns=columns), left_out


def load(
    name: str, *, root: Path, labels: str, preprocess: Preprocess, cache_dir: Path, progress: bool
) -> XrayDataset:
    """The set with ``labels="3-class"`` (normal, bacterial, viral) or ``"binary"`` (normal, pneumonia).

    The official train and test are kept, and the 16-image val where it is present. `records` has beside the
    common columns ``patient_typed`` and ``patient_known`` (False where the name told nothing). A PNEUMONIA
    file whose name says neither bacteria nor virus is excluded, with the reason, from 3-class only.
    """
    root = find_root(root)
    table, left_out = list_files(root)
    if labels == "binary":
        classes: tuple[str, ...] = ("normal", "pneumonia")
        table["label"] = table["folder"]
    else:
        classes = ("normal", "bacterial", "viral")
        table["label"] = table["kind"].where(table["folder"] == "pneumonia", "normal")
        unknown = table["label"].isna()
        reason = "neither bacteria nor virus in the file name; use labels='binary'"
        left_out += [(path, reason) for path in table.loc[unknown, "path"]]
        table = table[~unknown]
    return from_table(
        CATALOGUE[name],
        table.drop(columns=["kind", "folder"]).reset_index(drop=True),
        root=root,
        preprocess=preprocess,
        cache_dir=cache_dir,
        progress=progress,
        classes=classes,
        task="multiclass",
        excluded=excluded_frame(left_out),
    )
