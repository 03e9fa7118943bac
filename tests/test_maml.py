"""The inner loop: by hand, against finite differences, and against plain optimisers."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from xraykit import classifiers, decisions, maml, training
from xraykit.backbones import Pretraining, from_module, own
from xraykit.backbones.base import Pooled
from xraykit.classifiers import Classifier
from xraykit.episodes import Episode
from xraykit.errors import DataError, TrainingError
from xraykit.maml import Inner, Learner

PARTS = pytest.mark.parametrize("part", ["all", "head"])
BINARY = Episode(
    ("without A", "A"), np.array([[0, 1, 2], [3, 4, 5]]), np.array([[6, 7, 8, 9], [10, 11, 12, 13]])
)
THREE = Episode(
    ("A", "B", "C"), np.arange(6).reshape(3, 2), np.arange(6, 15).reshape(3, 3)
)  # fmt: skip


class Scale(nn.Module):
    """Multiplies by one weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Product(nn.Module):
    """Of one number x: v*w*x; without `v` the body has no weight, and it is w*x."""

    name, n_outputs = "product", 1

    def __init__(self, w: float, v: float | None = None) -> None:
        super().__init__()
        self.body, self.head = nn.Identity() if v is None else Scale(v), Scale(w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class OnSquares(Learner):
    """With the loss a/2 (z - c)^2, where a "target" is (a, c)."""

    def loss(self) -> maml.Loss:
        return lambda z, y: y[:, 0] / 2 * (z[:, 0] - y[:, 1]) ** 2


def example(a: float, c: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x = 1, to be answered with c."""
    return torch.ones(1, 1), torch.tensor([[a, c]])


def tiny(n_outputs: int = 1, *, norm: str = "group", dropout: float = 0.0, seed: int = 0) -> Classifier:
    """Four convolutions, of width 2 and more."""
    body = own.build_cnn(width=2, norm=norm, light=True, seed=seed)
    return classifiers.build(body, n_outputs, dropout=dropout, seed=seed)


def smooth(n_outputs: int) -> Classifier:
    """Without ReLU and max pooling, at whose kinks a finite difference is no slope."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [nn.Conv2d(1, 4, 5, stride=4), nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 6, 3)]
    body = from_module(
        Pooled(nn.Sequential(*layers), mean=[0.5], std=[0.25]), name="", size=32, pretraining=Pretraining()
    )
    return classifiers.build(body, n_outputs)


def pictures(n: int = 20, *, side: int = 16) -> np.ndarray:
    """Noise; every second group of three is brighter on the left."""
    images = np.random.default_rng(0).integers(0, 150, (n, side, side))
    images[np.arange(n) // 3 % 2 == 1, :, : side // 2] += 100
    return images.astype(np.uint8)


def batch(n: int, *, seed: int, ways: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of 32 pixels and targets, the images in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 32, 32, generator=generator, dtype=torch.float64)
    return x, torch.arange(n) % ways if ways > 1 else (torch.arange(n) % 2)[:, None].double()


def precise(inner: Inner, *, ways: int = 1, build: Callable[[int], Classifier] = tiny) -> Learner:
    """A learner of 64-bit numbers, whose learned rates, if any, are all different."""
    learner = Learner(build(ways), inner).double()
    generator = torch.Generator().manual_seed(3)
    for rate in learner.rates:
        rate.data += 0.02 * torch.rand(rate.shape, generator=generator, dtype=torch.float64)
    return learner


def slopes(learner: Learner, support: tuple, query: tuple) -> list[torch.Tensor]:
    """The outer gradient with respect to everything that is meta-learned."""
    loss, _ = maml.query_loss(learner, learner.weights(), support, query)
    learner.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in learner.parameters()]


# ---- by hand


@pytest.mark.parametrize(("second_order", "slope"), [(True, 1.0), (False, 2.0)])
def test_one_step_on_a_square(second_order: bool, slope: float) -> None:
    """w' = w - rate a (w - c) = 3 - 1/4 * 2 * 2 = 2; then b (w' - d) = 4/2 times 1 - rate a = 1/2, or not."""
    learner = OnSquares(Product(3.0), Inner(steps=1, rate=0.25, second_order=second_order))
    path, losses = maml.descend(learner, learner.weights(), *example(2, 1), steps=1)
    assert [w["head.weight"].item() for w in path] == [3, 2]
    assert losses.tolist() == [4]
    loss, (inner, logits) = maml.query_loss(learner, learner.weights(), example(2, 1), example(4, 1.5))
    assert (loss.item(), inner.tolist(), logits.tolist()) == (0.5, [4], [[2]])
    loss.backward()
    assert learner.net.head.weight.grad.item() == slope
    assert learner.net.head.weight.item() == 3
    assert not logits.requires_grad


@pytest.mark.parametrize(("second_order", "slope", "of_rate"), [(True, 0.25, -4.0), (False, 1.0, -6.0)])
def test_two_steps_with_a_learned_rate(second_order: bool, slope: float, of_rate: float) -> None:
    """3, 2, 1.5; the query's slope there is 4 (1.5 - 1.25) = 1.

    In second order it is (1 - 1/2)^2 as steep at the start, and to the rate -4 (1 - 1/2) - 2; in first order
    the inner slopes 4 and 2 are numbers, and it is -4 - 2.
    """
    inner = Inner(steps=2, rate=0.25, second_order=second_order, learn_rates=True)
    learner = OnSquares(Product(3.0), inner)
    assert [rate.item() for rate in learner.rates] == [0.25]
    assert set(dict(learner.named_parameters())) == {"net.head.weight", "rates.0"}
    path, losses = maml.descend(learner, learner.weights(), *example(2, 1), steps=2)
    assert [w["head.weight"].item() for w in path] == [3, 2, 1.5]
    assert losses.tolist() == [4, 1]
    assert [g.item() for g in slopes(learner, example(2, 1), example(4, 1.25))] == [slope, of_rate]


@pytest.mark.parametrize(("second_order", "v", "w"), [(True, 2.0, 0.5), (False, 2.5, 1.0)])
def test_the_head_alone_on_a_square(second_order: bool, v: float, w: float) -> None:
    """z = v w with v = 1, w = 2: w' = 2 - 1/2 v (v w - 3) = 2.5, and 2 (v w' - 2) = 1.

    To v that is w' + v dw'/dv, dw'/dv = -1/2 (2 v w - 3) = -1/2; to w it is v (1 - 1/2 v^2).
    """
    learner = OnSquares(Product(2.0, 1.0), Inner(1, 0.5, second_order, part="head"))
    path, _ = maml.descend(learner, learner.weights(), *example(1, 3), steps=1)
    assert [list(at) for at in path] == [["head.weight"]] * 2
    assert path[1]["head.weight"].item() == 2.5
    assert [g.item() for g in slopes(learner, example(1, 3), example(2, 2))] == [v, w]


def test_without_steps_it_is_the_network() -> None:
    learner = precise(Inner(steps=0))
    support, query = batch(4, seed=0), batch(6, seed=1)
    path, losses = maml.descend(learner, learner.weights(), *support, steps=0)
    assert (len(path), losses.shape) == (1, (0,))
    found = slopes(learner, support, query)
    learner.zero_grad()
    F.binary_cross_entropy_with_logits(learner.net(query[0]), query[1]).backward()
    for mine, p in zip(found, learner.net.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad)


# ---- against finite differences and plain autograd


@PARTS
@pytest.mark.parametrize("learn_rates", [False, True])
@pytest.mark.parametrize("ways", [1, 3])
def test_second_order_is_the_slope_of_finite_differences(part: str, learn_rates: bool, ways: int) -> None:
    learner = precise(Inner(2, 0.5, part=part, learn_rates=learn_rates), ways=ways, build=smooth)
    support, query = batch(6, seed=0, ways=ways), batch(9, seed=1, ways=ways)
    found, step = slopes(learner, support, query), 1e-6
    assert len(found) == len(list(learner.net.parameters())) + len(learner.rates)
    parameters, generator = list(learner.parameters()), torch.Generator().manual_seed(5)

    def loss_at(way: list[torch.Tensor], factor: float) -> float:
        for p, d in zip(parameters, way, strict=True):
            p.data += factor * d
        loss = maml.query_loss(learner, learner.weights(), support, query)[0].item()
        for p, d in zip(parameters, way, strict=True):
            p.data -= factor * d
        return loss

    rates = len(parameters) - len(learner.rates)
    for kind in ("weights", "rates")[: 1 + learn_rates]:
        for _ in range(3):
            way = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
            some = way[rates:] if kind == "weights" else way[:rates]
            for d in some:
                d.zero_()
            expected = (loss_at(way, step) - loss_at(way, -step)) / (2 * step)
            along = sum(float((g * d).sum()) for g, d in zip(found, way, strict=True))
            assert along == pytest.approx(expected, rel=1e-5, abs=1e-9), kind


def test_first_order_is_the_slope_at_the_adapted_weights() -> None:
    support, query = batch(6, seed=0), batch(8, seed=1)
    learner = precise(Inner(3, 0.1, second_order=False))
    path, _ = maml.descend(learner, learner.weights(), *support, steps=3)
    there = copy.deepcopy(learner.net)
    there.load_state_dict({n: w.detach() for n, w in path[-1].items()})
    F.binary_cross_entropy_with_logits(there(query[0]), query[1]).backward()
    first = slopes(learner, support, query)
    for mine, p in zip(first, there.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad)
    second = slopes(precise(Inner(3, 0.1)), support, query)
    assert max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) > 1e-3


def test_first_order_slopes_of_learned_rates() -> None:
    """To the rate of a weight it is minus the sum of its inner slopes times the query's slope there."""
    support, query = batch(6, seed=0), batch(8, seed=1)
    learner = precise(Inner(2, 0.1, second_order=False, learn_rates=True))
    path, _ = maml.descend(learner, learner.weights(), *support, steps=2)
    first = slopes(learner, support, query)
    n = len(learner.rates)
    for name, rate, at_end, of_rate in zip(
        learner.adapting, learner.rates, first[:n], first[n:], strict=True
    ):
        moved = (path[0][name] - path[-1][name]).detach() / rate.detach()
        torch.testing.assert_close(of_rate, -moved * at_end)


@PARTS
@pytest.mark.parametrize("ways", [1, 3])
@pytest.mark.parametrize("second_order", [True, False])
def test_the_inner_loop_is_plain_sgd(part: str, ways: int, second_order: bool) -> None:
    x, y = batch(6, seed=0, ways=ways)
    learner = precise(Inner(3, 0.2, second_order, part=part), ways=ways)
    before = copy.deepcopy(learner.net.state_dict())
    path, losses = maml.descend(learner, learner.weights(), x, y, steps=3)
    plain = copy.deepcopy(learner.net)
    sgd = torch.optim.SGD((plain if part == "all" else plain.head).parameters(), lr=0.2)
    for step in range(3):
        now = dict(plain.named_parameters())
        for name in learner.adapting:
            torch.testing.assert_close(path[step][name], now[name])
        logits = plain(x)
        loss = F.cross_entropy(logits, y) if ways > 1 else F.binary_cross_entropy_with_logits(logits, y)
        assert losses[step].item() == pytest.approx(loss.item(), rel=1e-9)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    for name, w in path[-1].items():
        torch.testing.assert_close(w, dict(plain.named_parameters())[name])
    assert (losses.diff() < 0).all()
    assert all(torch.equal(w, before[name]) for name, w in learner.net.state_dict().items())


def test_rates_of_their_own() -> None:
    """Equal to the fixed one they change nothing; a rate of 0 keeps its weight where it is."""
    x, y = batch(6, seed=0)
    fixed, learned = (Learner(tiny(), Inner(2, 0.1, learn_rates=how)).double() for how in (False, True))
    assert [rate.shape for rate in learned.rates] == [p.shape for p in learned.net.parameters()]
    assert len(fixed.rates) == 0
    ends = [maml.descend(one, one.weights(), x, y, steps=2)[0][-1] for one in (fixed, learned)]
    torch.testing.assert_close(*ends)
    learned.rates[0].data.zero_()
    path, _ = maml.descend(learned, learned.weights(), x, y, steps=2)
    moved = [not torch.equal(path[-1][name], path[0][name]) for name in learned.adapting]
    assert moved == [False] + [True] * (len(moved) - 1)


# ---- the head alone


@pytest.mark.parametrize("second_order", [True, False])
def test_features_computed_once_are_those_of_the_whole_network(second_order: bool) -> None:
    support, query = batch(6, seed=0), batch(8, seed=1)
    learner = precise(Inner(3, 0.2, second_order, part="head"))
    assert learner.adapting == ["head.1.weight", "head.1.bias"]
    found = slopes(learner, support, query)
    weights = learner.weights()
    fast = {name: weights[name] for name in learner.adapting}
    for _ in range(3):
        logits = functional_call(learner.net, weights | fast, support[0])
        loss = F.binary_cross_entropy_with_logits(logits, support[1])
        inner = torch.autograd.grad(loss, list(fast.values()), create_graph=second_order)
        fast = {name: w - 0.2 * g for (name, w), g in zip(fast.items(), inner, strict=True)}
    path, _ = maml.descend(learner, weights, *support, steps=3)
    torch.testing.assert_close(path[-1], fast)
    loss = F.binary_cross_entropy_with_logits(
        functional_call(learner.net, weights | fast, query[0]), query[1]
    )
    for mine, plain in zip(found, torch.autograd.grad(loss, list(weights.values())), strict=True):
        torch.testing.assert_close(mine, plain)


def test_the_body_is_called_once_for_the_support_and_once_for_the_queries() -> None:
    for part, calls in (("head", 2), ("all", 6)):
        learner, seen = precise(Inner(5, 0.1, part=part)), []
        learner.net.body.register_forward_hook(lambda module, x, y, seen=seen: seen.append(len(x[0])))
        maml.query_loss(learner, learner.weights(), batch(4, seed=0), batch(6, seed=1))
        assert seen == [4] * (calls - 1) + [6]


# ---- curve


@PARTS
def test_the_curve_begins_with_the_network_and_ends_as_sgd(part: str) -> None:
    images, learner = pictures(), Learner(tiny(), Inner(3, 0.3, part=part))
    found = maml.curve(learner, images, BINARY)
    assert (found.shape, found.dtype) == ((4, 8, 2), np.float64)
    np.testing.assert_allclose(found.sum(axis=2), 1)
    rows, plain = BINARY.query.ravel(), copy.deepcopy(learner.net)
    for step in range(4):
        logits = training.predict(plain, images, rows=rows, device="cpu")
        np.testing.assert_allclose(found[step], decisions.probabilities(logits, "binary"), atol=1e-5)
        x = torch.from_numpy(images[BINARY.support.ravel()][:, None] / np.float32(255))
        loss = F.binary_cross_entropy_with_logits(plain(x)[:, 0], torch.tensor([0.0] * 3 + [1.0] * 3))
        plain.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in (plain if part == "all" else plain.head).parameters():
                p -= 0.3 * p.grad
    assert np.abs(found[3] - found[0]).max() > 0.01


def test_as_many_steps_as_are_asked_for() -> None:
    images, learner = pictures(), Learner(tiny(), Inner(3, 0.3))
    long, short, none = (maml.curve(learner, images, BINARY, steps=n) for n in (5, 2, 0))
    assert [len(one) for one in (long, short, none)] == [6, 3, 1]
    np.testing.assert_allclose(long[:3], short, rtol=1e-6)
    np.testing.assert_allclose(maml.curve(learner, images, BINARY), long[:4], rtol=1e-6)
    some = maml.curve(learner, images, BINARY, steps=5, at=[0, 2, 5])
    np.testing.assert_allclose(some, long[[0, 2, 5]], rtol=1e-6)


def test_other_labels_of_the_support_set() -> None:
    """Turned around, they are those of the episode whose classes have changed places."""
    images, learner = pictures(), Learner(tiny(), Inner(3, 0.3))
    plain = maml.curve(learner, images, BINARY)
    same = maml.curve(learner, images, BINARY, labels=np.array([0, 0, 0, 1, 1, 1]))
    np.testing.assert_array_equal(same, plain)
    turned = maml.curve(learner, images, BINARY, labels=np.array([1, 1, 1, 0, 0, 0]))
    other = Episode(("A", "without A"), BINARY.support[::-1], BINARY.query)
    np.testing.assert_allclose(turned, maml.curve(learner, images, other), rtol=1e-4)
    assert np.abs(turned[-1] - plain[-1]).max() > 1e-3


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_each_query_is_answered_on_its_own(norm: str) -> None:
    images, learner = pictures(), Learner(tiny(norm=norm), Inner(3, 0.3))
    whole = maml.curve(learner, images, BINARY)
    turned = Episode(BINARY.classes, BINARY.support, BINARY.query[:, ::-1])
    order = np.arange(8).reshape(2, 4)[:, ::-1].ravel()
    np.testing.assert_allclose(maml.curve(learner, images, turned), whole[:, order], rtol=1e-4)
    fewer = Episode(BINARY.classes, BINARY.support, BINARY.query[:, 1:2])
    np.testing.assert_allclose(maml.curve(learner, images, fewer), whole[:, [1, 5]], rtol=1e-4)


def test_dropout_is_for_training_alone() -> None:
    images, learner = pictures(), Learner(tiny(dropout=0.5), Inner(3, 0.3))
    first, again = (maml.curve(learner, images, BINARY) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not learner.training
    torch.manual_seed(0)
    one, two = (maml.curve(learner, images, BINARY, training=True) for _ in range(2))
    assert np.abs(one - two).max() > 0.01
    assert not learner.training
    np.testing.assert_array_equal(maml.curve(learner, images, BINARY), first)


@PARTS
def test_with_batch_statistics_an_answer_depends_on_the_other_queries(part: str) -> None:
    images, learner = pictures(), Learner(classifiers.build("cnn-small", 1), Inner(2, 0.1, part=part))
    before = copy.deepcopy(learner.state_dict())
    assert any("running_mean" in name for name in before)
    others = images.copy()
    others[BINARY.query[:, 1:]] = 255 - others[BINARY.query[:, 1:]]
    seen = [0, 4]  # the queries that are the same in both
    for training_mode, low, high in ((False, 0, 1e-5), (True, 1e-3, 1)):
        pair = [maml.curve(learner, x, BINARY, training=training_mode)[:, seen] for x in (images, others)]
        assert low <= np.abs(pair[0] - pair[1]).max() <= high
    after = learner.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_n_ways() -> None:
    images = pictures()
    for inner in (Inner(2, 0.2), Inner(2, 0.2, part="head", learn_rates=True)):
        learner = Learner(tiny(3), inner)
        assert learner.kind == "multiclass"
        found = maml.curve(learner, images, THREE)
        assert found.shape == (3, 9, 3)
        np.testing.assert_allclose(found.sum(axis=2), 1)
        logits = training.predict(learner.net, images, rows=THREE.query.ravel(), device="cpu")
        np.testing.assert_allclose(found[0], decisions.probabilities(logits, "multiclass"), atol=1e-5)


# ---- what is refused


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_inner_loop_that_diverges_names_the_rate_and_the_steps(steps: int) -> None:
    """After the last step there is no support loss any more, but there are answers."""
    learner = Learner(tiny(), Inner(steps, 1e30))
    with pytest.raises(
        TrainingError,
        match=r"diverged: in an episode of A .* nan after 1 inner steps \(inner rate 1e\+30\); lower",
    ):
        maml.curve(learner, pictures(), BINARY)


def test_the_task_that_diverged_is_named() -> None:
    learner = Learner(tiny(), Inner(2, 0.5, learn_rates=True))
    maml.check_inner(torch.ones(2, 3), learner, where="outer step 3")
    maml.check_inner(torch.zeros(2, 0), learner, where="outer step 3")
    losses = torch.tensor([[1.0, 2.0], [3.0, float("inf")]])
    with pytest.raises(TrainingError, match=r"outer step 3 task 2 .* inf after 1 .*rate 0\.5, learned\)"):
        maml.check_inner(losses, learner, where="outer step 3")


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": -1},
        {"steps": 1.5},
        {"rate": 0},
        {"rate": -0.1},
        {"rate": float("nan")},
        {"rate": float("inf")},
    ],
)
def test_steps_and_rates_that_do_not_exist(bad: dict) -> None:
    with pytest.raises(DataError, match="use 0 or more whole steps, rate > 0"):
        Inner(**bad)


def test_a_part_that_does_not_exist() -> None:
    with pytest.raises(DataError, match="part = 'body'; use one of all, head"):
        Inner(part="body")


def test_images_that_are_not_grey_bytes() -> None:
    with pytest.raises(DataError, match="uint8"):
        maml.curve(Learner(tiny(), Inner()), pictures() / 255, BINARY)


def test_a_frozen_body_and_its_thaw() -> None:
    learner = Learner(tiny(), Inner())
    assert isinstance(learner.net, Classifier)
    for frozen in (True, False):
        learner.freeze(frozen)
        assert learner.net.frozen == frozen
        assert all(p.requires_grad != frozen for p in learner.net.body.parameters())
