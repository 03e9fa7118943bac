"""Data sets: `load` gives every one of them as an `XrayDataset`."""

from xraykit.datasets.base import SPLITS, XrayDataset
from xraykit.datasets.inventory import check
from xraykit.datasets.registry import DatasetInfo, info, load, names
from xraykit.datasets.sources import fetch

__all__ = ["SPLITS", "DatasetInfo", "XrayDataset", "check", "fetch", "info", "load", "names"]
