"""ResNet-18 at 224 pixels by `training.fit` against an ordinary loop; and memory over the epochs.

Run as ``python tests/benchmarks/bench_training.py``; takes about four minutes. Let nothing else run: the
ratios are of runs by turns, each the best of three.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from xraykit import classifiers, datasets, training
from xraykit.threads import cores
from xraykit.training_config import Config
from xraykit.training_files import State

ROUNDS = 3
SIDE, BATCH = 224, 32
FILES, FILE_SIDE = 192, 1024  # Kermany's files are of about 1.3 million pixels
PATIENTS = 200
MEMORY_EPOCHS, MEMORY_SIDE, MEMORY_PATIENTS = 8, 64, 1200
STANDARD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # of ImageNet, as such projects take


def main() -> None:
    """Print the two tables."""
    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory(prefix="xraykit-bench-") as folder:
        print(memory_line(), end="\n\n", flush=True)
        print(speed_table(Path(folder)).to_string())


def speed_table(folder: Path) -> pd.DataFrame:
    """Seconds of one epoch over the same files; ours reads them once, before."""
    write_files(folder / "files")
    start = time.perf_counter()
    ds = datasets.load("folder", source=folder / "files", size=SIDE, data_dir=folder, progress=False)
    once = time.perf_counter() - start
    plain = Config(epochs=1, batch_size=BATCH, augment=None)
    augmented = Config(epochs=1, batch_size=BATCH)
    ways = {
        "ImageFolder, DataLoader, no workers, fp32": partial(ordinary, folder / "files", workers=0),
        "ImageFolder, DataLoader, 2 workers, fp32": partial(ordinary, folder / "files", workers=2),
        "fit, best precision": partial(ours, ds, augmented, precision="auto"),
        "fit, best precision, no augmentation": partial(ours, ds, plain, precision="auto"),
        "fit, fp32": partial(ours, ds, augmented, precision="fp32"),
    }
    ordinary(folder / "files", workers=0, steps=1)  # warms up
    found = []
    for turn in range(ROUNDS):
        found.append({name: way() for name, way in ways.items()})
        print(f"round {turn + 1}: {', '.join(f'{s:.1f} s' for s in found[-1].values())}", flush=True)
    rounds = pd.DataFrame(found)
    best = rounds.min()
    table = pd.DataFrame({"seconds an epoch": best.round(2)})
    table["times as fast as no workers"] = (best.iloc[0] / best).round(2)
    table["as 2 workers"] = (best.iloc[1] / best).round(2)
    print(f"{FILES} files of {FILE_SIDE} pixels decoded once in {once:.1f} s; {cores()} threads")
    return table


def write_files(folder: Path) -> None:
    """JPEG files in the folders train/<class> and val/<class>."""
    ds = datasets.load("synthetic", size=SIDE, n_patients=PATIENTS, progress=False).binary()
    held = {c: np.flatnonzero(ds.labels == i)[:2] for i, c in enumerate(ds.classes)}
    rest = np.setdiff1d(np.arange(len(ds)), np.concatenate(list(held.values())))[:FILES]
    parts = [("val", held), ("train", {c: rest[ds.labels[rest] == i] for i, c in enumerate(ds.classes)})]
    for split, classes in parts:
        for name, rows in classes.items():
            (folder / split / name).mkdir(parents=True)
            for i in rows:
                large = Image.fromarray(ds.images[i]).resize((FILE_SIDE, FILE_SIDE), Image.BICUBIC)
                large.save(folder / split / name / f"{i}.jpeg", quality=90)


def ordinary(files: Path, *, workers: int, steps: int | None = None) -> float:
    """Seconds of an epoch of the loop that tutorials show, or of its first steps."""
    changes = [
        transforms.Resize((SIDE, SIDE)),
        transforms.RandomAffine(10, translate=(0.05, 0.05), scale=(0.9, 1.1)),
        transforms.ColorJitter(brightness=0.1, contrast=0.2),
        transforms.ToTensor(),
        transforms.Normalize(*STANDARD),
    ]
    images = ImageFolder(files / "train", transforms.Compose(changes))
    loader = DataLoader(images, batch_size=BATCH, shuffle=True, num_workers=workers)
    model = models.resnet18()
    model.fc = nn.Linear(model.fc.in_features, 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    start = time.perf_counter()
    for step, (x, y) in enumerate(loader):
        if step == steps:
            break
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
    return time.perf_counter() - start


def ours(ds: datasets.XrayDataset, config: Config, *, precision: str) -> float:
    """Seconds of an epoch of `training.fit`, validation on four images and the state's copies among them."""
    rows = {name: np.flatnonzero((ds.records["split"] == name).to_numpy()) for name in ("train", "val")}
    model = classifiers.build("resnet18:random", classifiers.outputs(ds))
    options = {"device": "cpu", "precision": precision, "progress": False}
    return training.fit(model, ds, **rows, config=config, **options).seconds


def memory_line() -> str:
    """Resident memory after each epoch of a small network, and its slope."""
    sizes = {"train": MEMORY_PATIENTS, "val": MEMORY_PATIENTS // 4}
    ds = datasets.load("synthetic", size=MEMORY_SIDE, split_sizes=sizes, progress=False).binary()
    rows = {name: np.flatnonzero((ds.records["split"] == name).to_numpy()) for name in sizes}
    used, kept = [], State.save

    def save(state: State, optimiser: torch.optim.Optimizer) -> None:
        kept(state, optimiser)
        used.append(psutil.Process().memory_info().rss / 2**20)

    State.save = save
    try:
        config = Config(epochs=MEMORY_EPOCHS)
        with tempfile.TemporaryDirectory(prefix="xraykit-bench-") as cache_dir:
            options = {"device": "cpu", "cache_dir": cache_dir, "progress": False}
            training.fit(classifiers.build("cnn-small", 1), ds, **rows, config=config, **options)
    finally:
        State.save = kept
    slope = np.polyfit(np.arange(1, MEMORY_EPOCHS), used[1:], 1)[0]
    told = ", ".join(f"{mib:.0f}" for mib in used)
    return (
        f"resident memory after each epoch of {len(rows['train'])} images (MiB): {told}; slope from the "
        f"second epoch on {slope:.2f} MiB an epoch ({slope / used[1]:.2%})"
    )


if __name__ == "__main__":
    main()
