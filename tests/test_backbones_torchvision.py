"""Torchvision's classifiers: the last feature map of every one, and the download of their weights."""

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from weight_server import Server, serve

from xraykit import backbones
from xraykit.backbones import torchvision_nets
from xraykit.backbones.headless import head_name, headless
from xraykit.errors import DataError, DownloadError, StorageError

# Length of the features by architecture, from the papers; the first pattern that fits counts.
DIMS = {
    "alexnet": 256, "convnext_(tiny|small)": 768, "convnext_base": 1024, "convnext_large": 1536,
    "densenet121": 1024, "densenet161": 2208, "densenet169": 1664, "densenet201": 1920,
    "efficientnet_(b0|b1|v2_.)": 1280, "efficientnet_b2": 1408, "efficientnet_b3": 1536,
    "efficientnet_b4": 1792, "efficientnet_b5": 2048, "efficientnet_b6": 2304, "efficientnet_b7": 2560,
    "googlenet": 1024, "inception_v3": 2048, "maxvit_t": 512, "mnasnet.*": 1280, "mobilenet_v2": 1280,
    "mobilenet_v3_large": 960, "mobilenet_v3_small": 576, "regnet_x_400mf": 400, "regnet_x_800mf": 672,
    "regnet_x_1_6gf": 912, "regnet_x_3_2gf": 1008, "regnet_x_8gf": 1920, "regnet_x_16gf": 2048,
    "regnet_x_32gf": 2520, "regnet_y_400mf": 440, "regnet_y_800mf": 784, "regnet_y_1_6gf": 888,
    "regnet_y_3_2gf": 1512, "regnet_y_8gf": 2016, "regnet_y_16gf": 3024, "regnet_y_32gf": 3712,
    "regnet_y_128gf": 7392, "resnet(18|34)": 512, "(wide_)?resne(x)?t.*": 2048, "shufflenet_v2_x2_0": 2048,
    "shufflenet.*": 1024, "squeezenet.*": 512, "swin_(v2_)?[ts]": 768, "swin_(v2_)?b": 1024, "vgg.*": 512,
    "vit_b.*": 768, "vit_l.*": 1024, "vit_h.*": 1280,
}  # fmt: skip
ONE_OF_EACH = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t",
    "swin_v2_t", "vgg11", "vit_b_32", "wide_resnet50_2",
]  # fmt: skip


def shapes(architecture: str) -> tuple[int, tuple[int, ...]]:
    """Input size and the shape of what `headless` leaves, computed on tensors without data."""
    size = next(iter(models.get_model_weights(architecture))).transforms().crop_size[0]
    # RegNets compute their widths with tensors, so those cannot be without data.
    device = "cpu" if architecture.startswith("regnet") else "meta"
    with torch.device(device):
        model = torchvision_nets.untrained(architecture, size=size, seed=0).to("meta")
    images = torch.zeros(2, 3, size, size, device="meta")
    return size, tuple(headless(model, images[:1])(images).shape)


def check_shapes(architecture: str) -> None:
    size, found = shapes(architecture)
    dim = next(dim for pattern, dim in DIMS.items() if re.fullmatch(pattern, architecture))
    if architecture.startswith("vit"):
        assert found == (2, dim), architecture
    else:
        side = 6 if architecture == "alexnet" else 13 if "squeezenet" in architecture else (size + 31) // 32
        assert found == (2, dim, side, side) or architecture == "inception_v3", architecture
        assert architecture != "inception_v3" or found == (2, 2048, 8, 8)


def test_one_of_each_family_has_its_last_feature_map() -> None:
    assert set(ONE_OF_EACH) <= set(torchvision_nets.names())
    for architecture in ONE_OF_EACH:
        check_shapes(architecture)


@pytest.mark.slow
def test_every_classifier_of_torchvision_has_its_last_feature_map() -> None:
    for architecture in torchvision_nets.names():
        check_shapes(architecture)


