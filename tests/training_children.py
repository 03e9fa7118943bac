"""A tiny data set to train on, and what the subprocesses of the tests of training run."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from toy_backbones import toy

from xraykit import classifiers, training, training_files
from xraykit.backbones import own
from xraykit.classifiers import Classifier
from xraykit.datasets import XrayDataset
from xraykit.training_config import Config
from xraykit.training_files import Fitted

SIDE = 16
CLASSES = {
    "binary": ("normal", "pneumonia"),
    "multiclass": ("normal", "bacterial", "viral"),
    "multilabel": ("Mass", "Nodule"),
}
TRAIN, VAL, TEST = np.arange(22), np.arange(22, 32), np.arange(32, 40)
QUIET = {"device": "cpu", "progress": False}


def tiny(kind: str = "binary", *, side: int = SIDE) -> XrayDataset:
    """40 images of noise, one a patient, the first 32 of the split train; a bright corner (for two labels:
    a brighter left or right side) tells the class."""
    n, classes = 40, CLASSES[kind]
    images = np.random.default_rng(0).integers(0, 100, (n, side, side))
    records = pd.DataFrame(
        {"image_id": [f"i{i}" for i in range(n)], "patient_id": [f"p{i}" for i in range(n)]}
    )
    records["split"] = np.where(np.arange(n) < TEST[0], "train", "test")
    if kind == "multilabel":
        values = np.stack([np.arange(n) % 2, np.arange(n) // 2 % 2], axis=1)
        records[list(classes)] = values
        images[:, :, : side // 2] += 80 * values[:, :1, None]
        images[:, :, side // 2 :] += 80 * values[:, 1:, None]
    else:
        codes = np.arange(n) % len(classes)
        records["label"] = np.take(classes, codes)
        images[:, : side // 2, : side // 2] += (140 * codes // (len(classes) - 1))[:, None, None]
    task = "multilabel" if kind == "multilabel" else "multiclass"
    return XrayDataset("tiny", images.astype(np.uint8), records, classes, task, "", "")


def config(**changes: object) -> Config:
    """Four epochs of three batches, 8, 8 and 6 images."""
    return Config(**{"epochs": 4, "batch_size": 8, "learning_rate": 0.01, **changes})


def network(kind: str = "binary", *, norm: str = "", dropout: float = 0.0) -> Classifier:
    """Two convolutions, or `nets.BaselineCnn` of width 4 with a norm."""
    backbone = own.build_cnn(width=4, norm=norm) if norm else toy()
    return classifiers.build(backbone, 1 if kind == "binary" else len(CLASSES[kind]), dropout=dropout)


def train(
    model: Classifier, kind: str = "binary", *, cache_dir: Path | None = None, **changes: object
) -> Fitted:
    """`model` after training on `tiny`."""
    options = {"train": TRAIN, "val": VAL, "config": config(**changes), "cache_dir": cache_dir}
    return training.fit(model, tiny(kind), **options, **QUIET)


def train_and_die(cache_dir: Path, kill_at: int, pause: float) -> None:
    """Train a net with batch norm and dropout, `pause` seconds an epoch; SIGKILL while epoch `kill_at` is
    written, half of the file being there.

    At the end ``<cache_dir>/<pid>.json`` says how many epochs it trained.
    """
    torch.set_num_threads(1)
    replace, epochs = Path.replace, 0

    def step(self: Path, target: Path) -> Path:
        nonlocal epochs
        epochs += 1
        if epochs == kill_at:
            os.truncate(self, self.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(pause)
        return replace(self, target)

    Path.replace = step
    train(network(norm="batch", dropout=0.3), cache_dir=cache_dir, monitor=("auroc", "loss"))
    (cache_dir / f"{os.getpid()}.json").write_text(str(epochs))


def same(first: Fitted, second: Fitted) -> None:
    """Assert that history (but for the seconds), best epochs and all weights kept are the same bits."""
    pd.testing.assert_frame_equal(
        first.history.drop(columns="seconds"), second.history.drop(columns="seconds"), check_exact=True
    )
    assert first.best == second.best
    for which in (*first.best, "last"):
        mine, other = (fitted.model(which).state_dict() for fitted in (first, second))
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine), which


def file_of(cache_dir: Path) -> Path:
    """The one run kept there."""
    (file,) = cache_dir.glob(f"training/*/{training_files.FILE}")
    return file
