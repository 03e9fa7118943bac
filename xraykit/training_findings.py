"""Multi-label training: the findings that can be learned and tested, and No Finding, which is none."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from xraykit.datasets import XrayDataset
from xraykit.datasets.catalogue import NO_FINDING
from xraykit.errors import DataError
from xraykit.fewshot_findings import MIN_PATIENTS
from xraykit.splits import hold_out


def findings_only(
    ds: XrayDataset, *, parts: Mapping[str, np.ndarray], least: int = MIN_PATIENTS
) -> tuple[XrayDataset, dict[str, str]]:
    """`ds` without the class No Finding and without the findings that too few patients have.

    No Finding is no finding of its own, but the absence of the others; `with_no_finding` derives it.

    Args:
        parts: positions in `ds` by name: training, validation and test images.
        least: patients with the finding, and patients with an image without it, that each part must have.

    Returns:
        All images with the classes that are left, in their order (no masks, whose bits count the classes of
        `ds`), and for each finding that is left out the part which lacks it, and how many it has.

    Raises:
        DataError: one class an image, or no finding left.
    """
    if ds.task != "multilabel":
        raise DataError(f"{ds.name} has one class an image; findings are labels of a multi-label set")
    left_out = {}
    for finding in [c for c in ds.classes if c != NO_FINDING]:
        values = ds.records[finding].to_numpy()
        for part, index in parts.items():
            for value, word in ((1, "with"), (0, "without")):
                n = len(set(ds.patients[index][values[index] == value]))
                if n < least:
                    left_out.setdefault(finding, f"{n} patients {word} it in {part}")
    kept = tuple(c for c in ds.classes if c != NO_FINDING and c not in left_out)
    if not kept:
        raise DataError(
            f"{ds.name}: no finding has {least} patients in each of {', '.join(parts)}; load more images "
            "or choose a smaller `least`"
        )
    return replace(ds, classes=kept, masks=None), left_out


def findings_of(
    ds: XrayDataset, *, rng: np.random.Generator, least: int = MIN_PATIENTS
) -> tuple[XrayDataset, dict[str, np.ndarray], dict[str, str]]:
    """Hold out a fifth of the training images by patient, and keep the findings that every part has.

    Returns:
        As `findings_only`; between the two, positions in `ds` of ``train``, ``val`` and ``test``.
    """
    train, val = hold_out(ds, rng=rng)
    test = np.flatnonzero((ds.records["split"] == "test").to_numpy())
    parts = {"train": train, "val": val, "test": test}
    few, left_out = findings_only(ds, parts=parts, least=least)
    return few, parts, left_out


def with_no_finding(p: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Probabilities of the findings, and behind them that of none: the product of all 1 - p.

    This takes the findings of an image as independent of each other, given the image, as the loss of a
    multi-label network does; and findings outside `classes` as absent.

    Args:
        p: (M, K) in 0..1.
        classes: the K findings.

    Returns:
        float64 (M, K + 1) and the names of its columns, ``"No Finding"`` last.

    Raises:
        DataError: p outside 0..1 or of another shape, or No Finding among the classes.
    """
    p = np.asarray(p, np.float64)
    if p.ndim != 2 or p.shape[1] != len(classes) or not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"p {p.shape} must be probabilities in 0..1, (M, {len(classes)}), one a class")
    if NO_FINDING in classes:
        raise DataError(f"the classes have {NO_FINDING} already; train on findings_only(ds)")
    return np.column_stack([p, (1 - p).prod(axis=1)]), (*classes, NO_FINDING)
