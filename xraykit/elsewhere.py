"""The same classifier in another hospital: trained on one data set, tested on patients of another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from xraykit import intervals, looks
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.images import resize
from xraykit.looks import Scores
from xraykit.results import Run

OTHER = {
    "kermany": "nih",
    "nih": "kermany",
    "synthetic": "synthetic-nih",
    "synthetic-nih": "synthetic",
}
"""Where a classifier of each data set is tested: children against adults."""
OPACITIES = ("Consolidation", "Infiltration", "Pneumonia")
"""Findings that look like what Kermany calls pneumonia; Infiltration is the vaguest label that NIH has."""
NAMES = ("auroc", "balanced_accuracy", "sensitivity", "specificity")


@dataclass(frozen=True)
class Place:
    """Images to be judged, with the question that is asked about them.

    Attributes:
        ds: two classes, of which the second is the answer looked for.
        rows: positions in `ds`, (M,).
        split: ``"development"`` or ``"test"``, for the ledger.
    """

    ds: XrayDataset
    rows: np.ndarray
    split: str

    @property
    def images(self) -> np.ndarray:
        """uint8 (M, H, W)."""
        return self.ds.images[self.rows]


def places(home: XrayDataset, rows: np.ndarray, other: XrayDataset) -> dict[str, Place]:
    """Where to test what was trained at home: at home, and on every image of the other data set.

    Args:
        home: two classes.
        rows: held-out training images of `home`, which nothing was trained or chosen on.
        other: of the same image size. Asked are ``"any finding"`` and, of a multi-label set, ``"opacity"``:
            one of `OPACITIES` against No Finding, other images left out.

    Returns:
        By name: ``"home"``; ``"home, N pixels"``, shrunk to the side N that the files of `other` have and
        enlarged again, where that is less than what both are decoded to; ``"<other>, <question>"``. An
        opacity is only asked for where there are both answers.

    Raises:
        DataError: image sizes that differ.
    """
    side = home.images.shape[1]
    if other.images.shape[1:] != home.images.shape[1:]:
        raise DataError(
            f"{home.name} has images of {home.images.shape[1:]} and {other.name} of {other.images.shape[1:]} "
            "pixels; load both with the same size"
        )
    found = {"home": Place(home, rows, "development")}
    native = _side_of_files(other)
    if native < side:
        coarse = home.take(rows)
        images = np.stack([resize(resize(image, native), side) for image in coarse.images])
        found[f"home, {native} pixels"] = Place(
            replace(coarse, images=images), np.arange(len(rows)), "development"
        )
    pair = other.binary()
    asked = {"any finding": np.arange(len(pair))}
    if other.task == "multilabel":
        opaque = other.records[[c for c in OPACITIES if c in other.classes]].to_numpy().any(axis=1)
        asked["opacity"] = np.flatnonzero(opaque | (pair.labels == 0))
    for question, these in asked.items():
        if len(np.unique(pair.labels[these])) == 2:
            found[f"{other.name}, {question}"] = Place(pair, these, "test")
    return found


def _side_of_files(ds: XrayDataset) -> int:
    """The shorter side of the middle file, in pixels; that of the images where the records do not say."""
    if not {"height", "width"} <= set(ds.records):
        return ds.images.shape[1]
    return int(ds.records[["height", "width"]].min(axis=1).median())


def judge(
    run: Run,
    tested: Mapping[str, Place],
    p: Mapping[str, Sequence[np.ndarray]],
    *,
    method: str,
    threshold: float,
    boot: Mapping[str, int],
    **about: object,
) -> dict[str, Scores]:
    """Scores of one classifier in each place, recorded under ``"<method>, at <place>"``; test is logged.

    Args:
        p: by place the probabilities (M, 2) of each draw or seed.
        threshold: of the second class, chosen at home and kept.
        boot: ``n_boot`` and ``seed`` of `intervals.bootstrap`.
        about: ``backbone`` and ``shots`` of `Run.record`.
    """
    found = {}
    for name, place in tested.items():
        of = (place.ds.labels[place.rows], p[name], place.ds.patients[place.rows])
        found[name] = intervals.bootstrap(*of, names=list(NAMES), threshold=threshold, **boot)
        key = {"task": "binary", "method": f"{method}, at {name}", **about}
        run.record_scores(found[name], split=place.split, **key)
        if place.split == "test":
            looks.log(run, key | {"threshold": round(float(threshold), 4)}, found[name])
    return found


def as_groups(found: Mapping[str, Mapping[str, Scores]], tested: Mapping[str, Place]) -> pd.DataFrame:
    """What `judge` found for each classifier, as rows for `plots.group_forest`: places instead of groups."""
    rows = intervals.frame(
        {(method, name): scores for method, of in found.items() for name, scores in of.items()},
        levels=["attribute", "group"],
    )
    ill = {name: int(place.ds.labels[place.rows].sum()) for name, place in tested.items()}
    sizes = {"n_images": [len(tested[name].rows) for name in rows["group"]]}
    return rows.assign(**sizes, n_positive=rows["group"].map(ill), note="")
