"""Synthetic images per second on one core, masks and boxes included.

Run as ``python tests/benchmarks/bench_synthetic.py``; the target is 200 images/s at 224 pixels.
"""

import time

import cv2
import numpy as np
import pandas as pd

from xraykit.datasets import synthetic


def rates(name: str, size: int, *, n_patients: int = 60, repeats: int = 5) -> dict[str, object]:
    """Images/s of `repeats` runs on new patients; CPU time is what one undisturbed core would need."""
    synthetic.generate(range(5), name=name, size=size)  # textures and first use
    wall, cpu, images = [], [], 0
    for k in range(repeats):
        patients = range(1000 * (k + 1), 1000 * (k + 1) + n_patients)
        t, c = time.perf_counter(), time.process_time()
        made = len(synthetic.generate(patients, name=name, size=size)[0])
        wall.append(made / (time.perf_counter() - t))
        cpu.append(made / (time.process_time() - c))
        images += made
    return {
        "data set": name,
        "size": size,
        "images": images,
        "images/s (median)": round(float(np.median(wall))),
        "images/s (best)": round(max(wall)),
        "images per CPU second (median)": round(float(np.median(cpu))),
    }


def main() -> None:
    cv2.setNumThreads(1)
    table = pd.DataFrame([rates(name, size) for name in synthetic.NAMES for size in (224, 64)])
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
