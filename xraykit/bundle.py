"""A whole classifier in one piece: from the grey levels of a file to a decision, and how sure it is.

`bundle_build` makes one, `bundle_files` saves and loads it, and `Predictor` answers with it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.base import BaseEstimator

from xraykit import explain_cut
from xraykit.backbones import Backbone, network_input
from xraykit.bundle_answers import Answers, answers_of
from xraykit.bundle_engines import engine
from xraykit.bundle_heads import fitted_part
from xraykit.classifiers import Classifier
from xraykit.embedding_choice import choose
from xraykit.errors import DataError
from xraykit.explain_cut import Explained
from xraykit.images import Preprocess, check_images
from xraykit.known import Known


@dataclass(frozen=True, eq=False)
class Support:
    """Labelled images that a classifier was fitted to, or a sample of them.

    Attributes:
        images: uint8 (S, size, size), as the classifier sees them.
        labels: class codes (S,), or 0/1 (S, K) of several labels an image.
        features: float32 (S, D).
    """

    images: np.ndarray
    labels: np.ndarray
    features: np.ndarray


@dataclass(frozen=True, eq=False)
class Bundle:
    """A classifier and all that it needs to answer.

    Attributes:
        name: for humans.
        kind: one of `decisions.KINDS`.
        classes: K names; of ``"binary"`` the negative class, then the positive one.
        preprocess: from the grey levels of a file to uint8 (size, size).
        architecture: of the backbone, what stands before the colon of `backbones.load`.
        backbone: images to features (B, D); of a network its trained body.
        head: a fitted classifier of the features that is calibrated itself, or the whole trained network.
        temperature: of a network's logits, see `decisions.probabilities`; 1.0 of an estimator.
        thresholds: of ``"binary"`` one, for the probability of the positive class; of ``"multilabel"`` one
            each; of ``"multiclass"`` none, the largest probability wins.
        known: what images of this kind look like to the backbone.
        support: labelled images to show beside an answer, or None.
        card: what it was made from, how, and how good it is; JSON values.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    architecture: str
    backbone: Backbone
    head: BaseEstimator | Classifier = field(repr=False)
    temperature: float
    thresholds: tuple[float, ...]
    known: Known = field(repr=False)
    support: Support | None = field(repr=False)
    card: dict[str, object] = field(repr=False)

    @property
    def few_shot(self) -> bool:
        """Whether a scikit-learn classifier of frozen features answers, and not a trained network."""
        return not isinstance(self.head, Classifier)

    @property
    def size(self) -> int:
        """Side of the images that `preprocess` makes, in pixels."""
        return self.preprocess.size


def prepared(bundle: Bundle, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Images as the classifier sees them: uint8 (N, H, W) or N of (h, w) to uint8 (N, size, size).

    Raises:
        DataError: no images, or others than uint8 of two dimensions.
    """
    return applied(bundle.preprocess, images)


def applied(preprocess: Preprocess, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """As `prepared`, of a classifier that is still to be made."""
    if isinstance(images, np.ndarray):
        check_images(images)
    elif not len(images):
        raise DataError("no images; give at least one")
    return np.stack([preprocess.apply(np.asarray(image)) for image in images])


class Predictor:
    """Answers of a bundle; holds the network as it was prepared for this device.

    Args:
        backend, device, precision: as in `embeddings.extract`; PyTorch in fp32 unless told otherwise, which
            gives the same numbers on every call.
        batch_size: images at once.

    Raises:
        DataError: an option that this machine does not have, or a batch size below 1.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: str = "torch",
        device: str = "auto",
        precision: str = "fp32",
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; at least 1 is needed")
        self.bundle, self.batch_size = bundle, batch_size
        self.choice = choose(bundle.backbone, backend=backend, precision=precision, device=device)
        self._run = engine(bundle.backbone, self.choice, batch_size=batch_size)

    def answer(self, images: np.ndarray | Sequence[np.ndarray]) -> Answers:
        """Answers about grey images uint8 (N, H, W) of any size, or about N of different sizes.

        They are given as read from their files; `Bundle.preprocess` is applied here.

        Raises:
            DataError: no images, or others than uint8 of two dimensions.
        """
        (found,) = self.stream([images])
        return found

    def stream(self, batches: Iterable[np.ndarray | Sequence[np.ndarray]]) -> Iterator[Answers]:
        """The answers of each of `batches`, in order, as they come; few batches are in memory."""
        sizes: deque[int] = deque()
        features: list[np.ndarray] = []
        for _, part in self._run(self._inputs(batches, sizes)):
            features.append(part)
            if sum(map(len, features)) == sizes[0]:
                sizes.popleft()
                yield answers_of(self.bundle, np.concatenate(features))
                features = []

    def _inputs(
        self, batches: Iterable[np.ndarray | Sequence[np.ndarray]], sizes: deque[int]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        for batch in batches:
            images = prepared(self.bundle, batch)
            sizes.append(len(images))
            for start in range(0, len(images), self.batch_size):
                yield start, network_input(images[start : start + self.batch_size], self.bundle.backbone.size)


def explained(bundle: Bundle, *, layer: str = "") -> Explained:
    """The classifier that answers, cut in two for `explain.explain`; give that the images of `prepared`.

    Of an estimator it is the one that was fitted to all images, whose margins the calibration turns into
    probabilities.

    Raises:
        DataError: a head without a gradient, such as neighbours, or a backbone without feature maps.
    """
    if not bundle.few_shot:
        return explain_cut.network(bundle.head, bundle.classes, size=bundle.backbone.size, layer=layer)
    return explain_cut.estimator(bundle.backbone, fitted_part(bundle.head), bundle.classes, layer=layer)


def targets_for(bundle: Bundle, answers: Answers) -> list[str]:
    """For each image the target of `explained` that speaks for its decision.

    Of an estimator that is the class that was said over the most probable other one; of several labels the
    one furthest above its threshold, or closest below.
    """
    if bundle.kind == "multilabel":
        ahead = answers.probabilities - np.asarray(bundle.thresholds)
        return [bundle.classes[code] for code in ahead.argmax(axis=1)]
    if not bundle.few_shot:
        return list(answers.said)
    targets = []
    for said, p in zip(answers.said, answers.probabilities, strict=True):
        other = max((k for k, c in enumerate(bundle.classes) if c != said), key=lambda k: p[k])
        targets.append(f"{said} over {bundle.classes[other]}")
    return targets


def neighbours(bundle: Bundle, features: np.ndarray, *, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The support images that look most alike to the backbone.

    Args:
        features: (N, D), as in `Answers`.
        n: how many, from 1; all where there are fewer.

    Returns:
        int64 (N, n) rows of `Bundle.support`, the nearest first, and their cosine distances float64 (N, n),
        0..2.

    Raises:
        DataError: a bundle without support, or n below 1.
    """
    if bundle.support is None:
        raise DataError(
            f"{bundle.name!r} was saved without pictures of its training images; build it with them"
        )
    if n < 1:
        raise DataError(f"n = {n}; ask for at least 1 neighbour")
    a, b = (_unit(x) for x in (features, bundle.support.features))
    distance = np.clip(1 - a @ b.T, 0, 2)
    rows = np.argsort(distance, axis=1, kind="stable")[:, :n]
    return rows, np.take_along_axis(distance, rows, axis=1)


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
