"""Backbones by name."""

import difflib
from functools import partial
from pathlib import Path
from typing import Protocol

from xraykit.backbones import own, torchvision_nets, xrv_nets
from xraykit.backbones.base import Backbone, unnormalised
from xraykit.errors import DataError


class Builder(Protocol):
    """What `register` takes: makes the backbone when it is asked for."""

    def __call__(self, weights: str | None, *, seed: int, weights_dir: str | Path | None) -> Backbone:
        """`weights` is what stood behind the colon, None without one."""


_OURS: dict[str, Builder] = {
    "phantom": own.build_phantom,
    "phantom-kermany": own.build_phantom_kermany,
    "pixels": own.build_pixels,
    "cnn": own.build_cnn,
    "cnn-small": partial(own.build_cnn, width=16, light=True, name="cnn-small"),
    "cnn-group-norm": partial(own.build_cnn, norm="group", name="cnn-group-norm"),
    "cnn-small-group-norm": partial(
        own.build_cnn, width=16, light=True, norm="group", name="cnn-small-group-norm"
    ),
}
_REGISTERED: dict[str, Builder] = {}


def names() -> list[str]:
    """Everything that may stand before the colon of `load`: our own, the registered, the libraries'."""
    return [*_OURS, *_REGISTERED, *xrv_nets.DATA, *torchvision_nets.names()]


def register(name: str, builder: Builder) -> None:
    """Make ``load(name)`` and ``load(f"{name}:{weights}")`` call `builder`; again replaces an earlier one.

    Raises:
        DataError: an empty name, one with a colon, or that of a backbone of the package or a library.
    """
    if not name or ":" in name:
        raise DataError(f"a backbone cannot be named {name!r}; the weights stand behind the colon")
    if name in names() and name not in _REGISTERED:
        raise DataError(f"{name} is a backbone already; register yours under another name")
    _REGISTERED[name] = builder


def load(
    spec: str, *, seed: int = 0, weights_dir: str | Path | None = None, normalise: bool = True
) -> Backbone:
    """A frozen backbone, on the CPU.

    Args:
        spec: ``"architecture"`` or ``"architecture:weights"``: one of torchvision's classifiers with
            ``imagenet`` (the default), ``random`` or a file; torchxrayvision's
            ``"densenet121-res224-all:xrv"``; ``"phantom"``, ``"phantom:random"``, ``"phantom:<file>"``;
            ``"phantom-kermany"``;
            ``"cnn"``, ``"cnn-small"``, ``"cnn-group-norm"``, ``"cnn-small-group-norm"``, untrained;
            ``"pixels"``; or what `register` added. A file ends with ``.safetensors``, ``.pth`` or ``.pt``;
            `weights_path` says where it is looked for.
        seed: of random weights; PyTorch's global generator stays as it is.
        weights_dir: folder of weight files; default ``XRAYKIT_WEIGHTS_DIR``, else ``<data folder>/weights``.
        normalise: False feeds the network grey levels 0..1 as they are, a published mistake.

    Raises:
        DataError: unknown names, or a file that is damaged or of another architecture.
        DataNotFoundError: no such file.
        DownloadError: weights that are not here and cannot be downloaded; nothing else is used instead.
    """
    architecture, colon, weights = spec.partition(":")
    builder = _builder(architecture)
    if colon and not weights:
        raise DataError(f"{spec!r} has nothing behind the colon; give weights, or leave the colon out")
    backbone = builder(weights or None, seed=seed, weights_dir=weights_dir)
    return backbone if normalise else unnormalised(backbone)


def _builder(architecture: str) -> Builder:
    if architecture in _OURS | _REGISTERED:
        return (_OURS | _REGISTERED)[architecture]
    if architecture in xrv_nets.DATA:
        return partial(xrv_nets.build, architecture)
    if architecture in torchvision_nets.names():
        return partial(torchvision_nets.build, architecture)
    near = difflib.get_close_matches(architecture, names(), n=3)
    hint = f"do you mean {' or '.join(near)}? " if near else ""
    raise DataError(f"no backbone is named {architecture!r}; {hint}backbones.names() lists all of them")
