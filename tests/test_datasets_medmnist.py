"""xraykit.datasets.medmnist_sets: reading .npz files in a stream, and files that cannot be used."""

import fcntl
import io
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from xraykit import datasets
from xraykit.datasets.base import SPLITS, XrayDataset
from xraykit.datasets.catalogue import FINDINGS
from xraykit.datasets.medmnist_sets import file_name, headers, unpack
from xraykit.errors import DataError, DataNotFoundError, StorageError
from xraykit.images import Preprocess

COUNTS = {"train": 7, "val": 2, "test": 3}


def arrays(size: int, columns: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    out = {}
    for split, n in COUNTS.items():
        out[f"{split}_images"] = rng.integers(0, 256, (n, size, size), dtype=np.uint8)
        out[f"{split}_labels"] = rng.integers(0, 2, (n, columns), dtype=np.uint8)
    return out


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setenv("HOME", str(tmp_path))  # importing medmnist makes ~/.medmnist
    from medmnist.info import INFO

    return INFO


def load(name: str, root: Path, **options: object) -> XrayDataset:
    return datasets.load(name, source=root, data_dir=root.parent / "data", progress=False, **options)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pneumoniamnist(tmp_path: Path, rng: np.random.Generator, save: object) -> None:
    root = tmp_path / "set"
    root.mkdir()
    data = arrays(28, 1, rng)
    save(root / "pneumoniamnist.npz", **data)
    ds = load("pneumoniamnist", root, size=28)
    assert np.array_equal(ds.images, np.concatenate([data[f"{s}_images"] for s in SPLITS]))
    assert np.array_equal(ds.labels, np.concatenate([data[f"{s}_labels"][:, 0] for s in SPLITS]))
    assert ds.classes == ("normal", "pneumonia")
    assert ds.records["split"].tolist() == ["train"] * 7 + ["val"] * 2 + ["test"] * 3
    assert isinstance(ds.images, np.memmap)
    assert ds.records["patient_id"].equals(ds.records["image_id"])
    assert not ds.records["patient_known"].any()


def test_chestmnist_columns_come_in_alphabetical_order(
    tmp_path: Path, rng: np.random.Generator, published: dict
) -> None:
    root = tmp_path / "set"
    root.mkdir()
    data = arrays(64, 14, rng)
    np.savez(root / "chestmnist_64.npz", **data)
    ds = load("chestmnist", root, size=64)
    assert ds.classes == FINDINGS
    labels = np.concatenate([data[f"{s}_labels"] for s in SPLITS])
    for column, finding in published["chestmnist"]["label"].items():
        name = {"pleural": "Pleural_Thickening"}.get(finding, finding.capitalize())
        assert np.array_equal(ds.records[name], labels[:, int(column)])
    binary = load("chestmnist", root, size=64, labels="binary")
    assert np.array_equal(binary.labels, labels.any(axis=1))


def test_published_counts_are_those_of_the_library(published: dict) -> None:
    for name in ("pneumoniamnist", "chestmnist"):
        assert published[name]["n_samples"] == datasets.info(name).published


def test_preprocessing_is_applied_and_cached_apart(tmp_path: Path, rng: np.random.Generator) -> None:
    root = tmp_path / "set"
    root.mkdir()
    np.savez(root / "pneumoniamnist.npz", **arrays(28, 1, rng))
    plain = load("pneumoniamnist", root, size=28)
    preprocess = Preprocess(size=28, clahe_clip=3.0, clahe_tiles=4, brightness=10)
    changed = load("pneumoniamnist", root, preprocess=preprocess)
    assert np.array_equal(changed.images, np.stack([preprocess.apply(image) for image in plain.images]))
    assert len(list((tmp_path / "data" / "cache" / "medmnist").glob("*.u8"))) == 2


def test_another_file_of_the_same_name_is_unpacked_again(tmp_path: Path, rng: np.random.Generator) -> None:
    root = tmp_path / "set"
    root.mkdir()
    np.savez(root / "pneumoniamnist.npz", **arrays(28, 1, rng))
    first = np.array(load("pneumoniamnist", root, size=28).images)
    np.savez(root / "pneumoniamnist.npz", **arrays(28, 1, rng))
    assert not np.array_equal(load("pneumoniamnist", root, size=28).images, first)


def test_sizes(tmp_path: Path) -> None:
    assert [file_name("chestmnist", s) for s in (28, 64, 224)] == [
        "chestmnist.npz",
        "chestmnist_64.npz",
        "chestmnist_224.npz",
    ]
    with pytest.raises(DataError, match=r"published at \(28, 64, 128, 224\) pixels, not at 96"):
        load("pneumoniamnist", tmp_path, size=96)


def test_missing_file_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "pneumoniamnist_64.npz").touch()
    with pytest.raises(
        DataNotFoundError, match=r"for pneumoniamnist_224\.npz: .* holds pneumoniamnist_64\.npz"
    ):
        load("pneumoniamnist", tmp_path)


