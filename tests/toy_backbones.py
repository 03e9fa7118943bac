"""Small networks for tests, made the same in every process."""

import numpy as np
import torch
from torch import nn

from xraykit.backbones.base import Backbone, Pooled, Pretraining, from_module

DIM = 6


def toy(seed: int = 0, *, name: str = "toy", size: int = 16, std: float = 0.25) -> Backbone:
    """Two convolutions and a pooling, with the weights of `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        maps = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, DIM, 3))
    net = Pooled(maps, mean=[0.5], std=[std])
    return from_module(net, name=name, size=size, pretraining=Pretraining())


def pictures(n: int = 30, side: int = 20, seed: int = 0) -> np.ndarray:
    """n grey images of noise, uint8 (n, side, side)."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side), dtype=np.uint8)