@pytest.mark.parametrize(
    ("architecture", "options", "side"),
    [
        ("convnext_tiny", {}, 64),
        ("densenet121", {}, 64),
        ("efficientnet_b0", {}, 64),
        ("googlenet", {"init_weights": False}, 64),
        ("inception_v3", {"init_weights": False, "transform_input": True}, 139),
        ("mnasnet0_5", {}, 64),
        ("mobilenet_v2", {}, 64),
        ("mobilenet_v3_small", {}, 64),
        ("regnet_x_400mf", {}, 64),
        ("resnet18", {}, 64),
        ("shufflenet_v2_x0_5", {}, 64),
        ("squeezenet1_1", {}, 64),
        ("swin_t", {}, 64),
        ("vit_b_32", {"image_size": 64}, 64),
    ],
)
def test_pooled_maps_are_what_the_head_would_have_seen(architecture: str, options: dict, side: int) -> None:
    torch.manual_seed(0)
    model = models.get_model(architecture, **options).eval()
    seen = []
    model.get_submodule(head_name(model)).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = torch.rand(2, 3, side, side)
    with torch.no_grad():
        model(x)
        found = headless(model, x[:1])(x)
    expected = seen[0].mean(dim=(2, 3)) if seen[0].ndim == 4 else seen[0]
    assert (found.ndim == 2) == architecture.startswith("vit")
    pooled = found.mean(dim=(2, 3)) if found.ndim == 4 else found
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["densenet121", "resnet18", "squeezenet1_0"])
def test_features_equal_an_independent_computation(architecture: str) -> None:
    state = torch.get_rng_state()
    backbone = backbones.load(f"{architecture}:random", seed=11)
    assert torch.equal(torch.get_rng_state(), state)
    assert (backbone.name, backbone.size) == (f"{architecture}:random", 224)
    assert (backbone.pretraining.data, backbone.pretraining.labels) == ((), ())
    assert backbone.pretraining.seeds == "11"
    torch.manual_seed(11)
    model = getattr(models, architecture)().eval()
    grey = torch.rand(2, 1, 224, 224)
    x = torch.cat(
        [(grey - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))], dim=1
    )
    with torch.no_grad():
        if architecture == "resnet18":
            stem = model.maxpool(model.relu(model.bn1(model.conv1(x))))
            maps = model.layer4(model.layer3(model.layer2(model.layer1(stem))))
        else:
            maps = model.features(x)
            maps = torch.relu(maps) if architecture == "densenet121" else maps
    torch.testing.assert_close(backbone.module.feature_maps(grey), maps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone.module(grey), maps.mean(dim=(2, 3)), atol=1e-5, rtol=1e-5)


def test_random_weights_by_seed_and_un_normalised_input() -> None:
    first, again, other = (backbones.load("squeezenet1_1:random", seed=seed) for seed in (1, 1, 2))
    assert first.weights_hash == again.weights_hash != other.weights_hash
    raw = backbones.load("squeezenet1_1:random", seed=1, normalise=False)
    assert raw.name == "squeezenet1_1:random un-normalised"
    x = torch.rand(1, 1, 224, 224)
    torch.testing.assert_close(raw.module(x), first.module.maps(x.repeat(1, 3, 1, 1)).mean(dim=(2, 3)))
    assert backbones.unpooled(raw).dim == 512 * 13 * 13


def test_a_transformer_gives_vectors_and_no_maps() -> None:
    backbone = backbones.load("vit_b_32:random")
    assert (backbone.size, backbone.dim) == (224, 768)
    with pytest.raises(DataError, match=r"no feature maps: it returns vectors \(2, 768\)"):
        backbones.unpooled(backbone)


def test_a_network_that_cannot_be_followed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 2, 1), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(x).mean((2, 3)) if x.sum() > 0 else x)

    with pytest.raises(DataError, match=r"torch.fx cannot follow Net .* backbones.from_module"):
        headless(Net(), torch.zeros(1, 3, 4, 4))


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server of this machine."""
    with serve() as server:
        yield server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torchvision's folder of downloads, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


def offer(
    monkeypatch: pytest.MonkeyPatch, server: Server, model: nn.Module, *, entry: models.WeightsEnum
) -> str:
    """Make `server` the place of `entry`, with the weights of `model`; returns the name of the file."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    server.answer = (200, buffer.getvalue())
    name = f"net-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    monkeypatch.setattr(entry.value, "url", f"http://127.0.0.1:{server.server_port}/{name}")
    return name


