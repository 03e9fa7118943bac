"""Heat maps of a batch at a time against the library grad-cam, called for one image at a time; memory.

Run as ``python tests/benchmarks/bench_explain.py``; takes a few minutes. Both make Grad-CAM of the last
layer of the same classifier with random weights, which move no time: ours of the part behind the layer, the
library's of the whole network, on whose layer its hooks sit. Let nothing else run: ratios are of rounds by
turns in one process. Memory is what a process of its own adds to that of one image explained.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import psutil
import torch
from pytorch_grad_cam import GradCAM
from torch import nn

from xraykit import classifiers
from xraykit.backbones import network_input
from xraykit.explain import explain
from xraykit.explain_cut import Explained, network
from xraykit.threads import cores

CLASSES = ("normal", "pneumonia")
NETWORKS = {"cnn-small": (64, 128), "squeezenet1_0:random": (224, 32)}  # side, and images in a round
ROUNDS = 5
BATCH = 32
MEMORY_COUNTS = (32, 256)
# Freed memory goes back to the system, so that what a process holds is what it uses.
RETURNING = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Whole(nn.Module):
    """A classifier whose last feature map passes a layer that hooks can sit on."""

    def __init__(self, model: classifiers.Classifier) -> None:
        super().__init__()
        self.body, self.last, self.head = model.body, nn.Identity(), model.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.body.feature_maps(x)).mean(dim=(2, 3)))


def noise(n: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)


def ready(name: str) -> tuple[classifiers.Classifier, Explained]:
    model = classifiers.build(name, 1).eval()
    return model, network(model, CLASSES, size=NETWORKS[name][0])


def one_by_one(model: classifiers.Classifier, images: np.ndarray) -> np.ndarray:
    """As the guide of the library does: one image a call, gradients of all weights among them."""
    whole = Whole(model)
    size = images.shape[1]
    with GradCAM(model=whole, target_layers=[whole.last]) as cam:
        return np.concatenate(
            [cam(network_input(image[None], size), targets=[lambda out: out[0]]) for image in images]
        )


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def speed_row(name: str) -> dict[str, object]:
    """Maps a second of both ways; the ratio is the median over the rounds, each of both ways."""
    side, n = NETWORKS[name]
    (model, explained), images = ready(name), noise(n, side)

    def ours(batch_size: int = BATCH) -> np.ndarray:
        about = {"target": CLASSES[1], "device": "cpu", "batch_size": batch_size}
        return explain(explained, images, **about).maps

    furthest = abs(ours() - one_by_one(model, images)).max()  # warms up as well
    ways = {"ours": ours, "ours, batches of 1": lambda: ours(1), "library": lambda: one_by_one(model, images)}
    took = [{way: seconds(run) for way, run in ways.items()} for _ in range(ROUNDS)]
    ratios = [one["library"] / one["ours"] for one in took]
    return {
        "network": f"{name}, {side} pixels",
        **{f"maps/s {way}": f"{n / median(one[way] for one in took):.1f}" for way in ways},
        "ours / library": f"{median(ratios):.2f}",
        "from": f"{min(ratios):.2f}",
        "to": f"{max(ratios):.2f}",
        "largest difference": f"{furthest:.1e}",
    }


def peak(name: str, n: int) -> float:
    """MiB that n images add to what explaining one has left; run in a fresh process."""
    torch.set_num_threads(cores())
    side, _ = NETWORKS[name]
    (_, explained), images = ready(name), noise(n, side)
    explain(explained, images, target=CLASSES[1], device="cpu", rows=np.arange(1))
    # What `resource.getrusage` calls the largest begins with that of the parent, which Linux sets anew so.
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    found = explain(explained, images, target=CLASSES[1], device="cpu", batch_size=BATCH)
    (largest,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return (int(largest) * 1024 - before - found.maps.nbytes) / 2**20


def memory_table() -> pd.DataFrame:
    """Peaks by network, without the maps that are returned; few images and many."""
    rows = []
    for name in NETWORKS:
        row = {"network": name}
        for n in MEMORY_COUNTS:
            command = [sys.executable, __file__, json.dumps([name, n])]
            done = subprocess.run(command, env=RETURNING, capture_output=True, text=True, check=True)
            row[f"{n} images"] = f"{float(done.stdout.splitlines()[-1]):.0f}"
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Print the two tables."""
    torch.set_num_threads(cores())
    print(f"Grad-CAM of the last layer, batches of {BATCH}, {cores()} threads, {ROUNDS} rounds by turns")
    print(
        pd.DataFrame([speed_row(name) for name in NETWORKS]).T.to_string(header=False), end="\n\n", flush=True
    )
    print(f"peak memory beyond the network and the maps, MiB, batches of {BATCH}")
    print(memory_table().to_string(index=False))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(peak(*json.loads(sys.argv[1])))
    else:
        main()
