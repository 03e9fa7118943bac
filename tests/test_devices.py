"""Device and precision by rule; the sets of instructions are in test_embedding_choice.py, and
`team_size` in test_embedding_shards.py."""

import pytest
import torch

from xraykit import devices
from xraykit.devices import choose_device, choose_precision, launch
from xraykit.errors import DataError


def machine(
    monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False, bf16: bool = False
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("there", "expected"),
    [({}, "cpu"), ({"cuda": True}, "cuda"), ({"mps": True}, "cpu"), ({"cuda": True, "mps": True}, "cuda")],
)
def test_auto_is_cuda_where_it_is_else_the_cpu(monkeypatch, there: dict, expected: str) -> None:
    machine(monkeypatch, **there)
    assert choose_device() == choose_device("auto") == expected
    assert choose_device("cpu") == "cpu"


def test_devices_that_are_not_there(monkeypatch) -> None:
    machine(monkeypatch, mps=True)
    assert choose_device("mps") == "mps"
    with pytest.raises(
        DataError, match="device 'cuda' is not there; PyTorch finds cpu, mps: use one of them"
    ):
        choose_device("cuda")
    with pytest.raises(DataError, match="'tpu' is unknown; use one of auto, cpu, cuda, mps"):
        choose_device("tpu")


@pytest.mark.parametrize(
    ("device", "instructions", "bf16", "expected"),
    [
        ("cpu", "amx", False, "bf16"),
        ("cpu", "avx512_bf16", False, "bf16"),
        ("cpu", "avx512", True, "fp32"),
        ("cpu", "avx2", True, "fp32"),
        ("cpu", "other", True, "fp32"),
        ("cuda", "other", True, "bf16"),
        ("cuda", "amx", False, "fp32"),
        ("mps", "amx", True, "fp32"),
    ],
)
def test_precision_is_bf16_where_there_is_arithmetic_for_it(
    monkeypatch, device: str, instructions: str, bf16: bool, expected: str
) -> None:
    machine(monkeypatch, cuda=True, bf16=bf16)
    monkeypatch.setattr(devices, "instruction_set", lambda: instructions)
    assert choose_precision("auto", device) == expected
    assert choose_precision("fp32", device) == "fp32"
    if expected == "bf16":
        assert choose_precision("bf16", device) == "bf16"
    else:
        where = rf"this processor \({instructions}\)" if device == "cpu" else f"this {device} device"
        with pytest.raises(
            DataError, match=f"{where} has no bf16 arithmetic; use precision='fp32', or 'auto'"
        ):
            choose_precision("bf16", device)


def test_unknown_precisions() -> None:
    with pytest.raises(DataError, match="'fp16' is unknown; use one of auto, fp32, bf16"):
        choose_precision("fp16", "cpu")


def test_one_process_is_launched_here() -> None:
    fabric = launch("cpu", "fp32", devices=1, num_nodes=1)
    assert (fabric.world_size, fabric.global_rank, fabric.device.type) == (1, 0, "cpu")
    fabric.barrier()
