"""The audit: counts, patients, duplicates exact and near, within and across splits."""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.transform import rotate

from xraykit.audit import (
    audit,
    cooccurrence,
    counts,
    images_and_patients,
    images_per_patient,
    labels_per_image,
    patients_across_splits,
)
from xraykit.datasets import load
from xraykit.datasets.base import NO_IMAGE, XrayDataset
from xraykit.datasets.kermany import find_root, list_files
from xraykit.datasets.nih_labels import read_labels
from xraykit.duplicates import duplicate_counts, exact_duplicates, near_duplicates
from xraykit.errors import DataError

CLASSES = ("normal", "bacterial")
FINDINGS = ("Effusion", "Mass", "No Finding")


def textures(n: int, side: int = 64) -> np.ndarray:
    """Unlike images: smooth random patterns, uint8 (n, side, side)."""
    coarse = np.random.default_rng(0).integers(0, 256, size=(n, 8, 8), dtype=np.uint8)
    return coarse.repeat(side // 8, axis=1).repeat(side // 8, axis=2)


def make(images: np.ndarray, *, split: str, patients: str, labels: str, **columns: list) -> XrayDataset:
    """One character an image: split T train, V val, E test; label n or b."""
    records = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(len(images))],
            "patient_id": list(patients),
            "split": [{"T": "train", "V": "val", "E": "test"}[s] for s in split],
            "label": [{"n": "normal", "b": "bacterial"}[x] for x in labels],
            **columns,
        }
    )
    return XrayDataset("made", images, records, CLASSES, "multiclass", "", "")


@pytest.fixture
def seven() -> XrayDataset:
    """Images 0, 1, 2 are one; 3 and 4 are one, across splits, patients and labels; 5 and 6 are single."""
    images = textures(4)[[0, 0, 0, 1, 1, 2, 3]]
    return make(images, split="TTTTEEV", patients="aabcddb", labels="nnnnbbb")


@pytest.fixture
def multilabel() -> pd.DataFrame:
    rows = [("p", 1, 1, 0), ("p", 1, 0, 0), ("q", 0, 0, 1), ("q", 1, 1, 0), ("r", 0, 0, 1)]
    return pd.DataFrame(rows, columns=["patient_id", *FINDINGS])


def test_counts_by_split_and_class(seven) -> None:
    table = counts(seven)
    assert table.index.to_list() == ["train", "val", "test"]
    assert table.to_dict("list") == {"normal": [4, 0, 0], "bacterial": [0, 1, 2]}


def test_tables_of_labels_alone(multilabel) -> None:
    assert counts(multilabel, FINDINGS).loc["all"].to_dict() == {"Effusion": 3, "Mass": 2, "No Finding": 2}
    assert labels_per_image(multilabel, FINDINGS).to_dict() == {1: 3, 2: 2}
    assert cooccurrence(multilabel, FINDINGS).to_numpy().tolist() == [[3, 2, 0], [2, 2, 0], [0, 0, 2]]
    table = images_and_patients(multilabel, FINDINGS)
    assert table["images"].to_dict() == {"Effusion": 3, "Mass": 2, "No Finding": 2, "all": 5}
    assert table["patients"].to_dict() == {"Effusion": 2, "Mass": 2, "No Finding": 2, "all": 3}
    assert images_per_patient(multilabel).to_dict() == {1: 1, 2: 2}


def test_multiclass_tables(seven) -> None:
    assert cooccurrence(seven).to_numpy().tolist() == [[4, 0], [0, 3]]
    assert labels_per_image(seven).to_dict() == {1: 7}
    assert images_and_patients(seven)["patients"].to_dict() == {"normal": 3, "bacterial": 2, "all": 4}


def test_patients_across_splits_lists_their_images(seven) -> None:
    table = patients_across_splits(seven)
    assert table.to_dict("index") == {"b": {"train": 1, "val": 1, "test": 0}}
    assert patients_across_splits(seven.split("train")).empty


def test_records_alone_need_class_names(multilabel) -> None:
    with pytest.raises(DataError, match="need the class names"):
        counts(multilabel)
    with pytest.raises(DataError, match=r"neither a column 'label' nor the label columns .'Hernia'."):
        counts(multilabel, ["Mass", "Hernia"])
    with pytest.raises(DataError, match=r"labels \['flu'\] are not among the classes"):
        counts(pd.DataFrame({"patient_id": ["a"], "label": ["flu"]}), ["normal"])


