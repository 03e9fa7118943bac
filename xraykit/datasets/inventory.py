"""`check`: what of a data set is there, beside what was published."""

from pathlib import Path

import pandas as pd

from xraykit.datasets.catalogue import DatasetInfo
from xraykit.datasets.registry import info, locate

_COLUMNS = ["item", "found", "published", "verdict"]


def check(name: str, *, data_dir: str | Path | None = None, source: str | Path | None = None) -> pd.DataFrame:
    """Counts of what is there against the published ones, without decoding an image.

    Returns:
        DataFrame ``item, found, published, verdict``; the verdict is ``ok``, ``missing``, ``partial``,
        ``differs`` or, where nothing was published or the item is a remark, ``note``.

    Raises:
        DataError: unknown name, or a table or file that cannot be read.
        DataNotFoundError: the set is not there.
    """
    entry = info(name)
    if not entry.files:
        return pd.DataFrame([("made by the package", "", "", "ok")], columns=_COLUMNS)
    root = locate(name, data_dir=data_dir, source=source)
    parts = {"kermany": _kermany, "nih": _nih, "folder": _folder}
    rows = [("folder", str(root), "", "note"), *parts.get(name, _medmnist)(entry, root)]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _row(item: str, found: int, published: int) -> tuple[str, int, int, str]:
    verdicts = {found == published: "ok", found == 0: "missing", 0 < found < published: "partial"}
    return item, found, published, verdicts.get(True, "differs")


def _kermany(entry: DatasetInfo, root: Path) -> list[tuple]:
    from xraykit.datasets.kermany import FOLDERS, find_root, list_files

    table, left_out = list_files(find_root(root))
    folder = {label: name for name, label in FOLDERS.items()}
    counts = (table["split"] + "/" + table["folder"].map(folder)).value_counts()
    rows: list[tuple] = [_row(item, int(counts.get(item, 0)), n) for item, n in entry.published.items()]
    # many copies lack the 16 images of val, and nothing here needs them
    rows = [(*row[:3], "note") if row[0].startswith("val/") and row[3] == "missing" else row for row in rows]
    unknown = int((~table["patient_known"]).sum())
    unclear = int((table["kind"].isna() & (table["folder"] == "pneumonia")).sum())
    return [
        *rows,
        ("patients by bare number", table["patient_id"].nunique(), "", "note"),
        ("patients by number and kind", table["patient_typed"].nunique(), "", "note"),
        ("file names without a patient", unknown, 0, "differs" if unknown else "ok"),
        ("pneumonia without a kind", unclear, 0, "differs" if unclear else "ok"),
        ("files that are no images", len(left_out), 0, "differs" if left_out else "ok"),
    ]


def _nih(entry: DatasetInfo, root: Path) -> list[tuple]:
    from xraykit.datasets.nih import list_images
    from xraykit.datasets.nih_labels import read_boxes, read_labels, read_lists
    from xraykit.datasets.sources import NIH_ARCHIVES

    published = entry.published
    labels = read_labels(root)
    boxes, lists = read_boxes(root), read_lists(root)
    files, left_out = list_images(root)
    train_val, test = (len(ids) for ids in lists) if lists else (0, 0)
    rows: list[tuple] = [
        _row("label rows", len(labels), published["images"]),
        _row("patients", labels["patient_id"].nunique(), published["patients"]),
        _row("boxes", 0 if boxes is None else len(boxes), published["boxes"]),
        _row("train_val_list.txt", train_val, published["train_val"]),
        _row("test_list.txt", test, published["test"]),
        _row("images", len(files), published["images"]),
    ]
    per_folder = files["path"].str.split("/").str[0].value_counts()
    for i, archive in enumerate(NIH_ARCHIVES, start=1):
        folder = f"images_{i:03d}"
        if folder in per_folder:
            rows.append(_row(folder, int(per_folder[folder]), archive.images))
    labelled = int(files["image_id"].isin(labels["image_id"]).sum())
    rows.append(_row("images with a label", labelled, len(files)))
    rows += [("files left out", len(left_out), 0, "differs")] if left_out else []
    return rows + [(note, "", "", "note") for note in labels.attrs["notes"]]


def _medmnist(entry: DatasetInfo, root: Path) -> list[tuple]:
    from xraykit.datasets.medmnist_sets import SIZES, file_name, headers

    rows: list[tuple] = []
    paths = [root / file_name(entry.name, size) for size in SIZES]
    one_is_there = any(path.is_file() for path in paths)
    for path in paths:
        if not path.is_file():
            rows.append((path.name, "", "", "note" if one_is_there else "missing"))
            continue
        found = headers(path)
        for split, published in entry.published.items():
            n = found[f"{split}_images"][0][0] if f"{split}_images" in found else 0
            rows.append(_row(f"{path.name} {split}", n, published))
    return rows


def _folder(entry: DatasetInfo, root: Path) -> list[tuple]:
    from xraykit.datasets.folder import list_files, read_patients

    table, left_out, has_splits = list_files(root)
    table, absent = read_patients(root, table)
    groups = table.groupby(["split", "label"] if has_splits else ["label"]).size()
    rows = [
        ("/".join([key] if isinstance(key, str) else key), int(n), "", "note") for key, n in groups.items()
    ]
    known = int(table["patient_known"].sum())
    rows.append(("images with a known patient", known, "", "note"))
    return [*rows, ("files left out", len(left_out) + len(absent), "", "note")]
