"""What a frozen backbone is: a network that turns grey images into features, and where it comes from."""

import copy
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import fx, nn

from xraykit.errors import DataError
from xraykit.images import check_images

UNKNOWN = ("unknown",)
# Findings that are kinds of another one: who was taught the one has seen the other.
KIND_OF = {"bacterial": "pneumonia", "viral": "pneumonia"}


@dataclass(frozen=True)
class Pretraining:
    """What a backbone has seen.

    Attributes:
        data: names of the data sets, such as ``("ImageNet-1k",)``; empty for random weights, `UNKNOWN` where
            nobody wrote it down.
        labels: finding names it was trained to tell apart, in the words of ``XrayDataset.classes``; empty
            when no label of an X-ray took part.
        source: where the weights are from, in one line (paper, library, command).
        seeds: seeds of training or of random initialisation, as text.
        held_out: `splits.digest` of the patients of a training split that were left out; empty for none.
    """

    data: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    source: str = ""
    seeds: str = ""
    held_out: str = ""


class Pooled(nn.Module):
    """Normalise, repeat the grey channel, compute feature maps, average each of them over the picture.

    Args:
        maps: (B, C, S, S) to feature maps (B, D, h, w), or to vectors (B, D) for networks without maps.
        mean, std: of each of the C input channels, for grey levels in 0..1.

    Raises:
        DataError: `mean` and `std` of different lengths, or a standard deviation that is not above 0.
    """

    def __init__(self, maps: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise DataError(f"mean {mean} and std {std}; give one of each a channel, every std above 0")
        self.maps = maps
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False
        )

    def feature_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Grey images (B, 1, S, S) in 0..1 to the maps (B, D, h, w) before pooling.

        Raises:
            DataError: the network has none, as vision transformers.
        """
        found = self._before_pooling(x)
        if found.ndim != 4:
            raise DataError(
                f"this network has no feature maps: it returns vectors {tuple(found.shape)} straight away; "
                "choose a convolutional one, such as densenet121"
            )
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Grey images (B, 1, S, S) in 0..1 to features (B, D)."""
        found = self._before_pooling(x)
        return found.mean(dim=(2, 3)) if found.ndim == 4 else found

    def _before_pooling(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps((x - self.mean) / self.std)


@dataclass(frozen=True)
class Backbone:
    """A frozen feature extractor.

    Attributes:
        name: as given to `load`, such as ``"densenet161:imagenet"``; of a file the name without its folder.
            It goes into the ledger's column ``backbone``.
        module: grey float batch (B, 1, size, size) in 0..1 to features (B, dim); in evaluation mode, no
            gradients.
        size: side of the images that `module` takes, in pixels.
        dim: D, the length of a feature vector.
        pretraining: what the weights have seen.
        weights_hash: hex digest of weights, buffers (normalisation among them) and structure.
    """

    name: str
    module: nn.Module
    size: int
    dim: int
    pretraining: Pretraining
    weights_hash: str


def from_module(module: nn.Module, *, name: str, size: int, pretraining: Pretraining) -> Backbone:
    """A backbone from one's own network, a trained CNN for example.

    Args:
        module: `Pooled`, or (B, 1, size, size) to (B, D). The backbone is a frozen float32 copy of it on the
            CPU, so that it stays what it is when training goes on; D is found by a pass of two black images.
        name: how the ledger and figures call it.
        size: side of the images that it takes, in pixels.
        pretraining: what it has seen; say it honestly, notebooks refuse backbones by it.

    Raises:
        DataError: the network does not turn (B, 1, size, size) into finite (B, D).
    """
    module = copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
    try:
        with torch.no_grad():
            found = module(torch.zeros(2, 1, size, size))
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        raise DataError(f"{name} does not take grey images of {size} pixels: {error}") from error
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != 2:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise DataError(f"{name} turns 2 images into {shape}; it must return (2, D)")
    if not found.isfinite().all():
        raise DataError(f"{name} makes NaN or infinite features of a black image; its weights are damaged")
    return Backbone(name, module, size, found.shape[1], pretraining, weights_hash(module))


def weights_hash(module: nn.Module) -> str:
    """Hex digest of the weights, the buffers (normalisation included) and the structure of `module`."""
    digest = hashlib.sha256(repr(module).encode())
    for graph in (part for part in module.modules() if isinstance(part, fx.GraphModule)):
        digest.update(graph.code.encode())
    named = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


class _Flat(nn.Module):
    def __init__(self, pooled: Pooled) -> None:
        super().__init__()
        self.pooled = pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pooled.feature_maps(x).flatten(1)


def unpooled(backbone: Backbone) -> Backbone:
    """The same network with its feature map flattened instead of averaged, D*h*w long: a published mistake.

    Raises:
        DataError: `backbone` has no feature maps.
    """
    flat = _Flat(pooled_module(backbone, "feature maps"))
    name = f"{backbone.name} unpooled"
    return from_module(flat, name=name, size=backbone.size, pretraining=backbone.pretraining)


def unnormalised(backbone: Backbone) -> Backbone:
    """The same network fed with grey levels 0..1 as they are: a published mistake.

    Raises:
        DataError: `backbone` does not normalise.
    """
    pooled = pooled_module(backbone, "normalisation")
    channels = pooled.mean.numel()
    raw = Pooled(pooled.maps, mean=[0.0] * channels, std=[1.0] * channels)
    name = f"{backbone.name} un-normalised"
    return from_module(raw, name=name, size=backbone.size, pretraining=backbone.pretraining)


def pooled_module(backbone: Backbone, wanted: str) -> Pooled:
    """The module of `backbone`, which must be `Pooled` to have what is `wanted`; else DataError."""
    if not isinstance(backbone.module, Pooled):
        raise DataError(f"{backbone.name} has no {wanted} of its own: its module is no backbones.Pooled")
    return backbone.module


def network_input(images: np.ndarray, size: int) -> torch.Tensor:
    """Grey images uint8 (B, H, W), 0..255, as a float32 batch (B, 1, size, size) in 0..1.

    Shrinks by area and enlarges linearly, in float, as `pixel_baseline.pixel_features` does.

    Raises:
        DataError: images that are not uint8 (B, H, W).
    """
    check_images(images)
    batch = np.empty((len(images), 1, size, size), np.float32)
    shrink = size <= min(images.shape[1:])
    for row, image in zip(batch, images, strict=True):
        how = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        row[0] = cv2.resize(image.astype(np.float32), (size, size), interpolation=how)
    return torch.from_numpy(np.clip(batch / 255, 0, 1))


def _with_kinds(labels: Sequence[str]) -> set[str]:
    """The labels in lower case, and what each is a kind of."""
    lower = {label.lower() for label in labels}
    return lower | {KIND_OF[label] for label in lower & KIND_OF.keys()}


def check_unseen(backbone: Backbone, findings: Sequence[str]) -> None:
    """Refuse a backbone that was taught what is to be learned from a few labels or without any.

    Case does not matter, and bacterial or viral is a kind of pneumonia. A backbone whose pretraining is
    `UNKNOWN` passes with a warning.

    Raises:
        DataError: `backbone` was pretrained on labels of any of `findings`.
    """
    if backbone.pretraining.data == UNKNOWN:
        warnings.warn(
            f"{backbone.name} does not say what it was pretrained on; make sure that it was not on labels of "
            f"{', '.join(findings)}",
            stacklevel=2,
        )
    known = _with_kinds(backbone.pretraining.labels)
    seen = [finding for finding in findings if _with_kinds([finding]) & known]
    if seen:
        raise DataError(
            f"{backbone.name} was pretrained on labels of {', '.join(seen)} "
            f"({', '.join(backbone.pretraining.data)}); a score on findings that it was taught says nothing "
            "about learning from a few labels: choose another backbone, such as phantom"
        )
