"""Extraction against plain PyTorch, bf16 against fp32, the second run from the cache, memory.

Run as ``python tests/benchmarks/bench_embeddings.py``; takes about three minutes and 0.3 GB in the temporary
folder. With XRAYKIT_KERMANY_DIR and XRAYKIT_WEIGHTS_DIR set, bf16 is compared on real images with
SqueezeNet's weights, by cosine and by few-shot scores. Let nothing else run: every ratio is within one run,
but not all of it is interleaved.
"""

import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from torch import nn

    from xraykit.datasets import XrayDataset

ROUNDS = 3
BATCH = 32
SIDE = 224
NETWORKS = {"densenet161": (32, 160), "resnet18": (64, 512)}  # images of a short and of a long extraction
MEMORY_COUNTS = (2_000, 20_000)
SMALL_SIDE = 112
SQUEEZENET = "squeezenet1_0:squeezenet1_0_imagenet.safetensors"

# VmHWM and not getrusage: ru_maxrss of a child starts at the size of the process that started it.
MEMORY_CHILD = """
import sys
from pathlib import Path
import numpy as np
from xraykit import backbones
from xraykit.embeddings import extract
path, cache_dir, n, side = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
images = np.memmap(path, np.uint8, "r", shape=(n, side, side))
extract(images, backbones.load("phantom:random"), cache_dir=cache_dir, device="cpu", progress=False)
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def main() -> None:
    """Print the four tables."""
    with tempfile.TemporaryDirectory(prefix="xraykit-bench-") as folder:
        print(memory_table(Path(folder)).to_string(index=False), end="\n\n", flush=True)
        rows = [speed_row(Path(folder), name, *counts) for name, counts in NETWORKS.items()]
        print(pd.DataFrame(rows).T.to_string(header=False), end="\n\n", flush=True)
        print(agreement(Path(folder)))


def memory_table(folder: Path) -> pd.DataFrame:
    """Peak memory of a process that extracts from a memmap of few and of many images."""
    rng = np.random.default_rng(0)
    with (folder / "images.u8").open("wb") as file:
        for _ in range(max(MEMORY_COUNTS) // 1000):
            file.write(rng.integers(0, 256, (1000, SMALL_SIDE, SMALL_SIDE), dtype=np.uint8))
    rows = []
    for n in MEMORY_COUNTS:
        with tempfile.TemporaryDirectory(dir=folder) as cache_dir:
            arguments = [str(folder / "images.u8"), cache_dir, str(n), str(SMALL_SIDE)]
            command = [sys.executable, "-c", MEMORY_CHILD, *arguments]
            kib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(
            {"images": n, "pixels (MB)": round(n * SMALL_SIDE**2 / 1e6), "peak (MiB)": round(kib / 1024)}
        )
    table = pd.DataFrame(rows)
    table["ratio"] = (table["peak (MiB)"] / table["peak (MiB)"][0]).round(3)
    return table


def speed_row(folder: Path, name: str, few: int, many: int) -> dict[str, object]:
    """Images a second of plain PyTorch and of `extract`, by turns; two lengths tell its start-up apart."""
    import torch  # after the memory table, whose children must not inherit its size

    from xraykit import backbones
    from xraykit.embeddings import extract
    from xraykit.runner import cores

    torch.set_num_threads(cores())
    backbone = backbones.load(f"{name}:random")
    plain, bf16 = plain_pytorch(backbone.module, bf16=False), plain_pytorch(backbone.module, bf16=True)
    options = {"cache_dir": folder, "device": "cpu", "precision": "auto", "progress": False}
    rng = np.random.default_rng(0)
    rounds = []
    for turn in range(ROUNDS + 1):
        images = rng.integers(0, 256, (many, SIDE, SIDE), dtype=np.uint8)
        seconds = {"plain": timed(plain)[1] / BATCH, "bf16": timed(bf16)[1] / BATCH}
        if turn == 0:  # warms up, and imports the libraries
            extract(images[:1], backbone, **options)
            continue
        short = timed(lambda x=images: extract(x[:few], backbone, **options))[1]
        found, long = timed(lambda x=images: extract(x, backbone, **options))
        again = timed(lambda x=images: extract(x, backbone, **options))[1]
        seconds["extraction"] = (long - short) / (many - few)
        rounds.append(
            {**seconds, "start": short - few * seconds["extraction"], "first": long, "again": again}
        )
    table = pd.DataFrame(rounds)
    middle = table.median()
    return {
        "network": name,
        "extraction by": f"{found.backend} {found.precision}",
        "plain PyTorch fp32 (images/s)": round(1 / middle["plain"], 1),
        "PyTorch bf16 channels-last (images/s)": round(1 / middle["bf16"], 1),
        "extraction (images/s)": round(1 / middle["extraction"], 1),
        "ratio to plain": round((table["plain"] / table["extraction"]).median(), 2),
        "ratio to bf16": round((table["bf16"] / table["extraction"]).median(), 2),
        "start of the extraction (s)": round(middle["start"], 1),
        "images": many,
        "first run (s)": round(middle["first"], 1),
        "from the cache (s)": round(middle["again"], 3),
        "cache ratio": round((table["first"] / table["again"]).median()),
    }


def plain_pytorch(module: "nn.Module", *, bf16: bool) -> Callable[[], object]:
    """A call that computes one batch of 32 in inference mode."""
    import torch

    batch = torch.rand(BATCH, 1, SIDE, SIDE)
    if bf16:
        module = copy.deepcopy(module).to(torch.bfloat16).to(memory_format=torch.channels_last)
        batch = batch.to(torch.bfloat16).to(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: module(batch))


def agreement(folder: Path) -> str:
    """Features in the machine's best precision against fp32: cosine, and what it does to few-shot scores."""
    from xraykit import backbones, datasets
    from xraykit.embeddings import extract

    real = os.environ.get("XRAYKIT_KERMANY_DIR") and os.environ.get("XRAYKIT_WEIGHTS_DIR")
    if real:
        backbone = backbones.load(SQUEEZENET)
        ds = datasets.load("kermany", data_dir=folder, progress=False).split("train").binary()
        ds = ds.take(np.arange(0, len(ds), 4))
    else:
        backbone = backbones.load("densenet161:random")
        ds = datasets.load("synthetic", size=SIDE, data_dir=folder, n_patients=100, seed=0).binary()
    exact, best = (
        extract(ds.images, backbone, cache_dir=folder, precision=precision, device="cpu", progress=False)
        for precision in ("fp32", "auto")
    )
    a, b = (np.asarray(found.features, np.float64) for found in (exact, best))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    cosines = f"{best}\ncosine with fp32: lowest {cosine.min():.5f}, median {np.median(cosine):.5f}"
    return f"{cosines}\n{few_shot_difference(ds, exact.features, best.features)}"


