"""Any backbone with a new head: grey images in, logits out, whatever the network and the task.

`build("resnet18:imagenet", 3)` takes every name that `backbones.load` takes, those that one registered
oneself among them. Logits are the one output convention; `decisions.probabilities` turns them into
probabilities.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from xraykit import backbones
from xraykit.backbones import Backbone, Pretraining, from_module
from xraykit.backbones.weight_files import read_weights, weights_path
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.storage import write_atomic


class Classifier(nn.Module):
    """Grey images (B, 1, S, S) in 0..1 to logits (B, n_outputs).

    Attributes:
        body: images to features (B, D), with its own normalisation.
        head: dropout and one linear layer.
        name: of the backbone it was built from.
        size: side of the images that the backbone was made for, in pixels; most take others as well.
        pretraining: what the body had seen before it was trained here.
        frozen: while True the body neither learns nor updates its batch statistics; see `freeze`.
    """

    def __init__(self, backbone: Backbone, n_outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = backbone.module
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(backbone.dim, n_outputs))
        self.name, self.size, self.pretraining = backbone.name, backbone.size, backbone.pretraining
        self.n_outputs, self.dropout = n_outputs, dropout
        self.freeze(False)

    def freeze(self, frozen: bool) -> None:
        """Train the head alone (True), or everything (False)."""
        self.frozen = frozen
        self.body.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        """As of every module, but a frozen body stays in evaluation mode."""
        super().train(mode)
        self.body.train(mode and not self.frozen)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def build(
    network: str | Backbone,
    n_outputs: int,
    *,
    seed: int = 0,
    dropout: float = 0.0,
    weights_dir: str | Path | None = None,
) -> Classifier:
    """A backbone with a new linear head of `n_outputs` logits.

    Torchvision's networks lose the layers behind their last feature map (VGG16 its two layers of 4096), which
    is averaged instead, so that they take images of any size down to their smallest; InceptionV3 has no
    second head.

    Args:
        network: a name, as `backbones.load` takes it, with its weights chosen explicitly; or a backbone.
        n_outputs: 1 for two classes, else the number of classes or findings; see `outputs`.
        seed: of random weights and of the head.
        dropout: of the features, 0 to below 1.
        weights_dir: folder of weight files, see `backbones.weights_path`.

    Raises:
        DataError: unknown names, fewer than one output, a backbone without weights, or dropout out of range.
    """
    if n_outputs < 1 or not 0 <= dropout < 1:
        raise DataError(f"n_outputs = {n_outputs}, dropout = {dropout}; use at least 1, and 0 to below 1")
    named = isinstance(network, str)
    backbone = backbones.load(network, seed=seed, weights_dir=weights_dir) if named else network
    if next(backbone.module.parameters(), None) is None:
        raise DataError(f"{backbone.name} has no weights to train; choose a network, such as cnn")
    body = from_module(
        backbone.module, name=backbone.name, size=backbone.size, pretraining=backbone.pretraining
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Classifier(body, n_outputs, dropout=dropout)


def kind_of(ds: XrayDataset) -> str:
    """One of `decisions.KINDS`: two classes are ``"binary"``."""
    if ds.task == "multilabel":
        return "multilabel"
    return "binary" if len(ds.classes) == 2 else "multiclass"


def outputs(ds: XrayDataset) -> int:
    """Logits that a classifier of `ds` needs: 1 for two classes, else one for each class."""
    return 1 if kind_of(ds) == "binary" else len(ds.classes)


def as_backbone(model: Classifier, *, name: str, size: int, pretraining: Pretraining) -> Backbone:
    """The trained body as a frozen feature extractor of images of `size` pixels, for `embeddings.extract`."""
    return from_module(model.body, name=name, size=size, pretraining=pretraining)


def save(model: Classifier, path: Path, **about: object) -> None:
    """Write the weights to a ``.safetensors`` file, with the name of the network and `about` (JSON values).

    Raises:
        DataError: another suffix.
        StorageError: the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise DataError(f"{path} does not end with .safetensors")
    network = {"network": model.name, "n_outputs": model.n_outputs, "size": model.size}
    state = {key: tensor.cpu().contiguous() for key, tensor in model.state_dict().items()}
    write_atomic(path, to_bytes(state, {k: json.dumps(v) for k, v in (network | about).items()}))


def restore(model: Classifier, path: Path) -> Classifier:
    """`model` with the weights of `path`, which must be of the same network with as many outputs.

    Raises:
        DataNotFoundError: no such file.
        DataError: a damaged file, or one of another network; the message names both.
    """
    file = read_weights(weights_path(path))
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if own != {name: tensor.shape for name, tensor in file.state.items()}:
        written = file.metadata.get("network", "an unknown network")
        raise DataError(
            f"{path.name} holds {written} with {file.metadata.get('n_outputs', '?')} outputs, which does not "
            f"fit {model.name} with {model.n_outputs}; build that network first"
        )
    model.load_state_dict(file.state)
    return model
