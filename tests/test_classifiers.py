"""Classifiers: heads on any backbone, freezing, files, and the networks of torchvision as a whole."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from toy_backbones import toy
from training_children import network, tiny

from xraykit import backbones, classifiers
from xraykit.backbones import Pretraining, from_module
from xraykit.classifiers import Classifier, build, kind_of, outputs
from xraykit.decisions import KINDS
from xraykit.errors import DataError, DataNotFoundError

# Length of the features, from the papers.
DIMS = {
    "resnet18": 512, "resnet50": 2048, "vgg16": 512, "inception_v3": 2048, "densenet121": 1024,
    "densenet161": 2208, "squeezenet1_0": 512,
}  # fmt: skip
QUICK = ("resnet18", "squeezenet1_0")
SLOW = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name)
    for name in DIMS
]  # fmt: skip


def learns(model: Classifier, *, side: int) -> None:
    """One step forward and back: logits of the right shape, and a gradient for every parameter."""
    images = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    logits = model.train()(images)
    assert (logits.dtype, logits.shape) == (torch.float32, (2, model.n_outputs))
    logits.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert any(p.grad.abs().sum() > 0 for p in model.body.parameters())


@pytest.mark.parametrize("architecture", SLOW)
def test_torchvisions_networks_take_three_heads_and_learn_whole(architecture: str) -> None:
    backbone = backbones.load(f"{architecture}:random")
    for n_outputs in (1, 3, 14):
        model = build(backbone, n_outputs)
        assert model.head[1].weight.shape == (n_outputs, DIMS[architecture])
        assert model.name == f"{architecture}:random"
        assert model.size == (299 if architecture == "inception_v3" else 224)
        learns(model, side=80)
        model.freeze(True)
        assert [name for name, p in model.named_parameters() if p.requires_grad] == [
            "head.1.weight", "head.1.bias",
        ]  # fmt: skip


@pytest.mark.parametrize(
    "spec", ["cnn-small", "cnn-small:random", "cnn-group-norm", "phantom", "phantom:random"]
)
def test_our_networks_learn_whole(spec: str) -> None:
    for n_outputs in (1, 3):
        learns(build(spec, n_outputs), side=32)


def test_a_network_of_ones_own_needs_one_registered_function() -> None:
    def mine(weights: str | None, *, seed: int, weights_dir: str | Path | None) -> backbones.Backbone:
        return toy(seed, name=f"mine:{weights}")

    backbones.register("mine", mine)
    try:
        model = build("mine:today", 3, seed=2)
    finally:
        del backbones.registry._REGISTERED["mine"]
    assert (model.name, model.size) == ("mine:today", 16)
    expected = toy(2).module.maps[0].weight
    torch.testing.assert_close(model.body.maps[0].weight, expected, check_stride=False)
    learns(model, side=20)


# ---- heads


def test_logits_are_a_linear_function_of_the_features() -> None:
    backbone, x = toy(), torch.rand(5, 1, 16, 16)
    model = build(backbone, 3).eval()
    linear = model.head[1]
    expected = backbone.module(x) @ linear.weight.T + linear.bias
    torch.testing.assert_close(model(x), expected)


def test_seeds_decide_the_head_and_random_weights() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (build("cnn-small", 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    for name in ("head.1.weight", "body.maps.layers.0.weight"):
        assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_the_backbone_stays_frozen_and_is_not_shared() -> None:
    backbone = toy()
    model = build(backbone, 1)
    assert all(p.requires_grad for p in model.parameters())
    model.body.maps[0].weight.data.zero_()
    assert backbone.module.maps[0].weight.abs().sum() > 0
    assert not any(p.requires_grad for p in backbone.module.parameters())


def test_dropout_is_of_the_features_and_off_in_evaluation() -> None:
    model, x = build(toy(), 1, dropout=0.5), torch.rand(4, 1, 16, 16)
    assert model.head[0].p == 0.5
    assert torch.equal(model.eval()(x), model(x))
    torch.manual_seed(0)
    model.train()
    assert not torch.equal(model(x), model(x))


def test_kinds_and_outputs() -> None:
    found = {kind: (kind_of(tiny(kind)), outputs(tiny(kind))) for kind in KINDS}
    assert found == {
        "binary": ("binary", 1), "multiclass": ("multiclass", 3), "multilabel": ("multilabel", 2),
    }  # fmt: skip
    assert outputs(tiny("multiclass").binary()) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_outputs": 0}, "n_outputs = 0, dropout = 0.0; use at least 1, and 0 to below 1"),
        ({"dropout": 1}, "n_outputs = 1, dropout = 1; use at least 1"),
        ({"dropout": -0.1}, "dropout = -0.1"),
        ({"network": "pixels"}, "pixels has no weights to train; choose a network"),
        ({"network": "resnet81"}, r"no backbone is named 'resnet81'; do you mean .*resnet18"),
        ({"network": "cnn:imagenet"}, "cnn begins with random weights, not 'imagenet'"),
        ({"network": "resnet18:imagined"}, "resnet18 has no weights 'imagined'; choose imagenet"),
    ],
)
def test_networks_that_cannot_be_built(wrong: dict, message: str) -> None:
    options = {"network": "cnn-small", "n_outputs": 1, **wrong}
    with pytest.raises(DataError, match=message):
        build(options.pop("network"), options.pop("n_outputs"), **options)


# ---- freezing


def test_a_frozen_body_ignores_train_and_keeps_its_statistics() -> None:
    model, x = network(norm="batch", dropout=0.5), torch.rand(4, 1, 16, 16)
    model.freeze(True)
    before = {name: tensor.clone() for name, tensor in model.body.state_dict().items()}
    assert (model.train().body.training, model.head.training, model.training) == (False, True, True)
    model(x).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.body.state_dict().items())
    assert all(p.grad is None for p in model.body.parameters())
    assert model.head[1].weight.grad is not None
    model.freeze(False)
    assert model.body.training
    model(x)
    mean = "maps.layers.1.running_mean"
    assert not torch.equal(model.body.state_dict()[mean], before[mean])
    model.eval().freeze(False)
    assert not model.body.training


# ---- as a backbone


def test_a_trained_body_is_a_backbone() -> None:
    model, x = network(norm="batch"), torch.rand(3, 1, 16, 16)
    about = Pretraining(("tiny",), ("pneumonia",))
    backbone = classifiers.as_backbone(model, name="trained", size=16, pretraining=about)
    assert (backbone.name, backbone.size, backbone.dim) == ("trained", 16, 32)
    torch.testing.assert_close(backbone.module(x), model.eval().body(x))
    with pytest.raises(DataError, match="trained was pretrained on labels of Pneumonia"):
        backbones.check_unseen(backbone, ["Pneumonia"])


# ---- files


def test_a_file_gives_back_the_weights_and_says_what_it_is(tmp_path: Path) -> None:
    model, path = network("multiclass", norm="batch").eval(), tmp_path / "new" / "net.safetensors"
    classifiers.save(model, path, classes=["a", "b", "c"], size=128)
    with safe_open(path, framework="np") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
    assert about == {"network": "cnn", "n_outputs": 3, "size": 128, "classes": ["a", "b", "c"]}
    other = network("multiclass", norm="batch").eval()
    nn.init.zeros_(other.head[1].weight)
    assert classifiers.restore(other, path) is other
    x = torch.rand(4, 1, 16, 16)
    np.testing.assert_array_equal(other(x).detach(), model(x).detach())


def test_files_that_cannot_be_restored(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(DataNotFoundError, match=r"no weights at .*net\.safetensors"):
        classifiers.restore(model, tmp_path / "net.safetensors")
    with pytest.raises(DataError, match=r"net\.pt does not end with \.safetensors"):
        classifiers.save(model, tmp_path / "net.pt")
    classifiers.save(model, tmp_path / "net.safetensors")
    whole = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"is no complete safetensors file"):
        classifiers.restore(model, tmp_path / "net.safetensors")


def test_weights_that_do_not_fit_leave_the_model_as_it_is(tmp_path: Path) -> None:
    donor, model = network("multiclass"), network()
    nn.init.zeros_(donor.body.maps[0].weight)
    classifiers.save(donor, tmp_path / "net.safetensors")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        DataError, match="holds toy with 3 outputs, which does not fit toy with 1; build that"
    ):
        classifiers.restore(model, tmp_path / "net.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_from_module_names_are_kept(tmp_path: Path) -> None:
    backbone = from_module(toy().module, name="renamed", size=20, pretraining=Pretraining(source="x"))
    model = build(backbone, 1)
    assert (model.name, model.size, model.pretraining.source) == ("renamed", 20, "x")
