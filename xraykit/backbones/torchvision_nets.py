"""Torchvision's classifiers as backbones: ImageNet weights, random ones, or those of a file."""

import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import torch

from xraykit.backbones.base import Backbone, Pooled, Pretraining, from_module
from xraykit.backbones.downloads import alternatives, explained
from xraykit.backbones.headless import head_name, headless
from xraykit.backbones.weight_files import SUFFIXES, WeightFile, fit, read_weights, weights_path
from xraykit.errors import DataError

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# How torchvision builds the networks that its ImageNet weights belong to.
_OPTIONS = {
    "googlenet": {"transform_input": True, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")


def names() -> list[str]:
    """Torchvision's classifiers, such as ``"densenet161"``."""
    models = _models()
    return models.list_models(module=models)


def _models() -> ModuleType:
    """``torchvision.models``, whose import takes as long as PyTorch's, and which few callers need."""
    from torchvision import models

    return models


def build(
    architecture: str, weights: str | None = None, *, seed: int = 0, weights_dir: str | Path | None = None
) -> Backbone:
    """A torchvision classifier up to its last feature map, which is averaged over the picture.

    Input size, mean and standard deviation are those of torchvision's ImageNet weights; for random weights
    too, and for files whose metadata has no others.

    Args:
        architecture: one of `names`.
        weights: ``"imagenet"`` (the default), the first that torchvision lists, which stay the same when a
            new version makes others its default; others by their name, such as ``"IMAGENET1K_V2"``;
            ``"random"``; or a file, as `weights_path` takes it.
        seed: of random weights.
        weights_dir: folder of weight files, see `weights_path`.

    Raises:
        DataError: unknown weights, or a file that does not fit the architecture.
        DataNotFoundError: no such file.
        DownloadError: torchvision's weights are not here and cannot be downloaded.
    """
    label, entry, file, about = _choose(
        architecture, weights or "imagenet", seed=seed, weights_dir=weights_dir
    )
    preset = entry.transforms()
    size = file.whole("size", preset.crop_size[0])
    model = untrained(architecture, size=size, seed=seed)
    if weights != "random":
        _fit(model, file, architecture=architecture)
    # At a small size the last map is one pixel and would look like a pooled one; the graph is the same.
    traced = size if architecture.startswith("vit_") else max(size, preset.crop_size[0])
    maps = headless(model, torch.zeros(1, 3, traced, traced))
    pooled = Pooled(maps, mean=file.statistics("mean", preset.mean), std=file.statistics("std", preset.std))
    name = label if label.startswith(architecture) else f"{architecture}:{label}"
    return from_module(pooled, name=name, size=size, pretraining=about)


def _choose(
    architecture: str, weights: str, *, seed: int, weights_dir: str | Path | None
) -> tuple[str, "WeightsEnum", WeightFile, Pretraining]:
    """What the name says behind its colon, the entry that fixes the input, the weights and their origin."""
    known = _models().get_model_weights(architecture)
    first = next(iter(known))
    if weights == "random":
        origin = Pretraining(source=f"random weights of torchvision's {architecture}", seeds=str(seed))
        return weights, first, WeightFile(Path(weights), {}), origin
    if weights.endswith(SUFFIXES):
        file = read_weights(weights_path(weights, weights_dir))
        return file.path.stem, first, file, file.pretraining()
    if weights != "imagenet" and weights not in known.__members__:
        raise DataError(
            f"{architecture} has no weights {weights!r}; choose imagenet, {', '.join(known.__members__)}, "
            f"random, or a file that ends with {', '.join(SUFFIXES)}"
        )
    entry = first if weights == "imagenet" else known[weights]
    file = _download(f"{architecture}:{weights}", entry, choice=alternatives(architecture, weights_dir))
    origin = Pretraining(_data(entry), source=f"torchvision's {entry!r}, {file.path.name}")
    return weights, entry, file, origin


def untrained(architecture: str, *, size: int, seed: int) -> torch.nn.Module:
    """A network with random weights for images of `size` pixels, built as its ImageNet weights want it."""
    options = {"image_size": size} if architecture.startswith("vit_") else _OPTIONS.get(architecture, {})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _models().get_model(architecture, weights=None, **options)


def _fit(model: torch.nn.Module, file: WeightFile, *, architecture: str) -> None:
    state = file.state
    if architecture.startswith("densenet"):  # torchvision's own files still have the names of torch 0.3
        state = {_OLD_DENSENET.sub(r"\1", key): tensor for key, tensor in state.items()}
    # Inception's second heads only help to train it.
    helpers = [name for name, _ in model.named_children() if name.lower().startswith("aux")]
    renamed = WeightFile(file.path, state, file.metadata)
    fit(model, renamed, architecture=architecture, optional=(head_name(model), *helpers))


def _download(name: str, entry: "WeightsEnum", *, choice: str) -> WeightFile:
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(entry.url).path).name
    with explained(name, url=entry.url, target=target, alternatives=choice):
        state = entry.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    return WeightFile(target, state)


def _data(entry: "WeightsEnum") -> tuple[str, ...]:
    """SWAG weights come from 3.6 thousand million Instagram pictures by hashtag (Singh et al., CVPR 2022)."""
    return ("Instagram 3.6B", "ImageNet-1k") if "SWAG" in entry.name else ("ImageNet-1k",)
