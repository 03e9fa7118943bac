"""Files of weights: where they are looked for, and what does not fit."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models
from torchvision.transforms.v2.functional import normalize

from xraykit import backbones
from xraykit.backbones import weights_dir, weights_path
from xraykit.errors import DataError, DataNotFoundError
from xraykit.nets import SmallEncoder


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Weights of a torchvision squeezenet1_1."""
    torch.manual_seed(7)
    return models.squeezenet1_1().state_dict()


def test_where_a_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("here", "given", "named", "data/weights")]
    here, given, named, default = folders
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / f"{folder.name}.pth").touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XRAYKIT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("XRAYKIT_WEIGHTS_DIR", raising=False)
    assert weights_dir() == default
    assert weights_path("weights.pth") == default / "weights.pth"
    assert weights_path("here.pth").resolve() == here / "here.pth"
    assert weights_path("../named/named.pth").resolve() == named / "named.pth"
    assert weights_path(given / "given.pth") == given / "given.pth"
    monkeypatch.setenv("XRAYKIT_WEIGHTS_DIR", str(named))
    assert weights_path("named.pth") == named / "named.pth"
    assert weights_path("given.pth", given) == given / "given.pth"
    with pytest.raises(DataNotFoundError) as caught:
        weights_path("weights.pth")
    assert str(here / "weights.pth") in str(caught.value)
    assert f"{named}, which holds named.pth; give the path" in str(caught.value)
    assert "set XRAYKIT_WEIGHTS_DIR" in str(caught.value)
    with pytest.raises(DataNotFoundError, match="which is no folder"):
        weights_path("a.pt", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match="holds no weights"):
        weights_path("a.pt", tmp_path / "empty")
    with pytest.raises(DataError, match=r"model.pkl is no file of weights; .* \.safetensors, \.pth, \.pt"):
        weights_path("model.pkl")


def test_safetensors_and_state_dicts_give_the_same(tmp_path: Path, state: dict) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    loaded = [
        backbones.load(f"squeezenet1_1:a.{end}", weights_dir=tmp_path) for end in ("safetensors", "pth")
    ]
    assert [b.name for b in loaded] == ["squeezenet1_1:a", "squeezenet1_1:a"]
    assert loaded[0].weights_hash == loaded[1].weights_hash
    x = torch.rand(1, 1, 224, 224)
    model = models.squeezenet1_1().eval()
    model.load_state_dict(state)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    with torch.no_grad():
        expected = model.features((x.repeat(1, 3, 1, 1) - mean) / std).mean(dim=(2, 3))
    torch.testing.assert_close(loaded[0].module(x), expected, atol=1e-5, rtol=1e-5)
    assert loaded[0].pretraining.data == ("unknown",)
    assert "a.safetensors (the file does not say" in loaded[0].pretraining.source