def few_shot_difference(ds: "XrayDataset", exact: np.ndarray, best: np.ndarray) -> str:
    """Macro-F1 with the one minus with the other, on the same draws and held-out patients."""
    from xraykit import fewshot, intervals, splits

    rng = np.random.default_rng(0)
    fold = splits.patient_folds(ds.labels, ds.patients, fractions=[0.5, 0.5], rng=rng)
    y, truth = ds.labels[fold == 0], ds.labels[fold == 1]
    support = fewshot.draws(y, ds.patients[fold == 0], shots=[10], n_draws=50, seed=0)
    scores = []
    for features in (best, exact):
        pool, query = fewshot.normalise(features[fold == 0], features[fold == 1], how="l2")
        about = {"support": support, "shots": [10], "classifiers": ["SVC RBF"]}
        scores.append(fewshot.evaluate(pool, y, query, **about)["SVC RBF", 10])
    who = ds.patients[fold == 1]
    found = intervals.paired_differences(truth, *scores, who, names=["macro_f1", "auroc"], seed=0)
    spread = np.std([(p[:, 1] >= 0.5).mean() for p in scores[1]])
    return (
        f"10 images a class, best minus fp32: macro-F1 {found['macro_f1']}, AUROC {found['auroc']} "
        f"(the share of positives answered scatters by {spread:.3f} over draws)"
    )


def timed(call: Callable[[], object]) -> tuple[object, float]:
    """What `call` returns, and seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
