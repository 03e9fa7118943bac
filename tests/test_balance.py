"""Resampling on index arrays, class weights and weighted sampling, on training data only."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xraykit.balance import (
    class_weights,
    oversample,
    pos_weight,
    sample_weights,
    smote,
    undersample,
    ways,
    weighted_sample,
)
from xraykit.errors import DataError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Codes with every class present, two classes at least.
class_codes = st.integers(2, 4).flatmap(
    lambda k: st.lists(st.integers(0, k - 1), max_size=30).map(lambda codes: np.array([*range(k), *codes]))
)
MULTILABEL = np.array([[1, 0], [1, 0], [1, 1], [0, 0], [1, 0], [0, 0], [1, 0], [1, 0]])


@given(class_codes, st.integers(0, 5))
def test_undersample_keeps_the_smallest_count_of_each_class(labels: np.ndarray, seed: int) -> None:
    index = undersample(labels, split="train", rng=rng(seed))
    counts = np.bincount(labels)
    assert np.bincount(labels[index]).tolist() == [counts.min()] * len(counts)
    assert len(set(index.tolist())) == len(index)
    np.testing.assert_array_equal(index, undersample(labels, split="train", rng=rng(seed)))


@given(class_codes, st.integers(0, 5))
def test_oversample_reaches_the_largest_count_and_keeps_every_image(labels: np.ndarray, seed: int) -> None:
    index = oversample(labels, split="train", rng=rng(seed))
    counts = np.bincount(labels)
    assert np.bincount(labels[index]).tolist() == [counts.max()] * len(counts)
    assert set(index.tolist()) == set(range(len(labels)))
    largest = labels == counts.argmax()
    assert (np.bincount(index)[largest] == 1).all()  # nothing is copied in the largest class


def test_resampling_depends_on_the_seed() -> None:
    labels = np.repeat([0, 1], [100, 10])
    for resample in (undersample, oversample):
        assert set(resample(labels, split="train", rng=rng(0))) <= set(range(110))
        first, second = (np.sort(resample(labels, split="train", rng=rng(seed))) for seed in (0, 1))
        assert (first != second).any()


def test_class_weights_by_hand() -> None:
    # 8 images, 2 classes: 8 / (2 * 6) and 8 / (2 * 2); the weights of all images add up to 8.
    labels = np.array([0, 0, 0, 1, 0, 1, 0, 0])
    np.testing.assert_allclose(class_weights(labels, split="train"), [2 / 3, 2.0])
    assert class_weights(labels, split="train")[labels].sum() == pytest.approx(8)


def test_pos_weight_by_hand_balances_torchs_loss() -> None:
    # 6 positives and 2 negatives; 1 positive and 7 negatives.
    weight = pos_weight(MULTILABEL, split="train")
    np.testing.assert_allclose(weight, [2 / 6, 7 / 1])
    target = torch.tensor(MULTILABEL, dtype=torch.float64)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight), reduction="none")
    each = loss(torch.zeros_like(target), target)
    torch.testing.assert_close((each * target).sum(0), (each * (1 - target)).sum(0))


def test_sample_weights_of_classes_draw_each_equally() -> None:
    labels = np.array([0, 0, 0, 1, 0, 1, 0, 0])
    weights = sample_weights(labels, split="train")
    np.testing.assert_allclose(weights, np.where(labels == 0, 8 / 12, 8 / 4))
    assert np.bincount(labels, weights) == pytest.approx([4, 4])


def test_sample_weights_of_labels_follow_the_rarest() -> None:
    # Images with each label: 6, 1; with none: 2. Rarest of each image: 6 6 1 2 6 2 6 6.
    inverse = 1 / np.array([6, 6, 1, 2, 6, 2, 6, 6])
    np.testing.assert_allclose(sample_weights(MULTILABEL, split="train"), inverse / inverse.mean())


def test_sample_weights_without_unlabelled_images_are_finite() -> None:
    np.testing.assert_allclose(sample_weights([[1, 0], [0, 1], [1, 1]], split="train"), [1, 1, 1])


@pytest.mark.parametrize("labels", [np.repeat([0, 1, 2], [60, 30, 10]), np.tile(MULTILABEL, (12, 1))])
def test_weighted_sample_draws_as_torchs_sampler_does(labels: np.ndarray) -> None:
    size = 40_000
    ours = np.bincount(weighted_sample(labels, split="train", size=size, rng=rng()), minlength=len(labels))
    sampler = torch.utils.data.WeightedRandomSampler(
        sample_weights(labels, split="train"), size, generator=torch.Generator().manual_seed(0)
    )
    theirs = np.bincount(list(sampler), minlength=len(labels))
    expected = sample_weights(labels, split="train") * size / len(labels)
    # Poisson counts: each within five standard deviations of what the weights ask for.
    assert (np.abs(ours - expected) < 5 * np.sqrt(expected)).all()
    assert (np.abs(theirs - expected) < 5 * np.sqrt(expected)).all()
    assert ours.sum() == size


@pytest.mark.parametrize("split", ["val", "test", "all", "Train", ""])
def test_every_function_refuses_any_split_but_train(split: str) -> None:
    codes = np.array([0, 0, 1])
    calls = [
        lambda: undersample(codes, split=split, rng=rng()),
        lambda: oversample(codes, split=split, rng=rng()),
        lambda: class_weights(codes, split=split),
        lambda: sample_weights(codes, split=split),
        lambda: sample_weights(MULTILABEL, split=split),
        lambda: pos_weight(MULTILABEL, split=split),
        lambda: weighted_sample(codes, split=split, size=3, rng=rng()),
    ]
    for call in calls:
        with pytest.raises(
            DataError, match=f"refusing to balance split '{split}'.*only 'train'.*by patient first"
        ):
            call()


def test_multilabel_is_sent_to_weights() -> None:
    calls = [
        lambda: undersample(MULTILABEL, split="train", rng=rng()),
        lambda: oversample(MULTILABEL, split="train", rng=rng()),
        lambda: class_weights(MULTILABEL, split="train"),
    ]
    for call in calls:
        with pytest.raises(DataError, match=r"multilabel.*use weighted_sample, or pos_weight"):
            call()
    with pytest.raises(DataError, match="use class_weights"):
        pos_weight(np.array([0, 1]), split="train")


def test_what_cannot_be_balanced_is_an_error() -> None:
    with pytest.raises(DataError, match=r"classes \[1\] have no training image, the largest code is 2"):
        class_weights(np.array([0, 2]), split="train")
    with pytest.raises(DataError, match="all 3 images are of one class"):
        oversample(np.zeros(3, int), split="train", rng=rng())
    with pytest.raises(DataError, match=r"labels \[0, 1\] have \[0, 2\] positives among 2 images"):
        pos_weight(np.array([[0, 1, 0], [0, 1, 1]]), split="train")
    with pytest.raises(DataError, match="size = 0 draws"):
        weighted_sample(np.array([0, 1]), split="train", size=0, rng=rng())
    with pytest.raises(DataError, match="NaN"):
        sample_weights(np.array([0, np.nan]), split="train")


def test_ways_of_class_codes_and_of_findings() -> None:
    codes = np.array([0] * 6 + [1] * 2)
    found = {name: way(codes) for name, way in ways(codes, rng=rng()).items()}
    assert list(found) == ["none", "undersampling", "oversampling", "class weights", "weighted sampler"]
    sizes = {name: np.bincount(codes[index]).tolist() for name, (index, _) in found.items()}
    assert sizes["none"] == sizes["class weights"] == [6, 2]
    assert (sizes["undersampling"], sizes["oversampling"]) == ([2, 2], [6, 6])
    assert sum(sizes["weighted sampler"]) == 8
    assert found["class weights"][1]["class_weight"].tolist() == pytest.approx([8 / 12, 2])
    many = ways(MULTILABEL, rng=rng())
    assert list(many) == ["none", "pos_weight", "weighted sampler"]
    assert many["pos_weight"](MULTILABEL)[1]["pos_weight"].tolist() == pytest.approx([2 / 6, 7])


def cloud(counts: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 3) float32 and codes: so many images of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return rng(seed).normal(size=(len(labels), 3)).astype(np.float32) + 10 * labels[:, None], labels


@given(st.lists(st.integers(4, 12), min_size=2, max_size=3), st.integers(0, 20), st.integers(1, 3))
def test_smote_rows_lie_between_an_image_and_a_near_one_of_its_class(counts, seed: int, k: int) -> None:
    features, labels = cloud(counts, seed)
    given_ = features.copy()
    more, codes = smote(features, labels, split="train", rng=rng(seed), k_neighbors=k)
    assert np.bincount(codes).tolist() == [max(counts)] * len(counts)
    np.testing.assert_array_equal(features, given_)
    np.testing.assert_array_equal(more[: len(labels)], features)
    np.testing.assert_array_equal(codes[: len(labels)], labels)
    for row, code in zip(more[len(labels) :], codes[len(labels) :], strict=True):
        assert between_neighbours(row, features[labels == code].astype(float), k)


def between_neighbours(row: np.ndarray, own: np.ndarray, k: int) -> bool:
    """Whether `row` lies on the segment from some row of `own` to one of its k nearest, in plain NumPy."""
    for start in own:
        far = np.linalg.norm(own - start, axis=1)
        for end in own[np.argsort(far)[1 : k + 1]]:
            share = (row - start) @ (end - start) / ((end - start) @ (end - start))
            if -1e-4 <= share <= 1 + 1e-4 and np.abs(start + share * (end - start) - row).max() < 1e-4:
                return True
    return False


def test_smote_of_two_images_lies_on_their_line_and_depends_on_the_seed() -> None:
    features = np.array([[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [10, 0], [14, 2]], np.float32)
    labels = np.array([0] * 6 + [1] * 2)
    more, codes = smote(features, labels, split="train", rng=rng(), k_neighbors=1)
    assert more.dtype == np.float32
    assert codes.tolist() == [0] * 6 + [1] * 6
    new = more[8:]
    assert ((new[:, 0] >= 10) & (new[:, 0] <= 14)).all()
    np.testing.assert_allclose(new[:, 1], (new[:, 0] - 10) / 2, atol=1e-5)
    assert len(np.unique(new, axis=0)) == 4
    np.testing.assert_array_equal(smote(features, labels, split="train", rng=rng(), k_neighbors=1)[0], more)
    assert (smote(features, labels, split="train", rng=rng(1), k_neighbors=1)[0] != more).any()


def test_smote_of_equal_classes_adds_nothing() -> None:
    features, labels = cloud([8, 8])
    more, codes = smote(features, labels, split="train", rng=rng())
    np.testing.assert_array_equal(more, features)
    np.testing.assert_array_equal(codes, labels)


@pytest.mark.parametrize(
    ("labels", "split", "k", "message"),
    [
        ([0] * 9 + [1] * 3, "test", 2, "refusing to balance split 'test'"),
        ([0] * 9 + [1] * 3, "train", 5, "k_neighbors = 5 with 3 images in the smallest class; choose 1 to 2"),
        ([0] * 9 + [1] * 3, "train", 0, "k_neighbors = 0 .*choose 1 to 2"),
        ([0] * 11 + [1], "train", 1, "with 1 images .*use oversample"),
        ([0] * 12, "train", 1, "all 12 images are of one class"),
        ([0] * 6 + [2] * 6, "train", 1, r"classes \[1\] have no training image"),
        ([0, 1], "train", 1, r"features of shape \(12, 3\) with 2 labels"),
        ([[0, 1]] * 12, "train", 1, "multilabel"),
    ],
)
def test_smote_refuses_what_has_no_neighbours(labels: list, split: str, k: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        smote(cloud([9, 3])[0], np.array(labels), split=split, rng=rng(), k_neighbors=k)


def test_smote_refuses_nan() -> None:
    features, labels = cloud([9, 3])
    features[4, 1] = np.nan
    with pytest.raises(DataError, match="must be finite numbers"):
        smote(features, labels, split="train", rng=rng(), k_neighbors=2)
