"""Data sets: `load` gives every one of them as an `XrayDataset`."""

from xraykit.datasets.base import SPLITS, XrayDataset
from xraykit.datasets.check import check
from xraykit.datasets.fetch import fetch
from xraykit.datasets.registry import DatasetInfo, info, load, names

__all__ = ["SPLITS", "DatasetInfo", "XrayDataset", "check", "fetch", "info", "load", "names"]
