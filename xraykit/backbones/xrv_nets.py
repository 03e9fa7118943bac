"""torchxrayvision's chest X-ray classifiers as backbones (Cohen et al., MIDL 2022)."""

import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from xraykit.backbones.base import Backbone, Pooled, Pretraining, from_module
from xraykit.backbones.downloads import explained
from xraykit.backbones.headless import headless
from xraykit.errors import DataError

NIH, PADCHEST, CHEXPERT, MIMIC = "NIH ChestX-ray14", "PadChest", "CheXpert", "MIMIC-CXR"
RSNA = "RSNA Pneumonia Challenge (images of NIH ChestX-ray14)"
SIIM = "SIIM-ACR Pneumothorax (images of NIH ChestX-ray14)"
DATA = {
    "densenet121-res224-all": (
        NIH, PADCHEST, CHEXPERT, MIMIC, "Google's labels of NIH ChestX-ray14", "Open-i", RSNA,
    ),
    "densenet121-res224-nih": (NIH,),
    "densenet121-res224-pc": (PADCHEST,),
    "densenet121-res224-chex": (CHEXPERT,),
    "densenet121-res224-rsna": (RSNA,),
    "densenet121-res224-mimic_nb": (f"{MIMIC} (NegBio labels)",),
    "densenet121-res224-mimic_ch": (f"{MIMIC} (CheXpert labels)",),
    "resnet50-res512-all": (PADCHEST, NIH, RSNA, SIIM, "VinDr-CXR"),
}  # fmt: skip
"""What each of the library's classifiers was trained on, by the library's name of the weights."""


def build(
    architecture: str, weights: str | None = None, *, seed: int = 0, weights_dir: str | Path | None = None
) -> Backbone:
    """A classifier of torchxrayvision up to its last feature map, averaged over the picture.

    Takes one channel; grey levels 0..1 become -1024..1024, the library's contract. The files are pickled
    networks of the library, which only its own download may bring: a path is refused.

    Args:
        architecture: one of `DATA`.
        weights: ``"xrv"``, the only ones (and the default).
        seed, weights_dir: ignored, nothing is random and no file is read from a folder of yours.

    Raises:
        DataError: other weights than ``"xrv"``.
        DownloadError: the weights are not here and cannot be downloaded.
    """
    if weights not in (None, "xrv"):
        raise DataError(f"{architecture} has no weights {weights!r}, only xrv; for others use densenet121")
    xrv = library()
    url = xrv.models.model_urls[architecture]["weights_url"]
    target = Path(xrv.utils.get_cache_dir()) / Path(url).name
    choice = "  densenet121:<file>.safetensors or .pth\n  phantom, the small encoder that comes with xraykit"
    name = f"{architecture}:xrv"
    with explained(name, url=url, target=target, alternatives=choice), redirect_stdout(sys.stderr):
        model = xrv.models.get_model(architecture)
    size = xrv.models.model_urls[architecture]["input_resolution"]
    if isinstance(model, xrv.models.DenseNet):
        maps = nn.Sequential(model.features, nn.ReLU())
    else:
        maps = headless(model.model, torch.zeros(1, 1, size, size))
    # (x - 1/2) / (1/2048) = (2x - 1) * 1024
    module = Pooled(maps, mean=[0.5], std=[1 / 2048])
    labels = tuple(label for label in model.targets if label)
    source = f"torchxrayvision {architecture}, {target.name}"
    return from_module(
        module, name=name, size=size, pretraining=Pretraining(DATA[architecture], labels, source)
    )


def library() -> ModuleType:
    """Imported late, because it takes seconds, and it silences the warnings of the whole process."""
    with warnings.catch_warnings():
        import torchxrayvision as xrv
        import torchxrayvision.models
        import torchxrayvision.utils
    return xrv
