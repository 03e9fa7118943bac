"""Seconds for the audit tables and the patient-grouped split of 112,120 rows, beside two libraries.

Run: ``python tests/benchmarks/bench_splits.py``. With XRAYKIT_NIH_LABELS_DIR set it uses the real NIH labels,
else random ones of the same shape. Neither library does the whole task: iterative-stratification divides
patients (one row is one sample), and StratifiedGroupKFold keeps patients whole but takes one label an image.
"""

import os
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from sklearn.model_selection import StratifiedGroupKFold

from xraykit.audit import audit
from xraykit.datasets.nih_labels import read_labels
from xraykit.splits import feasible_shots, k_shot_draw, patient_folds

ROWS, PATIENTS, LABELS, FOLDS = 112_120, 30_805, 15, 5


def labels_table() -> tuple[pd.DataFrame, list[str], str]:
    folder = os.environ.get("XRAYKIT_NIH_LABELS_DIR")
    if folder:
        table = read_labels(folder)
        return table, table.columns[table.dtypes == np.uint8].to_list(), "NIH ChestX-ray14"
    rng = np.random.default_rng(0)
    names = [f"finding {k}" for k in range(LABELS)]
    onehot = rng.random((ROWS, LABELS)) < np.geomspace(0.002, 0.5, LABELS)
    # A few patients with many images, as in the real table.
    patient = (rng.random(ROWS) ** 2 * PATIENTS).astype(int).astype(str)
    return pd.DataFrame(onehot.astype(np.uint8), columns=names).assign(patient_id=patient), names, "random"


def seconds(task: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = task()
    return time.perf_counter() - start, result


def k_fold(splitter: object, rows: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    fold = np.empty(len(rows), int)
    for f, (_, test) in enumerate(splitter.split(rows, labels, groups)):
        fold[test] = f
    return fold


def deviation(onehot: np.ndarray, fold: np.ndarray) -> float:
    share = np.stack([onehot[fold == f].sum(axis=0) for f in range(FOLDS)]) / onehot.sum(axis=0)
    return float(np.abs(share - 1 / FOLDS).mean())


def divided(patients: np.ndarray, fold: np.ndarray) -> int:
    """Patients with images in more than one fold."""
    pieces = pd.DataFrame({"patient": patients, "fold": fold}).drop_duplicates()
    return int((pieces["patient"].value_counts() > 1).sum())


def print_tables(table: pd.DataFrame, names: list[str], one_label: np.ndarray) -> None:
    took, _ = seconds(lambda: audit(table, names))
    print(f"audit tables {took:.2f} s")
    patients = table["patient_id"].to_numpy()
    took, feasible = seconds(lambda: feasible_shots(one_label, patients))
    print(f"feasible_shots {took:.2f} s")
    k = min(feasible, 20)
    took, _ = seconds(lambda: k_shot_draw(one_label, patients, k=k, rng=np.random.default_rng(0)))
    print(f"a draw of {k} images a class {took:.2f} s\n")


def print_splits(onehot: np.ndarray, patients: np.ndarray, one_label: np.ndarray) -> None:
    fractions, rng = [1 / FOLDS] * FOLDS, np.random.default_rng(0)
    group_fold = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    image_fold = MultilabelStratifiedKFold(n_splits=FOLDS, shuffle=True, random_state=0)
    tasks = {
        "xraykit, multilabel by patient": lambda: patient_folds(
            onehot, patients, fractions=fractions, rng=rng
        ),
        "xraykit, rarest label by patient": lambda: patient_folds(
            one_label, patients, fractions=fractions, rng=rng
        ),
        "StratifiedGroupKFold, rarest label": lambda: k_fold(group_fold, onehot, one_label, patients),
        "iterstrat, multilabel by image": lambda: k_fold(image_fold, onehot, onehot, None),
    }
    print(f"{'split':<36}{'seconds':>8}{'ratio':>8}{'label deviation':>17}{'patients divided':>18}")
    first = None
    for name, task in tasks.items():
        took, fold = seconds(task)
        first = first or took
        quality = f"{deviation(onehot, fold):>17.5f}{divided(patients, fold):>18,}"
        print(f"{name:<36}{took:>8.2f}{took / first:>8.1f}{quality}")


def main() -> None:
    table, names, source = labels_table()
    onehot, patients = table[names].to_numpy(np.uint8), table["patient_id"].to_numpy()
    one_label = np.where(
        onehot.any(axis=1), np.where(onehot, onehot.sum(axis=0), ROWS).argmin(axis=1), LABELS
    )
    print(
        f"{source}: {len(table):,} rows, {len(set(patients)):,} patients, {len(names)} labels, {FOLDS} folds"
    )
    print_tables(table, names, one_label)
    print_splits(onehot, patients, one_label)


if __name__ == "__main__":
    main()
