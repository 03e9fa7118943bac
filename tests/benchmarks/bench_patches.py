"""Detectors of anomalies at 224 pixels, patches and embeddings of SqueezeNet: fit, scores, maps, memory.

Run as ``python tests/benchmarks/bench_patches.py``; takes about two minutes. Weights are random: they move
no time. The features of SqueezeNet's second and third resolution are 54 x 54 patches of 768 numbers.
"""

import resource
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from xraykit import backbones, datasets, embeddings
from xraykit.anomaly import NearestNormal
from xraykit.anomaly_detectors import Detector, OnErrors, OnFeatures
from xraykit.anomaly_patches import Padim, PatchCore
from xraykit.autoencoder import Autoencoder
from xraykit.threads import cores

SIDE = 224
NORMAL = 200  # images that are fitted, and then twice as many
SCORED = 64
LAYERS = ("features.5", "features.10")
NETWORK = "squeezenet1_0:random"
MAP_ROUNDS = 5


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measured(detector: Detector, images: np.ndarray) -> dict[str, float | str]:
    """One row of the table; the first fit warms up, the scores are of images that were not fitted."""
    detector.fit(images, np.arange(8))
    once = seconds(lambda: detector.fit(images, np.arange(NORMAL)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    twice = seconds(lambda: detector.fit(images, np.arange(2 * NORMAL)))
    last = np.arange(len(images) - SCORED, len(images))
    row = {
        f"s to fit {NORMAL}": f"{once:.1f}",
        f"s to fit {2 * NORMAL}": f"{twice:.1f}",
        "peak MiB": f"{peak / 1024:.0f}",
        "more for twice": f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024:.0f}",
        "images/s scored": f"{SCORED / seconds(lambda: detector.score(images, last)):.1f}",
    }
    if hasattr(detector, "maps"):
        one = min(seconds(lambda: detector.maps(images, last[-1:])) for _ in range(MAP_ROUNDS))
        row["ms a map"] = f"{1000 * one:.0f}"
    return row


def coreset_line(detector: PatchCore, images: np.ndarray) -> str:
    """How long the fit of PatchCore takes beside reading the patches, which does not depend on N."""
    rows = np.arange(NORMAL)
    drawn = seconds(lambda: detector._pool(images, rows, np.random.default_rng(0)))
    whole = seconds(lambda: detector.fit(images, rows))
    count, dim = detector.bank.shape
    size = detector.bank.numel() * detector.bank.element_size() / 2**20
    return (
        f"bank: {count} patches of {dim} numbers, {size:.1f} MiB, of {detector.grid[0]} x {detector.grid[1]} "
        f"an image; of {whole:.1f} s to fit, {drawn:.1f} s grow with the images, {whole - drawn:.1f} s do not"
    )


def main() -> None:
    """Print the table, and the size of the bank."""
    torch.set_num_threads(cores())
    ds = datasets.load("synthetic", size=SIDE, n_patients=2 * NORMAL + SCORED, progress=False)
    backbone = backbones.load(NETWORK)
    cut = backbones.at_layer(backbone, LAYERS[-1])
    core, padim = (make(backbone, LAYERS, seed=0, device="cpu") for make in (PatchCore, Padim))
    with tempfile.TemporaryDirectory() as cache:

        def embedded(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
            about = {"cache_dir": cache, "device": "cpu", "progress": False}
            return embeddings.extract(images[rows], cut, **about).features

        detectors = {"autoencoder": OnErrors(Autoencoder(), device="cpu")}
        detectors |= {"nearest normal": OnFeatures(embedded, NearestNormal())}
        detectors |= {"PatchCore": core, "PaDiM": padim}
        found = {name: measured(detector, ds.images) for name, detector in detectors.items()}
    print(pd.DataFrame(found).T.fillna("").to_string())
    print(coreset_line(core, ds.images))
    print(f"{cores()} threads")


if __name__ == "__main__":
    main()
