"""xraykit.datasets.kermany: file-name patterns, layouts, what is left out, the facts of the real set."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xraykit import datasets
from xraykit.datasets.base import XrayDataset
from xraykit.datasets.kermany import find_root, list_files, patient_keys
from xraykit.errors import DataError, DataNotFoundError

FILES = [
    "train/NORMAL/IM-0115-0001.jpeg",
    "train/NORMAL/NORMAL2-IM-0115-0001.jpeg",
    "train/NORMAL/scan7.jpeg",
    "train/PNEUMONIA/person1_bacteria_1.jpeg",
    "train/PNEUMONIA/person1_virus_6.jpeg",
    "val/NORMAL/NORMAL2-IM-1427-0001.jpeg",
    "val/PNEUMONIA/person1946_bacteria_4874.jpeg",
    "test/NORMAL/IM-0001-0001.jpeg",
    "test/PNEUMONIA/person3_virus_16.jpeg",
]


def make(root: Path, files: list[str]) -> Path:
    for i, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 20), 10 * i, np.uint8)).save(root / file)
    return root


def load(root: Path, tmp_path: Path, **options: object) -> XrayDataset:
    return datasets.load(
        "kermany", source=root, data_dir=tmp_path / "data", size=16, progress=False, **options
    )


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("person1000_virus_1681", ("person1000", "person1000_virus", "viral", True)),
        ("person447_virus_921_1", ("person447", "person447_virus", "viral", True)),
        ("person1_bacteria_1", ("person1", "person1_bacteria", "bacterial", True)),
        ("person7_12", ("person7", "person7", None, True)),
        ("IM-0115-0001", ("IM-0115", "IM-0115", None, True)),
        ("IM-0656-0001-0002", ("IM-0656", "IM-0656", None, True)),
        ("NORMAL2-IM-0027-0001", ("IM-0027", "NORMAL2-IM-0027", None, True)),
        ("personal_7", ("personal_7", "personal_7", None, False)),
        (
            "person1_bacteria_1 (copy)",
            ("person1_bacteria_1 (copy)", "person1_bacteria_1 (copy)", None, False),
        ),
        ("XIM-0001-0001", ("XIM-0001-0001", "XIM-0001-0001", None, False)),
    ],
)
def test_patient_keys(stem: str, expected: tuple) -> None:
    assert patient_keys(stem) == expected


@given(
    st.integers(0, 99999), st.sampled_from(["bacteria", "virus"]), st.lists(st.integers(0, 9999), max_size=3)
)
def test_patient_key_keeps_the_number_whatever_follows(number: int, kind: str, rest: list[int]) -> None:
    stem = "_".join([f"person{number}", kind, *map(str, rest)])
    bare, typed, _, known = patient_keys(stem)
    assert (bare, typed, known) == (f"person{number}", f"person{number}_{kind}", True)


@given(st.text(min_size=1, max_size=30))
def test_any_name_gets_some_patient(stem: str) -> None:
    bare, typed, _, known = patient_keys(stem)
    assert bare
    assert typed
    assert known or bare == typed == stem


def test_three_classes_with_the_official_split_and_val(tmp_path: Path) -> None:
    ds = load(make(tmp_path / "set", FILES), tmp_path)
    records = ds.records.set_index("image_id")
    assert ds.classes == ("normal", "bacterial", "viral")
    assert list(records.index) == sorted(
        FILES, key=lambda f: (["train", "val", "test"].index(f.split("/")[0]), f)
    )
    assert records["split"].value_counts().to_dict() == {"train": 5, "val": 2, "test": 2}
    assert records.loc["train/PNEUMONIA/person1_virus_6.jpeg", "label"] == "viral"
    assert records.loc["train/PNEUMONIA/person1_bacteria_1.jpeg", "patient_id"] == "person1"
    assert records.loc["train/NORMAL/NORMAL2-IM-0115-0001.jpeg", "patient_id"] == "IM-0115"
    assert records.loc["train/NORMAL/NORMAL2-IM-0115-0001.jpeg", "patient_typed"] == "NORMAL2-IM-0115"
    assert records.loc["train/NORMAL/scan7.jpeg", "patient_id"] == "scan7"
    assert records["patient_known"].sum() == len(FILES) - 1
    assert (records["height"] == 24).all()
    assert (records["width"] == 20).all()
    assert len(ds.excluded) == 0


def test_images_and_records_are_in_the_same_order(tmp_path: Path) -> None:
    ds = load(make(tmp_path / "set", FILES), tmp_path)
    levels = [10 * FILES.index(path) for path in ds.records["path"]]
    assert np.abs(ds.images.mean(axis=(1, 2)) - levels).max() < 2


def test_pneumonia_of_unknown_kind_is_listed_and_left_out_of_three_classes_only(tmp_path: Path) -> None:
    root = make(tmp_path / "set", [*FILES, "train/PNEUMONIA/person9_12.jpeg"])
    three, two = load(root, tmp_path), load(root, tmp_path, labels="binary")
    assert three.excluded["path"].tolist() == ["train/PNEUMONIA/person9_12.jpeg"]
    assert "neither bacteria nor virus" in three.excluded["reason"].iloc[0]
    assert (len(three), len(two)) == (9, 10)
    assert two.classes == ("normal", "pneumonia")
    assert (two.records["label"] == "pneumonia").sum() == 5
    assert len(two.excluded) == 0


@pytest.mark.parametrize("nested", ["", "chest_xray", "chest_xray/chest_xray"])
def test_published_layouts_without_the_junk(tmp_path: Path, nested: str) -> None:
    root = tmp_path / "set"
    make(root / nested, FILES)
    make(root, ["__MACOSX/train/NORMAL/IM-9999-0001.jpeg"])
    junk = root / nested / "train" / "NORMAL" / "._IM-0115-0001.jpeg"
    junk.write_bytes(b"\0\5\x16\7")
    (root / nested / "train" / ".DS_Store").write_bytes(b"\0")
    ds = load(root, tmp_path)
    assert len(ds) == len(FILES)
    assert len(ds.excluded) == 0


def test_text_named_png_and_truncated_images_are_listed(tmp_path: Path) -> None:
    root = make(tmp_path / "set", FILES)
    (root / "train/NORMAL/IM-0200-0001.png").write_text("not an image")
    (root / "train/NORMAL/notes.txt").write_text("notes")
    whole = (root / FILES[0]).read_bytes()
    (root / "train/NORMAL/IM-0201-0001.jpeg").write_bytes(whole[: len(whole) // 2])
    (root / "train/NORMAL/IM-0202-0001.jpeg").touch()
    ds = load(root, tmp_path)
    reasons = ds.excluded.set_index("path")["reason"]
    assert sorted(reasons.index) == [
        "train/NORMAL/IM-0200-0001.png",
        "train/NORMAL/IM-0201-0001.jpeg",
        "train/NORMAL/IM-0202-0001.jpeg",
        "train/NORMAL/notes.txt",
    ]
    assert reasons.str.len().min() > 0
    assert len(ds) == len(FILES)


def test_wrong_layout_says_what_was_found(tmp_path: Path) -> None:
    make(tmp_path / "set", ["normal/a.png", "pneumonia/b.png"])
    with pytest.raises(
        DataNotFoundError, match=r"train\|val\|test/NORMAL\|PNEUMONIA.*holds normal/, pneumonia/"
    ):
        load(tmp_path / "set", tmp_path)


def test_empty_folders_are_an_error(tmp_path: Path) -> None:
    for folder in ("train/NORMAL", "train/PNEUMONIA"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    with pytest.raises(DataError, match="kermany: no image is left"):
        load(tmp_path / "set", tmp_path)


def test_check_counts_against_the_published_set(tmp_path: Path) -> None:
    root = make(tmp_path / "set", [*FILES, "train/PNEUMONIA/person9_12.jpeg"])
    rows = datasets.check("kermany", source=root).set_index("item")
    assert rows.loc["train/NORMAL", ["found", "published", "verdict"]].tolist() == [3, 1341, "partial"]
    assert rows.loc["file names without a patient", "found"] == 1
    assert rows.loc["pneumonia without a kind", "found"] == 1


# The facts of shared/data/README.md, on the real file names.


@pytest.fixture(scope="module")
def real(kermany_dir: Path) -> pd.DataFrame:
    table, left_out = list_files(find_root(kermany_dir))
    assert left_out == []
    return table


def test_real_counts(real: pd.DataFrame) -> None:
    counts = real.groupby(["split", "folder"]).size().to_dict()
    assert counts[("train", "normal")] == 1341
    assert counts[("train", "pneumonia")] == 3875
    assert counts[("test", "normal")] == 234
    assert counts[("test", "pneumonia")] == 390
    train = real[real["split"] == "train"]
    assert train["kind"].value_counts().to_dict() == {"bacterial": 2530, "viral": 1345}


def test_real_patients(real: pd.DataFrame) -> None:
    assert real["patient_known"].all()
    train = real[real["split"] == "train"]
    pneumonia, normal = train[train["folder"] == "pneumonia"], train[train["folder"] == "normal"]
    assert pneumonia["patient_typed"].nunique() == 2443
    assert normal["patient_typed"].nunique() == 1211
    assert pneumonia["patient_id"].nunique() == 1635
    kinds = pneumonia.groupby("patient_id")["kind"].nunique()
    both = set(kinds.index[kinds == 2])
    assert len(both) == 808
    assert pneumonia["patient_id"].isin(both).sum() == 2519


def test_real_patients_across_the_official_split(real: pd.DataFrame) -> None:
    def keys(split: str, folder: str, column: str) -> set[str]:
        return set(real.loc[(real["split"] == split) & (real["folder"] == folder), column])

    for folder in ("normal", "pneumonia"):
        assert not keys("train", folder, "patient_typed") & keys("test", folder, "patient_typed")
    test = keys("test", "pneumonia", "patient_id")
    assert len(test) == 202
    assert len(test & keys("train", "pneumonia", "patient_id")) == 170
    # The README counts pneumonia only; of the bare numbers of normal images 94 of 202 are in train as well.
    test = keys("test", "normal", "patient_id")
    assert (len(test), len(test & keys("train", "normal", "patient_id"))) == (202, 94)


def test_real_images(kermany_dir: Path, tmp_path: Path) -> None:
    ds = load(kermany_dir, tmp_path)
    assert ds.images.shape == (5840, 16, 16)
    assert ds.records.groupby(["split", "label"]).size().to_dict() == {
        ("test", "bacterial"): 242,
        ("test", "normal"): 234,
        ("test", "viral"): 148,
        ("train", "bacterial"): 2530,
        ("train", "normal"): 1341,
        ("train", "viral"): 1345,
    }
    assert len(ds.excluded) == 0


def test_a_copy_without_the_sixteen_images_of_val_is_complete_enough(tmp_path: Path) -> None:
    root = make(tmp_path / "kermany", [f for f in FILES if not f.startswith("val/")])
    verdicts = datasets.check("kermany", source=root).set_index("item")["verdict"]
    assert verdicts["val/NORMAL"] == verdicts["val/PNEUMONIA"] == "note"
    assert verdicts["train/NORMAL"] == "partial"