@pytest.mark.parametrize("head", ["absent", "three classes", "of other layers"])
def test_the_head_may_be_absent_or_ones_own(tmp_path: Path, state: dict, head: str) -> None:
    save_file(state, tmp_path / "full.safetensors")
    body = {k: v for k, v in state.items() if not k.startswith("classifier")}
    if head == "three classes":
        body |= {"classifier.1.weight": torch.zeros(3, 512, 1, 1), "classifier.1.bias": torch.zeros(3)}
    elif head == "of other layers":
        body |= {"classifier.weight": torch.zeros(3, 512), "classifier.bias": torch.zeros(3)}
    metadata = {
        "data": '["kermany"]',
        "labels": '["bacterial", "viral"]',
        "seeds": "3",
        "mean": "[0.1, 0.2, 0.3]",
    }
    save_file(
        body, tmp_path / "own.safetensors", metadata=metadata | {"source": "xraykit train", "size": "96"}
    )
    full, own = (
        backbones.load(f"squeezenet1_1:{name}.safetensors", weights_dir=tmp_path) for name in ("full", "own")
    )
    weights = [b.module.maps.state_dict() for b in (full, own)]
    assert weights[0].keys() == weights[1].keys() == body.keys() - {k for k in body if k.startswith("cl")}
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert own.size == 96
    torch.testing.assert_close(own.module.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(own.module.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    about = own.pretraining
    assert (about.data, about.labels, about.seeds) == (("kermany",), ("bacterial", "viral"), "3")
    assert about.source == "own.safetensors: xraykit train"
    with pytest.raises(DataError, match="labels of viral"):
        backbones.check_unseen(own, ["viral"])


def test_half_precision_and_old_files_load_in_float32(tmp_path: Path) -> None:
    model = models.shufflenet_v2_x0_5()
    old = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file({k: v.half() for k, v in old.items()}, tmp_path / "half.safetensors")
    backbone = backbones.load("shufflenet_v2_x0_5:half.safetensors", weights_dir=tmp_path)
    assert {p.dtype for p in backbone.module.parameters()} == {torch.float32}
    assert torch.equal(
        backbone.module.maps.conv1.get_submodule("0").weight, model.conv1[0].weight.half().float()
    )


def test_weights_of_another_architecture(tmp_path: Path, state: dict) -> None:
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(DataError) as caught:
        backbones.load(f"resnet18:{tmp_path / 'a.safetensors'}")
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path / 'a.safetensors'} does not fit resnet18: 100 weights missing (conv1"
    )
    assert f"{len(state)} weights unexpected (" in message
    assert message.endswith("It looks like weights of squeezenet1_1")
    save_file({f"x.{k}": v[:1] for k, v in state.items()}, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match="Choose the architecture that the weights were trained with"):
        backbones.load("squeezenet1_1:b.safetensors", weights_dir=tmp_path)


def test_single_weights_that_do_not_fit(tmp_path: Path, state: dict) -> None:
    def message(changed: dict) -> str:
        save_file(changed, tmp_path / "c.safetensors")
        with pytest.raises(DataError) as caught:
            backbones.load("squeezenet1_1:c.safetensors", weights_dir=tmp_path)
        return str(caught.value)

    key = "features.0.weight"
    grey = message(state | {key: state[key][:, :1].contiguous()})
    assert (
        "squeezenet1_1: 1 weights of another shape (features.0.weight (64, 1, 3, 3) instead of (64, 3, "
        in grey
    )
    assert "1 weights missing (features.0.weight)." in message({k: v for k, v in state.items() if k != key})
    assert "1 weights unexpected (extra)." in message(state | {"extra": torch.zeros(1)})
    nan = message(state | {"features.0.bias": torch.full((64,), torch.nan)})
    assert "squeezenet1_1:c makes NaN" in nan
    assert message(SmallEncoder(4).state_dict()).endswith("It looks like weights of phantom")
    assert f"{len(state) - 2} weights missing" in message({"classifier.1.bias": torch.zeros(1)})


class Attack:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["ATTACKED"],)


def test_damaged_and_dangerous_files(tmp_path: Path, state: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            backbones.load(f"squeezenet1_1:{name}", weights_dir=tmp_path)
        assert str(tmp_path / name) in str(caught.value)
        return str(caught.value)

    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        whole = (tmp_path / name).read_bytes()
        for content in (whole[: len(whole) // 2], whole[:5], b"", b"<html>404 Not Found</html>"):
            assert "get it again" in message(name, content)
    monkeypatch.setenv("ATTACKED", str(tmp_path / "attacked"))
    for name, thing in (("attack.pth", {"features.0.weight": Attack()}), ("model.pt", nn.Linear(1, 1))):
        torch.save(thing, tmp_path / name)
        assert "could run code" in message(name, (tmp_path / name).read_bytes())
    assert not (tmp_path / "attacked").exists()
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "checkpoint.pth")
    text = message("checkpoint.pth", (tmp_path / "checkpoint.pth").read_bytes())
    assert "holds a dict of epoch, state_dict; it must hold the tensors of model.state_dict()" in text
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "holds a list;" in message("list.pth", (tmp_path / "list.pth").read_bytes())


def test_the_real_squeezenet_of_the_weights_folder() -> None:
    folder = os.environ.get("XRAYKIT_WEIGHTS_DIR")
    if not folder or not (Path(folder) / "squeezenet1_0_imagenet.safetensors").is_file():
        pytest.skip("XRAYKIT_WEIGHTS_DIR is not set to a folder with squeezenet1_0_imagenet.safetensors")
    backbone = backbones.load("squeezenet1_0:squeezenet1_0_imagenet.safetensors")
    assert (backbone.name, backbone.dim) == ("squeezenet1_0_imagenet", 512)
    model = models.squeezenet1_0().eval()
    model.load_state_dict(load_file(Path(folder) / "squeezenet1_0_imagenet.safetensors"))
    preset = models.SqueezeNet1_0_Weights.IMAGENET1K_V1.transforms()
    picture = torch.rand(1, 224, 224)
    x = normalize(picture.repeat(3, 1, 1), mean=preset.mean, std=preset.std)[None]
    with torch.no_grad():
        expected = model.features(x).mean(dim=(2, 3))
    torch.testing.assert_close(backbone.module(picture[None]), expected, atol=1e-5, rtol=1e-5)
