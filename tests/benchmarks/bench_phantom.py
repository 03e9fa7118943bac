"""The score table of phantom's model card: few-shot pneumonia against raw pixels and random weights.

Run as ``python tests/benchmarks/bench_phantom.py`` for development patients: from half of them supports are
drawn, the others are scored. ``--test`` scores the synthetic test split instead, with all patients of train
as the pool. Kermany's training images take part where ``XRAYKIT_KERMANY_DIR`` names them.
"""

import argparse
import os
import tempfile

import numpy as np
import pandas as pd

from xraykit import backbones, datasets, embeddings, fewshot
from xraykit.datasets import XrayDataset
from xraykit.intervals import bootstrap, frame
from xraykit.splits import patient_folds

BACKBONES = ("phantom", "phantom:random", "pixels")
METHOD = "SVC RBF"
METRICS = ("auroc", "macro_f1")


def sets(*, test: bool) -> dict[str, tuple[XrayDataset, np.ndarray, tuple[int, ...]]]:
    """Name to (images, who is scored, shots); the other images are the pool."""
    sizes = {"train": 1000, "val": 0, "test": 500 if test else 0}
    synthetic = datasets.load("synthetic", size=128, split_sizes=sizes, progress=False)
    if test:
        return {"synthetic test": (synthetic, synthetic.records["split"] == "test", (10, 25, 50))}
    found = {"synthetic development": (synthetic, halved(synthetic), (10, 25, 50))}
    if os.environ.get("XRAYKIT_KERMANY_DIR"):
        kermany = datasets.load("kermany", size=128, progress=False).split("train")
        found["kermany development"] = (kermany, halved(kermany), (10, 50, 100))
    return found


def halved(ds: XrayDataset) -> np.ndarray:
    """Bool (N,): the images of half of the patients."""
    patients, rng = ds.records["patient_id"].to_numpy(), np.random.default_rng(0)
    return patient_folds(ds.labels, patients, fractions=(0.5, 0.5), rng=rng) == 1


def scores(ds: XrayDataset, scored: np.ndarray, shots: tuple[int, ...], cache: str) -> pd.DataFrame:
    """Median over draws of each metric, with its 95% interval over patients and draws."""
    scored, patients = np.asarray(scored), ds.records["patient_id"].to_numpy()
    rows = {}
    for name in BACKBONES:
        found = embeddings.extract(ds.images, backbones.load(name), cache_dir=cache, progress=False).features
        pool, test = fewshot.normalise(found[~scored], found[scored], how="l2")
        for task, y in (("binary", (ds.labels > 0).astype(int)), ("3-class", ds.labels)):
            support = fewshot.draws(y[~scored], patients[~scored], shots=shots, n_draws=30, seed=0)
            probabilities = fewshot.evaluate(
                pool, y[~scored], test, support=support, shots=shots, classifiers=[METHOD]
            )
            for k in shots:
                draws = probabilities[METHOD, k]
                rows[task, f"{k}", name] = bootstrap(
                    y[scored], draws, patients[scored], names=METRICS, seed=0, n_boot=500
                )
    return frame(rows, levels=("task", "shots", "backbone"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test", action="store_true", help="score the synthetic test split")
    better = []
    with tempfile.TemporaryDirectory() as cache:
        for name, (ds, scored, shots) in sets(test=parser.parse_args().test).items():
            table = scores(ds, scored, shots, cache)
            print(f"\n{name}: {METHOD}, 30 draws, {int(np.sum(scored))} images scored\n")
            indexed = table.set_index(["task", "shots", "metric", "backbone"])
            print(indexed["text"].unstack(sort=False).to_string())  # noqa: PD010
            values = indexed["value"].unstack(sort=False)  # noqa: PD010
            better.append((name, (values["phantom"] > values.drop(columns="phantom").max(axis=1)).mean()))
    print("\nphantom is the best of the three in " + ", ".join(f"{b:.0%} of {n}" for n, b in better))


if __name__ == "__main__":
    main()
