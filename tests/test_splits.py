"""Patient-grouped folds, patient overlap, and the audit of copies across a split."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from sklearn.model_selection import StratifiedGroupKFold

from xraykit import datasets
from xraykit.balance import oversample
from xraykit.datasets.kermany import find_root, list_files
from xraykit.datasets.nih_labels import read_labels
from xraykit.errors import DataError
from xraykit.splits import assert_no_patient_overlap, copies_across, hold_out, patient_folds, shared_patients


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def label_deviation(onehot: np.ndarray, fold: np.ndarray, fractions: list[float]) -> float:
    """Mean absolute difference between each label's share in each fold and the fold's fraction."""
    share = np.stack([onehot[fold == f].sum(axis=0) / onehot.sum(axis=0) for f in range(len(fractions))])
    return float(np.abs(share - np.array(fractions)[:, None]).mean())


@st.composite
def grouped_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[float]]:
    n = draw(st.integers(2, 40))
    n_patients = draw(st.integers(1, n))
    patients = np.array([f"p{draw(st.integers(0, n_patients - 1))}" for _ in range(n)], dtype=object)
    if draw(st.booleans()):
        labels = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    else:
        row = st.lists(st.integers(0, 1), min_size=3, max_size=3)
        labels = np.array(draw(st.lists(row, min_size=n, max_size=n)))
    parts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=min(4, len(set(patients)))))
    return labels, patients, [part / sum(parts) for part in parts]


@given(grouped_labels(), st.integers(0, 5))
def test_no_patient_is_divided_and_no_fold_is_empty(case: tuple, seed: int) -> None:
    labels, patients, fractions = case
    fold = patient_folds(labels, patients, fractions=fractions, rng=rng(seed))
    assert fold.shape == (len(labels),)
    assert sorted(set(fold)) == list(range(len(fractions)))
    assert pd.Series(fold).groupby(patients).nunique().max() == 1
    again = patient_folds(labels, patients, fractions=fractions, rng=rng(seed))
    np.testing.assert_array_equal(fold, again)


@given(grouped_labels(), st.integers(0, 5))
def test_row_order_does_not_matter(case: tuple, seed: int) -> None:
    labels, patients, fractions = case
    fold = patient_folds(labels, patients, fractions=fractions, rng=rng(seed))
    order = rng(seed + 1).permutation(len(labels))
    shuffled = patient_folds(labels[order], patients[order], fractions=fractions, rng=rng(seed))
    np.testing.assert_array_equal(shuffled, fold[order])


def test_perfect_split_of_equal_patients_is_found() -> None:
    # 10 patients of two images, 4 with class 1: halves must hold 2 of the 4 and 10 of the 20 images.
    labels = np.repeat([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], 2)
    patients = np.repeat(np.arange(10), 2)
    for seed in range(10):
        fold = patient_folds(labels, patients, fractions=[0.5, 0.5], rng=rng(seed))
        assert np.bincount(fold).tolist() == [10, 10]
        assert np.bincount(fold[labels == 1]).tolist() == [4, 4]


def test_largest_patient_first_by_hand() -> None:
    # One label; patients of 6, 3, 2 and 1 images. Halves want 6 each: 6 | 3 + 2 + 1.
    patients = np.repeat(["a", "b", "c", "d"], [6, 3, 2, 1])
    fold = patient_folds(np.zeros(12, int), patients, fractions=[0.5, 0.5], rng=rng())
    assert len(set(fold[:6])) == 1
    assert set(fold[6:]) == {1 - fold[0]}


def test_seed_changes_the_folds() -> None:
    patients = np.arange(60)
    labels = patients % 3
    folds = [patient_folds(labels, patients, fractions=[0.5, 0.5], rng=rng(seed)) for seed in (0, 1)]
    assert (folds[0] != folds[1]).any()


def test_images_without_any_label_are_spread_by_number() -> None:
    labels = np.zeros((100, 4), int)
    labels[:10, 0] = 1
    fold = patient_folds(labels, np.arange(100), fractions=[0.7, 0.3], rng=rng())
    assert np.bincount(fold).tolist() == [70, 30]
    assert np.bincount(fold[:10]).tolist() == [7, 3]


@pytest.mark.parametrize("seed", range(5))
def test_as_good_as_iterstrat_with_one_image_a_patient(seed: int) -> None:
    onehot = (rng(seed).random((1000, 8)) < np.geomspace(0.01, 0.5, 8)).astype(int)
    theirs = np.empty(1000, int)
    splitter = MultilabelStratifiedKFold(n_splits=5, shuffle=True, random_state=seed)
    for f, (_, test) in enumerate(splitter.split(onehot, onehot)):
        theirs[test] = f
    ours = patient_folds(onehot, np.arange(1000), fractions=[0.2] * 5, rng=rng(seed))
    assert label_deviation(onehot, ours, [0.2] * 5) <= label_deviation(onehot, theirs, [0.2] * 5) + 0.002
    assert abs(np.bincount(ours) - 200).max() <= abs(np.bincount(theirs) - 200).max() + 3


@pytest.mark.parametrize("seed", range(5))
def test_as_good_as_stratified_group_k_fold(seed: int) -> None:
    draw = rng(seed)
    patients = draw.integers(0, 300, size=1500) ** 2 // 300  # few patients with many images, many with few
    labels = draw.choice(3, size=1500, p=[0.7, 0.2, 0.1])
    onehot = np.eye(3)[labels]
    theirs = np.empty(1500, int)
    splitter = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=seed)
    for f, (_, test) in enumerate(splitter.split(labels, labels, patients)):
        theirs[test] = f
    ours = patient_folds(labels, patients, fractions=[0.2] * 5, rng=draw)
    assert label_deviation(onehot, ours, [0.2] * 5) <= label_deviation(onehot, theirs, [0.2] * 5) + 0.005


@pytest.mark.parametrize("fractions", [[0.5, 0.4], [1.5, -0.5], [1.0, 0.0], [], [0.5, float("nan")], [[1.0]]])
def test_bad_fractions_are_refused(fractions: list) -> None:
    with pytest.raises(DataError, match="positive and sum to 1"):
        patient_folds(np.zeros(9, int), np.arange(9), fractions=fractions, rng=rng())


def test_too_few_patients_names_what_is_feasible() -> None:
    with pytest.raises(DataError, match="3 folds wanted but only 2 patients; at most 2 folds are feasible"):
        patient_folds([0, 1, 0, 1], ["a", "b", "a", "b"], fractions=[0.4, 0.3, 0.3], rng=rng())


@pytest.mark.parametrize(
    ("labels", "patients", "message"),
    [
        ([0.0, np.nan], ["a", "b"], "1 of 2 rows have NaN or infinite labels, row 1 first"),
        ([[0, 1], [2, 0]], ["a", "b"], "holds only 0 and 1; this has 0 to 2"),
        ([0, -1], ["a", "b"], "whole numbers >= 0; the smallest here is -1"),
        ([0, 0.5], ["a", "b"], "whole numbers"),
        (["x", "y"], ["a", "b"], "give integer codes"),
        ([], [], r"labels of shape \(0,\)"),
        ([0, 1], ["a"], r"2 images but patient ids of shape \(1,\)"),
        ([0, 1], ["a", None], "1 images have no patient id, row 1 first"),
    ],
)
def test_bad_labels_and_patients_are_refused(labels: list, patients: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        patient_folds(labels, patients, fractions=[0.5, 0.5], rng=rng())


def test_shared_patients_and_the_assertion() -> None:
    split = ["train", "train", "val", "test", "test"]
    records = pd.DataFrame({"split": split, "patient_id": ["b", "a", "c", "a", "b"]})
    assert shared_patients(records) == ["a", "b"]
    assert shared_patients(records, "train", "val") == []
    with pytest.raises(DataError, match="2 patients are in both train and test, such as a, b; split again"):
        assert_no_patient_overlap(records)
    assert_no_patient_overlap(records.iloc[:3])


def test_copies_across_by_hand() -> None:
    # Originals 0..4 of patients a a b b c; image 0 three times, image 1 twice.
    patients = np.array(["a", "a", "b", "b", "c"])
    sampled = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    fold = np.array([0, 0, 1, 1, 1, 0, 1, 1])
    # Validation: 0 (copy), 1 and 1 (patient a), 3 (patient b), 4 (neither).
    assert copies_across(sampled, fold, patients) == {
        "n_val": 5,
        "with_copy": 1,
        "with_copy_share": 0.2,
        "with_patient": 4,
        "with_patient_share": 0.8,
    }
    only_b_and_c = copies_across(sampled, fold, patients, only=np.array([0, 0, 1, 1, 1]))
    assert (only_b_and_c["n_val"], only_b_and_c["with_copy"], only_b_and_c["with_patient"]) == (2, 0, 1)


def test_right_order_leaves_no_copy_and_no_patient_across() -> None:
    draw = rng()
    patients = draw.integers(0, 80, size=400)
    labels = draw.choice(3, size=400, p=[0.6, 0.3, 0.1])
    train = np.flatnonzero(patient_folds(labels, patients, fractions=[0.8, 0.2], rng=draw) == 0)
    balanced = train[oversample(labels[train], split="train", rng=draw)]
    val = np.setdiff1d(np.arange(400), train)
    found = copies_across(np.r_[balanced, val], np.repeat([0, 1], [len(balanced), len(val)]), patients)
    assert (found["n_val"], found["with_copy"], found["with_patient"]) == (len(val), 0, 0)


@pytest.mark.parametrize(
    ("sampled", "fold", "message"),
    [
        ([0, 1], [0], "must have equal length M"),
        ([0, 1], [1, 2], r"1 for validation; it holds \[1, 2\]"),
        ([0, 1], [0, 0], "no validation sample"),
    ],
)
def test_copies_across_refuses_what_it_cannot_count(sampled: list, fold: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        copies_across(np.array(sampled), np.array(fold), np.array(["a", "b"]))


def test_published_mistake_on_the_real_names(kermany_dir) -> None:
    """Oversample NORMAL by chance, then split 80/20 by image: the shares that this order produces.

    Copying files in turn, as the published project did, leaves 95% of the validation NORMALs with a copy.
    """
    records = list_files(find_root(kermany_dir))[0].query("split == 'train'")
    labels = (records["folder"] != "normal").to_numpy(int)
    patients = records["patient_typed"].to_numpy()
    draw = rng(42)
    in_turn = np.r_[np.arange(len(labels)), np.resize(np.flatnonzero(labels == 0), 3875 - 1341)]
    wrong = copies_across(in_turn, (draw.random(len(in_turn)) < 0.2).astype(int), patients, only=labels == 0)
    assert wrong["with_copy_share"] == pytest.approx(0.95, abs=0.02)
    whole = copies_across(in_turn, (draw.random(len(in_turn)) < 0.2).astype(int), patients)
    assert whole["with_patient_share"] == pytest.approx(0.72, abs=0.03)
    once = copies_across(np.arange(len(labels)), (draw.random(len(labels)) < 0.2).astype(int), patients)
    assert once["with_patient_share"] == pytest.approx(0.40, abs=0.03)


def test_full_nih_table_is_split_to_a_fraction_of_a_percent(nih_labels_dir) -> None:
    table = read_labels(nih_labels_dir)
    onehot = table.select_dtypes(np.uint8).to_numpy()
    assert onehot.shape == (112_120, 15)
    fold = patient_folds(onehot, table["patient_id"], fractions=[0.7, 0.1, 0.2], rng=rng())
    assert pd.Series(fold).groupby(table["patient_id"].to_numpy()).nunique().max() == 1
    np.testing.assert_allclose(np.bincount(fold) / len(fold), [0.7, 0.1, 0.2], atol=0.005)
    for f, fraction in enumerate([0.7, 0.1, 0.2]):
        np.testing.assert_allclose(onehot[fold == f].sum(axis=0) / onehot.sum(axis=0), fraction, atol=0.005)


def test_hold_out_keeps_patients_whole_and_never_takes_test() -> None:
    ds = datasets.load("synthetic", size=32, n_patients=40, progress=False)
    for seed in range(5):
        inside, val = hold_out(ds, rng=rng(seed))
        assert not set(ds.patients[inside]) & set(ds.patients[val])
        both = np.sort(np.concatenate([inside, val]))
        np.testing.assert_array_equal(both, np.flatnonzero(ds.records["split"] == "train"))
        assert abs(len(val) / len(both) - 0.2) < 0.08
    again = hold_out(ds, rng=rng(4))
    np.testing.assert_array_equal(again[1], val)
    test_only = replace(ds, records=ds.records.assign(split="test"))
    with pytest.raises(DataError, match="synthetic has no image in the split train; it has test"):
        hold_out(test_only, rng=rng())
    rows = np.flatnonzero(ds.records["split"] == "train")
    draws = {"fractions": [0.8, 0.2], "rng": rng(4)}
    np.testing.assert_array_equal(val, rows[patient_folds(ds.labels[rows], ds.patients[rows], **draws) == 1])
    assert abs(len(hold_out(ds, rng=rng(), share=0.5)[1]) / len(rows) - 0.5) < 0.08
    with pytest.raises(DataError, match="must be positive and sum to 1"):
        hold_out(ds, rng=rng(), share=1.0)
