"""Steps of meta-training: loop against vmap, and memory against inner steps.

Run as ``python tests/benchmarks/bench_maml.py``; takes about a minute and a half on two cores. Let nothing
else run: the ratio is of outer steps by turns in one process. Memory is that of one task, the largest of an
outer step (`loop` has one task's graph at a time), each number from a process of its own.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import psutil
import torch

from xraykit import classifiers, maml
from xraykit.datasets import XrayDataset
from xraykit.devices import launch
from xraykit.episodes import Tasks
from xraykit.maml import Inner, Learner
from xraykit.maml_training import MetaConfig, Work, outer_step
from xraykit.threads import cores

NETWORK, SIDE = "cnn-small-group-norm", 64
TASKS, SHOTS, QUERIES = 8, 5, 10
ROUNDS, INNER_STEPS = 7, 3
MEMORY_STEPS = (1, 3, 5, 10)
# Freed memory goes back to the system, so that what a process holds is what it uses.
RETURNING = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def data(n: int = 200) -> XrayDataset:
    """Noise with two findings; what the images show moves no time."""
    rng = np.random.default_rng(0)
    records = pd.DataFrame({"Mass": np.arange(n) // 2 % 2, "Nodule": np.arange(n) % 2}).assign(split="train")
    records["image_id"] = records["patient_id"] = [f"p{i}" for i in range(n)]
    images = rng.integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8)
    return XrayDataset("noise", images, records, ("Mass", "Nodule"), "multilabel", "", "")


def work_of(inner: Inner, device: str, how: str) -> Work:
    """Tasks of one finding; the other one, whose images are the same, is only there to fill the place."""
    ds, about = data(), {"shots": SHOTS, "queries": QUERIES, "seed": 0}
    tasks, unused = (Tasks(ds, np.arange(len(ds)), [finding], **about) for finding in ds.classes)
    fabric = launch(device, "fp32", devices=1, num_nodes=1)
    learner = Learner(classifiers.build(NETWORK, 1), inner).to(device).train()
    return Work(learner, ds, tasks, unused, MetaConfig(tasks=TASKS, tasks_at_once=how), fabric)


def seconds(work: Work, step: int) -> float:
    """Of one outer step, which moves nothing, so that all steps compute alike."""
    still = torch.optim.SGD(work.learner.parameters(), lr=0.0)
    start = time.perf_counter()
    outer_step(work, still, step)  # ends with numbers on the CPU, and so waits for the device
    return time.perf_counter() - start


def speed_table() -> pd.DataFrame:
    """Seconds of an outer step; the ratio is the median over the rounds, each of both ways."""
    rows = []
    for device in DEVICES:
        for second_order in (True, False):
            inner = Inner(INNER_STEPS, 0.01, second_order)
            ways = {how: work_of(inner, device, how) for how in ("loop", "vmap")}
            for work in ways.values():
                seconds(work, 0)  # warms up
            took = [{how: seconds(work, 1 + turn) for how, work in ways.items()} for turn in range(ROUNDS)]
            ratios = [one["loop"] / one["vmap"] for one in took]
            rows.append(
                {
                    "device": device,
                    "order": 2 if second_order else 1,
                    **{f"s {how}": f"{median(one[how] for one in took):.3f}" for how in ways},
                    "loop / vmap": f"{median(ratios):.2f}",
                    "from": f"{min(ratios):.2f}",
                    "to": f"{max(ratios):.2f}",
                }
            )
    return pd.DataFrame(rows)


def peak(device: str, steps: int, second_order: bool) -> float:
    """MiB that the query loss of one task and its slopes add to what was there; run in a fresh process."""
    torch.set_num_threads(cores())
    work = work_of(Inner(steps, 0.01, second_order), device, "loop")
    learner, generator = work.learner, torch.Generator().manual_seed(0)

    def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.rand(n, 1, SIDE, SIDE, generator=generator)
        return x.to(device), (torch.arange(n) % 2)[:, None].float().to(device)

    def once(support: tuple, query: tuple) -> None:
        maml.query_loss(learner, learner.weights(), support, query)[0].backward()

    # A task of one image a class and no more: code and libraries are loaded, and the slopes are there.
    once(batch(2), batch(2))
    support, query = batch(2 * SHOTS), batch(2 * QUERIES)
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        once(support, query)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # What `resource.getrusage` calls the largest begins with that of the parent, which Linux sets anew so.
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    once(support, query)
    (largest,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return (int(largest) * 1024 - before) / 2**20


def memory_table() -> pd.DataFrame:
    """Peaks by device and order, one column for each number of inner steps."""
    rows = []
    for device in DEVICES:
        for second_order in (True, False):
            found = {}
            for steps in MEMORY_STEPS:
                command = [sys.executable, __file__, json.dumps([device, steps, second_order])]
                done = subprocess.run(command, env=RETURNING, capture_output=True, text=True, check=True)
                found[steps] = float(done.stdout.splitlines()[-1])
            slope = np.polyfit(list(found), list(found.values()), 1)[0]
            rows.append(
                {
                    "device": device,
                    "order": 2 if second_order else 1,
                    **{f"{steps} steps": f"{mib:.0f}" for steps, mib in found.items()},
                    "MiB a step": f"{slope:.1f}",
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Print the two tables."""
    torch.set_num_threads(cores())
    print(
        f"an outer step of {TASKS} tasks, {SHOTS} shots and {QUERIES} queries a class, {SIDE} pixels, "
        f"{NETWORK}, {INNER_STEPS} inner steps; {cores()} threads, {ROUNDS} rounds by turns"
    )
    print(speed_table().to_string(index=False), end="\n\n", flush=True)
    print("peak memory of one task beyond the network, MiB, by inner steps")
    print(memory_table().to_string(index=False))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(peak(*json.loads(sys.argv[1])))
    else:
        main()
