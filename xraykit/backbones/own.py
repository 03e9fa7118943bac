"""Backbones that come with the package: ``phantom`` and ``phantom-kermany``, a small encoder; ``cnn``, a
plain network to train; and ``pixels``, no network at all."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import xraykit.weights
from xraykit.backbones.base import Backbone, Pooled, Pretraining, from_module
from xraykit.backbones.weight_files import SUFFIXES, fit, read_weights, weights_path
from xraykit.errors import DataError, DataNotFoundError
from xraykit.nets import BaselineCnn, SmallEncoder

PHANTOM = Path(xraykit.weights.__file__).parent / "phantom.safetensors"
PHANTOM_KERMANY = PHANTOM.with_name("phantom-kermany.safetensors")
PIXEL_GRID = 16


def build_phantom(
    weights: str | None = None, *, seed: int = 0, weights_dir: str | Path | None = None
) -> Backbone:
    """`nets.SmallEncoder`, averaged over the picture; the metadata of its file say size, width, mean and std.

    Args:
        weights: None for those of the package; ``"random"`` for the same network untrained; or a file that
            ``xraykit pretrain`` wrote, as `weights_path` takes it.
        seed: of random weights.
        weights_dir: folder of weight files, see `weights_path`.

    Raises:
        DataError: unknown weights, or a file that does not fit.
        DataNotFoundError: no such file.
    """
    if weights not in (None, "random") and not weights.endswith(SUFFIXES):
        raise DataError(
            f"phantom has no weights {weights!r}; choose phantom, phantom:random or phantom:<file>"
        )
    if weights in (None, "random") and not PHANTOM.is_file():
        raise DataNotFoundError(f"{PHANTOM} is missing, the installation is not complete; pip install -e .")
    file = read_weights(PHANTOM if weights in (None, "random") else weights_path(weights, weights_dir))
    encoder = _encoder(file.whole("width", 32), seed=seed)
    if weights == "random":
        about = Pretraining(source="random weights of nets.SmallEncoder", seeds=str(seed))
    else:
        fit(encoder, file, architecture="phantom")
        about = file.pretraining()
    module = Pooled(encoder, mean=file.statistics("mean", [0.5]), std=file.statistics("std", [0.25]))
    name = "phantom" if weights is None else f"phantom:{Path(weights).name}"
    return from_module(module, name=name, size=file.whole("size", 128), pretraining=about)


def build_phantom_kermany(
    weights: str | None = None, *, seed: int = 0, weights_dir: str | Path | None = None
) -> Backbone:
    """phantom's network, pretrained without labels on three quarters of Kermany's training patients.

    The others are the development fold of seed 0 (`splits.development`); no test image was used. The images
    are CC BY 4.0, see its model card.

    Raises:
        DataError: weights were given; it has one file.
    """
    if weights is not None:
        raise DataError(f"phantom-kermany has one file, not {weights!r}; load others as phantom:{weights}")
    return replace(build_phantom(str(PHANTOM_KERMANY)), name="phantom-kermany")


def _encoder(width: int, *, seed: int) -> SmallEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return SmallEncoder(width)


def build_pixels(
    weights: str | None = None, *, seed: int = 0, weights_dir: str | Path | None = None
) -> Backbone:
    """The mean grey level of each cell of a 16 x 16 grid, the features of `pixel_baseline.pixel_features`.

    Raises:
        DataError: weights were given; there are none.
    """
    if weights is not None:
        raise DataError(f"pixels has no weights, not {weights!r} either; load it as plain pixels")
    about = Pretraining(source="none: mean grey levels of a 16 x 16 grid")
    return from_module(nn.Flatten(), name="pixels", size=PIXEL_GRID, pretraining=about)


def build_cnn(
    weights: str | None = None,
    *,
    seed: int = 0,
    weights_dir: str | Path | None = None,
    width: int = 32,
    norm: str = "batch",
    light: bool = False,
    name: str = "cnn",
) -> Backbone:
    """`nets.BaselineCnn`, untrained, averaged over the picture: where training from scratch begins.

    Args:
        weights: None or ``"random"``.
        seed: of the random weights.
        weights_dir: not used; there is no file to look for.
        width, norm, light: see `nets.BaselineCnn`.
        name: how the ledger calls it.

    Raises:
        DataError: other weights; a trained CNN is a classifier, which `classifiers.restore` reads.
    """
    if weights not in (None, "random"):
        raise DataError(
            f"cnn begins with random weights, not {weights!r}; a trained one is for classifiers.restore"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = BaselineCnn(width, norm=norm, light=light)
    about = Pretraining(source=f"random weights of nets.BaselineCnn, width {width}", seeds=str(seed))
    return from_module(Pooled(net, mean=[0.5], std=[0.25]), name=name, size=64, pretraining=about)
