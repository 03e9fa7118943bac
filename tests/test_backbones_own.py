"""phantom and pixels, the backbones that come with the package."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from xraykit import backbones
from xraykit.backbones import own
from xraykit.errors import DataError, DataNotFoundError
from xraykit.nets import BaselineCnn, SmallEncoder
from xraykit.pixel_baseline import pixel_features

ABOUT = {
    "size": 32, "width": 4, "mean": 0.4, "std": [0.2], "labels": [],
    "data": ["synthetic (pretrain patients)"],
    "source": "xraykit pretrain --images 10", "seeds": {"training": 5}, "version": "0",
}  # fmt: skip


def write(path: Path, *, dtype: torch.dtype = torch.float16, **changes: object) -> SmallEncoder:
    encoder = SmallEncoder(4).eval()
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in encoder.state_dict().items()}
    about = {key: json.dumps(value) for key, value in (ABOUT | changes).items() if value is not None}
    save_file(state, path, metadata=about)
    return encoder


@pytest.fixture
def phantom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallEncoder:
    """A packaged phantom of 32 pixels, untrained."""
    monkeypatch.setattr(own, "PHANTOM", tmp_path / "phantom.safetensors")
    return write(tmp_path / "phantom.safetensors")


def test_phantom_is_what_its_metadata_say(phantom: SmallEncoder) -> None:
    backbone = backbones.load("phantom")
    assert (backbone.name, backbone.size, backbone.dim) == ("phantom", 32, 32)
    assert backbone.pretraining.data == ("synthetic (pretrain patients)",)
    assert backbone.pretraining.labels == ()
    assert backbone.pretraining.source == "phantom.safetensors: xraykit pretrain --images 10"
    assert backbone.pretraining.seeds == '{"training": 5}'
    x = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        expected = phantom.half().float()((x - 0.4) / 0.2).mean(dim=(2, 3))
    torch.testing.assert_close(backbone.module(x), expected, atol=1e-6, rtol=1e-5)
    assert next(backbone.module.parameters()).dtype == torch.float32
    backbones.check_unseen(backbone, ["Pneumonia", "bacterial"])


def test_untrained_phantom_differs_in_its_weights_only(phantom: SmallEncoder) -> None:
    state = torch.get_rng_state()
    first, again, other = (backbones.load("phantom:random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weights_hash == again.weights_hash != other.weights_hash
    assert (first.name, first.size, first.dim) == ("phantom:random", 32, 32)
    torch.testing.assert_close(first.module.mean.flatten(), torch.tensor([0.4]))
    assert (first.pretraining.data, first.pretraining.seeds) == ((), "1")


def test_phantom_from_a_file_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path / "mine.safetensors", size=48, std=None)
    backbone = backbones.load(f"phantom:{tmp_path / 'mine.safetensors'}")
    assert (backbone.name, backbone.size) == ("phantom:mine.safetensors", 48)
    torch.testing.assert_close(backbone.module.std.flatten(), torch.tensor([0.25]))
    write(tmp_path / "silent.safetensors", data=None)
    silent = backbones.load("phantom:silent.safetensors", weights_dir=tmp_path)
    assert silent.pretraining.data == backbones.UNKNOWN
    assert "does not say what it was trained on" in silent.pretraining.source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 8}, "does not fit phantom: .* of another shape"),
        ({"width": "wide"}, "width is 'wide' in its metadata"),
        ({"size": 0}, "size is 0 in its metadata; it must be a whole number >= 1"),
        ({"mean": [0.1, 0.2, 0.3]}, "mean is .* in its metadata; 1 numbers are needed"),
        ({"std": "x"}, "std is .* in its metadata"),
        ({"std": 0}, "every std above 0"),
    ],
)
def test_metadata_that_do_not_fit(tmp_path: Path, changes: dict, message: str) -> None:
    write(tmp_path / "bad.safetensors", **changes)
    with pytest.raises(DataError, match=message):
        backbones.load("phantom:bad.safetensors", weights_dir=tmp_path)


def test_phantom_that_is_missing_or_misnamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="phantom has no weights 'imagenet'; choose phantom, phantom:random"):
        backbones.load("phantom:imagenet")
    monkeypatch.setattr(own, "PHANTOM", tmp_path / "phantom.safetensors")
    for spec in ("phantom", "phantom:random"):
        with pytest.raises(DataNotFoundError, match="the installation is not complete"):
            backbones.load(spec)


@given(seed=st.integers(0, 99), height=st.integers(16, 70), width=st.integers(16, 70))
def test_pixels_are_the_pixel_features_exactly(seed: int, height: int, width: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8)
    backbone = own.build_pixels()
    found = backbone.module(backbones.network_input(images, backbone.size)).numpy()
    np.testing.assert_array_equal(found, pixel_features(images))


def test_pixels_have_no_weights() -> None:
    backbone = backbones.load("pixels")
    assert (backbone.name, backbone.size, backbone.dim) == ("pixels", 16, 256)
    assert (backbone.pretraining.data, backbone.pretraining.labels) == ((), ())
    with pytest.raises(DataError, match="pixels has no weights"):
        backbones.load("pixels:random")
    with pytest.raises(DataError, match="no normalisation"):
        backbones.load("pixels", normalise=False)


@pytest.mark.parametrize(
    ("name", "dim", "norm", "light"),
    [
        ("cnn", 256, "batch", False),
        ("cnn-small", 128, "batch", True),
        ("cnn-group-norm", 256, "group", False),
    ],
)
def test_cnn_is_the_untrained_baseline_averaged(name: str, dim: int, norm: str, light: bool) -> None:
    state = torch.get_rng_state()
    backbone, again, other = (backbones.load(name, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert (backbone.size, backbone.dim, backbone.pretraining.data) == (64, dim, ())
    assert backbone.pretraining.seeds == "1"
    assert backbone.weights_hash == again.weights_hash != other.weights_hash
    assert backbones.load(f"{name}:random", seed=1).weights_hash == backbone.weights_hash
    net = BaselineCnn(dim // 8, norm=norm, light=light).eval()
    net.load_state_dict(backbone.module.maps.state_dict())
    x = torch.rand(2, 1, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(backbone.module(x), net((x - 0.5) / 0.25).mean(dim=(2, 3)))


def test_cnn_has_no_file_of_weights() -> None:
    for weights in ("imagenet", "mine.safetensors"):
        with pytest.raises(DataError, match=f"cnn begins with random weights, not '{weights}'; .*restore"):
            backbones.load(f"cnn:{weights}")
