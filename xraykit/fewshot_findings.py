"""Few-shot on multi-label sets: one finding at a time against everything else."""

from dataclasses import dataclass

import numpy as np

from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.fewshot import draws, evaluate
from xraykit.shots import feasible_shots

MIN_PATIENTS = 5  # with the finding, in train and in test; with fewer a score says nothing


@dataclass(frozen=True)
class Ranked:
    """Test images ranked by one finding.

    Attributes:
        shots: images with the finding in each support set, and as many without.
        labels: 0/1 of the M test images.
        scores: pseudo-probabilities of the finding, float32 (n_draws, M).
    """

    shots: int
    labels: np.ndarray
    scores: np.ndarray


def per_finding(
    train: XrayDataset,
    test: XrayDataset,
    features: tuple[np.ndarray, np.ndarray],
    *,
    shots: int,
    n_draws: int,
    seed: int,
    method: str = "logistic regression",
) -> tuple[dict[str, Ranked], list[str]]:
    """All test images ranked by each finding, from `shots` patients with it and `shots` without.

    A finding with fewer training patients takes as many shots as they allow.

    Args:
        train, test: the two splits of one multi-label set.
        features: of the images of each, (N, D) and (M, D), normalised alike (`fewshot.normalise`).
        method: one of `fewshot.CLASSIFIERS`.

    Returns:
        The findings in the order of the classes, and those left out because train or test has fewer than
        `MIN_PATIENTS` patients with them.

    Raises:
        DataError: a set with one class an image, or features that do not match.
    """
    if train.task != "multilabel":
        raise DataError(f"{train.name} has one class an image; draw from all its classes with fewshot.draws")
    found, left_out = {}, []
    for finding in [f for f in train.classes if f != "No Finding"]:
        y, truth = (part.records[finding].to_numpy(np.int64) for part in (train, test))
        k = min(shots, feasible_shots(y, train.patients) if y.any() else 0)
        if k < min(shots, MIN_PATIENTS) or len(set(test.patients[truth == 1])) < MIN_PATIENTS or truth.all():
            left_out.append(finding)
            continue
        support = draws(y, train.patients, shots=[k], n_draws=n_draws, seed=seed)
        about = {"support": support, "shots": [k], "classifiers": [method]}
        scores = evaluate(features[0], y, features[1], **about)[method, k][:, :, 1]
        found[finding] = Ranked(k, truth, scores)
    return found, left_out
