"""Where the images of a pretraining run come from, and the development fold that watches it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from xraykit import datasets, splits
from xraykit.datasets import XrayDataset, synthetic
from xraykit.datasets.synthetic.loader import GENERATOR_VERSION
from xraykit.errors import DataError
from xraykit.pretrain_files import RESERVED, Config


@dataclass(frozen=True)
class Source:
    """Images to learn from, without labels.

    Attributes:
        images: grey uint8 (N, size, size).
        about: for the file of weights: ``data``, names of the sets; ``held_out``, the digest of the patients
            of the development fold, none of whom is among the images; of rendered images their patients.
    """

    images: np.ndarray
    about: dict[str, object]


def unlabelled(config: Config, *, data_dir: str | Path | None = None, progress: bool = True) -> Source:
    """The training images of ``config.dataset`` without its development fold, or the reserved patients.

    Raises:
        DataError: fewer images than one batch; or as `datasets.load` and `splits.development`.
    """
    if config.dataset == RESERVED:
        start = synthetic.PATIENT_RANGES["pretrain"].start
        about = {
            "data": [f"{name} (pretrain patients)" for name in synthetic.NAMES],
            "patients": [start, start + (config.rendered + 1) // 2],
            "generator_version": GENERATOR_VERSION,
        }
        return Source(draw_images(config, progress=progress), about)
    train = training_images(config.dataset, size=config.size, data_dir=data_dir)
    inside, dev = splits.development(train, seed=config.fold_seed)
    if len(inside) < config.batch_size:
        raise DataError(
            f"{config.dataset} has {len(inside)} images to learn from, fewer than one batch of "
            f"{config.batch_size}; use a larger set"
        )
    about = {
        "data": [f"{config.dataset} (train without the development fold)"],
        "held_out": splits.digest(train.patients[dev]),
        "licence": train.licence,
        "citation": train.citation,
    }
    return Source(np.asarray(train.images)[inside], about)


def training_images(dataset: str, *, size: int, data_dir: str | Path | None) -> XrayDataset:
    """The split train of a data set; test images are not even passed on."""
    return datasets.load(dataset, size=size, data_dir=data_dir, progress=False).split("train")


def draw_images(config: Config, *, progress: bool = True) -> np.ndarray:
    """Rendered images uint8 (images, size, size), the first one of each reserved patient."""
    numbers = synthetic.PATIENT_RANGES["pretrain"]
    drawn = np.empty((config.rendered, config.size, config.size), np.uint8)
    for i, image in enumerate(tqdm(drawn, "images", unit="image", disable=not progress)):
        patient, name = numbers[i // 2], synthetic.NAMES[i % 2]
        image[:] = synthetic.render(patient, name=name, size=config.size, seed=config.seed).image
    return drawn
