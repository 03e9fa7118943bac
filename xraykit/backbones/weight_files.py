"""Files of weights: where they are looked for, what they say about themselves, and whether they fit."""

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xraykit import paths
from xraykit.backbones.base import UNKNOWN, Pretraining
from xraykit.errors import DataError, DataNotFoundError

SUFFIXES = (".safetensors", ".pth", ".pt")
DAMAGED = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
"""What PyTorch raises on a file that is cut off, altered, or no file of weights."""


@dataclass(frozen=True)
class WeightFile:
    """Weights as stored.

    Attributes:
        path: where they were found.
        state: tensors by name.
        metadata: of a ``.safetensors`` file, each value read as JSON where it is; otherwise empty.
    """

    path: Path
    state: dict[str, torch.Tensor] = field(repr=False)
    metadata: dict[str, Any] = field(default_factory=dict)

    def pretraining(self) -> Pretraining:
        """What the file says it was trained on, `UNKNOWN` where it does not say it."""
        about = self.metadata
        source = f"{self.path.name}: {about['source']}" if about.get("source") else self.path.name
        if not isinstance(about.get("data"), list):
            return Pretraining(UNKNOWN, source=f"{source} (the file does not say what it was trained on)")
        seeds = about.get("seeds", "")
        return Pretraining(
            data=tuple(map(str, about["data"])),
            labels=tuple(map(str, about.get("labels") or ())),
            source=source,
            seeds=seeds if isinstance(seeds, str) else json.dumps(seeds),
            held_out=str(about.get("held_out", "")),
        )

    def statistics(self, key: str, default: Sequence[float]) -> list[float]:
        """The metadata's "mean" or "std", one number for each input channel, else `default`.

        Raises:
            DataError: not as many numbers as `default` has.
        """
        value = self.metadata.get(key, list(default))
        value = value if isinstance(value, list) else [value]
        if len(value) != len(default) or not all(isinstance(v, int | float) for v in value):
            raise DataError(
                f"{self.path}: {key} is {value} in its metadata; {len(default)} numbers are needed"
            )
        return [float(v) for v in value]

    def whole(self, key: str, default: int) -> int:
        """A positive whole number of the metadata, such as "size" in pixels, else `default`."""
        value = self.metadata.get(key, default)
        if not isinstance(value, int) or value < 1:
            raise DataError(
                f"{self.path}: {key} is {value!r} in its metadata; it must be a whole number >= 1"
            )
        return value


def weights_dir(path: str | Path | None = None) -> Path:
    """Folder of weight files: the argument, else ``XRAYKIT_WEIGHTS_DIR``, else ``<data folder>/weights``."""
    return Path(path or os.environ.get("XRAYKIT_WEIGHTS_DIR") or paths.data_dir() / "weights").expanduser()


def weights_path(name: str | Path, folder: str | Path | None = None) -> Path:
    """An existing file of weights.

    Args:
        name: path, absolute or relative to the working directory, or the name of a file in `weights_dir`.
        folder: as the argument of `weights_dir`.

    Raises:
        DataNotFoundError: no such file; says where it was looked for, and what is in that folder.
        DataError: the name of something else than ``.safetensors``, ``.pth`` or ``.pt``.
    """
    path, folder = Path(name).expanduser(), weights_dir(folder)
    if path.suffix not in SUFFIXES:
        raise DataError(f"{name} is no file of weights; its name must end with {', '.join(SUFFIXES)}")
    for place in (path, folder / path):
        if place.is_file():
            return place
    there = sorted(p.name for p in folder.glob("*") if p.suffix in SUFFIXES) if folder.is_dir() else None
    held = "is no folder" if there is None else f"holds {', '.join(there[:5]) or 'no weights'}"
    raise DataNotFoundError(
        f"no weights at {path.absolute()}, and none named {path} in {folder}, which {held}; give the path of "
        "the file, or set XRAYKIT_WEIGHTS_DIR to its folder"
    )


def read_weights(path: Path) -> WeightFile:
    """The tensors of a ``.safetensors`` file, or of a state dict that ``torch.save`` wrote; no pickled code.

    Raises:
        DataError: a damaged file, or one that holds something else than tensors by name.
    """
    if path.suffix == ".safetensors":
        return WeightFile(path, *_read_safetensors(path))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise DataError(
            f"{path} is damaged, or holds more than weights, which is not loaded because it could run code "
            f"({reason(error)}); get it again, or write it by torch.save(model.state_dict(), …)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        held = (
            f"a dict of {', '.join(map(str, list(state)[:5]))}"
            if isinstance(state, dict)
            else f"a {type(state).__name__}"
        )
        raise DataError(f"{path} holds {held}; it must hold the tensors of model.state_dict() by name")
    return WeightFile(path, state)


def reason(error: Exception) -> str:
    """The first line of what `error` says, or its name where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return state, {key: _parsed(text) for key, text in (file.metadata() or {}).items()}
    except SafetensorError as error:
        raise DataError(f"{path} is no complete safetensors file ({error}); get it again") from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def fit(model: nn.Module, file: WeightFile, *, architecture: str, optional: Collection[str] = ()) -> None:
    """Put the tensors of `file` into `model`, each where its name says.

    Args:
        architecture: name of the model, for the message.
        optional: children of `model`, such as its classifier; their weights may be absent or of any shape,
            and stay as they are.

    Raises:
        DataError: a weight is missing, unexpected or of another shape; names the first ones, and the
            architecture that the file seems to be of.
    """
    own = model.state_dict()
    needed = {k: v for k, v in own.items() if k.split(".")[0] not in optional}
    given = {k: v for k, v in file.state.items() if k in needed or k.split(".")[0] not in optional}
    missing = [k for k in needed if k not in given and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in given if k not in needed]
    misshapen = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(v.shape)}"
        for k, v in needed.items()
        if k in given and given[k].shape != v.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(found.values()):
        listed = [f"{len(v)} weights {what} ({', '.join(v[:3])})" for what, v in found.items() if v]
        raise DataError(
            f"{file.path} does not fit {architecture}: {'; '.join(listed)}. "
            f"{_likely(file.state, architecture)}"
        )
    fitting = OrderedDict(given)
    fitting._metadata = own._metadata  # versions of the layers, which some of them insist on
    model.load_state_dict(fitting, strict=False)


def _likely(state: dict[str, torch.Tensor], architecture: str) -> str:
    """Torchvision tells how many parameters each of its networks has; that is enough to recognise most."""
    from torchvision import models

    if any(name.startswith("stem.0.") for name in state) and "blocks.0.shortcut.1.weight" in state:
        return "It looks like weights of phantom"
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(v.numel() for k, v in state.items() if not k.endswith(statistics))
    for name in models.list_models(module=models):
        weights = next(iter(models.get_model_weights(name)))
        if name != architecture and weights.meta["num_params"] == count:
            return f"It looks like weights of {name}"
    return "Choose the architecture that the weights were trained with"
