"""Backend, precision and device: the rule by processor, what is refused, and OpenVINO's silence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_backbones import toy

from xraykit import devices, embedding_choice
from xraykit.backbones.base import Pretraining, from_module
from xraykit.devices import instruction_set
from xraykit.embedding_choice import Choice, choose, import_openvino
from xraykit.errors import DataError

OPENVINO = pytest.mark.skipif(not import_openvino(), reason="OpenVINO is missing")


def chosen(backend: str = "auto", precision: str = "auto", device: str = "cpu", backbone=None) -> tuple:
    choice = choose(backbone or toy(), backend=backend, precision=precision, device=device)
    return choice.backend, choice.precision, choice.device


@pytest.fixture
def processor(monkeypatch):
    """A function that makes the processor one with the given instruction set."""

    def pretend(name: str) -> None:
        for module in (devices, embedding_choice):
            monkeypatch.setattr(module, "instruction_set", lambda: name)

    return pretend


@OPENVINO
@pytest.mark.parametrize(
    ("name", "backend", "precision"),
    [
        ("amx", "openvino", "bf16"),
        ("avx512_bf16", "openvino", "bf16"),
        ("avx512", "openvino", "fp32"),
        ("avx2", "torch", "fp32"),
        ("other", "torch", "fp32"),
    ],
)
def test_the_rule(processor, name, backend, precision):
    processor(name)
    assert chosen() == (backend, precision, "cpu")
    assert chosen(precision="fp32") == (backend, "fp32", "cpu")
    assert chosen(backend="torch") == ("torch", precision, "cpu")


@pytest.mark.parametrize(
    ("capability", "has", "expected"),
    [
        ("AVX512", {"amx_tile", "avx512_bf16"}, "amx"),
        ("AVX512", {"avx512_bf16"}, "avx512_bf16"),
        ("AVX512", set(), "avx512"),
        ("AVX2", {"amx_tile"}, "avx2"),  # PyTorch itself was told to use no more
        ("DEFAULT", set(), "other"),
        ("SVE256", set(), "other"),
    ],
)
def test_instruction_sets(monkeypatch, capability, has, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in has, raising=False)
    assert instruction_set() == expected


def test_a_pytorch_that_cannot_tell_counts_as_plain_avx512(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert instruction_set() == "avx512"


def test_without_openvino_it_is_pytorch(monkeypatch, processor):
    processor("amx")
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert chosen() == ("torch", "bf16", "cpu")
    with pytest.raises(DataError, match="OpenVINO cannot be imported; pip install openvino, or use"):
        chosen(backend="openvino")


def test_raw_pixels_stay_exact(processor):
    processor("amx")
    pixels = from_module(nn.Flatten(), name="pixels", size=16, pretraining=Pretraining())
    assert chosen(backbone=pixels) == ("torch", "fp32", "cpu")
    assert chosen(backbone=pixels, precision="bf16", backend="torch") == ("torch", "bf16", "cpu")


def test_what_is_not_there_is_refused(monkeypatch, processor):
    processor("avx2")
    with pytest.raises(DataError, match=r"this processor \(avx2\) has no bf16 arithmetic; use"):
        chosen(precision="bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert chosen(device="auto")[2] == "cpu"
    with pytest.raises(DataError, match="device 'cuda' is not there; PyTorch finds cpu: use one of them"):
        chosen(device="cuda")


@pytest.mark.parametrize("bf16", [True, False])
def test_a_gpu_takes_pytorch(monkeypatch, processor, bf16):
    processor("amx")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    assert chosen(device="auto") == ("torch", "bf16" if bf16 else "fp32", "cuda")
    with pytest.raises(DataError, match="OpenVINO runs on the CPU here, not on cuda"):
        chosen(backend="openvino", device="auto")
    if not bf16:
        with pytest.raises(DataError, match="this cuda device has no bf16"):
            chosen(precision="bf16", device="cuda")


@pytest.mark.parametrize("wrong", [{"backend": "onnx"}, {"precision": "fp16"}, {"device": "tpu"}])
def test_unknown_names(wrong):
    (value,) = wrong.values()
    with pytest.raises(DataError, match=f"'{value}' is unknown; use one of auto, "):
        chosen(**wrong)


def test_words_and_versions():
    assert str(Choice("openvino", "bf16", "cpu")) == "OpenVINO bf16 on CPU"
    assert torch.__version__ in Choice("torch", "fp32", "cpu").versions()


@OPENVINO
def test_openvino_reports_to_nobody(tmp_path):
    code = (
        "import sys, socket\n"
        "socket.getaddrinfo = socket.socket.connect = lambda *a, **k: print('connection', a)\n"
        "from toy_backbones import toy, pictures\n"
        "from xraykit.embeddings import extract\n"
        "options = dict(backend='openvino', device='cpu', threads=1)\n"
        "print(extract(pictures(3), toy(), cache_dir=sys.argv[1], **options))\n"
        "assert not any(name.startswith('openvino_telemetry.') for name in sys.modules)\n"
    )
    path = f"{Path(__file__).parent}{os.pathsep}{os.environ['PYTHONPATH']}"
    env = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": path}
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "cache")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "toy, 3 images, 6 numbers each, OpenVINO fp32 on CPU, computed now\n"
    assert list((tmp_path / "home").iterdir()) == []
