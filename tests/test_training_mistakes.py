"""The published mistakes do what they did, and what they cost where that can be said by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from xraykit import backbones, training, training_mistakes
from xraykit.augment import quarter_turns_and_flips
from xraykit.classifiers import Classifier, build
from xraykit.datasets import XrayDataset
from xraykit.decisions import probabilities
from xraykit.errors import DataError
from xraykit.metrics import score_all
from xraykit.training_config import Config
from xraykit.training_mistakes import (
    NormalisedOtherwise,
    choose,
    epoch_by_epoch,
    few_of_each,
    one_class_tail,
    over_halves,
    patient_halves,
    with_output,
    with_turned_copies,
)

SIDE = 16


@pytest.fixture(scope="module")
def chests() -> XrayDataset:
    """60 random images of 30 patients; the ill are brighter."""
    rng = np.random.default_rng(0)
    label = np.repeat(["normal", "pneumonia"], 30)
    images = rng.integers(0, 128, (60, SIDE, SIDE)) + 100 * (label == "pneumonia")[:, None, None]
    records = pd.DataFrame(
        {
            "image_id": [f"i{i}" for i in range(60)],
            "patient_id": [f"p{i // 2}" for i in range(60)],
            "split": "train",
            "label": label,
        }
    )
    about = {"classes": ("normal", "pneumonia"), "task": "multiclass", "licence": "", "citation": ""}
    return XrayDataset(name="chests", images=images.astype(np.uint8), records=records, **about)


@pytest.fixture
def parts() -> dict[str, np.ndarray]:
    position = np.arange(60)
    return {"train": position[position % 10 < 8], "val": position[position % 10 >= 8]}


@pytest.fixture
def net() -> Classifier:
    return build("cnn-small", 1, seed=0)


def test_the_last_fifth_of_sorted_files_is_of_one_class() -> None:
    labels = np.array([1, 0, 1, 0, 1, 1, 0, 1, 1, 1])
    train, val = one_class_tail(labels)
    assert train.tolist() == [1, 3, 6, 0, 2, 4, 5, 7]
    assert val.tolist() == [8, 9]


@pytest.mark.parametrize("share", [0.0, 1.0, 0.99, -0.1])
def test_a_share_that_leaves_a_part_empty(share: float) -> None:
    with pytest.raises(DataError, match=f"share {share} of 3 images"):
        one_class_tail(np.array([0, 1, 1]), share=share)


def test_the_loop_refuses_such_a_split(chests: XrayDataset, net: Classifier) -> None:
    train, val = one_class_tail(chests.labels)
    with pytest.raises(DataError, match="val lacks normal"):
        training.fit(net, chests, train=train, val=val, config=Config(epochs=1), progress=False)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.integers(0, 2**16))
def test_halves_part_patients_and_not_images(patients: list[int], seed: int) -> None:
    patients = np.array([f"p{i}" for i in patients], object)
    n = len(set(patients))
    if n < 2:
        with pytest.raises(DataError, match="1 patient cannot be halved"):
            patient_halves(patients, n_draws=2, rng=np.random.default_rng(seed))
        return
    for first in patient_halves(patients, n_draws=5, rng=np.random.default_rng(seed)):
        assert not set(patients[first]) & set(patients[~first])
        assert len(set(patients[first])) == n // 2


def test_every_half_is_as_likely() -> None:
    first = patient_halves(np.array(list("aabcd"), object), n_draws=6000, rng=np.random.default_rng(0))
    halves, counts = np.unique(first, axis=0, return_counts=True)
    assert len(halves) == 6
    assert np.abs(counts - 1000).max() < 120  # four standard deviations


def test_sixteen_are_eight_of_each_among_the_allowed() -> None:
    rng = np.random.default_rng(0)
    y, among = np.repeat([0, 1], [30, 50]), rng.random((40, 80)) < 0.7
    picked = few_of_each(y, among, each=8, rng=rng)
    assert not (picked & ~among).any()
    np.testing.assert_array_equal(picked[:, y == 0].sum(axis=1), 8)
    np.testing.assert_array_equal(picked[:, y == 1].sum(axis=1), 8)
    assert len(np.unique(picked, axis=0)) == 40


@pytest.mark.parametrize("each", [0, 4])
def test_too_few_to_draw_from(each: int) -> None:
    y = np.array([0, 0, 0, 1, 1, 1, 1])
    with pytest.raises(DataError, match=f"{each} images of class 0 from 3; choose 1 to 3"):
        few_of_each(y, np.ones((2, 7), bool), each=each, rng=np.random.default_rng(0))


def test_a_choice_by_hand() -> None:
    y = np.array([0, 1, 0, 0, 1, 1])
    a = np.array(
        [0.2, 0.8, 0.6, 0.1, 0.4, 0.7]
    )  # right on the first two; then 1/2 of the normal, 1/2 of the ill
    b = np.array([0.9, 0.1, 0.1, 0.1, 0.9, 0.9])  # wrong on the first two, right on the others
    first = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]], bool)
    claimed, worth = choose(y, [a, b], on=first, fresh=~first)
    assert claimed.tolist() == [1, 1]
    assert worth.tolist() == [0.5, 0]
    on_test, _ = choose(y, [a, b], on=~first, fresh=first)
    assert on_test.tolist() == [1, 1]


def test_ties_go_to_the_first_candidate_and_threshold() -> None:
    y, on = np.array([0, 1, 0, 1]), np.array([[True, True, False, False]])
    same, other = np.array([0.2, 0.9, 0.2, 0.9]), np.array([0.2, 0.9, 0.9, 0.2])
    assert choose(y, [same, other], on=on, fresh=~on)[1] == 1
    assert choose(y, [other, same], on=on, fresh=~on)[1] == 0
    low = np.array([0.1, 0.9, 0.4, 0.6])  # .3 and .5 agree on the first two and not on the last
    assert choose(y, [low], on=on, fresh=~on, thresholds=[0.3, 0.5])[1] == 0.5
    assert choose(y, [low], on=on, fresh=~on, thresholds=[0.5, 0.3])[1] == 1


def test_choices_as_scikit_learn_scores_them() -> None:
    rng = np.random.default_rng(1)
    y, thresholds = rng.integers(0, 2, 60), (0.3, 0.5, 0.7)
    p = [np.stack([1 - s, s], axis=1) for s in rng.random((4, 60))]
    on = patient_halves(np.arange(60).astype(str).astype(object), n_draws=5, rng=rng)
    claimed, worth = choose(y, p, on=on, fresh=~on, thresholds=thresholds)
    for b, rows in enumerate(on):
        said = [s[:, 1] >= t for s in p for t in thresholds]
        scores = [balanced_accuracy_score(y[rows], s[rows]) for s in said]
        assert claimed[b] == pytest.approx(max(scores))
        assert worth[b] == pytest.approx(balanced_accuracy_score(y[~rows], said[np.argmax(scores)][~rows]))


def test_the_best_of_many_without_skill_flatters_itself() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 200)
    on = patient_halves(np.arange(200).astype(str).astype(object), n_draws=200, rng=rng)
    claimed, worth = choose(y, rng.random((12, 200)), on=on, fresh=~on)
    few = few_of_each(y, on, each=8, rng=rng)
    claimed_by_few, _ = choose(y, rng.random((12, 200)), on=few, fresh=~on)
    assert claimed.mean() > 0.55 > worth.mean() + 0.02
    assert claimed_by_few.mean() > claimed.mean() + 0.05
    assert set(np.unique(np.round(claimed_by_few * 16, 9) % 1)) == {0}  # in steps of a sixteenth


def test_choices_that_cannot_be_made() -> None:
    y, on = np.array([0, 1, 0, 1]), np.array([[True, True, False, False]])
    p = np.full(4, 0.5)
    with pytest.raises(DataError, match="0 candidates, 1 thresholds"):
        choose(y, [], on=on, fresh=~on)
    with pytest.raises(DataError, match="1 candidates, 0 thresholds"):
        choose(y, [p], on=on, fresh=~on, thresholds=())
    with pytest.raises(DataError, match="a row of fresh lacks a class"):
        choose(y, [p], on=on, fresh=np.array([[False, False, True, False]]))


def test_the_range_over_halves() -> None:
    found = over_halves(np.arange(101) / 100)
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((0.5, 0.025, 0.975))


def test_a_sigmoid_before_the_loss_leaves_a_floor(net: Classifier) -> None:
    x = torch.rand(4, 1, SIDE, SIDE)
    squashed = with_output(net, nn.Sigmoid()).eval()
    torch.testing.assert_close(squashed(x), torch.sigmoid(net.eval()(x)))
    assert len(net.head) == 2
    # However sure the network: log(1 + 1/e) for the ill, log 2 for the others.
    sure = torch.sigmoid(torch.tensor([[60.0], [-60.0]]))
    found = F.binary_cross_entropy_with_logits(sure, torch.tensor([[1.0], [0.0]]), reduction="none")
    torch.testing.assert_close(found[:, 0], torch.tensor([np.log1p(np.exp(-1)), np.log(2)]).float())


def test_it_trains_under_a_key_of_its_own(
    chests: XrayDataset, parts: dict, net: Classifier, tmp_path
) -> None:
    config = Config(epochs=1, batch_size=16, monitor=(), augment=None)
    how = {"config": config, "cache_dir": tmp_path, "device": "cpu", "progress": False, **parts}
    plain, squashed = (
        training.fit(net, chests, **how),
        training.fit(with_output(net, nn.Sigmoid()), chests, **how),
    )
    assert not squashed.cached
    assert plain.history["train_loss"][0] != squashed.history["train_loss"][0]
    assert squashed.history["train_loss"][0] > (np.log1p(np.exp(-1)) + np.log(2)) / 2


def test_leaky_relu_keeps_decisions_and_order_but_no_probability_low() -> None:
    z = np.linspace(-8, 8, 41)[:, None]
    y = (np.arange(41) % 3 > 0).astype(int)
    p, leaky = (probabilities(v, "binary") for v in (z, nn.LeakyReLU(0.01)(torch.tensor(z)).numpy()))
    names = ["accuracy", "auroc", "sensitivity", "specificity"]
    assert score_all(y, p, names=names) == score_all(y, leaky, names=names)
    assert p.min() < 0.001
    assert leaky[:, 1].min() == pytest.approx(1 / (1 + np.exp(0.08)))


def test_exchanged_labels_and_predictions_exchange_precision_and_recall() -> None:
    y, said = np.array([1, 1, 1, 1, 0, 0]), np.array([1, 1, 1, 0, 1, 1])
    names = ["precision", "sensitivity", "f1", "accuracy"]
    right = {k: v[0] for k, v in score_all(y, said.astype(float), names=names).items()}
    wrong = {k: v[0] for k, v in score_all(said, y.astype(float), names=names).items()}
    assert (right["precision"], right["sensitivity"]) == (0.6, 0.75)
    assert (wrong["precision"], wrong["sensitivity"]) == (0.75, 0.6)
    assert (wrong["f1"], wrong["accuracy"]) == (right["f1"], right["accuracy"])


def test_normalised_otherwise_is_what_the_network_would_have_seen(net: Classifier) -> None:
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    trained, applied = (0.4529, 0.1777), (0.4823, 0.1363)
    behind = nn.Module()
    behind.forward = lambda grey: (grey - trained[0]) / trained[1]  # the network's own first step
    found = NormalisedOtherwise(behind, trained=trained, applied=applied)(x)
    torch.testing.assert_close(found, (x - applied[0]) / applied[1])
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE), dtype=np.uint8)
    same = training.predict(NormalisedOtherwise(net, trained=trained, applied=trained), images, device="cpu")
    np.testing.assert_allclose(same, training.predict(net, images, device="cpu"), atol=1e-5)


def test_a_standard_deviation_of_0() -> None:
    with pytest.raises(DataError, match=r"deviations 0.2 and 0; both must be above 0"):
        NormalisedOtherwise(nn.Identity(), trained=(0.5, 0.2), applied=(0.5, 0))


def test_turned_copies_stand_beside_the_originals(chests: XrayDataset, parts: dict, monkeypatch) -> None:
    monkeypatch.setattr(training_mistakes, "TURNED_AT_ONCE", 7)  # the blocks leave no trace
    train, val = parts["train"], parts["val"]
    doubled, both, held_out = with_turned_copies(chests, train=train, val=val, seed=3)
    n = len(train)
    assert len(doubled) == 2 * n + len(val)
    np.testing.assert_array_equal(both, np.arange(2 * n))
    np.testing.assert_array_equal(doubled.images[:n], chests.images[train])
    np.testing.assert_array_equal(doubled.images[held_out], chests.images[val])
    grey = torch.from_numpy(chests.images[train]).unsqueeze(1).float() / 255
    turned = quarter_turns_and_flips(grey, np.arange(n), epoch=0, seed=3)[:, 0] * 255
    np.testing.assert_array_equal(doubled.images[n : 2 * n], turned.round().numpy())
    np.testing.assert_array_equal(doubled.labels, chests.labels[np.concatenate([train, train, val])])
    np.testing.assert_array_equal(doubled.patients[n : 2 * n], chests.patients[train])
    np.testing.assert_array_equal(
        np.sort(doubled.images[n], axis=None), np.sort(doubled.images[0], axis=None)
    )
    assert doubled.records["image_id"][n] == "i0 turned"
    assert chests.records["image_id"][0] == "i0"


def test_epoch_by_epoch_is_a_chain_of_runs(chests: XrayDataset, parts: dict, net: Classifier) -> None:
    config = Config(epochs=2, batch_size=16, seed=5, monitor=("loss",), patience=1, augment=None)
    how = {**parts, "device": "cpu", "progress": False}
    first, second = epoch_by_epoch(net, chests, config=config, **how)
    once = Config(epochs=1, batch_size=16, seed=5, monitor=(), augment=None)
    expected = training.fit(net, chests, config=once, **how).model("last")
    assert backbones.weights_hash(first) == backbones.weights_hash(expected)
    again = Config(epochs=1, batch_size=16, seed=6, monitor=(), augment=None)
    expected = training.fit(expected, chests, config=again, **how).model("last")
    assert backbones.weights_hash(second) == backbones.weights_hash(expected)