def test_imagenet_weights_are_downloaded_once(
    monkeypatch: pytest.MonkeyPatch, server: Server, hub: Path
) -> None:
    torch.manual_seed(3)
    model, entry = models.squeezenet1_1(), models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    name = offer(monkeypatch, server, model, entry=entry)
    backbone = backbones.load("squeezenet1_1")
    assert (backbone.name, backbone.pretraining.data) == ("squeezenet1_1:imagenet", ("ImageNet-1k",))
    assert backbone.pretraining.source == f"torchvision's SqueezeNet1_1_Weights.IMAGENET1K_V1, {name}"
    assert torch.equal(backbone.module.maps.get_parameter("features.0.weight"), model.features[0].weight)
    again = backbones.load("squeezenet1_1:IMAGENET1K_V1")
    assert again.weights_hash == backbone.weights_hash
    assert server.requests == 1
    assert [p.name for p in hub.iterdir()] == [name]


def test_torchvisions_densenets_have_names_of_old(
    monkeypatch: pytest.MonkeyPatch, server: Server, hub: Path
) -> None:
    model, entry = models.densenet121(), models.DenseNet121_Weights.IMAGENET1K_V1
    old = nn.Module()
    renamed = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", k): v
        for k, v in model.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in renamed
    old.state_dict = lambda: renamed
    offer(monkeypatch, server, old, entry=entry)
    weights = backbones.load("densenet121:imagenet").module.maps.state_dict()
    own = model.state_dict()
    assert all(torch.equal(weights[k], own[k]) for k in weights)


def test_a_download_that_is_cut_off_or_refused(
    monkeypatch: pytest.MonkeyPatch, server: Server, hub: Path, tmp_path: Path
) -> None:
    entry = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    name = offer(monkeypatch, server, models.squeezenet1_1(), entry=entry)
    whole = server.answer[1]

    def message() -> str:
        with pytest.raises(DownloadError) as caught:
            backbones.load("squeezenet1_1:imagenet", weights_dir=tmp_path)
        return str(caught.value)

    server.answer = (200, whole[: len(whole) // 2])
    assert "invalid hash value" in message()
    assert list(hub.iterdir()) == []  # nothing half is left for the next run
    server.answer = (404, b"not here")
    text = message()
    assert "HTTP Error 404" in text
    advice = (f"name of a file in {tmp_path} (XRAYKIT_WEIGHTS_DIR)", "squeezenet1_1:random", "  phantom, the")
    for expected in (entry.url, str(hub / name), "squeezenet1_1:<file>.safetensors or .pth", *advice):
        assert expected in text
    (hub / name).write_bytes(whole[: len(whole) // 2])
    assert re.search(
        rf"{name}, are damaged \(.*\); delete that file, and the next run downloads http", message()
    )
    server.answer = (200, whole)
    (hub / name).unlink()
    assert backbones.load("squeezenet1_1:imagenet").dim == 512


def test_no_network_is_no_silent_fallback(hub: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"densenet161:imagenet: cannot download https://.*offline"
    ) as caught:
        backbones.load("densenet161")
    assert "densenet161:random, untrained, as a baseline" in str(caught.value)


def test_a_folder_that_cannot_be_written(hub: Path) -> None:
    hub.parent.parent.parent.mkdir(exist_ok=True)
    hub.parent.parent.write_text("a file where torchvision wants its folder")
    with pytest.raises(StorageError, match=r"cannot write .*resnet18-.*pth"):
        backbones.load("resnet18:imagenet")


def test_swag_weights_name_their_pretraining() -> None:
    entry = models.ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1
    assert torchvision_nets._data(entry) == ("Instagram 3.6B", "ImageNet-1k")


def test_a_file_for_small_images_is_not_cut_a_layer_too_early(tmp_path):
    """At 32 pixels ResNet-18's last map is one pixel; it is a map all the same."""
    path = tmp_path / "small.safetensors"
    save_file(models.resnet18().state_dict(), path, metadata={"size": "32"})
    backbone = backbones.load(f"resnet18:{path}")
    assert (backbone.size, backbone.dim) == (32, 512)
