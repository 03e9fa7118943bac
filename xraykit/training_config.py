"""What a training run is told: `Config`, the optimisers and the schedules."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from xraykit.augment import Augment
from xraykit.errors import DataError
from xraykit.losses import LOSSES

OPTIMISERS = ("adamw", "adam", "adamax", "adadelta", "sgd")
SCHEDULES = ("cosine", "step", "constant")
TRAINABLE = ("all", "head", "head_then_all")
# Scores of the validation images beside the loss, by the kind of the task.
EVALUATED = {
    "binary": ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "macro_f1", "auroc"),
    "multiclass": ("accuracy", "balanced_accuracy", "macro_f1", "auroc"),
    "multilabel": ("macro_f1", "auroc"),
    "reconstruction": (),
}
MONITORS = ("loss", *EVALUATED["binary"])


@dataclass(frozen=True)
class Config:
    """Everything that decides a training run beside network and data.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all processes together; batch norm sees its own process's part only.
        optimiser: one of `OPTIMISERS`; SGD with momentum .9.
        learning_rate: at its highest.
        weight_decay: decoupled in AdamW, an L2 penalty in the others.
        schedule: ``"cosine"`` falls to 0, ``"step"`` to a tenth at one half and at three quarters of the
            steps, ``"constant"`` stays.
        warmup: share of the steps over which the rate rises linearly from 0, 0 to below 1.
        clip: largest norm of the gradient; 0 does not clip.
        loss, weights, gamma: see `losses.make_loss`.
        trainable: ``"all"``; ``"head"``, with the body frozen; or ``"head_then_all"``, frozen for
            `head_epochs` epochs.
        augment: how each training image is changed, or None.
        monitor: what is watched on the validation images, the loss or what `EVALUATED` has; the weights of
            each one's best epoch are kept, and those of the last epoch.
        patience: epochs without a better first `monitor` after which training stops; 0 never stops early.
        seed: of the order of the images, of augmentation and of dropout.
    """

    epochs: int = 10
    batch_size: int = 32
    optimiser: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup: float = 0.05
    clip: float = 1.0
    loss: str = "auto"
    weights: tuple[float, ...] | None = None
    gamma: float = 2.0
    trainable: str = "all"
    head_epochs: int = 1
    augment: Augment | None = field(default_factory=Augment)
    monitor: tuple[str, ...] = ("auroc",)
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            object.__setattr__(self, name, _plain(value))
        words = {
            "optimiser": OPTIMISERS, "schedule": SCHEDULES, "trainable": TRAINABLE, "loss": LOSSES,
        }  # fmt: skip
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise DataError(f"{name} = {getattr(self, name)!r}; use one of {', '.join(known)}")
        if not isinstance(self.monitor, tuple):
            raise DataError(f"monitor = {self.monitor!r}; give a tuple, such as ('auroc',)")
        unknown = [name for name in self.monitor if name not in MONITORS]
        if unknown:
            raise DataError(f"monitor {unknown} is unknown; use {', '.join(MONITORS)}")
        if self.patience and not self.monitor:
            raise DataError(f"patience = {self.patience} needs a monitor to watch; use {', '.join(MONITORS)}")
        if not isinstance(self.augment, Augment | None):
            raise DataError(f"augment = {self.augment!r}; give an augment.Augment, or None")
        _check_numbers(self)


def _check_numbers(config: Config) -> None:
    whole = {"epochs": 1, "batch_size": 1, "patience": 0, "head_epochs": 0, "seed": 0}
    least = {**whole, "learning_rate": 0, "weight_decay": 0, "clip": 0, "gamma": 0}
    for name, low in least.items():
        value = getattr(config, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (name in whole and not isinstance(value, int)):
            raise DataError(
                f"{name} = {value!r}; it must be a {'whole' if name in whole else 'finite'} number"
            )
        if value < low or (name == "learning_rate" and value == 0):
            bound = "above" if name == "learning_rate" else "at least"
            raise DataError(f"{name} = {value}; it must be {bound} {low}")
    if not 0 <= config.warmup < 1:
        raise DataError(f"warmup = {config.warmup} of the steps; use 0 to below 1")
    if config.trainable == "head_then_all" and not 0 < config.head_epochs < config.epochs:
        raise DataError(
            f"head_epochs = {config.head_epochs} of {config.epochs} epochs; head_then_all needs at least 1, "
            "and fewer than the epochs"
        )


def _plain(value: object) -> object:
    """Numbers of NumPy, alone or in a sequence, as Python's own, which are the same in every key."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return tuple(_plain(one) for one in value) if isinstance(value, list | tuple) else value


def rate(step: int, steps: int, config: Config) -> float:
    """Learning rate of step 0 .. steps-1."""
    warm = round(config.warmup * steps)
    if step < warm:
        return config.learning_rate * (step + 1) / (warm + 1)
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2
    if config.schedule == "step":
        return config.learning_rate * 0.1 ** (int(step >= steps / 2) + int(step >= 3 * steps / 4))
    return config.learning_rate


def make_optimiser(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """The optimiser of `config` over every parameter; those without a gradient it leaves alone."""
    of = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "adamax": torch.optim.Adamax,
        "adadelta": torch.optim.Adadelta,
        "sgd": torch.optim.SGD,
    }
    momentum = {"momentum": 0.9} if config.optimiser == "sgd" else {}
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay, **momentum}
    return of[config.optimiser](model.parameters(), **options)
