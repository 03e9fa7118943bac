"""Feature maps inside a network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from xraykit import backbones, embeddings
from xraykit.backbones import (
    Pooled,
    Pretraining,
    at_layer,
    at_layers,
    from_module,
    layer_names,
    split_at,
)
from xraykit.errors import DataError

LAYERS = {
    "squeezenet1_0:random": {
        "features.1": (96, 109), "features.5": (256, 54), "features.10": (512, 27), "features.12": (512, 13),
    },
    "resnet18:random": {
        "relu": (64, 112), "layer1": (64, 56), "layer2": (128, 28), "layer3": (256, 14), "layer4": (512, 7),
    },
    "densenet121:random": {
        "features.relu0": (64, 112), "features.transition1.conv": (128, 56),
        "features.transition2.conv": (256, 28), "features.transition3.conv": (512, 14), "relu": (1024, 7),
    },
    "phantom:random": {"stem": (32, 48), "blocks.0": (64, 24), "blocks.1": (128, 12), "blocks.2": (256, 6)},
    "cnn": {"layers.2": (32, 64), "layers.9": (64, 32), "layers.16": (128, 16), "layers.23": (256, 8)},
}  # fmt: skip


def own(maps: nn.Module, *, channels: int = 1) -> backbones.Backbone:
    pooled = Pooled(maps, mean=[0.25] * channels, std=[0.5] * channels)
    return from_module(pooled, name="own", size=16, pretraining=Pretraining(data=("mine",)))


@pytest.mark.parametrize("name", LAYERS)
def test_the_last_point_of_every_resolution(name: str) -> None:
    backbone = backbones.load(name)
    before = backbones.weights_hash(backbone.module)
    assert layer_names(backbone) == list(LAYERS[name])
    net = at_layers(backbone, list(LAYERS[name]))
    found = net(torch.rand(2, 1, backbone.size, backbone.size))
    assert [m.shape for m in found] == [(2, d, side, side) for d, side in LAYERS[name].values()]
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert backbones.weights_hash(backbone.module) == before == backbone.weights_hash


@pytest.mark.parametrize("name", ["squeezenet1_0", "resnet18", "densenet121"])
def test_maps_equal_what_hooks_see_in_torchvisions_network(name: str) -> None:
    backbone = backbones.load(f"{name}:random", seed=11)
    torch.manual_seed(11)
    model = getattr(models, name)().eval()
    seen = {}
    for part, module in model.named_modules():
        module.register_forward_hook(lambda _, __, out, part=part: seen.update({part: out.clone()}))
    grey = torch.rand(2, 1, 96, 96)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    names = layer_names(backbone)
    with torch.no_grad():
        model((grey.repeat(1, 3, 1, 1) - mean) / std)
        expected = {part: seen[part] for part in names if part != "relu" or name == "resnet18"}
        if name == "densenet121":
            expected["relu"] = torch.relu(seen["features"])
        for part, found in zip(names, at_layers(backbone, names)(grey), strict=True):
            torch.testing.assert_close(found, expected[part], atol=1e-5, rtol=1e-4)
        deepest = backbone.module.feature_maps(grey)
    torch.testing.assert_close(found, deepest)


def test_our_own_networks_cut_by_hand() -> None:
    grey = torch.rand(2, 1, 32, 32)
    phantom, cnn = backbones.load("phantom:random"), backbones.load("cnn")
    encoder, layers = phantom.module.maps, cnn.module.maps.layers
    mean, std = phantom.module.mean, phantom.module.std
    by_hand = [encoder.blocks[:2](encoder.stem((grey - mean) / std)), encoder.stem((grey - mean) / std)]
    for found, expected in zip(at_layers(phantom, ["blocks.1", "stem"])(grey), by_hand, strict=True):
        torch.testing.assert_close(found, expected)  # in the order that was asked for
    torch.testing.assert_close(at_layers(cnn, ["layers.9"])(grey)[0], layers[:10]((grey - 0.5) / 0.25))


def test_nothing_behind_the_deepest_is_kept() -> None:
    backbone = backbones.load("squeezenet1_0:random")
    net = at_layers(backbone, ["features.5", "features.1"])
    kept = {name.split("features.")[1].split(".")[0] for name, _ in net.named_parameters()}
    assert kept == {"0", "3", "4", "5"}
    by_hand = models.squeezenet1_0().features[:6]
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in by_hand.parameters())


def test_a_layer_as_a_backbone(tmp_path: Path) -> None:
    whole = own(nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 5, 1)))
    assert layer_names(whole) == ["1", "3"]
    cut = at_layer(whole, "1")
    assert (cut.name, cut.size, cut.dim, cut.pretraining) == ("own at 1", 16, 3, whole.pretraining)
    assert cut.weights_hash != whole.weights_hash
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16), dtype=np.uint8)
    options = {"cache_dir": tmp_path, "backend": "torch", "device": "cpu", "progress": False}
    found = embeddings.extract(images, cut, **options).features
    conv = whole.module.maps[0]
    grey = torch.from_numpy(images)[:, None].float() / 255
    expected = conv((grey - 0.25) / 0.5).relu().mean(dim=(2, 3))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_cut_network_has_the_layers_up_to_its_end() -> None:
    backbone = backbones.load("resnet18:random")
    names = layer_names(backbone)
    for i, layer in enumerate(names):
        assert layer_names(at_layer(backbone, layer)) == names[: i + 1]


def test_later_training_does_not_change_it() -> None:
    backbone = own(nn.Conv2d(1, 2, 3))
    net, x = at_layers(backbone, layer_names(backbone)), torch.rand(1, 1, 16, 16)
    before = net(x)[0]
    nn.init.zeros_(backbone.module.maps.weight)
    assert torch.equal(net(x)[0], before)


@pytest.mark.parametrize("name", ["cnn-small", "phantom:random", "resnet18:random", "squeezenet1_0:random"])
def test_two_parts_of_a_network_are_the_whole(name: str) -> None:
    loaded = backbones.load(name)
    about = {"name": name, "size": 64, "pretraining": loaded.pretraining}
    backbone = from_module(loaded.module, **about)
    grey, before = torch.rand(2, 1, 64, 64), backbones.weights_hash(backbone.module)
    expected, names = backbone.module(grey), layer_names(backbone)
    assert len(names) >= 4
    for layer in names:
        first, rest = split_at(backbone, layer)
        maps = first(grey)[0]
        assert torch.equal(maps, at_layers(backbone, [layer])(grey)[0])
        assert torch.equal(rest(maps), expected)
        weights = [p for part in (first, rest) for p in part.parameters()]
        assert not any(p.requires_grad for p in weights)
        assert not first.training
        assert not rest.training
        # Nothing is computed twice: each weight is in one part.
        assert sum(p.numel() for p in weights) == sum(p.numel() for p in backbone.module.parameters())
    assert torch.equal(maps, backbone.module.feature_maps(grey))
    assert backbones.weights_hash(backbone.module) == before == backbone.weights_hash


def test_the_second_part_by_hand_and_its_gradient() -> None:
    backbone = own(nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 5, 1)))
    _, rest = split_at(backbone, "0")
    maps = torch.rand(2, 3, 14, 14, requires_grad=True)
    found, (_, pool, conv) = rest(maps), backbone.module.maps
    assert torch.equal(found, conv(pool(maps)).mean(dim=(2, 3)))
    (slope,) = torch.autograd.grad(found[:, 4].sum(), maps)
    largest = slope.ne(0).sum(dim=(2, 3))
    assert (largest == 49).all()  # of each 2 x 2 one pixel has the maximum
    expected = conv.weight[4, :, 0, 0] / 49
    torch.testing.assert_close(slope.sum(dim=(2, 3)), (49 * expected).expand(2, 3))


class SizeAtFirst(nn.Module):
    """Asks for the size of the image before anything else, and uses it later."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.end = nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.Conv2d(3, 2, 3, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        return self.end(nn.functional.interpolate(self.down(x), size=size))


