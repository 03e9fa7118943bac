"""The shape that every data set has."""

import numpy as np
import pandas as pd
import pytest

from xraykit.datasets import XrayDataset
from xraykit.errors import DataError


def make(**changes):
    records = {
        "image_id": ["a", "b", "c"],
        "patient_id": ["p", "p", "q"],
        "split": ["train", "train", "test"],
    }
    fields = {
        "name": "toy",
        "images": np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2),
        "records": pd.DataFrame({**records, "label": ["normal", "viral", "bacterial"]}),
        "classes": ("normal", "bacterial", "viral"),
        "task": "multiclass",
        "licence": "MIT",
        "citation": "toy",
        "masks": np.array([0, 0b100, 0b010], np.uint16)[:, None, None] * np.eye(2, dtype=np.uint16),
    }
    return XrayDataset(**{**fields, **changes})


def multilabel(values):
    columns = pd.DataFrame(values, columns=["Mass", "Nodule", "No Finding"])
    records = pd.concat([make().records.drop(columns="label"), columns], axis=1)
    return make(records=records, classes=("Mass", "Nodule", "No Finding"), task="multilabel")


def test_labels_follow_the_order_of_classes():
    assert make().labels.tolist() == [0, 2, 1]
    assert multilabel([[0, 0, 1], [1, 1, 0], [0, 1, 0]]).labels.tolist() == [[0, 0, 1], [1, 1, 0], [0, 1, 0]]


def test_split_and_take_keep_images_records_and_masks_together():
    ds = make()
    assert ds.split("test").records["image_id"].tolist() == ["c"]
    taken = ds.take(np.array([2, 0]))
    assert taken.records["image_id"].tolist() == ["c", "a"]
    np.testing.assert_array_equal(taken.images, ds.images[[2, 0]])
    np.testing.assert_array_equal(taken.masks, ds.masks[[2, 0]])
    assert ds.take(np.array([False, True, False])).patients.tolist() == ["p"]
    with pytest.raises(DataError, match=r"no image in split 'val'; the splits here are \['test', 'train'\]"):
        ds.split("val")


def test_boxes_follow_their_images():
    boxes = pd.DataFrame({"image_id": ["a", "c"], "finding": ["Mass"] * 2, "x": 0, "y": 0, "w": 1, "h": 1})
    assert make(boxes=boxes).split("test").boxes["image_id"].tolist() == ["c"]


def test_mask_of_one_finding():
    ds = make()
    assert ds.mask(1, "viral").tolist() == [[True, False], [False, True]]
    assert not ds.mask(1, "bacterial").any()
    with pytest.raises(DataError, match="no lesion masks"):
        make(masks=None).mask(0, "viral")


def test_binary_of_classes_and_of_findings():
    pneumonia = make().binary()
    assert pneumonia.classes == ("normal", "pneumonia")
    assert pneumonia.labels.tolist() == [0, 1, 1]
    assert pneumonia.mask(2, "pneumonia").any()
    assert not pneumonia.mask(0, "pneumonia").any()
    assert pneumonia.binary() is pneumonia
    abnormal = multilabel([[0, 0, 1], [1, 1, 0], [0, 0, 0]]).binary()
    assert abnormal.classes == ("normal", "abnormal")
    assert abnormal.labels.tolist() == [0, 1, 0]
    capitals = make().records.assign(label=["NORMAL", "B", "V"])
    assert make(records=capitals, classes=("NORMAL", "B", "V"), masks=None).binary().labels.tolist() == [
        0,
        1,
        1,
    ]
    records = make().records.assign(label=["x", "y", "z"])
    with pytest.raises(DataError, match="no class is called 'normal'"):
        make(records=records, classes=("x", "y", "z")).binary()


BAD = {
    "uint8 of shape": {"images": np.zeros((3, 2, 2))},
    r"\(N, H, W\), not uint8 \(3, 2, 2, 3\)": {"images": np.zeros((3, 2, 2, 3), np.uint8)},
    "2 images but 3 records": {"images": np.zeros((2, 2, 2), np.uint8)},
    "is empty": {"images": np.zeros((0, 2, 2), np.uint8), "records": make().records.iloc[:0], "masks": None},
    "task 'regression' is not one of": {"task": "regression"},
    r"lack the columns \['patient_id'\]": {"records": make().records.drop(columns="patient_id")},
    "image_id must be unique; 1 repeat, such as 'a'": {
        "records": make().records.assign(image_id=["a", "a", "b"])
    },
    r"unknown split \['dev'\]": {"records": make().records.assign(split="dev")},
    r"labels \['tb'\] are not in classes": {
        "records": make().records.assign(label=["tb", "normal", "viral"])
    },
    "masks .* do not match images": {"masks": np.zeros((3, 4, 4), np.uint16)},
}


@pytest.mark.parametrize("says", BAD)
def test_what_breaks_the_contract_is_named(says):
    with pytest.raises(DataError, match=says):
        make(**BAD[says])


def test_label_columns_hold_zero_or_one():
    with pytest.raises(DataError, match="0 or 1 only"):
        multilabel([[0, 0, 2], [1, 1, 0], [0, 1, 0]])
