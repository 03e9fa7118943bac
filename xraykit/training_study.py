"""Several trainings side by side: over seeds, over shares of the training data, over networks.

Every function trains through `training.fit` and hands it the rest of its keywords: ``cache_dir``, ``device``,
``precision``, ``devices``, ``num_nodes`` and ``progress``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xraykit import training
from xraykit.augment import Augment
from xraykit.backbones import Backbone
from xraykit.classifiers import Classifier, build, kind_of, outputs
from xraykit.datasets import XrayDataset
from xraykit.decisions import probabilities
from xraykit.errors import DataError, DataNotFoundError, DownloadError, TrainingMemoryError
from xraykit.labels import label_matrix
from xraykit.training_checks import check_size
from xraykit.training_config import Config
from xraykit.training_files import Fitted
from xraykit.training_shares import share_of

CHECKPOINTS = ("accuracy", "sensitivity")


def fit_seeds(
    network: str | Backbone,
    ds: XrayDataset,
    *,
    train: np.ndarray,
    val: np.ndarray,
    config: Config,
    seeds: Sequence[int],
    dropout: float = 0.0,
    weights_dir: str | Path | None = None,
    **how: object,
) -> list[Fitted]:
    """The same training once for each seed, which decides random weights, order, augmentation and dropout.

    Args:
        network: as `classifiers.build` takes it.
        train, val, config: as in `training.fit`; the seed of `config` is not used.
        dropout, weights_dir: as in `classifiers.build`.
        how: further keywords of `training.fit`.

    Raises:
        DataError: no seeds; and as `classifiers.build` and `training.fit`, which has further errors.
    """
    if len(seeds) == 0:
        raise DataError("no seeds; give at least one, such as seeds=(0, 1, 2)")
    about = {"dropout": dropout, "weights_dir": weights_dir}
    return [
        training.fit(
            build(network, outputs(ds), seed=seed, **about),
            ds,
            train=train,
            val=val,
            config=replace(config, seed=seed),
            **how,
        )
        for seed in seeds
    ]


def images_a_class(ds: XrayDataset, index: np.ndarray) -> float:
    """Mean number over the classes of the images `index` of each; of several labels, of those with it."""
    return float(label_matrix(ds.labels[index]).sum() / len(ds.classes))


def transfer(
    networks: Mapping[str, tuple[str | Backbone, str]],
    ds: XrayDataset,
    *,
    train: np.ndarray,
    val: np.ndarray,
    config: Config,
    shares: Sequence[float],
    seeds: Sequence[int],
    images_an_epoch: int,
    rates: Mapping[str, float] | None = None,
    **how: object,
) -> dict[tuple[str, float], list[Fitted]]:
    """Each network trained on shares of the training images: from scratch, frozen, fine-tuned.

    Each seed draws its own part (`share_of`), the same for all networks, so that the spread over the seeds is
    that of the images too. The last epoch counts: with little data the validation labels would be most of
    the labels, so that nothing is chosen by them.

    Args:
        networks: by name the network, as `classifiers.build` takes it, and what of it is trained, of
            `training_config.TRAINABLE`: ``{"scratch": ("cnn", "all"), "frozen": ("phantom", "head")}``.
        config: the rest; its ``monitor``, ``patience``, ``trainable`` and ``seed`` are not used.
        shares: of the images `train`, above 0 to 1.
        images_an_epoch: a smaller part is repeated as a whole until an epoch has at least as many, each
            repeat augmented on its own.
        rates: by name the learning rate; without an entry that of `config`.
        how: further keywords of `fit_seeds`.

    Returns:
        By (name, share) the training of each seed.

    Raises:
        DataError: as `share_of` and `fit_seeds`, or rates of a name that is not among the networks.
    """
    rates = rates or {}
    if set(rates) - set(networks):
        raise DataError(f"rates for {sorted(set(rates) - set(networks))}; the networks are {list(networks)}")
    found: dict[tuple[str, float], list[Fitted]] = {(name, s): [] for name in networks for s in shares}
    for share in shares:
        for seed in seeds:
            part = share_of(ds, train, share, seed=seed)
            part = np.tile(part, max(1, -(-images_an_epoch // len(part))))
            for name, (network, trainable) in networks.items():
                rate = rates.get(name, config.learning_rate)
                one = replace(config, trainable=trainable, learning_rate=rate, monitor=(), patience=0)
                on = {"train": part, "val": val, "config": one, "seeds": [seed]}
                found[name, share] += fit_seeds(network, ds, **on, **how)
    return found


def model_table(
    networks: Sequence[str],
    ds: XrayDataset,
    *,
    train: np.ndarray,
    val: np.ndarray,
    config: Config,
    seed: int,
    weights_dir: str | Path | None = None,
    **how: object,
) -> dict[tuple[str, str, str], Classifier | str]:
    """Networks with and without augmentation, each at two checkpoints of one training of two classes.

    The checkpoints are the epochs of the best validation accuracy and of the best sensitivity, the first of
    equals. Sensitivity alone is also 1 where every image is called positive, so that its best epoch can be
    one of those.

    Args:
        config: the rest; its ``monitor``, ``patience`` and ``seed`` are not used, and where it has no
            augmentation, that of `Augment` is.
        how: further keywords of `training.fit`.

    Returns:
        By (network, ``"augmented"`` or ``"plain"``, ``"accuracy"`` or ``"sensitivity"``) the classifier, or
        ``"not run: "`` and the reason, where weights cannot be had, the images are too small, or memory is.

    Raises:
        DataError: more than two classes; and all other errors of `fit_seeds`.
    """
    if kind_of(ds) != "binary":
        raise DataError(f"{ds.name} has {len(ds.classes)} classes; the table is of two: use ds.binary()")
    found: dict[tuple[str, str, str], Classifier | str] = {}
    ways, side = {"augmented": config.augment or Augment(), "plain": None}, ds.images.shape[1]
    for network in networks:
        reason = _not_run(network, ds, weights_dir)
        for way, augment in ways.items():
            if reason:
                found |= {(network, way, monitor): reason for monitor in CHECKPOINTS}
                continue
            one = replace(config, augment=augment, monitor=CHECKPOINTS, patience=0)
            on = {"train": train, "val": val, "config": one, "seeds": [seed], "weights_dir": weights_dir}
            try:
                fitted = fit_seeds(network, ds, **on, **how)[0]
            except TrainingMemoryError:
                why = f"not run: out of memory with {config.batch_size} images of {side} pixels a batch"
                found |= {(network, way, monitor): why for monitor in CHECKPOINTS}
                continue
            found |= {(network, way, monitor): fitted.model(monitor) for monitor in CHECKPOINTS}
    return found


def _not_run(network: str, ds: XrayDataset, weights_dir: str | Path | None) -> str:
    """Why this network cannot be trained here, or nothing."""
    try:
        model = build(network, 1, weights_dir=weights_dir)
    except DownloadError:
        return "not run: its weights are not here and could not be downloaded"
    except DataNotFoundError:
        return "not run: no such file of weights"
    try:
        check_size(model, ds)
    except DataError:
        return f"not run: images of {ds.images.shape[1]} pixels are too small for it"
    return ""


def logits_of(
    models: Sequence[Fitted | Classifier],
    ds: XrayDataset,
    index: np.ndarray,
    *,
    which: str = "",
    device: str = "auto",
    precision: str = "fp32",
) -> list[np.ndarray]:
    """Logits float32 (M, O) of the M images `index` from each of the models.

    Args:
        which: the weights of a `Fitted`, as `Fitted.model` takes it.
        device, precision: as in `training.predict`.
    """
    nets = [model.model(which) if isinstance(model, Fitted) else model for model in models]
    about = {"device": device, "precision": precision}
    return [training.predict(net, ds.images, rows=index, **about) for net in nets]


def probabilities_of(
    models: Sequence[Fitted | Classifier], ds: XrayDataset, index: np.ndarray, **about: str
) -> list[np.ndarray]:
    """`decisions.probabilities` of `logits_of`, float64 (M, 2) of two classes, else (M, K)."""
    return [probabilities(z, kind_of(ds)) for z in logits_of(models, ds, index, **about)]
