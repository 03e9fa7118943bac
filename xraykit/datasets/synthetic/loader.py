"""Synthetic data sets: many images with their records, masks and boxes; large ones on disk."""

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from xraykit import paths
from xraykit.datasets.base import SPLITS, XrayDataset
from xraykit.datasets.synthetic.patients import CLASSES, PATIENT_RANGES, person
from xraykit.datasets.synthetic.rendering import Options, render_image
from xraykit.errors import DataError, StorageError
from xraykit.storage import locked

SPLIT_SIZES = {"train": 600, "val": 150, "test": 300}
"""Patients a split by default; each has one to six images, two on average."""
MEMORY_BYTES = 1 << 30
"""Data sets larger than this are made once into a memory-mapped folder under the data directory."""
GENERATOR_VERSION = 1
_IMAGES, _MASKS, _META = "images.u8", "masks.u16", "meta.json"
_RECORDS, _BOXES = "records.parquet", "boxes.parquet"
_LICENCE = "MIT (made by xraykit; no patient is shown)"
_CITATION = "xraykit synthetic chest radiographs"


def load(
    name: str = "synthetic",
    *,
    size: int = 224,
    n_patients: int | None = None,
    split_sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    confounder: float = 0.0,
    confounder_test: float | None = None,
    difficulty: float = 1.0,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> XrayDataset:
    """Synthetic chest radiographs with exact lesion masks.

    ``synthetic`` has the classes normal, bacterial, viral; ``synthetic-nih`` 14 findings and No Finding. An
    image depends on (seed, patient number, image number, size, difficulty, confounder) only.

    Args:
        size: side of the square images in pixels, 32..1024.
        n_patients: patients in all, shared among the splits in the proportions of `SPLIT_SIZES`.
        split_sizes: patients of each split instead, such as ``{"train": 60, "val": 15, "test": 30}``.
        seed: another seed is another hospital: other patients, other exposures.
        confounder: c in -1..1. With probability abs(c) the side marker is decided by the label: L on an
            abnormal image and R on a normal one (for c < 0 the other way round); otherwise by a fair coin.
            Only the letter and the side of the picture it stands on depend on it; 0 makes the marker
            independent. The columns marker_side, marker_x, marker_y (centre) and marker_size (height) say
            where it is, in fractions of the picture.
        confounder_test: the same for the test split; by default it equals `confounder`.
        difficulty: contrast of lesions is divided by it; 1 is the calibrated default.
        data_dir: where data sets over `MEMORY_BYTES` are kept; smaller ones are made anew each time.

    Raises:
        DataError: an argument is out of range. StorageError: no room for a large data set.
    """
    options = Options(name=name, size=size, seed=seed, confounder=confounder, difficulty=difficulty)
    last = replace(options, confounder=confounder if confounder_test is None else confounder_test)
    sizes = _split_sizes(n_patients, split_sizes)
    parts = [
        (s, PATIENT_RANGES[s][: sizes[s]], last if s == "test" else options) for s in SPLITS if sizes.get(s)
    ]
    n_images = sum(len(_images_of(numbers, chosen)) for _, numbers, chosen in parts)
    if n_images * size * size * 3 > MEMORY_BYTES:
        images, masks, records, boxes = _on_disk(parts, n_images, paths.data_dir(data_dir), progress)
    else:
        images, masks = (
            np.empty((n_images, size, size), np.uint8),
            np.empty((n_images, size, size), np.uint16),
        )
        records, boxes = _fill(parts, images, masks, progress)
    task = "multiclass" if name == "synthetic" else "multilabel"
    return XrayDataset(
        name=name, images=images, records=records, classes=CLASSES[name], task=task, licence=_LICENCE,
        citation=_CITATION, boxes=boxes, masks=masks,
    )  # fmt: skip


def generate(
    patients: Sequence[int], *, progress: bool = False, **options
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """All images of the given patient numbers: uint8 (N, s, s), masks uint16 (N, s, s), records (no split).

    For pretraining: ``generate(PATIENT_RANGES["pretrain"][:500], size=64)``. Options as for `render`.
    """
    chosen = Options(**options)
    n = len(_images_of(patients, chosen))
    images, masks = (
        np.empty((n, chosen.size, chosen.size), np.uint8),
        np.empty((n, chosen.size, chosen.size), np.uint16),
    )
    records, _ = _fill([("", patients, chosen)], images, masks, progress)
    return images, masks, records.drop(columns="split")


def _split_sizes(n_patients: int | None, split_sizes: Mapping[str, int] | None) -> dict[str, int]:
    if n_patients is not None and split_sizes is not None:
        raise DataError("give n_patients or split_sizes, not both")
    if n_patients is not None:
        if n_patients < 3:
            raise DataError(f"n_patients is {n_patients}; at least 3 are needed, one for each of {SPLITS}")
        whole = sum(SPLIT_SIZES.values())
        val, test = (max(1, round(n_patients * SPLIT_SIZES[s] / whole)) for s in ("val", "test"))
        sizes = {"train": n_patients - val - test, "val": val, "test": test}
    else:
        sizes = dict(SPLIT_SIZES if split_sizes is None else split_sizes)
    for split, count in sizes.items():
        if split not in SPLITS:
            raise DataError(f"split_sizes names {split!r}; the splits are {SPLITS}")
        if not 0 <= count <= len(PATIENT_RANGES[split]):
            given = (
                f"split_sizes[{split!r}]" if split_sizes is not None else f"n_patients {n_patients}: {split}"
            )
            raise DataError(f"{given} is {count}; use 0..{len(PATIENT_RANGES[split])} patients")
    if not any(sizes.values()):
        raise DataError(f"split_sizes {sizes} leaves no patient; give at least one split a positive number")
    return sizes


def _images_of(patients: Sequence[int], options: Options) -> list[tuple[int, int]]:
    return [(p, i) for p in patients for i in range(person(options.name, options.seed, p).n_images)]


def _fill(parts, images: np.ndarray, masks: np.ndarray, progress: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Render every image of `parts` into the arrays; returns records and boxes."""
    jobs = [(s, p, i, o) for s, numbers, o in parts for p, i in _images_of(numbers, o)]
    rows, boxes = [], []
    for k, (split, patient, image, options) in enumerate(
        tqdm(jobs, desc=parts[0][2].name, unit="image", disable=not progress)
    ):
        made = render_image(patient, image, options)
        images[k], masks[k] = made.image, made.masks
        row = made.record
        rows.append({"image_id": row["image_id"], "patient_id": row["patient_id"], "split": split} | row)
        boxes += _boxes(made.masks, CLASSES[options.name], row["image_id"])
    return pd.DataFrame(rows), pd.DataFrame(boxes, columns=["image_id", "finding", "x", "y", "w", "h"])


def _boxes(masks: np.ndarray, classes: tuple[str, ...], image_id: str) -> Iterator[tuple]:
    """Boxes of the connected parts of each mask: the largest one, and others of at least a fifth of it."""
    present = int(np.bitwise_or.reduce(masks, axis=None))
    for k in (k for k in range(present.bit_length()) if present >> k & 1):
        part = ((masks >> k) & 1).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(part)
        part = np.ascontiguousarray(part[top : top + height, left : left + width])
        _, _, stats, _ = cv2.connectedComponentsWithStats(part, ltype=cv2.CV_16U)
        least = stats[1:, cv2.CC_STAT_AREA].max() / 5
        for x, y, w, h, area in stats[1:]:
            if area >= least:
                yield image_id, classes[k], *(np.array([x + left, y + top, w, h]) / masks.shape[0]).tolist()


def _on_disk(parts, n_images: int, root: Path, progress: bool):
    """As `_fill`, into a folder that is made once, under a lock, and appears complete or not at all.

    A folder whose files do not have their sizes any more is made again, with a warning.
    """
    versions = [GENERATOR_VERSION, np.__version__, cv2.__version__]
    content = [(s, len(numbers), asdict(o)) for s, numbers, o in parts]
    key = hashlib.sha256(json.dumps([*versions, content], sort_keys=True).encode()).hexdigest()[:20]
    folder, size = root / "cache" / "synthetic" / key, parts[0][2].size
    shape = (n_images, size, size)
    try:
        if not _complete(folder, shape):  # before the lock, which a read-only folder does not give
            _make(folder, parts, shape, progress)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot keep the synthetic images in {folder}: {error}; choose another data_dir"
        ) from error
    images = np.memmap(folder / _IMAGES, np.uint8, "r", shape=shape)
    masks = np.memmap(folder / _MASKS, np.uint16, "r", shape=shape)
    return images, masks, pd.read_parquet(folder / _RECORDS), pd.read_parquet(folder / _BOXES)


def _complete(folder: Path, shape: tuple[int, int, int]) -> bool:
    """Whether every file in `folder` has the size in its meta.json, and the arrays that of `shape`."""
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        sizes = _sizes(folder)
    except (OSError, ValueError):
        return False
    n = math.prod(shape)
    return meta == {"shape": list(shape), "bytes": sizes} and (sizes[_IMAGES], sizes[_MASKS]) == (n, 2 * n)


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in (_IMAGES, _MASKS, _RECORDS, _BOXES)}


def _make(folder: Path, parts, shape: tuple[int, int, int], progress: bool) -> None:
    waiting = "another run is making these synthetic images; waiting for it" if progress else ""
    with locked(folder.with_name(f"{folder.name}.lock"), waiting=waiting):
        if _complete(folder, shape):
            return
        if folder.exists():
            warnings.warn(
                f"the synthetic images in {folder} are damaged or incomplete; they are made again",
                stacklevel=4,
            )
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        _write(folder, parts, shape, progress)


def _write(folder: Path, parts, shape: tuple[int, int, int], progress: bool) -> None:
    needed, free = math.prod(shape) * 3, shutil.disk_usage(folder.parent).free
    if free < needed * 1.05:
        raise OSError(f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")
    draft = folder.with_name(folder.name + ".partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    images = np.memmap(draft / _IMAGES, np.uint8, "w+", shape=shape)
    masks = np.memmap(draft / _MASKS, np.uint16, "w+", shape=shape)
    records, boxes = _fill(parts, images, masks, progress)
    images.flush()
    masks.flush()
    del images, masks  # Windows renames no folder with a mapped file in it
    records.to_parquet(draft / _RECORDS)
    boxes.to_parquet(draft / _BOXES)
    meta = {"shape": list(shape), "bytes": _sizes(draft)}
    (draft / _META).write_text(json.dumps(meta), encoding="utf-8")
    os.replace(draft, folder)
