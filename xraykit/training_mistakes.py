"""Mistakes that projects on chest X-rays published, as code, so that their effect can be measured.

Nothing here is meant for use elsewhere. Those that need one line (predictions in another order, labels and
predictions exchanged) are written out in notebook 05.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from xraykit import training
from xraykit.augment import quarter_turns_and_flips
from xraykit.classifiers import Classifier
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.intervals import Interval
from xraykit.labels import patient_codes
from xraykit.training_config import Config

TURNED_AT_ONCE = 256


def one_class_tail(labels: np.ndarray, *, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """The last images of a folder sorted by class as validation split, as Keras' ``validation_split`` takes
    them of arrays that nobody shuffled.

    Args:
        labels: class codes (N,).
        share: of the images, in (0, 1).

    Returns:
        Positions for training and for validation, both sorted by class and otherwise in the given order. All
        for validation are of the last class when that has at least `share` of the images.

    Raises:
        DataError: a share that leaves one of the two without images.
    """
    first = math.floor(len(labels) * (1 - share)) if 0 < share < 1 else 0
    if not 0 < first < len(labels):
        raise DataError(f"share {share} of {len(labels)} images; choose one that leaves both parts some")
    return tuple(np.split(np.argsort(labels, kind="stable"), [first]))


def patient_halves(patients: np.ndarray, *, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Random halves of the patients: bool (n_draws, N), True for the images of the first half.

    With an odd number of patients the first half has one fewer.

    Raises:
        DataError: fewer than two patients.
    """
    codes, names = patient_codes(patients, len(patients))
    if len(names) < 2:
        raise DataError(f"{len(names)} patient cannot be halved; hold out at least 2")
    order = np.argsort(rng.random((n_draws, len(names))), axis=1)
    first = np.zeros((n_draws, len(names)), bool)
    np.put_along_axis(first, order[:, : len(names) // 2], True, axis=1)
    return first[:, codes]


def few_of_each(y: np.ndarray, among: np.ndarray, *, each: int, rng: np.random.Generator) -> np.ndarray:
    """A tiny validation set: `each` random images of either class (8 in Kermany's own folder ``val``).

    Args:
        y: 0/1 (N,).
        among: bool (B, N), the images to draw from, for each of B draws.

    Returns:
        bool (B, N), `each` images of class 0 and of class 1 in every row.

    Raises:
        DataError: a draw in which a class has fewer images.
    """
    picked = np.zeros_like(among)
    for c in (0, 1):
        least = (among & (y == c)).sum(axis=1).min()
        if not 1 <= each <= least:
            raise DataError(f"{each} images of class {c} from {least}; choose 1 to {least}")
        keys = np.where(among & (y == c), rng.random(among.shape), 2.0)
        np.put_along_axis(picked, np.argsort(keys, axis=1)[:, :each], True, axis=1)
    return picked


def choose(
    y: np.ndarray,
    candidates: Sequence[np.ndarray],
    *,
    on: np.ndarray,
    fresh: np.ndarray,
    thresholds: Sequence[float] = (0.5,),
) -> tuple[np.ndarray, np.ndarray]:
    """The balanced accuracy that a choice claims on the images it was made on, and has on others.

    The choice is the candidate with the threshold whose balanced accuracy `on` the images is highest; of
    equal ones the first candidate, then the first threshold.

    Args:
        y: 0/1 (N,).
        candidates: probabilities of the positive class (N,), or (N, 2), of each network or epoch.
        on, fresh: bool (B, N), the images of each of B choices, and those that judge it.
        thresholds: an image is positive from there on.

    Returns:
        Balanced accuracies (B,) on the images of `on`, and on those of `fresh`.

    Raises:
        DataError: no candidate or threshold, or a row of `on` or `fresh` without an image of either class.
    """
    if not len(candidates) or not len(thresholds):
        raise DataError(
            f"{len(candidates)} candidates, {len(thresholds)} thresholds; give at least one of each"
        )
    classes = np.stack([np.asarray(y) == c for c in (0, 1)])
    for name, images in (("on", on), ("fresh", fresh)):
        if not (images[:, None] & classes).any(axis=2).all():
            raise DataError(f"a row of {name} lacks a class; draw more images")
    scores = np.stack([p[:, 1] if np.ndim(p) == 2 else p for p in candidates])
    hit = (scores[:, None] >= np.asarray(thresholds)[:, None]) == classes[1]
    hit = hit.reshape(-1, len(hit.T)).T.astype(float)

    def accuracies(images: np.ndarray) -> np.ndarray:
        """(B, choices)."""
        of_class = images[:, None] & classes
        return ((of_class / of_class.sum(axis=2, keepdims=True)).mean(axis=1)) @ hit

    claimed, worth = accuracies(on), accuracies(fresh)
    best = claimed.argmax(axis=1, keepdims=True)
    return tuple(np.take_along_axis(of, best, axis=1)[:, 0] for of in (claimed, worth))


def over_halves(values: np.ndarray) -> Interval:
    """Mean of a number over random halves of the patients, with the range of 95% of the halves."""
    return Interval(float(np.mean(values)), *map(float, np.percentile(values, [2.5, 97.5])))


def with_output(model: Classifier, layer: nn.Module) -> Classifier:
    """A copy of `model` with a layer behind its logits, such as ``nn.Sigmoid()`` before a loss of logits."""
    model = copy.deepcopy(model)
    model.head.append(layer)
    return model


class NormalisedOtherwise(nn.Module):
    """`model` as it sees images (B, 1, S, S) in 0..1 that were normalised by other numbers than in training.

    Args:
        trained, applied: mean and standard deviation of the grey levels in 0..1, in training and now.

    Raises:
        DataError: a standard deviation that is not above 0.
    """

    def __init__(
        self, model: nn.Module, *, trained: tuple[float, float], applied: tuple[float, float]
    ) -> None:
        super().__init__()
        if not min(trained[1], applied[1]) > 0:
            raise DataError(f"standard deviations {trained[1]} and {applied[1]}; both must be above 0")
        self.model = model
        self.scale = trained[1] / applied[1]
        self.shift = trained[0] - self.scale * applied[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(self.scale * x + self.shift)


def with_turned_copies(
    ds: XrayDataset, *, train: np.ndarray, val: np.ndarray, seed: int
) -> tuple[XrayDataset, np.ndarray, np.ndarray]:
    """The training images with one copy of each that lies on its side or upside down, made once and kept.

    Args:
        train, val: positions in `ds`.
        seed: of `augment.quarter_turns_and_flips`.

    Returns:
        A data set of the images `train`, their copies and the images `val`; and the positions there of the
        first two together, and of the last.
    """
    n = len(train)
    rows = np.concatenate([train, train, val])
    records = ds.records.iloc[rows].reset_index(drop=True)
    turned = np.arange(len(rows)) // n == 1
    records["image_id"] += np.where(turned, " turned", "")
    images = np.array(ds.images[rows])
    for part in np.array_split(np.arange(n), math.ceil(n / TURNED_AT_ONCE)):
        grey = torch.from_numpy(images[part]).unsqueeze(1).float() / 255
        grey = quarter_turns_and_flips(grey, part, epoch=0, seed=seed)
        images[n + part] = (grey * 255).round().to(torch.uint8)[:, 0].numpy()
    copies = replace(ds, images=images, records=records, masks=None, boxes=None)
    return copies, np.arange(2 * n), np.arange(2 * n, len(rows))


def epoch_by_epoch(
    model: Classifier, ds: XrayDataset, *, train: np.ndarray, val: np.ndarray, config: Config, **how: object
) -> list[Classifier]:
    """The network after each epoch, by one-epoch runs one after the other.

    Each run starts its schedule and its optimiser anew (warm restarts, Loshchilov and Hutter, ICLR 2017), so
    that the last network is near to, but not that of, one run of all epochs.

    Args:
        model, ds, train, val, config, how: as for `training.fit`; ``config.monitor`` is not used.
    """
    networks = []
    for epoch in range(config.epochs):
        once = replace(config, epochs=1, monitor=(), patience=0, seed=config.seed + epoch)
        model = training.fit(model, ds, train=train, val=val, config=once, **how).model("last")
        networks.append(model)
    return networks
