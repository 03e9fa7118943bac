"""The processor, the device and the processes that PyTorch works with, decided by rules."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from xraykit.errors import DataError
from xraykit.threads import cores

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16")
SETS = ("amx", "avx512_bf16", "avx512", "avx2")  # of instructions, the best first
BF16_SETS = ("amx", "avx512_bf16")


def instruction_set() -> str:
    """The best of `SETS` that PyTorch finds on this processor, or ``"other"``.

    ``ATEN_CPU_CAPABILITY`` can lower it, as it does for PyTorch itself.
    """
    plain = torch.backends.cpu.get_cpu_capability().lower()
    if plain != "avx512":
        return plain if plain in SETS else "other"
    # Not every supported version of PyTorch has a public function for these; without one it is plain AVX-512.
    for name, test in (("amx", "_is_amx_tile_supported"), ("avx512_bf16", "_is_avx512_bf16_supported")):
        if getattr(torch.cpu, test, bool)():
            return name
    return plain


def choose_device(device: str = "auto") -> str:
    """One of `DEVICES`; ``"auto"`` is CUDA where it is, else the CPU.

    Raises:
        DataError: an unknown device, or one that is not there.
    """
    check_known(device, DEVICES)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there[device]:
        found = ", ".join(name for name, present in there.items() if present)
        raise DataError(f"device {device!r} is not there; PyTorch finds {found}: use one of them, or auto")
    return device


def choose_precision(precision: str, device: str) -> str:
    """One of `PRECISIONS`; ``"auto"`` is bf16 where `device` has arithmetic for it.

    Raises:
        DataError: an unknown precision, or bf16 where there is none.
    """
    check_known(precision, PRECISIONS)
    has = {
        "cpu": instruction_set() in BF16_SETS,
        "cuda": device == "cuda" and torch.cuda.is_bf16_supported(),
        "mps": False,
    }[device]
    if precision == "auto":
        return "bf16" if has else "fp32"
    if precision == "bf16" and not has:
        where = f"this processor ({instruction_set()})" if device == "cpu" else f"this {device} device"
        raise DataError(f"{where} has no bf16 arithmetic; use precision='fp32', or 'auto'")
    return precision


def check_known(value: str, known: tuple[str, ...]) -> None:
    """Raise DataError when `value` is neither ``"auto"`` nor one of `known`."""
    if value not in ("auto", *known):
        raise DataError(f"{value!r} is unknown; use one of {', '.join(('auto', *known))}")


def team_size(devices: int | None, num_nodes: int | None) -> tuple[int, int]:
    """Processes on each machine, and machines: as given, else as torchrun started them, else (1, 1).

    Raises:
        DataError: a number below 1, or another one than torchrun started.
    """
    for name, value in (("devices", devices), ("num_nodes", num_nodes)):
        if value is not None and value < 1:
            raise DataError(f"{name} is {value}; at least 1 is needed")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return devices or 1, num_nodes or 1
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // local
    if devices not in (None, local) or num_nodes not in (None, nodes):
        raise DataError(
            f"devices = {devices} and num_nodes = {num_nodes} were given, but torchrun started {local} "
            f"processes on each of {nodes} machines; leave them out"
        )
    return local, nodes


def launch(device: str, precision: str, *, devices: int, num_nodes: int, **options: object) -> "Fabric":
    """Lightning Fabric, started: with `devices` above 1 and no torchrun it runs this very command again for
    each further process.

    Args:
        device, precision: from `choose_device` and `choose_precision`.
        devices, num_nodes: from `team_size`.
        options: of ``Fabric``, such as ``strategy``.

    Raises:
        DataError: Fabric cannot have so many devices, or contradicts the options of ``fabric run``.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    how = {"bf16": "bf16-mixed", "fp32": "32-true"}[precision]
    try:
        fabric = Fabric(accelerator=device, devices=devices, num_nodes=num_nodes, precision=how, **options)
        if os.environ.get("LT_CLI_USED") != "1":  # ``fabric run`` has launched it
            fabric.launch()
    except (ValueError, MisconfigurationException) as error:
        raise DataError(f"{devices} x {device} on {num_nodes} machines: {error}") from error
    return fabric


@contextmanager
def torch_threads(threads: int) -> Iterator[int]:
    """Let PyTorch compute with so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


def share_of_threads(devices: int) -> int:
    """As many as PyTorch has; of several processes on this machine, each its part of the processors."""
    return torch.get_num_threads() if devices == 1 else max(1, cores() // devices)
