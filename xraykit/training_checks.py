"""What makes a training run impossible, found before it starts or named when it happens."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from xraykit.autoencoder import Autoencoder
from xraykit.classifiers import Classifier, kind_of, outputs
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError, TrainingError, TrainingMemoryError
from xraykit.labels import label_matrix
from xraykit.training_config import EVALUATED, Config

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
_KEPT = ". The last finished epoch is kept"


def check(
    model: Classifier,
    ds: XrayDataset,
    *,
    train: np.ndarray,
    val: np.ndarray,
    config: Config,
    world: int = 1,
) -> None:
    """Raise DataError when network, images, splits and options do not go together on `world` processes."""
    for name, index in (("train", train), ("val", val)):
        index = np.asarray(index)
        if index.ndim != 1 or len(index) == 0 or index.dtype.kind not in "iu":
            raise DataError(f"{name} has {index.dtype} {index.shape}; give positions of at least one image")
        if index.min() < 0 or index.max() >= len(ds):
            raise DataError(
                f"{name} goes from {index.min()} to {index.max()}; {ds.name} has 0 to {len(ds) - 1}"
            )
    both = set(ds.patients[train]) & set(ds.patients[val])
    if both:
        raise DataError(
            f"{len(both)} patients are in train and val, such as {min(both)}; use splits.patient_folds"
        )
    if "test" in set(ds.records["split"].to_numpy()[np.concatenate([train, val])]):
        raise DataError(
            f"{ds.name}: images of the test split are among train or val; use those of train alone"
        )
    kind = kind_of_run(model, ds)
    if kind != "reconstruction":
        _check_classes(ds, train, val)
    _check_options(ds, config, kind)
    _check_model(model, ds, n_train=len(train), config=config, world=world)


def kind_of_run(model: Classifier | Autoencoder, ds: XrayDataset) -> str:
    """``"reconstruction"`` for an autoencoder, whatever the labels; else `classifiers.kind_of`."""
    return "reconstruction" if isinstance(model, Autoencoder) else kind_of(ds)


def _check_classes(ds: XrayDataset, train: np.ndarray, val: np.ndarray) -> None:
    if ds.task == "multilabel":
        labels = label_matrix(ds.labels)
        none = [
            c
            for c, column in zip(ds.classes, labels[train].T, strict=True)
            if column.all() or not column.any()
        ]
        if none:
            raise DataError(f"train has one value only of {', '.join(none)}; leave them out of the classes")
        if not (labels[val].any(axis=0) & ~labels[val].all(axis=0)).any():
            raise DataError(
                "val has no finding with both values; its scores would mean nothing: hold out more"
            )
        return
    for name, index in (("train", train), ("val", val)):
        counts = np.bincount(ds.labels[index], minlength=len(ds.classes))
        missing = [c for c, n in zip(ds.classes, counts, strict=True) if n == 0]
        if missing:
            have = ", ".join(f"{c} {n}" for c, n in zip(ds.classes, counts, strict=True))
            raise DataError(
                f"{name} lacks {', '.join(missing)} ({have}); choose it with splits.patient_folds, which "
                "keeps the share of every class"
            )


def _check_options(ds: XrayDataset, config: Config, kind: str) -> None:
    computed = ("loss", *EVALUATED[kind])
    unknown = [name for name in config.monitor if name not in computed]
    if unknown:
        raise DataError(
            f"monitor {', '.join(unknown)} is not computed for a {kind} task; use {', '.join(computed)}"
        )
    if config.weights is not None and len(config.weights) != len(ds.classes):
        raise DataError(
            f"{len(config.weights)} weights of the loss for {len(ds.classes)} classes; give one for each of "
            f"{', '.join(ds.classes)}"
        )


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer takes the statistics of its batch, which a batch of one does not have."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


def _check_model(model: Classifier, ds: XrayDataset, *, n_train: int, config: Config, world: int) -> None:
    if isinstance(model, Classifier) and model.n_outputs != outputs(ds):
        raise DataError(
            f"{model.name} has {model.n_outputs} outputs, {ds.name} ({kind_of(ds)}) needs {outputs(ds)}; "
            "build it with classifiers.outputs(ds)"
        )
    learns_all = config.trainable != "head"
    if learns_all and has_batch_norm(model) and min(config.batch_size, n_train) // world < 2:
        team = f", {world} processes" if world > 1 else ""
        raise DataError(
            f"batches of one image ({n_train} in train, batch_size {config.batch_size}{team}) leave batch "
            f"norm nothing to compare with; use at least {2 * world}, or a network with group norm such as "
            "cnn-group-norm"
        )
    check_size(model, ds)


def check_size(model: Classifier, ds: XrayDataset) -> None:
    """Raise DataError when the network cannot take images as large or small as those of `ds`."""
    side = ds.images.shape[1:]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 1, *side, device=next(model.parameters()).device))
    except (RuntimeError, AssertionError) as error:
        raise DataError(
            f"{model.name} cannot take images of {side[0]}x{side[1]} pixels ({error}); load the data set "
            f"larger, its own size is {model.size} (size= or image_size)"
        ) from error
    finally:
        model.train(training)


def check_finite(name: str, value: float, config: Config, *, when: str, kept: bool = False) -> None:
    """Raise TrainingError where `value`, such as the loss, is NaN or infinite."""
    if not math.isfinite(value):
        raise TrainingError(
            f"the {name} is {value} in {when} (learning rate {config.learning_rate:g}, clip "
            f"{config.clip:g}); lower the rate, clip to 1, or use fp32{_KEPT if kept else ''}"
        )


@contextmanager
def memory_explained(
    ds: XrayDataset, *, when: str, at_once: int, fix: str, kept: bool = False
) -> Iterator[None]:
    """Around a step or a validation: memory that is exhausted as an error that says what to do.

    Args:
        when: such as ``"epoch 1, step 3 of 9"``.
        at_once: images in memory together.
        fix: what to do, beside smaller images.
        kept: finished epochs are on disk.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # PyTorch's OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise TrainingMemoryError(
            f"out of memory in {when} with {at_once} images of {ds.images.shape[1]} pixels a batch; use "
            f"{fix} or smaller images{_KEPT if kept else ''}"
        ) from error
