"""`xraykit predict` against plain PyTorch: the first answer of a cold start, the rate after it, memory.

Run as ``python tests/benchmarks/bench_predict.py``; takes about five minutes, with ``--quick`` two. Both load
the same weights and the same scikit-learn head and read the same PNG files; plain PyTorch takes one image at
a time in fp32, from a state dict and a joblib file, and asks for no distance. Cold starts are processes of
their own, the files in the page cache; the rate is of rounds by turns in one process. Let nothing else run.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

NETWORKS = ("phantom", "squeezenet1_0:random")
SHOTS = 20  # labelled images a class of the bundles
SIDE = 512  # of the files

# What somebody writes without this package; the encoder of phantom is the one class that they need from it.
PLAIN = """
import json, sys
import joblib, numpy as np, torch
from PIL import Image

def network(about):
    if about["architecture"] == "phantom":
        from xraykit.nets import SmallEncoder
        maps = SmallEncoder(about["width"])
    else:
        from torchvision import models
        maps = models.get_model(about["architecture"], weights=None).features
    maps.load_state_dict(torch.load(about["weights"], weights_only=True))
    return maps.eval(), joblib.load(about["head"])

@torch.no_grad()
def predict(maps, head, about, path):
    grey = Image.open(path).convert("L").resize((about["size"],) * 2, Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.asarray(grey, np.float32) / 255)[None, None]
    x = (x - torch.tensor(about["mean"]).view(1, -1, 1, 1)) / torch.tensor(about["std"]).view(1, -1, 1, 1)
    return head.predict_proba(maps(x).mean(dim=(2, 3)).numpy())[0, 1]