def test_damaged_files_leave_nothing_behind(tmp_path: Path, rng: np.random.Generator) -> None:
    root = tmp_path / "set"
    root.mkdir()
    file = root / "pneumoniamnist.npz"
    np.savez(file, **arrays(28, 1, rng))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"no complete \.npz"):
        load("pneumoniamnist", root, size=28)
    damaged = bytearray(whole)
    damaged[500] ^= 255  # a pixel of train_images: the checksum of the member no longer fits
    file.write_bytes(damaged)
    with pytest.raises(DataError, match="is damaged"):
        load("pneumoniamnist", root, size=28)
    assert list((tmp_path / "data").rglob("*.u8")) == []
    file.write_bytes(whole)
    assert len(load("pneumoniamnist", root, size=28)) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_images": None}, "no array 'val_images'"),
        ({"test_labels": np.zeros((2, 1), np.uint8)}, "test has images .3, 28, 28. and labels .2, 1."),
        ({"train_images": np.zeros((7, 64, 64), np.uint8)}, "train has images .7, 64, 64."),
        ({"train_images": np.zeros((7, 28, 28), np.float32)}, "train_images is float32, not uint8"),
        ({"train_images": np.asfortranarray(np.ones((7, 28, 28), np.uint8))}, "Fortran order"),
    ],
)
def test_files_of_another_layout(
    tmp_path: Path, rng: np.random.Generator, change: dict[str, np.ndarray | None], message: str
) -> None:
    root = tmp_path / "set"
    root.mkdir()
    data = {k: v for k, v in (arrays(28, 1, rng) | change).items() if v is not None}
    np.savez(root / "pneumoniamnist.npz", **data)
    with pytest.raises(DataError, match=message):
        load("pneumoniamnist", root, size=28)


def test_pickles_are_not_read(tmp_path: Path, rng: np.random.Generator) -> None:
    root = tmp_path / "set"
    root.mkdir()
    data = arrays(28, 1, rng)
    data["train_labels"] = data["train_labels"].astype(object)
    np.savez(root / "pneumoniamnist.npz", **data)
    with pytest.raises(DataError, match="train_labels is object"):
        load("pneumoniamnist", root, size=28)


def test_full_disk(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays(28, 1, rng))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(StorageError, match=r"needs 9,408 bytes .* only 100 bytes"):
        unpack(tmp_path / "pneumoniamnist.npz", Preprocess(size=28), cache_dir=tmp_path / "cache")


def test_a_lock_that_cannot_be_made_names_the_folder_and_what_is_unpacked_needs_none(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    path, cache_dir = tmp_path / "pneumoniamnist.npz", tmp_path / "cache"
    np.savez(path, **arrays(28, 1, rng))
    first = np.array(unpack(path, Preprocess(size=28), cache_dir=cache_dir))
    (unpacked,) = (cache_dir / "medmnist").glob("*.u8")
    lock = unpacked.with_name(f"{unpacked.name}.lock")
    lock.unlink()
    lock.mkdir()  # root may write everywhere, but not open a folder
    assert np.array_equal(unpack(path, Preprocess(size=28), cache_dir=cache_dir), first)
    unpacked.unlink()
    with pytest.raises(StorageError, match=rf"cannot write to {cache_dir / 'medmnist'} \("):
        unpack(path, Preprocess(size=28), cache_dir=cache_dir)


def test_waiting_for_another_run_is_said(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pneumoniamnist.npz"
    np.savez(path, **arrays(28, 1, rng))
    unpack(path, Preprocess(size=28), cache_dir=tmp_path)
    (unpacked,) = (tmp_path / "medmnist").glob("*.u8")
    unpacked.unlink()
    held = unpacked.with_name(f"{unpacked.name}.lock").open("a")
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.2, held.close).start()
    unpack(path, Preprocess(size=28), cache_dir=tmp_path)
    assert "another run is unpacking pneumoniamnist.npz; waiting" in capsys.readouterr().err


def test_headers_are_read_without_the_data(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 224, 224)}
    )
    with zipfile.ZipFile(tmp_path / "big.npz", "w") as archive:
        archive.writestr("train_images.npy", header.getvalue())
    assert headers(tmp_path / "big.npz") == {"train_images": ((10**6, 224, 224), np.dtype(np.uint8))}


def test_check_reports_each_size(tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays(28, 1, rng))
    rows = datasets.check("pneumoniamnist", source=tmp_path).set_index("item")
    found = rows.loc["pneumoniamnist.npz train", ["found", "published", "verdict"]].tolist()
    assert found == [7, 4708, "partial"]
    assert rows.loc["pneumoniamnist_224.npz", "verdict"] == "note"  # one size is enough
    (tmp_path / "pneumoniamnist.npz").unlink()
    rows = datasets.check("pneumoniamnist", source=tmp_path).set_index("item")
    assert rows.loc["pneumoniamnist_224.npz", "verdict"] == "missing"
