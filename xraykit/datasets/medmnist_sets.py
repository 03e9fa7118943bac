"""PneumoniaMNIST and ChestMNIST, read from their ``.npz`` files in a stream.

Yang et al., MedMNIST v2, Scientific Data 2023. No patient is published with either, so every image counts as
a patient of its own (``patient_known`` is False): intervals over patients are too narrow, and one child may
be on both sides of the split. Use `kermany` or `nih` where patients matter.
"""

import hashlib
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from xraykit.datasets.base import SPLITS, XrayDataset
from xraykit.datasets.catalogue import CATALOGUE
from xraykit.datasets.download import check_space
from xraykit.datasets.registry import describe, missing_message
from xraykit.errors import DataError, DataNotFoundError
from xraykit.images import Preprocess
from xraykit.storage import guarded, locked

SIZES = (28, 64, 128, 224)
_PNEUMONIA = ("normal", "pneumonia")
# Column order of the file, in the spelling of the NIH set ("pleural" is Pleural_Thickening).
_CHEST = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
_CHUNK = 2**24


def file_name(name: str, size: int) -> str:
    """Name of the ``.npz`` of images with `size` pixels; raises DataError for a size that is not
    published."""
    if size not in SIZES:
        raise DataError(f"{name} is published at {SIZES} pixels, not at {size}; choose one of these")
    return f"{name}.npz" if size == 28 else f"{name}_{size}.npz"


def find_file(name: str, root: Path, size: int) -> Path:
    """The ``.npz`` below `root`; raises DataNotFoundError with what is there instead."""
    path = root / file_name(name, size)
    if not path.is_file():
        raise DataNotFoundError(missing_message(name, f"{root} for {path.name}: {describe(root)}"))
    return path


def headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """(Shape, dtype) of every array in an ``.npz``, without the data; raises DataError when it is none."""
    found = {}
    with _open(path) as archive:
        for item in archive.namelist():
            with archive.open(item) as stream:
                found[item.removesuffix(".npy")] = _read_header(stream)
    return found


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{path} is no complete .npz file ({error}); delete it and download it again"
        ) from error


def _read_header(stream: zipfile.ZipExtFile) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if fortran:
        raise DataError(
            "an array in the .npz is in Fortran order, which MedMNIST files are not; download it again"
        )
    return shape, dtype


def _check_arrays(path: Path, size: int) -> int:
    """Number of images in all splits; raises DataError where arrays are missing or of another shape."""
    found = headers(path)
    wanted = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    missing = [item for item in wanted if item not in found]
    if missing:
        raise DataError(f"{path}: no array {missing[0]!r}; it has {sorted(found)}; download it again")
    for item in wanted:
        if found[item][1] != np.uint8:
            raise DataError(f"{path}: {item} is {found[item][1]}, not uint8; download it again")
    for split in SPLITS:
        images, labels = found[f"{split}_images"][0], found[f"{split}_labels"][0]
        if images[1:] != (size, size) or labels[0] != images[0]:
            raise DataError(
                f"{path}: {split} has images {images} and labels {labels}, not (N, {size}, {size})"
            )
    return sum(found[f"{split}_images"][0][0] for split in SPLITS)


def unpack(path: Path, preprocess: Preprocess, *, cache_dir: Path, progress: bool = True) -> np.ndarray:
    """The images of an ``.npz``, train, val and test in this order, as a read-only uint8 memmap (N, H, W).

    Unpacked once into ``<cache_dir>/medmnist/``, in chunks, so that memory stays flat; keyed by the checksums
    inside the file and by the preprocessing. Written beside and renamed, so that a kill leaves nothing half.
    A second call at the same time waits for the first, and with `progress` says so.

    Raises:
        DataError: the file is damaged or of another layout.
        StorageError: the disk is full or the folder cannot be written.
    """
    size = preprocess.size
    n = _check_arrays(path, size)
    with _open(path) as archive:
        content = sorted((item.filename, item.CRC, item.file_size) for item in archive.infolist())
        key = hashlib.sha256(f"{content} {preprocess.key()}".encode()).hexdigest()[:16]
        target = cache_dir / "medmnist" / f"{path.stem}-{key}.u8"
        shape = (n, size, size)
        if target.is_file():  # before the lock, which a read-only folder does not give
            return np.memmap(target, dtype=np.uint8, mode="r", shape=shape)
        waiting = f"another run is unpacking {path.name}; waiting for it" if progress else ""
        with guarded(target.parent), locked(Path(f"{target}.lock"), waiting=waiting):
            if not target.is_file():
                check_space(target.parent, n * size * size)
                partial = target.with_suffix(".partial")
                _write(archive, partial, preprocess, path=path)
                partial.replace(target)
    return np.memmap(target, dtype=np.uint8, mode="r", shape=shape)


def _write(archive: zipfile.ZipFile, partial: Path, preprocess: Preprocess, *, path: Path) -> None:
    plain = preprocess.clahe_clip is None and preprocess.brightness == 0
    side = preprocess.size
    try:
        with partial.open("wb") as out:
            for split in SPLITS:
                with archive.open(f"{split}_images.npy") as stream:
                    shape, _ = _read_header(stream)
                    if plain:
                        shutil.copyfileobj(stream, out, _CHUNK)
                        continue
                    for _ in range(shape[0]):
                        grey = np.frombuffer(stream.read(side * side), np.uint8).reshape(side, side)
                        out.write(preprocess.apply(grey).tobytes())
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and download it again") from error


def _records(name: str, path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        labels = {split: arrays[f"{split}_labels"] for split in SPLITS}
    ids = [f"{split}_{i:06d}" for split in SPLITS for i in range(len(labels[split]))]
    records = pd.DataFrame({"image_id": ids, "patient_id": ids})
    records["split"] = np.repeat(SPLITS, [len(labels[split]) for split in SPLITS])
    records["patient_known"] = False
    values = np.concatenate([labels[split] for split in SPLITS])
    if name == "chestmnist":
        order = [_CHEST.index(finding) for finding in CATALOGUE[name].classes]
        records[list(CATALOGUE[name].classes)] = values[:, order].astype(np.uint8)
    else:
        records["label"] = np.array(_PNEUMONIA, dtype=object)[values[:, 0]]
    return records


def load(
    name: str, *, root: Path, labels: str, preprocess: Preprocess, cache_dir: Path, progress: bool
) -> XrayDataset:
    """``pneumoniamnist`` (normal, pneumonia) or ``chestmnist`` (14 findings, or normal and abnormal) in its
    official split, at one of the published sizes."""
    entry = CATALOGUE[name]
    path = find_file(name, root, preprocess.size)
    ds = XrayDataset(
        name=name,
        images=unpack(path, preprocess, cache_dir=cache_dir, progress=progress),
        records=_records(name, path),
        classes=entry.classes,
        task=entry.task,
        licence=entry.licence,
        citation=entry.citation,
    )
    return ds.binary() if labels == "binary" else ds
