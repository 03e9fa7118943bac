"""torchxrayvision's chest X-ray networks, with random weights where the library looks for its downloads."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet50
from weight_server import Server, serve

from xraykit import backbones
from xraykit.backbones import xrv_nets
from xraykit.datasets.catalogue import FINDINGS
from xraykit.errors import DataError, DownloadError

xrv = pytest.importorskip("torchxrayvision")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the library looks for its files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = Path(xrv.utils.get_cache_dir())
    folder.mkdir(parents=True)
    assert folder.is_relative_to(tmp_path)
    return folder


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server of this machine."""
    with serve() as server:
        yield server


def file_name(weights: str) -> str:
    return Path(xrv.models.model_urls[weights]["weights_url"]).name


def test_densenet_features_are_the_librarys(folder: Path, capfd: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    network = xrv.models.DenseNet(num_classes=18)
    torch.save(
        network, folder / file_name("densenet121-res224-all")
    )  # whole networks, as the library's files
    backbone = backbones.load("densenet121-res224-all:xrv")
    assert (backbone.name, backbone.size, backbone.dim) == ("densenet121-res224-all:xrv", 224, 1024)
    grey = torch.rand(2, 1, 224, 224)
    with torch.no_grad():
        library = network.eval().features2(torch.from_numpy(xrv.utils.normalize(grey.numpy() * 255, 255)))
    torch.testing.assert_close(
        backbone.module(grey), library, rtol=1e-4, atol=1e-4 * library.abs().max().item()
    )
    assert set(FINDINGS) <= set(backbone.pretraining.labels)  # spelled as XrayDataset.classes
    assert "Lung Opacity" in backbone.pretraining.labels
    assert "NIH ChestX-ray14" in backbone.pretraining.data
    with pytest.raises(DataError, match="labels of Pleural_Thickening"):
        backbones.check_unseen(backbone, ["Pleural_Thickening"])
    with pytest.raises(DataError, match="labels of viral"):
        backbones.check_unseen(backbone, ["normal", "viral"])
    assert backbones.load("densenet121-res224-all").weights_hash == backbone.weights_hash
    assert capfd.readouterr().out == ""


def test_resnet_features_are_the_librarys(folder: Path) -> None:
    torch.manual_seed(0)
    network = resnet50(num_classes=18)
    network.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    torch.save(network.state_dict(), folder / file_name("resnet50-res512-all"))
    backbone = backbones.load("resnet50-res512-all:xrv")
    assert (backbone.size, backbone.dim) == (512, 2048)
    grey = torch.rand(1, 1, 512, 512)
    with torch.no_grad():
        library = xrv.models.ResNet("resnet50-res512-all").features((2 * grey - 1) * 1024)
    torch.testing.assert_close(
        backbone.module(grey), library, rtol=1e-4, atol=1e-4 * library.abs().max().item()
    )


def test_what_each_was_trained_on_is_written_down() -> None:
    ours = {name for name in xrv.models.model_urls if name.startswith(("densenet", "resnet"))}
    assert set(xrv_nets.DATA) == ours
    assert all(xrv_nets.DATA.values())


def test_labels_that_the_weights_do_not_have_are_left_out(folder: Path) -> None:
    torch.save(xrv.models.DenseNet(num_classes=18), folder / file_name("densenet121-res224-rsna"))
    backbone = backbones.load("densenet121-res224-rsna")
    assert backbone.pretraining.labels == ("Pneumonia", "Lung Opacity")
    assert "images of NIH ChestX-ray14" in backbone.pretraining.data[0]


def test_the_librarys_own_download(
    folder: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capfd: pytest.CaptureFixture
) -> None:
    buffer = io.BytesIO()
    torch.save(xrv.models.DenseNet(num_classes=18), buffer)
    server.answer = (200, buffer.getvalue())
    url = f"http://127.0.0.1:{server.server_port}/net.pt"
    monkeypatch.setitem(xrv.models.model_urls["densenet121-res224-pc"], "weights_url", url)
    backbone = backbones.load("densenet121-res224-pc:xrv")
    assert backbone.pretraining.source == "torchxrayvision densenet121-res224-pc, net.pt"
    assert [p.name for p in folder.iterdir()] == ["net.pt"]
    assert capfd.readouterr().out == ""
    backbones.load("densenet121-res224-pc:xrv")
    assert server.requests == 1
    (folder / "net.pt").unlink()
    server.answer = (500, b"")
    with pytest.raises(DownloadError, match=r"cannot download http://127.0.0.1.*500 Server Error"):
        backbones.load("densenet121-res224-pc:xrv")


def test_other_weights_no_network_and_damaged_files(folder: Path) -> None:
    with pytest.raises(DataError, match="densenet121-res224-nih has no weights 'imagenet', only xrv"):
        backbones.load("densenet121-res224-nih:imagenet")
    with pytest.raises(DownloadError) as caught:
        backbones.load("densenet121-res224-nih:xrv")
    target = folder / file_name("densenet121-res224-nih")
    for expected in (
        "cannot download https://github.com",
        "offline",
        str(target),
        "densenet121:<file>",
        "phantom",
    ):
        assert expected in str(caught.value)
    target.write_bytes(b"<html>")
    with pytest.raises(DownloadError, match=r"are damaged .* delete that file"):
        backbones.load("densenet121-res224-nih:xrv")


def test_importing_the_library_leaves_the_warnings_alone() -> None:
    code = (
        "import sys, warnings; from xraykit.backbones import xrv_nets; before = list(warnings.filters);"
        "xrv_nets.library(); sys.exit(warnings.filters != before)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
