"""Small classifiers and images for tests of heat maps."""

import numpy as np
import torch
from torch import nn

from xraykit import classifiers
from xraykit.backbones import Backbone, Pooled, Pretraining, from_module, network_input
from xraykit.classifiers import Classifier
from xraykit.datasets import synthetic
from xraykit.explain_cut import Explained

PAIR = ("normal", "pneumonia")
THREE = ("normal", "bacterial", "viral")


def cnn(n_outputs: int = 1, *, seed: int = 0) -> Classifier:
    """cnn-small with random weights."""
    return classifiers.build("cnn-small", n_outputs, seed=seed).eval()


def embedded(backbone: Backbone, images: np.ndarray) -> np.ndarray:
    """Features (B, D) of grey images."""
    with torch.no_grad():
        return backbone.module(network_input(images, backbone.size)).numpy()


def own(*layers: nn.Module, size: int = 8) -> Backbone:
    """These layers and a pooling, of grey levels as they are."""
    module = Pooled(nn.Sequential(*layers), mean=[0.0], std=[1.0])
    return from_module(module, name="own", size=size, pretraining=Pretraining())


def air_and_tissue() -> Classifier:
    """Two maps as large as the image, x and 1 - x, and the logit 2 mean(x) - mean(1 - x)."""
    convolution = nn.Conv2d(1, 2, 1)
    model = classifiers.build(own(convolution), 1).eval()
    with torch.no_grad():
        model.body.maps[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        model.body.maps[0].bias.copy_(torch.tensor([0.0, 1.0]))
        model.head[1].weight.copy_(torch.tensor([[2.0, -1.0]]))
        model.head[1].bias.zero_()
    return model


def noise(n: int, side: int = 8, seed: int = 0) -> np.ndarray:
    """n grey images of noise, uint8 (n, side, side)."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side), dtype=np.uint8)


class Listed(nn.Module):
    """The picture itself as the only map, or `fixed` whatever the picture."""

    def __init__(self, fixed: np.ndarray | None = None) -> None:
        super().__init__()
        self.fixed = fixed

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x if self.fixed is None else torch.from_numpy(self.fixed).expand_as(x).clone()]


class Weighted(nn.Module):
    """The sum of weights times grey levels, and its negative; with `fold` of their distance from 0.5."""

    def __init__(self, weights: np.ndarray, *, fold: bool = False) -> None:
        super().__init__()
        self.weights, self.fold = torch.from_numpy(np.float32(weights)), fold

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        z = ((maps - 0.5).abs() if self.fold else maps).mul(self.weights).sum((1, 2, 3))[:, None]
        return torch.cat([z, -z], dim=1)


def plain(weights: np.ndarray, *, fold: bool = False, fixed: np.ndarray | None = None) -> Explained:
    """A classifier that is one line of arithmetic, of pictures as large as `weights`."""
    size = len(weights)
    parts = {"first": Listed(fixed), "rest": Weighted(weights, fold=fold)}
    return Explained("plain", "picture", size, (size, size), **parts, targets=("yes", "no"))


def pictures(n: int, size: int) -> np.ndarray:
    """The first X-ray of n synthetic patients, uint8 (n, size, size)."""
    return np.stack([synthetic.render(patient, size=size).image for patient in range(n)])