def test_exact_duplicates_are_grouped(seven) -> None:
    found = exact_duplicates(seven)
    assert found["image_id"].tolist() == ["i0", "i1", "i2", "i3", "i4"]
    assert found["group"].tolist() == [0, 0, 0, 1, 1]
    table = duplicate_counts(found)
    assert table.to_dict("index") == {
        "train": {"groups": 1, "images": 3, "extra": 2},
        "across splits": {"groups": 1, "images": 2, "extra": 1},
        "two labels": {"groups": 1, "images": 2, "extra": 1},
        "two patients": {"groups": 2, "images": 5, "extra": 3},
    }


def test_file_hashes_are_used_where_all_are_known(seven) -> None:
    hashed = XrayDataset(
        "made", seven.images, seven.records.assign(sha256=list("abcdefa")), CLASSES, "multiclass", "", ""
    )
    assert exact_duplicates(hashed)["image_id"].tolist() == ["i0", "i6"]
    assert len(exact_duplicates(hashed, by="pixels")) == 5
    one_missing = hashed.records.assign(sha256=[None, *"bcdefa"])
    partly = XrayDataset("made", seven.images, one_missing, CLASSES, "multiclass", "", "")
    assert len(exact_duplicates(partly)) == 5
    with pytest.raises(DataError, match="sha256 for every image"):
        exact_duplicates(partly, by="file")


def test_no_duplicates_give_empty_tables() -> None:
    ds = make(textures(3), split="TTE", patients="abc", labels="nbn")
    assert exact_duplicates(ds).empty
    assert (duplicate_counts(exact_duplicates(ds))["groups"] == 0).all()
    assert near_duplicates(ds.images).empty


def test_near_duplicates_survive_light_changes_only() -> None:
    images = textures(8)
    brighter = np.clip(images[0] * 0.6 + 60, 0, 255).astype(np.uint8)
    noisy = np.clip(images[1] + np.random.default_rng(1).normal(0, 8, (64, 64)), 0, 255).astype(np.uint8)
    turned = (rotate(images[2], 25) * 255).astype(np.uint8)
    stack = np.concatenate([images, np.stack([brighter, noisy, turned, images[3]])])
    pairs = near_duplicates(stack)
    assert {(i, j) for i, j in zip(pairs["first"], pairs["second"], strict=True)} == {(0, 8), (1, 9), (3, 11)}
    assert pairs["identical"].sum() == 1
    assert pairs["correlation"].is_monotonic_decreasing


def test_near_duplicates_agree_with_numpys_correlation_across_blocks(monkeypatch) -> None:
    images = textures(40, side=32)
    images[20:] = np.clip(images[:20] * 0.5 + np.random.default_rng(2).normal(60, 20, (20, 32, 32)), 0, 255)
    expected = np.corrcoef(images.reshape(40, -1))
    monkeypatch.setattr("xraykit.duplicates._BLOCK", 7)
    pairs = near_duplicates(images, threshold=0.5)
    wanted = [(i, j) for i in range(40) for j in range(i + 1, 40) if expected[i, j] >= 0.5]
    assert sorted(zip(pairs["first"], pairs["second"], strict=True)) == wanted
    assert len(wanted) >= 20
    np.testing.assert_allclose(pairs["correlation"], expected[pairs["first"], pairs["second"]], atol=1e-5)


def test_near_duplicates_skip_blank_images_and_refuse_floods() -> None:
    blank = np.full((5, 32, 32), 7, np.uint8)
    assert near_duplicates(blank).empty
    with pytest.raises(DataError, match=r"more than 3 pairs correlate at 0\.98 or more; raise threshold"):
        near_duplicates(textures(1)[[0, 0, 0, 0]], max_pairs=3)
    for threshold in (0, 1.1, float("nan")):
        with pytest.raises(DataError, match="above 0 and at most 1"):
            near_duplicates(textures(2), threshold=threshold)


def test_summary_gives_verdicts(seven) -> None:
    unreadable = pd.DataFrame({"path": ["bad.png"], "reason": ["truncated"]})
    ds = XrayDataset("made", seven.images, seven.records, CLASSES, "multiclass", "", "", excluded=unreadable)
    rows = audit(ds).summary().set_index("check")
    assert dict(zip(rows.index, zip(rows["value"], rows["verdict"], strict=True), strict=True)) == {
        "images": (7, "fact"),
        "patients": (4, "fact"),
        "largest number of images of one patient": (2, "fact"),
        "unreadable files": (1, "note"),
        "classes absent from a split": (2, "problem"),
        "patients in more than one split": (1, "problem"),
        "exact duplicates inside train": (2, "note"),
        "exact duplicates inside val": (0, "ok"),
        "exact duplicates inside test": (0, "ok"),
        "exact duplicates across splits": (1, "problem"),
        "exact duplicates with two labels": (1, "problem"),
        "exact duplicates with two patient ids": (2, "note"),
        "near-duplicate pairs inside a split": (0, "ok"),
        "near-duplicate pairs across splits": (0, "ok"),
    }


