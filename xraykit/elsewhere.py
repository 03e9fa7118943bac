"""The same classifier in another hospital: trained on one data set, tested on patients of another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm

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
Z = 1.96
TINY = 1e-12  # nearer to 0 or 1 no odds are told apart


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


def places(home: XrayDataset, rows: Mapping[str, np.ndarray], other: XrayDataset) -> dict[str, Place]:
    """Where to test what was trained at home: at home, and on every image of the other data set.

    Args:
        home: two classes.
        rows: by name positions in `home` that nothing was trained on, such as ``{"home": ..., "test": ...}``,
            each all of the test split or none of it.
        other: of the same image size. Asked are ``"any finding"`` and ``"opacity"`` of a multi-label set,
            where an opacity is one of `OPACITIES` against No Finding, other images left out; else the
            positive class of `other`.

    Returns:
        By name: those of `rows`; ``"<other>, <question>"`` where there are both answers; and, where the files
        of one set are smaller than those of the other and than the images, the finer set again, shrunk to
        that side and enlarged, as ``"<name>, N pixels"``.

    Raises:
        DataError: image sizes that differ, or rows of test images and others.
    """
    if other.images.shape[1:] != home.images.shape[1:]:
        raise DataError(
            f"{home.name} has images of {home.images.shape[1:]} and {other.name} of {other.images.shape[1:]} "
            "pixels; load both with the same size"
        )
    at_home = {name: Place(home, index, looks.split_of(home, index)) for name, index in rows.items()}
    pair = other.binary()
    asked = {"any finding" if other.task == "multilabel" else pair.classes[1]: np.arange(len(pair))}
    if other.task == "multilabel":
        opaque = other.records[[c for c in OPACITIES if c in other.classes]].to_numpy().any(axis=1)
        asked["opacity"] = np.flatnonzero(opaque | (pair.labels == 0))
    there = {
        f"{other.name}, {question}": Place(pair, index, "test")
        for question, index in asked.items()
        if len(np.unique(pair.labels[index])) == 2
    }
    sides = _side_of_files(home), _side_of_files(other)
    finer = [at_home, there][int(np.argmax(sides))] if sides[0] != sides[1] else {}
    side = min(sides)
    return at_home | there | {f"{name}, {side} pixels": _coarse(place, side) for name, place in finer.items()}


def _coarse(place: Place, side: int) -> Place:
    """The same images without what is finer than `side` pixels."""
    ds = place.ds.take(place.rows)
    images = np.stack([resize(resize(image, side), image.shape[0]) for image in ds.images])
    return Place(replace(ds, images=images, masks=None), np.arange(len(ds)), place.split)


def _side_of_files(ds: XrayDataset) -> int:
    """The shorter side of the middle file, in pixels, at most that of the images; that of the images where
    the records do not say."""
    if not {"height", "width"} <= set(ds.records):
        return ds.images.shape[1]
    return min(ds.images.shape[1], int(ds.records[["height", "width"]].min(axis=1).median()))


def at_half(p: np.ndarray, threshold: float) -> np.ndarray:
    """Probabilities (M, 2) moved so that `threshold` of the second class becomes .5; their order stays.

    Several draws or seeds have a threshold each, and the metrics know one for all.

    Raises:
        DataError: a threshold outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise DataError(f"threshold {threshold}; give a probability, 0 to 1")
    q, line = (np.clip(x, TINY, 1 - TINY) for x in (np.asarray(p, np.float64)[:, 1], threshold))
    moved = expit(logit(q) - logit(line))
    return np.stack([1 - moved, moved], axis=1)


def judge(
    run: Run,
    tested: Mapping[str, Place],
    p: Mapping[str, Sequence[np.ndarray]],
    *,
    method: str,
    boot: Mapping[str, int],
    **about: object,
) -> dict[str, Scores]:
    """Scores of one classifier in each place, recorded under ``"<method>, at <place>"``; test is logged.

    Args:
        p: by place the probabilities (M, 2) of each draw or seed; the second class is said from .5 on, see
            `at_half`.
        boot: ``n_boot`` and ``seed`` of `intervals.bootstrap`.
        about: ``backbone`` and ``shots`` of `Run.record`.
    """
    found = {}
    for name, place in tested.items():
        of = (place.ds.labels[place.rows], p[name], place.ds.patients[place.rows])
        found[name] = intervals.bootstrap(*of, names=list(NAMES), **boot)
        key = {"task": "binary", "method": f"{method}, at {name}", **about}
        run.record_scores(found[name], split=place.split, **key)
        if place.split == "test":
            looks.log(run, key, found[name])
    return found


def gaps(
    found: Mapping[str, Mapping[str, Scores]],
    home: str,
    *,
    there: Sequence[str],
    names: Sequence[str] = ("auroc", "sensitivity"),
) -> pd.DataFrame:
    """How far each classifier's scores in each place lie from those at home, with Holm's correction over all.

    The patients of two places are not the same, so the estimates are independent: their variances add, each
    taken from its interval as if it were normal (Efron and Tibshirani 1993, ch. 13).

    Args:
        found: by method and place, from `judge`.
        home: the place that is compared with.
        there: the places that are compared, of other patients.
        names: metrics.

    Returns:
        ``method, place, metric, difference, ci_low, ci_high, p, p_holm, verdict``.
    """
    rows = []
    for method, scores in found.items():
        for place, metric in product(there, names):
            first, second = scores[place][metric], scores[home][metric]
            error = np.hypot(*((s.ci_high - s.ci_low) / (2 * Z) for s in (first, second)))
            difference = first.value - second.value
            p = 2 * norm.sf(abs(difference) / error) if error > 0 else float(difference == 0)
            row = {"method": method, "place": place, "metric": metric, "difference": difference, "p": p}
            rows.append({**row, "ci_low": difference - Z * error, "ci_high": difference + Z * error})
    columns = ["method", "place", "metric", "difference", "ci_low", "ci_high", "p"]
    return intervals.judged_by_holm(pd.DataFrame(rows, columns=columns))


def as_groups(found: Mapping[str, Mapping[str, Scores]], tested: Mapping[str, Place]) -> pd.DataFrame:
    """What `judge` found for each classifier, as rows for `plots.group_forest`: places instead of groups."""
    rows = intervals.frame(
        {(method, name): scores for method, of in found.items() for name, scores in of.items()},
        levels=["attribute", "group"],
    )
    ill = {name: int(place.ds.labels[place.rows].sum()) for name, place in tested.items()}
    sizes = {"n_images": [len(tested[name].rows) for name in rows["group"]]}
    return rows.assign(**sizes, n_positive=rows["group"].map(ill), note="")
