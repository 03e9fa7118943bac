"""What computes the features: library, precision and device, decided by rules and never by a stop watch.

The choice is part of the cache key, so the same machine must always choose the same. Images a second at 224
pixels on two cores of an AMD EPYC (AVX512_BF16, no AMX), PyTorch's channels-last against OpenVINO:

=============  =================  ===================
network        fp32               bf16
=============  =================  ===================
DenseNet-161   7.1 against 12.8   16.0 against 24.2
ResNet-18      44 against 61      76 against 121
SqueezeNet     53 against 102     126 against 193
=============  =================  ===================

The gain varies with the load of that shared machine, mostly 1.4 to 2.2 times; on a processor with AMX it was
2.5 to 2.8 times in bf16. The rule is OpenVINO where it brings about 1.5 times or more, and so where there is
AVX-512. AVX2 alone (to which OpenVINO cannot be held for a test) and ARM were not measured; PyTorch does it
there.
"""

import sys
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType

import cv2
import torch

from xraykit.backbones.base import Backbone
from xraykit.devices import SETS, check_known, choose_device, choose_precision, instruction_set
from xraykit.errors import DataError

BACKENDS = ("openvino", "torch")
OPENVINO_SETS = SETS[:3]  # those that were measured; PyTorch computes elsewhere


@dataclass(frozen=True)
class Choice:
    """How features are computed.

    Attributes:
        backend: one of `BACKENDS`.
        precision: one of `PRECISIONS`; features are stored as float32 either way.
        device: one of `DEVICES`.
    """

    backend: str
    precision: str
    device: str

    def __str__(self) -> str:
        library = {"openvino": "OpenVINO", "torch": "PyTorch"}[self.backend]
        return f"{library} {self.precision} on {self.device.upper()}"

    def versions(self) -> str:
        """Versions of the libraries that the numbers depend on: the backend, and OpenCV, which resizes."""
        own = torch.__version__ if self.backend == "torch" else version(self.backend)
        return f"{self.backend} {own}, opencv {cv2.__version__}"


def choose(backbone: Backbone, *, backend: str, precision: str, device: str) -> Choice:
    """What ``"auto"`` means here for `backbone`, and whether what was asked for is possible.

    A backbone without weights (raw pixels) is exact in PyTorch's fp32, so ``"auto"`` takes that.

    Raises:
        DataError: an unknown name, or something that this machine does not have.
    """
    check_known(backend, BACKENDS)
    device = choose_device(device)
    weightless = next(backbone.module.parameters(), None) is None
    backend = _backend(backend, device, weightless=weightless)
    if weightless and precision == "auto":
        return Choice(backend, "fp32", device)
    return Choice(backend, choose_precision(precision, device), device)


def import_openvino() -> ModuleType | None:
    """OpenVINO without its telemetry, or None where it cannot be imported.

    Its import reports to Google Analytics and writes to the home folder, unless its package
    ``openvino_telemetry`` is missing: then it uses a stub of its own.
    """
    sys.modules.setdefault("openvino_telemetry", None)
    try:
        import openvino
    except (ImportError, OSError):  # OSError: a shared library of another build
        return None
    return openvino


def _backend(backend: str, device: str, *, weightless: bool) -> str:
    if backend == "auto":
        pays = device == "cpu" and not weightless and instruction_set() in OPENVINO_SETS
        return "openvino" if pays and import_openvino() else "torch"
    if backend == "openvino" and device != "cpu":
        raise DataError(f"OpenVINO runs on the CPU here, not on {device}; use backend='torch'")
    if backend == "openvino" and import_openvino() is None:
        raise DataError("OpenVINO cannot be imported; pip install openvino, or use backend='torch'")
    return backend