def test_labels_without_an_image_are_no_unreadable_files(seven) -> None:
    excluded = pd.DataFrame({"path": ["bad.png", "x", "y"], "reason": ["truncated", NO_IMAGE, NO_IMAGE]})
    rows = audit(replace(seven, excluded=excluded)).summary().set_index("check")
    assert rows.loc["unreadable files"].tolist() == [1, "note"]
    assert rows.loc["labels without an image"].tolist() == [2, "note"]


def test_audit_names_the_near_pairs() -> None:
    images = textures(3)[[0, 1, 2, 0]]
    images[3, 0, 0] ^= 4
    result = audit(make(images, split="TTVE", patients="abcd", labels="nbnb"))
    pair = result.near.iloc[0]
    assert (pair["first_image_id"], pair["second_image_id"]) == ("i0", "i3")
    assert (pair["first_split"], pair["second_split"], pair["identical"]) == ("train", "test", False)
    values = result.summary().set_index("check")["value"]
    assert values["near-duplicate pairs across splits"] == 1
    verdicts = result.summary().set_index("check")["verdict"]
    assert verdicts["near-duplicate pairs across splits"] == "look"  # alike, not the same picture
    assert audit(make(images, split="TTVE", patients="abcd", labels="nbnb"), near_threshold=None).near is None


def test_a_copy_saved_with_other_compression_is_a_near_duplicate(tmp_path) -> None:
    """File hashes part it from its original. A copy of the file itself is an exact duplicate only."""
    for i, image in enumerate(textures(4)):
        path = tmp_path / "own" / ("train" if i < 2 else "test") / ("normal", "sick")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path, compress_level=1)
    normal = tmp_path / "own" / "train" / "normal"
    Image.open(normal / "0.png").save(tmp_path / "own" / "test" / "normal" / "again.png", compress_level=9)
    shutil.copy(normal / "0.png", normal / "copy.png")
    ds = load("folder", source=tmp_path / "own", size=64, data_dir=tmp_path / "data", progress=False)
    rows = audit(ds).summary().set_index("check")
    assert rows.loc["near-duplicate pairs across splits"].tolist() == [2, "problem"]  # with 0.png, copy.png
    assert rows.loc["near-duplicate pairs inside a split"].tolist() == [0, "ok"]
    assert rows.loc["exact duplicates inside train"].tolist() == [1, "note"]
    assert rows.loc["exact duplicates across splits"].tolist() == [0, "ok"]


def test_multilabel_duplicates_carry_their_labels() -> None:
    records = pd.DataFrame(
        [("i0", "a", "train", 1, 1, 0), ("i1", "a", "train", 0, 0, 1)],
        columns=["image_id", "patient_id", "split", *FINDINGS],
    )
    ds = XrayDataset("made", textures(1)[[0, 0]], records, FINDINGS, "multilabel", "", "")
    assert exact_duplicates(ds)["label"].tolist() == ["Effusion|Mass", "No Finding"]


def test_kermany_has_the_duplicates_that_are_known(kermany_dir) -> None:
    """26 extra copies inside train, 6 inside test, by file; none across, none with two labels."""
    root = find_root(kermany_dir)
    records = list_files(root)[0].rename(columns={"folder": "label"})
    records["sha256"] = [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in records["path"]]
    blank = np.zeros((len(records), 1, 1), np.uint8)
    ds = XrayDataset("kermany", blank, records, ("normal", "pneumonia"), "multiclass", "", "")
    values = audit(ds, near_threshold=None).summary().set_index("check")["value"]
    assert values["images"] == 5840
    assert values["exact duplicates inside train"] == 26
    assert values["exact duplicates inside test"] == 6
    assert values["exact duplicates across splits"] == 0
    assert values["exact duplicates with two labels"] == 0
    assert counts(ds).to_numpy().tolist() == [[1341, 3875], [234, 390]]


def test_full_nih_label_table(nih_labels_dir) -> None:
    table = read_labels(nih_labels_dir)
    classes = table.columns[table.dtypes == np.uint8].to_list()
    result = audit(table, classes)
    values = result.summary().set_index("check")["value"]
    assert (values["images"], values["patients"]) == (112_120, 30_805)
    assert values["largest number of images of one patient"] == 184
    assert result.labels_per_image.to_dict()[1] == 91_324
    assert result.counts.loc["all", "No Finding"] == 60_361
    assert (result.cooccurrence["No Finding"].drop("No Finding") == 0).all()
    assert int((result.images_per_patient * result.images_per_patient.index).sum()) == 112_120
    assert result.exact is None
