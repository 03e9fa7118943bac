"""Whether heat maps can be trusted: similarity, randomised weights, shifts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn
from toy_explained import PAIR, Listed, Weighted, pictures, plain

from xraykit import classifiers
from xraykit.errors import DataError
from xraykit.explain import explain
from xraykit.explain_cut import Explained, network
from xraykit.explain_trust import cascade, shifted, similarity, standing_still, untrained

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def phantom() -> classifiers.Classifier:
    return classifiers.build("phantom", 1, seed=3).eval()


def test_similarity_by_hand() -> None:
    a = np.array([[[1, 2], [3, 4]], [[1, 2], [3, 4]], [[1, 2], [3, 4]], [[5, 5], [5, 5]]], float)
    b = np.array([[[2, 1], [3, 4]], [[0.1, 0.2], [9, 99]], [[4, 3], [2, 1]], [[1, 2], [3, 4]]], float)
    # two neighbours changed places: 1 - 6 (1 + 1) / (4 (16 - 1)); same order; reverse; constant
    np.testing.assert_allclose(similarity(a, b), [0.8, 1, -1, 0])
    assert similarity(a, b).dtype == np.float64


def test_similarity_is_that_of_scipy() -> None:
    a = RNG.random((20, 9, 7), np.float32)
    b = np.maximum(a + RNG.standard_normal(a.shape) - 0.3, 0)  # many ties, as Grad-CAM has
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(similarity(a, b), expected, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_only_the_order_of_pixels_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-4, 5, size=(2, 3, 6, 5)) / 4
    found = similarity(a, b)
    assert (np.abs(found) <= 1).all()
    np.testing.assert_allclose(similarity(np.exp(a), 7 * b - 2), found, atol=1e-12)
    np.testing.assert_allclose(similarity(b, a), found, atol=1e-12)
    np.testing.assert_allclose(similarity(-a, b), -found, atol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((2, 3, 3)), np.zeros((2, 3, 4)), r"\(2, 3, 3\) and \(2, 3, 4\); compare maps"),
        (np.zeros((3, 3)), np.zeros((3, 3)), r"float64 \(3, 3\); give \(M, H, W\)"),
        (np.zeros((0, 3, 3)), np.zeros((0, 3, 3)), "M >= 1"),
        (np.zeros((1, 2, 2)), np.full((1, 2, 2), np.nan), "without NaN or infinity"),
    ],
)
def test_similarity_bad_input(a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        similarity(a, b)


def changed(model: nn.Module, other: nn.Module) -> set[str]:
    """Modules that have a weight in another place."""
    own = dict(model.named_parameters())
    return {n.rpartition(".")[0] for n, p in other.named_parameters() if not torch.equal(p, own[n])}


def test_cascade_goes_from_the_head_to_the_first_layer() -> None:
    model = classifiers.build("cnn-small", 3, seed=0)
    for part in model.modules():  # batch norm starts with ones and zeros, which have no order
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    order = ["head.1", *(f"body.maps.layers.{i}" for i in (13, 12, 9, 8, 5, 4, 1, 0))]
    copies = cascade(model, stages=4, seed=1)
    ends = [1, 4, 7, 9]  # the head alone, and the other eight in three groups: the last has one less
    assert list(copies) == [order[end - 1] for end in ends]
    for end, copied in zip(ends, copies.values(), strict=True):
        assert changed(model, copied) == set(order[:end])
        for name, value in copied.named_parameters():
            assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
        for name, value in copied.named_buffers():
            assert torch.equal(value, model.get_buffer(name))
        assert copied.training
    for earlier, later, end in zip(copies.values(), list(copies.values())[1:], ends, strict=False):
        assert not changed(earlier, later) & set(order[:end])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_last_copy_depends_on_the_seed_and_not_on_the_stages(phantom: classifiers.Classifier) -> None:
    last = [list(cascade(phantom, stages=s, seed=0).values())[-1] for s in (2, 5, 18)]
    assert not changed(last[0], last[1])
    assert not changed(last[0], last[2])
    other = cascade(phantom, stages=2, seed=1)["body.maps.stem.0"]
    assert changed(last[0], other) == changed(phantom, other)


@pytest.mark.parametrize("stages", [2, 5, 18])
def test_first_the_head_alone_is_forgotten(phantom: classifiers.Classifier, stages: int) -> None:
    copies = cascade(phantom, stages=stages, seed=0)
    assert len(copies) == stages
    assert next(iter(copies)) == "head.1"
    assert list(copies)[-1] == "body.maps.stem.0"
    assert changed(phantom, copies["head.1"]) == {"head.1"}


def test_a_forgetful_network_has_other_maps_and_finite_scores(phantom: classifiers.Classifier) -> None:
    images = pictures(12, 64)

    def maps(model: classifiers.Classifier) -> np.ndarray:
        return explain(network(model, PAIR, size=64), images, target="pneumonia").maps

    own = maps(phantom)
    copies = cascade(phantom, stages=3, seed=0)
    found = [similarity(own, maps(copied)).mean() for copied in copies.values()]
    np.testing.assert_allclose(similarity(own, own), 1)
    assert max(found) < 0.8
    with torch.no_grad():
        scores = [copied(torch.rand(4, 1, 64, 64)) for copied in copies.values()]
    assert torch.stack(scores).isfinite().all()


@pytest.mark.parametrize("stages", [1, 19, 2.5])
def test_cascade_bad_stages(phantom: classifiers.Classifier, stages: float) -> None:
    with pytest.raises(
        DataError, match=f"stages = {stages}; phantom has 18 modules with weights: use 2 to 18"
    ):
        cascade(phantom, stages=stages, seed=0)


def test_an_untrained_network_has_fresh_weights_and_statistics() -> None:
    model = classifiers.build("cnn-small", 1, seed=0)
    model.train()
    with torch.no_grad():
        model(torch.rand(4, 1, 32, 32))  # batch norm has seen something
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight)
    before, chance = {n: v.clone() for n, v in model.state_dict().items()}, torch.get_rng_state()
    fresh, same, other = (untrained(model, seed=s).state_dict() for s in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    weights = [n for n, v in fresh.items() if n.endswith("weight") and v.ndim > 1]
    assert len(weights) == 5
    for name, value in fresh.items():
        assert torch.equal(value, same[name])
        assert torch.equal(value, before[name]) == (name.endswith("bias") and value.abs().sum() == 0)
    assert not any(torch.equal(fresh[n], other[n]) for n in weights)
    for name, part in untrained(model, seed=4).named_modules():
        if isinstance(part, nn.BatchNorm2d):
            assert before[f"{name}.running_mean"].any()
            assert not part.running_mean.any()
            assert (part.running_var == 1).all()
            assert (part.weight == 1).all()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        first = nn.Conv2d(1, fresh[weights[0]].shape[0], fresh[weights[0]].shape[2])
    assert torch.equal(fresh[weights[0]], first.weight)  # as PyTorch draws them


def test_no_weight_of_an_untrained_network_is_kept(phantom: classifiers.Classifier) -> None:
    fresh = untrained(phantom, seed=0)
    of_batch_norm = {n for n, part in phantom.named_modules() if isinstance(part, nn.BatchNorm2d)}
    names = {n for n, part in phantom.named_modules() if [*part.parameters(recurse=False)]}
    assert changed(phantom, fresh) >= names - of_batch_norm
    assert not fresh.training
    with torch.no_grad():
        assert fresh(torch.rand(2, 1, 64, 64)).isfinite().all()


IMAGES = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)


def test_a_map_that_moves_with_the_picture_and_one_that_does_not() -> None:
    images, weights = pictures(4, 32), np.ones((32, 32))
    np.testing.assert_allclose(shifted(plain(weights), images, target="yes", pixels=3), 1)
    fixed = np.float32(RNG.random((32, 32)))
    found = shifted(plain(weights, fixed=fixed), images, target="yes", pixels=3)
    assert found.shape == (4,)
    assert (np.abs(found) < 0.15).all()


def test_the_shift_goes_right_and_down_and_repeats_the_edge() -> None:
    image = RNG.integers(0, 256, (1, 6, 5), np.uint8)
    seen = []

    class Watching(Listed):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            seen.append(np.rint(255 * x[0, 0].numpy()).astype(np.uint8))
            return super().forward(x)

    model = Explained("watching", "", 6, (6, 6), Watching(), Weighted(np.ones((6, 6))), ("yes", "no"))
    square = np.pad(image, ((0, 0), (0, 0), (0, 1)), mode="edge")
    shifted(model, square, target="yes", pixels=2)
    first, moved = seen
    assert (first == square[0]).all()
    assert (moved[2:, 2:] == square[0, :-2, :-2]).all()
    assert (moved[:2, 2:] == square[0, 0, :-2]).all()
    assert (moved[2:, :2] == square[0, :-2, :1]).all()
    assert (moved[:2, :2] == square[0, 0, 0]).all()


def test_maps_that_stand_still_by_hand() -> None:
    row = np.arange(5.0)
    rising = np.broadcast_to(row, (5, 5))  # is like itself further on
    steps = np.broadcast_to([0, 1, 0, 1, 0.0], (5, 5))  # is the opposite of itself one pixel further on
    square = np.zeros((5, 5))
    square[0, 0] = square[1, 1] = 1  # of 4 x 4 pixels the first is marked, and two are
    found = standing_still(np.stack([rising, steps, square, np.ones((5, 5))]), pixels=1)
    # The last but one: of 16 pixels one of two is common; phi = (16 x 1 - 2 x 1) / sqrt(2 x 14 x 1 x 15).
    np.testing.assert_allclose(found, [1, -1, 14 / np.sqrt(420), 0], atol=1e-12)
    np.testing.assert_allclose(standing_still(steps[None], pixels=2), [1])
    with pytest.raises(DataError, match=r"float64 \(5, 5\); give \(M, H, W\)"):
        standing_still(square, pixels=1)


@pytest.mark.parametrize("pixels", [0, 1, 4])
def test_a_map_that_is_the_same_for_every_picture_stands_still(pixels: int) -> None:
    fixed = np.float32(RNG.random((32, 32)))
    model = plain(np.ones((32, 32)), fixed=fixed)
    found = shifted(model, pictures(3, 32), target="yes", pixels=pixels)
    np.testing.assert_allclose(found, standing_still(fixed[None], pixels=pixels)[0], atol=1e-6)


def test_shifts_of_a_network(phantom: classifiers.Classifier) -> None:
    images = pictures(5, 64)
    model = network(phantom, PAIR, size=64)
    still = shifted(model, images, target="pneumonia", pixels=0, rows=np.array([3, 1]), batch_size=1)
    np.testing.assert_allclose(still, 1)
    far, near = (
        shifted(model, images, target="pneumonia", pixels=p, method="Eigen-CAM").mean() for p in (12, 1)
    )
    assert far < near < 1


@pytest.mark.parametrize("pixels", [-1, 3, 1.5])
def test_shifted_bad_pixels(pixels: float) -> None:
    with pytest.raises(DataError, match=f"pixels = {pixels}; use 0 to 2, half of the shorter side"):
        shifted(plain(np.ones((4, 4))), IMAGES, target="yes", pixels=pixels)


def test_shifted_names_the_row_of_a_bad_image() -> None:
    images = np.concatenate([IMAGES, np.full((1, 4, 4), 9, np.uint8)])
    with pytest.raises(DataError, match="image 2 has the grey level 9 everywhere"):
        shifted(plain(np.ones((4, 4))), images, target="yes", pixels=1, rows=np.array([2]))