def test_bad_cuts() -> None:
    with pytest.raises(DataError, match=r"phantom:random has no layer 'blocks.3'; choose of stem, "):
        split_at(backbones.load("phantom:random"), "blocks.3")
    with pytest.raises(DataError, match="pixels has no feature maps of its own"):
        split_at(backbones.load("pixels"), "stem")
    backbone = own(SizeAtFirst())
    with pytest.raises(DataError, match="behind down the network uses the size of its images; choose"):
        split_at(backbone, "down")
    x = torch.rand(1, 1, 16, 16)
    first, rest = split_at(backbone, "interpolate")
    assert torch.equal(rest(first(x)[0]), backbone.module(x))


class Strided(nn.Module):
    """As in ResNet-50: the branch beside the shortcut begins at the larger resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(4, 4, 1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def test_steps_beside_a_shortcut_are_no_points() -> None:
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(1, 4, 3, padding=1))
    net.add_module("stage", nn.Sequential(Strided(), nn.Conv2d(4, 4, 1)))
    assert layer_names(own(net)) == ["stem", "stage"]
    net.add_module("more", Strided())
    assert layer_names(own(net)) == ["stem", "stage", "more"]


def test_values_of_another_layout_are_no_points() -> None:
    assert layer_names(backbones.load("swin_t:random")) == ["features.0.0", "permute"]


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("pixels", "pixels has no feature maps of its own"),
        ("vit_b_32:random", "vit_b_32:random has no feature maps to choose from; take a convolutional one"),
        (Branching(), "torch.fx cannot follow own to its layers"),
    ],
)
def test_networks_without_layers(backbone: str | nn.Module, message: str) -> None:
    found = backbones.load(backbone) if isinstance(backbone, str) else own(backbone)
    with pytest.raises(DataError, match=message):
        layer_names(found)


def test_unknown_layers_and_none() -> None:
    backbone = own(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)))
    with pytest.raises(DataError, match=r"own has no layer '2', 'x'; choose of 0, 1$"):
        at_layers(backbone, ["x", "1", "2"])
    with pytest.raises(DataError, match=r"own has no layer 'maps'; choose of 0, 1$"):
        at_layer(backbone, "maps")
    with pytest.raises(DataError, match=r"no layer was given; choose of 0, 1$"):
        at_layers(backbone, [])
