"""xraykit.datasets.folder: layouts, patients.csv, DICOM, and what is refused."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from xraykit import datasets
from xraykit.datasets.base import XrayDataset
from xraykit.datasets.folder import class_order
from xraykit.errors import DataError


def make(root: Path, files: list[str]) -> Path:
    for i, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 24), i, np.uint8)).save(root / file)
    return root


def dicom(path: Path, pixels: np.ndarray, *, photometric: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, ds)


def load(root: Path, **options: object) -> XrayDataset:
    data_dir = root.parent / "data"
    return datasets.load("folder", source=root, data_dir=data_dir, size=16, progress=False, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(
        tmp_path / "set",
        [f"{label}/{i:02d}.png" for label in ("Normal", "COVID", "other") for i in range(10)],
    )


def test_classes_are_sorted_with_normal_first() -> None:
    assert class_order({"b", "NORMAL", "a"}) == ("NORMAL", "a", "b")
    assert class_order({"b", "A", "abnormal"}) == ("A", "abnormal", "b")


def test_without_split_folders(root: Path) -> None:
    ds = load(root)
    assert ds.classes == ("Normal", "COVID", "other")
    assert ds.records["path"].is_monotonic_increasing
    assert ds.records["split"].value_counts().to_dict() == {"train": 21, "val": 3, "test": 6}
    assert ds.records.groupby(["split", "label"]).size().loc["test"].to_dict() == {
        "COVID": 2,
        "Normal": 2,
        "other": 2,
    }
    assert not ds.records["patient_known"].any()
    assert ds.records["patient_id"].equals(ds.records["image_id"])
    assert load(root).records.equals(ds.records)


def test_with_split_folders(tmp_path: Path) -> None:
    files = ["train/a/1.png", "train/b/1.jpg", "val/a/2.bmp", "test/b/3.tif"]
    ds = load(make(tmp_path / "set", files))
    assert ds.records.set_index("path")["split"].to_dict() == {f: f.split("/")[0] for f in files}
    assert ds.classes == ("a", "b")


def test_binary_is_normal_against_the_rest(root: Path) -> None:
    ds = load(root, labels="binary")
    assert ds.classes == ("normal", "abnormal")
    assert ds.records["label"].value_counts().to_dict() == {"abnormal": 20, "normal": 10}
    (root / "Normal").rename(root / "healthy")
    with pytest.raises(DataError, match="binary' needs a class folder named normal"):
        load(root, labels="binary")


def test_dicom_beside_png(tmp_path: Path) -> None:
    root = make(tmp_path / "set", ["train/a/1.png", "train/b/1.png"])
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, 8:] = 255
    dicom(root / "train/a/2.dcm", pixels, photometric="MONOCHROME2")
    dicom(root / "train/b/2.DCM", pixels, photometric="MONOCHROME1")
    ds = load(root)
    images = dict(zip(ds.records["path"], ds.images, strict=True))
    assert np.array_equal(images["train/a/2.dcm"], pixels)
    assert np.array_equal(images["train/b/2.DCM"], 255 - pixels)


def test_patients_file(root: Path) -> None:
    lines = [
        "path,patient_id,comment",
        "Normal/00.png,p1,x",
        "COVID\\00.png,p1,y",
        "./other/00.png,p2,z",
        "gone.png,p3,",
    ]
    (root / "patients.csv").write_text("\n".join(lines))
    ds = load(root)
    records = ds.records.set_index("path")
    assert records.loc[["Normal/00.png", "COVID/00.png", "other/00.png"], "patient_id"].tolist() == [
        "p1",
        "p1",
        "p2",
    ]
    assert records["patient_known"].sum() == 3
    assert records.loc["Normal/01.png", "patient_id"] == "Normal/01.png"
    assert records.loc["Normal/00.png", "split"] == records.loc["COVID/00.png", "split"]
    assert ds.excluded.to_numpy().tolist() == [["gone.png", "in patients.csv, but no such image"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,patient_id\nNormal/00.png,p1\n", "no column 'path'"),
        ("path,patient_id\nNormal/00.png,\n", "line 2 has an empty cell"),
        (
            "path,patient_id\nNormal/00.png,p1\nNormal/00.png,p2\n",
            r"'Normal/00\.png' is named more than once",
        ),
        ("", "is not a table"),
    ],
)
def test_patients_file_that_cannot_be_used(root: Path, text: str, message: str) -> None:
    (root / "patients.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load(root)


def test_numbers_stay_text_in_the_patients_file(root: Path) -> None:
    (root / "patients.csv").write_text("path,patient_id\nNormal/00.png,007\n")
    assert load(root).records.set_index("path").loc["Normal/00.png", "patient_id"] == "007"


def test_hidden_and_system_files_are_no_part_of_it(root: Path) -> None:
    for junk in (".DS_Store", "Normal/._00.png", "Normal/Thumbs.db", "desktop.ini"):
        (root / junk).write_bytes(b"\0")
    make(root, ["__MACOSX/Normal/x.png", ".git/x.png"])
    ds = load(root)
    assert len(ds) == 30
    assert len(ds.excluded) == 0


def test_files_that_are_no_images_are_listed(root: Path) -> None:
    (root / "README.txt").touch()
    (root / "Normal" / "report.pdf").touch()
    (root / "Normal" / "text.png").write_text("text")
    ds = load(root)
    assert sorted(ds.excluded["path"]) == ["Normal/report.pdf", "Normal/text.png", "README.txt"]
    assert len(ds) == 30


@pytest.mark.parametrize("content", [None, ".hidden", "notes.txt"])
def test_empty_class_folder(root: Path, content: str | None) -> None:
    (root / "viral").mkdir()
    if content:
        (root / "viral" / content).touch()
    with pytest.raises(DataError, match="viral: no image in this class folder"):
        load(root)


def test_wrong_layouts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        "empty": ([], "is empty, but no class folder"),
        "flat": (["1.png"], r"1\.png lies outside a class folder"),
        "one": (["a/1.png"], "two classes or more are needed; found a"),
        "deep": (["a/p1/1.png", "b/1.png"], "a holds a folder, p1"),
        "splits": (["train/a/1.png", "valid/a/1.png"], "'valid' lies beside split folders"),
    }
    for name, (files, message) in cases.items():
        with pytest.raises(DataError, match=message):
            load(make(tmp_path / name, files))


def test_check_counts(root: Path) -> None:
    (root / "Normal" / "report.pdf").touch()
    rows = datasets.check("folder", source=root).set_index("item")["found"]
    assert rows[["COVID", "Normal", "other", "images with a known patient", "files left out"]].tolist() == [
        10,
        10,
        10,
        0,
        1,
    ]
