"""Options of a training run: schedules by hand and against PyTorch, optimisers, values out of range."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xraykit.augment import Augment
from xraykit.errors import DataError
from xraykit.training_config import OPTIMISERS, SCHEDULES, Config, make_optimiser, rate


def rates(steps: int, **options: object) -> list[float]:
    return [rate(step, steps, Config(learning_rate=2.0, **options)) for step in range(steps)]


def test_schedules_by_hand() -> None:
    assert rates(4, schedule="constant", warmup=0) == [2, 2, 2, 2]
    assert rates(8, schedule="step", warmup=0) == pytest.approx([2, 2, 2, 2, 0.2, 0.2, 0.02, 0.02])
    root = math.sqrt(0.5)
    assert rates(4, schedule="cosine", warmup=0) == pytest.approx([2, 1 + root, 1, 1 - root])
    # 3 of 10 steps: a quarter, two quarters, three quarters of the rate, and then all of it.
    assert rates(10, schedule="constant", warmup=0.3) == pytest.approx([0.5, 1, 1.5, *[2] * 7])
    assert rates(7, schedule="cosine", warmup=3 / 7) == pytest.approx([0.5, 1, 1.5, 2, 1 + root, 1, 1 - root])


def test_cosine_is_that_of_pytorch() -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    reference, found = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=9), []
    for _ in range(9):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()
    assert rates(9, warmup=0) == pytest.approx(found)


@given(
    steps=st.integers(1, 200), schedule=st.sampled_from(SCHEDULES), warmup=st.floats(0, 1, exclude_max=True)
)
def test_rates_stay_above_0_rise_in_the_warmup_and_never_after(
    steps: int, schedule: str, warmup: float
) -> None:
    found = rates(steps, schedule=schedule, warmup=warmup)
    assert all(0 < value <= 2 for value in found)
    warm = round(warmup * steps)
    assert found[:warm] == sorted(found[:warm])
    assert found[warm:] == sorted(found[warm:], reverse=True)


def test_optimisers_are_those_of_pytorch() -> None:
    net = torch.nn.Linear(2, 2)
    made = {
        name: make_optimiser(net, Config(optimiser=name, weight_decay=0.5, learning_rate=3))
        for name in OPTIMISERS
    }
    assert [type(optimiser).__name__.lower() for optimiser in made.values()] == list(OPTIMISERS)
    for name, optimiser in made.items():
        (group,) = optimiser.param_groups
        assert (group["lr"], group["weight_decay"], len(group["params"])) == (3, 0.5, 2)
        assert group.get("momentum", 0) == (0.9 if name == "sgd" else 0)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_parameters_without_gradient_stay_even_with_weight_decay(name: str) -> None:
    net = torch.nn.Linear(2, 2)
    before = net.weight.clone()
    net.weight.requires_grad_(False)
    optimiser = make_optimiser(net, Config(optimiser=name, weight_decay=0.5))
    net(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    assert torch.equal(net.weight, before)


def test_numbers_of_numpy_are_the_same_configuration() -> None:
    plain = Config(
        epochs=3, batch_size=16, learning_rate=0.5, patience=2, seed=7, weights=(1.0, 2.5), monitor=("loss",),
        augment=Augment(rotation=5.0, flip=0.25),
    )  # fmt: skip
    numpy = Config(
        epochs=np.int64(3), batch_size=np.uint8(16), learning_rate=np.float32(0.5), patience=np.int32(2),
        seed=np.int64(7), weights=np.array([1, 2.5]), monitor=["loss"],
        augment=Augment(rotation=np.int64(5), flip=np.float32(0.25)),
    )  # fmt: skip
    assert numpy == plain
    assert json.dumps(asdict(numpy)) == json.dumps(asdict(plain))
    assert Config(weights=(np.float32(0.5), np.float32(2))).weights == (0.5, 2.0)
    with pytest.raises(DataError, match="epochs = 0; it must be"):
        Config(epochs=np.int64(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimiser": "lion"}, "optimiser = 'lion'; use one of adamw, adam, adamax, adadelta, sgd"),
        ({"schedule": "linear"}, "schedule = 'linear'; use one of cosine, step, constant"),
        ({"trainable": "body"}, "trainable = 'body'; use one of all, head, head_then_all"),
        ({"loss": "mse"}, "loss = 'mse'; use one of auto, cross_entropy, bce, focal"),
        ({"monitor": ("auroc", "recall")}, r"monitor \['recall'\] is unknown; use loss, accuracy"),
        ({"monitor": (), "patience": 3}, "patience = 3 needs a monitor"),
        ({"epochs": 0}, "epochs = 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0; it must be at least 1"),
        ({"learning_rate": 0}, "learning_rate = 0; it must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate = nan; it must be"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1; it must be at least 0"),
        ({"clip": -1}, "clip = -1; it must be at least 0"),
        ({"patience": -1}, "patience = -1; it must be at least 0"),
        ({"epochs": 2.5}, "epochs = 2.5; it must be a whole number"),
        ({"batch_size": True}, "batch_size = True; it must be a whole number"),
        ({"seed": -1}, "seed = -1; it must be at least 0"),
        ({"head_epochs": 0.5}, "head_epochs = 0.5; it must be a whole number"),
        ({"learning_rate": math.inf}, "learning_rate = inf; it must be a finite number"),
        ({"weight_decay": math.nan}, "weight_decay = nan; it must be a finite number"),
        ({"clip": math.inf}, "clip = inf; it must be a finite number"),
        ({"gamma": -1}, "gamma = -1; it must be at least 0"),
        ({"augment": True}, "augment = True; give an augment.Augment, or None"),
        ({"monitor": "auroc"}, r"monitor = 'auroc'; give a tuple, such as \('auroc',\)"),
        ({"trainable": "head_then_all", "epochs": 2, "head_epochs": 2}, "head_epochs = 2 of 2 epochs; head_"),
        (
            {"trainable": "head_then_all", "head_epochs": 0},
            "head_epochs = 0 of 10 epochs; head_then_all needs",
        ),
        ({"warmup": 1}, "warmup = 1 of the steps; use 0 to below 1"),
    ],
)
def test_values_out_of_range(wrong: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Config(**wrong)
