"""Losses: by hand, and against PyTorch and scikit-learn."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from xraykit.balance import class_weights, pos_weight
from xraykit.errors import DataError
from xraykit.losses import LOSSES, make_loss, targets

KINDS = ("binary", "multiclass", "multilabel")


def example(kind: str, *, n: int = 50, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Logits and labels of three classes or findings, or of two classes."""
    rng = np.random.default_rng(seed)
    if kind == "binary":
        return torch.from_numpy(rng.normal(0, 3, (n, 1))).float(), rng.integers(0, 2, n)
    labels = rng.integers(0, 3, n) if kind == "multiclass" else rng.integers(0, 2, (n, 3), np.uint8)
    return torch.from_numpy(rng.normal(0, 3, (n, 3))).float(), labels


def test_targets_have_the_form_of_the_logits() -> None:
    assert targets(np.array([1, 0]), "binary").tolist() == [[1.0], [0.0]]
    assert targets(np.array([2, 0]), "multiclass").tolist() == [2, 0]
    assert targets(np.array([[0, 1]], np.uint8), "multilabel").tolist() == [[0.0, 1.0]]
    found = [targets(example(kind)[1], kind).dtype for kind in KINDS]
    assert found == [torch.float32, torch.int64, torch.float32]


def test_binary_by_hand() -> None:
    # p = 3/4 of the positive class: -log 3/4 for a positive image, -log 1/4 for a negative one.
    logits, truth = torch.full((2, 1), math.log(3)), torch.tensor([[1.0], [0.0]])
    right, wrong = -math.log(0.75), -math.log(0.25)
    expected = {
        make_loss(kind="binary"): (right, wrong),
        make_loss(kind="binary", weights=(2, 3)): (3 * right, 2 * wrong),
        make_loss("focal", kind="binary", gamma=2): (right / 16, wrong * 9 / 16),
        make_loss("focal", kind="binary", gamma=1, weights=(2, 3)): (3 * right / 4, 2 * wrong * 3 / 4),
    }
    for loss, values in expected.items():
        torch.testing.assert_close(loss(logits, truth), torch.tensor(values))


def test_multiclass_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log().repeat(3, 1)  # p = 1/8, 2/8, 5/8
    plain = -torch.tensor([1 / 8, 2 / 8, 5 / 8]).log()
    truth = torch.arange(3)
    torch.testing.assert_close(make_loss(kind="multiclass")(logits, truth), plain)
    weighted = make_loss(kind="multiclass", weights=(1, 4, 0.5))(logits, truth)
    torch.testing.assert_close(weighted, plain * torch.tensor([1, 4, 0.5]))
    focal = make_loss("focal", kind="multiclass", gamma=2)(logits, truth)
    torch.testing.assert_close(focal, plain * torch.tensor([7 / 8, 6 / 8, 3 / 8]) ** 2)


def test_multilabel_by_hand() -> None:
    logits, truth = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 0.0]])
    half, quarter = -math.log(0.5), -math.log(0.25)
    plain = make_loss(kind="multilabel")(logits, truth)
    torch.testing.assert_close(plain, torch.tensor([(half + quarter) / 2]))
    weighted = make_loss(kind="multilabel", weights=(3, 5))(logits, truth)  # the second label is negative
    torch.testing.assert_close(weighted, torch.tensor([(3 * half + quarter) / 2]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_losses_are_those_of_scikit_learn(kind: str) -> None:
    logits, labels = example(kind)
    found = float(make_loss(kind=kind)(logits, targets(labels, kind)).mean())
    z = logits.double()
    if kind == "multiclass":
        assert found == pytest.approx(log_loss(labels, z.softmax(1).numpy()), rel=1e-6)
    else:
        columns = zip(labels.reshape(len(labels), -1).T, z.sigmoid().numpy().T, strict=True)
        assert found == pytest.approx(np.mean([log_loss(y, p) for y, p in columns]), rel=1e-6)


def test_weights_are_those_of_pytorch_and_of_balance() -> None:
    logits, labels = example("multilabel")
    weights = pos_weight(labels, split="train")
    found = make_loss("bce", kind="multilabel", weights=weights)(logits, targets(labels, "multilabel"))
    reference = torch.nn.BCEWithLogitsLoss(pos_weight=torch.from_numpy(weights).float())
    torch.testing.assert_close(found.mean(), reference(logits, torch.from_numpy(labels).float()))
    logits, labels = example("multiclass")
    weights, codes = class_weights(labels, split="train"), torch.from_numpy(labels)
    found = make_loss("cross_entropy", kind="multiclass", weights=weights)(logits, codes)
    scale = torch.from_numpy(weights).float()
    torch.testing.assert_close(found, F.cross_entropy(logits, codes, weight=scale, reduction="none"))


def test_two_logits_and_one_are_the_same_loss() -> None:
    logits, labels = example("binary")
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    for name in ("auto", "cross_entropy", "focal"):
        one = make_loss(name, kind="binary", weights=(0.5, 3))(logits, targets(labels, "binary"))
        two = make_loss(name, kind="multiclass", weights=(0.5, 3))(both, targets(labels, "multiclass"))
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 2**16), kind=st.sampled_from(KINDS), gamma=st.floats(0.1, 5))
def test_focal_is_plain_at_0_and_otherwise_smaller(seed: int, kind: str, gamma: float) -> None:
    logits, labels = example(kind, seed=seed)
    truth = targets(labels, kind)
    plain = make_loss(kind=kind)(logits, truth)
    assert torch.equal(make_loss("focal", kind=kind, gamma=0)(logits, truth), plain)
    focal = make_loss("focal", kind=kind, gamma=gamma)(logits, truth)
    assert ((focal >= 0) & (focal <= plain)).all()


@given(seed=st.integers(0, 2**16), kind=st.sampled_from(KINDS), name=st.sampled_from(("auto", "focal")))
def test_the_loss_of_an_image_does_not_depend_on_its_batch(seed: int, kind: str, name: str) -> None:
    logits, labels = example(kind, n=6, seed=seed)
    loss, truth = make_loss(name, kind=kind), targets(labels, kind)
    whole = loss(logits, truth)
    assert whole.shape == (6,)
    torch.testing.assert_close(torch.cat([loss(logits[:1], truth[:1]), loss(logits[1:], truth[1:])]), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["auto", "focal"])
def test_large_logits_have_finite_losses_and_gradients(kind: str, name: str) -> None:
    logits, labels = example(kind)
    logits = (logits * 1e4).requires_grad_()
    loss = make_loss(name, kind=kind, gamma=0.5)(logits, targets(labels, kind)).sum()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "kind"), [("bce", "multiclass"), ("cross_entropy", "multilabel"), ("hinge", "binary")]
)
def test_losses_that_do_not_fit(name: str, kind: str) -> None:
    with pytest.raises(DataError, match=rf"loss '{name}' does not fit a {kind} task; use auto, .*focal"):
        make_loss(name, kind=kind)


@pytest.mark.parametrize("wrong", [{"weights": (1, 0)}, {"weights": (1, math.nan)}, {"gamma": -1}])
def test_weights_and_gamma_out_of_range(wrong: dict) -> None:
    with pytest.raises(DataError, match="weights must be above 0, gamma at least 0"):
        make_loss(LOSSES[-1], kind="binary", **wrong)