"""
PLAIN_ONE = PLAIN + "about = json.loads(sys.argv[1])\nprint(predict(*network(about), about, sys.argv[2]))\n"
# Freed memory goes back to the system, so that what a process holds is what it uses.
RETURNING = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def main() -> None:
    """Print the three tables."""
    quick = "--quick" in sys.argv
    rounds, n, counts = (2, 48, (64, 256)) if quick else (7, 256, (128, 1024))
    with tempfile.TemporaryDirectory(prefix="xraykit-bench-") as folder:
        paths = files(Path(folder) / "images", n)
        made = {name: bundle_of(name, Path(folder)) for name in NETWORKS}
        print(f"time to the first answer, processes by turns, {rounds} rounds", flush=True)
        print(
            pd.DataFrame([cold(*made[name], paths[0], rounds) for name in NETWORKS]).T.to_string(header=False)
        )
        print(f"\n{n} files of {SIDE} pixels, {rounds} rounds by turns", flush=True)
        print(
            pd.DataFrame([stream(*made[name], paths, rounds) for name in NETWORKS]).T.to_string(header=False)
        )
        print("\npeak memory beyond that of the first answer, MiB, batches of 32", flush=True)
        print(
            pd.DataFrame([memory(made[name][0], paths, counts) for name in NETWORKS]).to_string(index=False)
        )


def files(folder: Path, n: int) -> list[Path]:
    """Grey PNG files of smooth noise, as large as X-rays of the same pixels."""
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    folder.mkdir()
    rng, paths = np.random.default_rng(0), [folder / f"{i:04d}.png" for i in range(n)]
    for path in paths:
        smooth = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 12) * 1500 + rng.normal(size=(SIDE, SIDE)) * 3
        Image.fromarray(np.clip(smooth + 128, 0, 255).astype(np.uint8)).save(path)
    return paths


def bundle_of(name: str, folder: Path) -> tuple[Path, dict[str, object]]:
    """A bundle on the disk, and the same weights and head for plain PyTorch."""
    import joblib
    import torch

    from xraykit import bundle_build, bundle_files, datasets

    ds = datasets.load("synthetic", size=128, n_patients=90, data_dir=folder / "data", progress=False)
    ill = ds.labels > 0
    rows = np.concatenate([np.flatnonzero(~ill)[:SHOTS], np.flatnonzero(ill)[:SHOTS]])
    about = {"patients": ds.patients[rows], "backbone": name, "name": name}
    bundle = bundle_build.few_shot(ds.images[rows], ill[rows].astype(int), ("normal", "ill"), **about)
    place = bundle_files.save(bundle, folder / name.replace(":", "-"))
    module = bundle.backbone.module
    weights, head = (folder / f"{bundle.architecture}.{suffix}" for suffix in ("pt", "joblib"))
    torch.save(_state(module.maps, bundle.architecture), weights)
    joblib.dump(bundle.head, head)
    statistics = {key: getattr(module, key).flatten().tolist() for key in ("mean", "std")}
    plain = {"architecture": bundle.architecture, "weights": str(weights), "head": str(head), **statistics}
    if bundle.architecture == "phantom":
        plain["width"] = len(module.maps.stem[0].weight)
    return place, {**plain, "size": bundle.size}


def _state(maps: object, architecture: str) -> dict[str, object]:
    """The weights under the names that the plain network has."""
    state = maps.state_dict()
    if architecture == "phantom":
        return state
    return {re.sub(r"^.*?features\.", "", name): tensor for name, tensor in state.items()}


def cold(place: Path, plain: dict[str, object], path: Path, rounds: int) -> dict[str, object]:
    """Seconds from the start of a process to its end with one answer."""
    ours = [
        sys.executable,
        "-m",
        "xraykit.cli",
        "predict",
        str(path),
        "--model",
        str(place),
        "--format",
        "csv",
    ]
    theirs = [sys.executable, "-c", PLAIN_ONE, json.dumps(plain), str(path)]
    answers = {}

    def run(command: Sequence[str]) -> Callable[[], None]:
        def once() -> None:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            answers[command is ours] = done.stdout.splitlines()[-1]

        return once

    ways = {"ours": run(ours), "plain": run(theirs)}
    for way in ways.values():
        way()
    row = turns(ways, rounds)
    difference = abs(float(answers[True].split(",")[3]) - float(answers[False]))
    return {"network": place.name, **row, "difference of the answers": f"{difference:.1e}"}


def stream(place: Path, plain: dict[str, object], paths: list[Path], rounds: int) -> dict[str, object]:
    """Seconds for all files, everything loaded and warm."""
    from xraykit import bundle_files
    from xraykit.bundle import Predictor
    from xraykit.predict import rows

    theirs: dict[str, object] = {}
    exec(PLAIN, theirs)
    network, bundle = theirs["network"](plain), bundle_files.load(place)
    start = time.perf_counter()
    predictors = {"ours": Predictor(bundle)}
    predictors["ours, openvino"] = Predictor(bundle, backend="openvino", batch_size=8)
    compiled = time.perf_counter() - start

    def ours(predictor: Predictor) -> list[float]:
        return [row["p_ill"] for row in rows(predictor, paths, on_unreadable=lambda path, why: None)]

    def one_by_one() -> list[float]:
        return [theirs["predict"](*network, plain, path) for path in paths]

    ways = {name: lambda p=predictor: ours(p) for name, predictor in predictors.items()}
    ways["plain"] = one_by_one
    said = {name: np.array(way()) for name, way in ways.items()}
    row = turns(ways, rounds)
    difference = abs(said["ours"] - said["plain"]).max()
    return {
        "network": place.name,
        **row,
        "largest difference": f"{difference:.1e}",
        "seconds to compile openvino": f"{compiled:.1f}",
    }


def turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, str]:
    """Median seconds of each way; plain over ours as the median of the rounds, with its spread."""
    took = []
    for _ in range(rounds):
        took.append({})
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            took[-1][name] = time.perf_counter() - start
    row = {f"seconds, {name}": f"{median(one[name] for one in took):.2f}" for name in ways}
    for name in ways:
        if name != "plain":
            ratios = sorted(one["plain"] / one[name] for one in took)
            row[f"plain / {name}"] = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return row


def memory(place: Path, paths: list[Path], counts: Sequence[int]) -> dict[str, object]:
    """Peaks of processes that answer about few files and about many."""
    row: dict[str, object] = {"network": place.name}
    for n in counts:
        many = [str(path) for path in (paths * (1 + n // len(paths)))[:n]]
        command = [sys.executable, __file__, "--child", str(place)]
        done = subprocess.run(
            command, input=json.dumps(many), env=RETURNING, capture_output=True, text=True, check=True
        )
        row[f"{n} files"] = f"{float(done.stdout.splitlines()[-1]):.0f}"
    return row


def child(place: Path) -> None:
    """Print what all the files of the standard input add to the peak of the first."""
    import psutil

    from xraykit import bundle_files
    from xraykit.bundle import Predictor
    from xraykit.predict import rows

    paths = [Path(path) for path in json.load(sys.stdin)]
    predictor = Predictor(bundle_files.load(place))
    for some in (paths[:1], paths):
        # What `resource.getrusage` calls the largest begins with that of the parent; Linux sets this anew.
        Path("/proc/self/clear_refs").write_text("5")
        before = psutil.Process().memory_info().rss
        n = sum(1 for _ in rows(predictor, some, on_unreadable=lambda path, why: None))
        assert n == len(some)
    (largest,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print((int(largest) * 1024 - before) / 2**20)


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(Path(sys.argv[2]))
    else:
        main()
