"""Synthetic chest radiographs: `load` a data set, `render` one image with or without its lesions."""

from xraykit.datasets.synthetic.loader import SPLIT_SIZES, generate, load
from xraykit.datasets.synthetic.patients import CLASSES, NAMES, NIH_FINDINGS, PATIENT_RANGES
from xraykit.datasets.synthetic.rendering import Options, Rendered, anatomy_masks, render

__all__ = [
    "CLASSES",
    "NAMES",
    "NIH_FINDINGS",
    "PATIENT_RANGES",
    "SPLIT_SIZES",
    "Options",
    "Rendered",
    "anatomy_masks",
    "generate",
    "load",
    "render",
]
