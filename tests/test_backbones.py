"""Backbones: what holds for each of them, and how they are found by name."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from xraykit import backbones
from xraykit.backbones import (
    UNKNOWN,
    Backbone,
    Pooled,
    Pretraining,
    check_unseen,
    from_module,
    network_input,
    registry,
    unnormalised,
    unpooled,
    weights_hash,
)
from xraykit.errors import DataError, DataNotFoundError


def tiny(**changes: object) -> Backbone:
    """Two channels, identity convolution with the weights 1 and 2, of images of 2 pixels."""
    maps = nn.Conv2d(2, 2, 1, bias=False, groups=2)
    maps.weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    options = {"name": "tiny", "size": 2, "pretraining": Pretraining()} | changes
    return from_module(Pooled(maps, mean=[0.5, 0.25], std=[0.5, 0.25]), **options)


def test_grey_is_repeated_normalised_mapped_and_averaged() -> None:
    x = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])  # mean .4375
    expected = [(0.4375 - 0.5) / 0.5, 2 * (0.4375 - 0.25) / 0.25]
    backbone = tiny()
    torch.testing.assert_close(backbone.module(x), torch.tensor([expected]))
    first, second = backbone.module.feature_maps(x)[0]
    torch.testing.assert_close(first, torch.tensor([[-1, -0.5], [0, 1]]))
    torch.testing.assert_close(second, torch.tensor([[-2.0, 0], [2, 6]]))
    assert (backbone.dim, backbone.size, backbone.module.training) == (2, 2, False)
    assert not any(p.requires_grad for p in backbone.module.parameters())


def test_two_published_mistakes() -> None:
    x = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])
    flat = unpooled(tiny())
    assert (flat.name, flat.dim) == ("tiny unpooled", 8)
    torch.testing.assert_close(flat.module(x), torch.tensor([[-1, -0.5, 0, 1, -2, 0, 2, 6]]))
    raw = unnormalised(tiny())
    assert raw.name == "tiny un-normalised"
    torch.testing.assert_close(raw.module(x), torch.tensor([[0.4375, 0.875]]))
    assert len({tiny().weights_hash, flat.weights_hash, raw.weights_hash}) == 3
    assert unpooled(raw).name == "tiny un-normalised unpooled"


def test_networks_without_maps_or_normalisation_refuse_the_mistakes() -> None:
    flatten = from_module(nn.Flatten(), name="flatten", size=4, pretraining=Pretraining())
    assert flatten.dim == 16
    with pytest.raises(DataError, match="flatten has no feature maps of its own"):
        unpooled(flatten)
    with pytest.raises(DataError, match="flatten has no normalisation of its own"):
        unnormalised(flatten)
    vectors = from_module(
        Pooled(nn.Flatten(), mean=[0.5], std=[0.5]), name="v", size=4, pretraining=Pretraining()
    )
    with pytest.raises(DataError, match=r"no feature maps.*vectors \(2, 16\).*densenet121"):
        unpooled(vectors)


def test_a_backbone_is_a_copy_that_stays_when_training_goes_on() -> None:
    net = Pooled(nn.Conv2d(1, 3, 1), mean=[0.5], std=[0.5]).double().train()
    backbone = from_module(net, name="mine", size=4, pretraining=Pretraining())
    x = torch.rand(2, 1, 4, 4)
    before = backbone.module(x)
    with torch.no_grad():
        net.maps.weight.add_(1)
    assert torch.equal(backbone.module(x), before)
    assert before.dtype == torch.float32
    assert net.training
    assert net.maps.weight.requires_grad


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(3, 4, 1), "mine does not take grey images of 8 pixels"),
        (nn.Conv2d(1, 4, 1), r"2 images into \(2, 4, 8, 8\); it must return \(2, D\)"),
        (nn.Flatten(0), r"2 images into \(128,\)"),
        (nn.LSTM(8, 4), "mine does not take grey images"),
        (nn.AdaptiveMaxPool2d(1, return_indices=True), "2 images into tuple"),
    ],
)
def test_a_network_that_does_not_make_vectors(module: nn.Module, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_module(module, name="mine", size=8, pretraining=Pretraining())


def test_damaged_weights_and_normalisation() -> None:
    maps = nn.Conv2d(1, 2, 1)
    maps.weight.data[0] = torch.nan
    with pytest.raises(DataError, match="NaN or infinite features of a black image"):
        from_module(Pooled(maps, mean=[0.5], std=[0.5]), name="mine", size=8, pretraining=Pretraining())
    for mean, std in (([0.5], [0.5, 0.5]), ([0.5], [0.0])):
        with pytest.raises(DataError, match="one of each a channel, every std above 0"):
            Pooled(maps, mean=mean, std=std)


def test_the_hash_is_of_weights_buffers_and_structure() -> None:
    def net(**changes: float) -> nn.Module:
        conv, norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
        nn.init.constant_(conv.weight, changes.get("weight", 1))
        nn.init.zeros_(conv.bias)
        norm.running_mean.fill_(changes.get("buffer", 0))
        last = nn.Sigmoid() if changes.get("structure") else nn.ReLU()
        return Pooled(nn.Sequential(conv, norm, last), mean=[changes.get("mean", 0.5)], std=[0.5])

    assert weights_hash(net()) == weights_hash(net())
    others = [net(weight=2), net(buffer=2), net(structure=1), net(mean=0.4)]
    assert len({weights_hash(net()), *map(weights_hash, others)}) == 5


def test_the_hash_of_a_recorded_graph_is_of_its_code_too() -> None:
    class Net(nn.Module):
        def __init__(self, twice: bool) -> None:
            super().__init__()
            self.conv, self.twice = nn.Conv2d(1, 1, 1), twice
            nn.init.ones_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x)) if self.twice else self.conv(x)

    once, twice = (fx.symbolic_trace(Net(twice)) for twice in (False, True))
    assert repr(once) == repr(twice)
    assert weights_hash(once) != weights_hash(twice)


def test_network_input_shrinks_by_area_and_enlarges_linearly() -> None:
    images = np.array([[[0, 255, 255, 255], [0, 255, 255, 255], [51, 51, 0, 0], [51, 51, 0, 0]]], np.uint8)
    batch = network_input(images, 2)
    assert (batch.shape, batch.dtype) == ((1, 1, 2, 2), torch.float32)
    torch.testing.assert_close(batch[0, 0], torch.tensor([[0.5, 1], [0.2, 0]]))
    torch.testing.assert_close(network_input(images, 4)[0, 0], torch.from_numpy(images[0] / 255).float())
    row = network_input(np.array([[[0, 255], [0, 255]]], np.uint8), 4)[0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([0, 0.25, 0.75, 1]))


@given(
    level=st.integers(0, 255), height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 40)
)
def test_network_input_of_a_plain_image_is_plain(level: int, height: int, width: int, size: int) -> None:
    batch = network_input(np.full((2, height, width), level, np.uint8), size)
    torch.testing.assert_close(batch, torch.full((2, 1, size, size), level / 255))
    assert batch.min() >= 0
    assert batch.max() <= 1


def test_network_input_refuses_what_is_no_batch_of_grey_images() -> None:
    for images in (np.zeros((2, 8, 8)), np.zeros((8, 8), np.uint8), np.zeros((0, 8, 8), np.uint8)):
        with pytest.raises(DataError, match="images"):
            network_input(images, 4)


def test_findings_that_a_backbone_was_taught() -> None:
    taught = tiny(name="xrv", pretraining=Pretraining(("NIH ChestX-ray14",), ("Pneumonia", "Mass")))
    with pytest.raises(
        DataError, match=r"xrv was pretrained on labels of mass \(NIH ChestX-ray14\).*phantom"
    ):
        check_unseen(taught, ["Hernia", "mass"])
    with pytest.raises(DataError, match="labels of bacterial, viral"):
        check_unseen(taught, ["normal", "bacterial", "viral"])
    check_unseen(taught, ["Hernia", "normal"])
    of_kinds = tiny(pretraining=Pretraining(("somewhere",), ("bacterial", "viral")))
    with pytest.raises(DataError, match="labels of pneumonia"):
        check_unseen(of_kinds, ["normal", "pneumonia"])
    check_unseen(tiny(), ["Mass"])
    with pytest.warns(UserWarning, match="does not say what it was pretrained on; .* labels of Mass"):
        check_unseen(tiny(pretraining=Pretraining(UNKNOWN)), ["Mass"])


def test_a_backbone_of_ones_own_in_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})
    asked = []

    def build(weights: str | None, *, seed: int, weights_dir: object) -> Backbone:
        asked.append((weights, seed, weights_dir))
        return tiny(name="mine")

    backbones.register("mine", build)
    assert "mine" in backbones.names()
    assert backbones.load("mine").name == "mine"
    assert backbones.load("mine:a:b", seed=3, weights_dir="w", normalise=False).name == "mine un-normalised"
    assert asked == [(None, 0, None), ("a:b", 3, "w")]
    backbones.register("mine", lambda *_, **__: tiny(name="later"))  # running the cell again is no error
    assert backbones.load("mine").name == "later"
    for taken in ("phantom", "resnet18", "densenet121-res224-all"):
        with pytest.raises(DataError, match=f"{taken} is a backbone already"):
            backbones.register(taken, build)
    for name in ("", "a:b"):
        with pytest.raises(DataError, match="cannot be named"):
            backbones.register(name, build)


def test_names_and_typing_errors() -> None:
    names = backbones.names()
    assert len(names) == len(set(names))
    assert {"phantom", "pixels", "densenet161", "densenet121-res224-all"} <= set(names)
    assert not any(":" in name for name in names)
    with pytest.raises(
        DataError, match=r"no backbone is named 'densnet161'; do you mean densenet161.*names\(\)"
    ):
        backbones.load("densnet161")
    with pytest.raises(DataError, match=r"no backbone is named ''; backbones.names"):
        backbones.load("")
    with pytest.raises(DataError, match="'resnet18:' has nothing behind the colon"):
        backbones.load("resnet18:")
    with pytest.raises(DataError, match="resnet18 has no weights 'imagnet'; choose imagenet, IMAGENET1K_V1"):
        backbones.load("resnet18:imagnet")
    with pytest.raises(DataNotFoundError, match=r"no weights at .*none\.pth"):
        backbones.load("resnet18:none.pth")


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, xraykit, xraykit.cli, xraykit.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys, xraykit.backbones; sys.exit('torchxrayvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
