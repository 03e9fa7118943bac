"""Shares of the training images."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.training_shares import least_share, share_of

CLASSES = ("normal", "bacterial", "viral")


def dataset(codes: np.ndarray, patients: np.ndarray | None = None) -> XrayDataset:
    """One image for each class code; without `patients` each is of a patient of its own."""
    ids = [f"i{i}" for i in range(len(codes))]
    records = pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "train"})
    records["label"] = [CLASSES[c] for c in codes]
    if patients is not None:
        records["patient_id"] = [f"p{p}" for p in patients]
    return XrayDataset(
        name="toy",
        images=np.zeros((len(codes), 4, 4), np.uint8),
        records=records,
        classes=CLASSES,
        task="multiclass",
        licence="none",
        citation="none",
    )


def test_all_of_it_is_the_index_itself() -> None:
    ds = dataset(np.arange(12) % 3)
    index = np.array([11, 3, 4, 0, 8])
    np.testing.assert_array_equal(share_of(ds, index, 1, seed=0), index)


@pytest.mark.parametrize(("share", "each"), [(0.5, 4), (0.25, 2), (0.125, 1)])
def test_halves_of_even_classes_by_hand(share: float, each: int) -> None:
    ds = dataset(np.repeat([0, 1, 2], 8))
    part = share_of(ds, np.arange(24), share, seed=3)
    assert np.bincount(ds.labels[part]).tolist() == [each] * 3
    assert (np.diff(part) > 0).all()  # the order of the index


@given(
    st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 15)), min_size=3, max_size=60)
)
def test_patients_stay_whole_and_smaller_shares_lie_within_larger(seed: int, rows: list) -> None:
    codes, patients = np.array(rows).T
    ds, index = dataset(codes, patients), np.arange(len(rows))
    before: set[int] = set()
    for share in (0.05, 0.2, 0.4, 0.75, 1.0):
        try:
            part = share_of(ds, index, share, seed=seed)
        except DataError:
            least = least_share(ds, index, seed=seed)
            assert share < least <= 1
            share_of(ds, index, least, seed=seed)
            continue
        assert before <= set(part)
        before = set(part)
        assert len(before) == len(part)
        assert not set(patients[part]) & set(np.delete(patients, part))
        assert abs(len(part) - share * len(rows)) <= np.bincount(patients).max() / 2 + 0.5
        assert set(codes[part]) == set(codes)


@pytest.mark.parametrize("share", [0.03, 0.1, 0.37])
def test_as_stratified_as_scikit_learn_up_to_two_images(share: float) -> None:
    codes = np.repeat([0, 1, 2], [270, 510, 220])
    ds, index = dataset(codes), np.arange(1000)
    theirs, _ = train_test_split(index, train_size=share, stratify=codes, random_state=0)
    for seed in range(5):
        ours = share_of(ds, index, share, seed=seed)
        assert len(ours) == len(theirs)
        assert np.abs(np.bincount(codes[ours]) - np.bincount(codes[theirs])).max() <= 2


def test_the_seed_alone_decides() -> None:
    codes = np.arange(200) % 3
    ds, index = dataset(codes, np.arange(200) // 2), np.arange(200)
    one = share_of(ds, index, 0.2, seed=1)
    np.testing.assert_array_equal(one, share_of(ds, index, 0.2, seed=1))
    assert set(one) != set(share_of(ds, index, 0.2, seed=2))
    shuffled = np.random.default_rng(0).permutation(index)
    assert set(one) == set(share_of(ds, shuffled, 0.2, seed=1))


def test_several_labels_an_image() -> None:
    ids = [f"i{i}" for i in range(64)]
    columns = {"Mass": np.arange(64) % 2, "Hernia": np.arange(64) % 16 == 0}
    records = pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "train"} | columns)
    ds = XrayDataset("toy", np.zeros((64, 4, 4), np.uint8), records, ("Mass", "Hernia"), "multilabel", "", "")
    part = share_of(ds, np.arange(64), 0.5, seed=0)
    assert ds.labels[part].sum(axis=0).tolist() == [16, 2]


def test_a_share_without_a_class_names_it_and_the_least_share() -> None:
    ds = dataset(np.r_[np.repeat([0, 1], 50), 2])
    with pytest.raises(
        DataError, match=r"share 0.1 of 101 images has no viral; with seed 0 .* at least"
    ) as e:
        share_of(ds, np.arange(101), 0.1, seed=0)
    least = float(re.search(r"at least ([\d.]+) has", str(e.value))[1])
    assert 2 in ds.labels[share_of(ds, np.arange(101), least, seed=0)]
    with pytest.raises(DataError, match="has no"):
        share_of(ds, np.arange(101), least - 1.5 / 101, seed=0)


@pytest.mark.parametrize(("share", "index"), [(0, [0, 1]), (1.1, [0, 1]), (0.5, []), (float("nan"), [0])])
def test_bad_input(share: float, index: list) -> None:
    with pytest.raises(DataError, match="use above 0 to 1, of at least one image"):
        share_of(dataset(np.array([0, 1, 2])), np.array(index, int), share, seed=0)


def test_the_least_share_is_the_least() -> None:
    ds, index = dataset(np.repeat([0, 1, 2], 8)), np.arange(24)
    assert least_share(ds, index[:8], seed=0) == 0.125  # one class: any one image of eight
    least = least_share(ds, index, seed=0)
    assert set(ds.labels[share_of(ds, index, least, seed=0)]) == {0, 1, 2}
    with pytest.raises(DataError, match=f"at least {least:g} has every class"):
        share_of(ds, index, least - 1 / 24, seed=0)
