"""Every method of the series side by side: on the images that all of them answered, in pairs.

`lineup` and `shot_table` read scores from the ledger; `score_table` and `pairs` compute from the answers that
predictions.parquet kept image by image (of some draws; the ledger's medians are over all of them).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from xraykit.comparison_lineup import KEY, METRICS, kept_keys, lineup, shot_table
from xraykit.errors import DataError
from xraykit.intervals import Interval, difference_interval, judged_by_holm, limits, resampling_weights
from xraykit.metrics import score_all

__all__ = ["Answers", "answers", "lineup", "pairs", "score_table", "shot_table"]

LEAST = 50  # images; with fewer an AUROC is hardly known


@dataclass(frozen=True)
class Answers:
    """What several methods said of the same N test images.

    Attributes:
        image_ids: (N,) of the images.
        y: class codes (N,) into `classes`.
        patients: ids (N,).
        classes: K names, ``normal`` first where there is one, the others by name.
        draws: for each method its probabilities, float64 (D, N, K) in 0..1; D differs between methods.
        drawn: for each method what its draws are draws of; those of methods with the same text belong
            together, first to first (same support sets), and are resampled together.
        n_images: for each method how many test images it answered.
    """

    image_ids: np.ndarray
    y: np.ndarray
    patients: np.ndarray
    classes: tuple[str, ...]
    draws: dict[str, np.ndarray]
    drawn: dict[str, str]
    n_images: dict[str, int]


def answers(
    folder: str | Path,
    task: str,
    *,
    methods: Sequence[str] | None = None,
    least: int = LEAST,
    profile: str | None = None,
) -> Answers:
    """The answers of `methods` (names of `lineup`; None for all that kept theirs) on the images they share.

    Quick runs on synthetic patients differ in size between notebooks, so some images have answers of some
    methods alone; those are left out.

    Raises:
        DataError: a method without kept answers, fewer than `least` shared images or a class without any, or
            two methods that disagree about an image's label or patient.
    """
    kept, profile = kept_keys(folder, profile)
    rows = lineup(folder, task, profile=profile)
    rows = rows[rows["key"].isin(list(kept.itertuples(index=False, name=None)))]
    names = list(rows["name"]) if methods is None else list(dict.fromkeys(methods))
    missing = [name for name in names if name not in set(rows["name"])]
    if missing or not names:
        raise DataError(f"no kept answers of {missing or 'any method'}; choose from {rows['name'].tolist()}")
    chosen = rows.set_index("name").loc[names, "key"]
    wanted = [("task", "in", sorted({key[1] for key in chosen})), ("profile", "==", profile)]
    wanted += [("setting", "==", "inductive"), ("target", "==", "")]
    table = pd.read_parquet(Path(folder) / "predictions.parquet", filters=wanted)
    groups = {key: part for key, part in table.groupby(list(KEY)) if key in set(chosen)}
    return _shared({name: _one(name, groups[key]) for name, key in chosen.items()}, chosen, least=least)


def _one(name: str, rows: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, tuple[str, ...]]:
    """Of one method the images (``label, patient_id`` by image_id), scores (D, N, K), and classes."""
    order = {c: (c.lower() != "normal", c) for c in rows["class"].unique()}
    classes = tuple(sorted(order, key=order.get))
    rows = rows.assign(place=rows["class"].map({c: i for i, c in enumerate(classes)}))
    rows = rows.sort_values(["draw", "image_id", "place"])
    d, n, k = rows["draw"].nunique(), rows["image_id"].nunique(), len(classes)
    if len(rows) != d * n * k or rows.duplicated(["draw", "image_id", "class"]).any():
        raise DataError(
            f"{name}: {len(rows)} answers are not {d} draws x {n} images x {k} classes; "
            "run its notebook again"
        )
    first = rows.iloc[: n * k]
    label = first["label"].to_numpy().reshape(n, k).argmax(axis=1)
    images = first.iloc[::k].set_index("image_id")[["patient_id"]].assign(label=label)
    return images, rows["score"].to_numpy(float).reshape(d, n, k), classes


def _shared(found: dict[str, tuple], chosen: pd.Series, *, least: int) -> Answers:
    """Of each method the answers on the images that all have."""
    (first, (images, _, classes)), *others = found.items()
    for name, (more, _, of_name) in others:
        if of_name != classes:
            raise DataError(f"{name} has the classes {of_name}, {first} has {classes}; compare one task only")
        both = images.index.intersection(more.index)
        if not images.loc[both].equals(more.loc[both]):
            raise DataError(
                f"{first} and {name} disagree about the label or patient of an image they share; their "
                "notebooks ran on different data: run both again"
            )
        images = images.loc[both]
    counts = np.bincount(images["label"], minlength=len(classes))
    n_images = {name: len(part[0]) for name, part in found.items()}
    if len(images) < least or not counts.all():
        shared = ", ".join(f"{n} {c}" for n, c in zip(counts, classes, strict=True))
        raise DataError(
            f"the {len(found)} methods share {len(images)} test images ({shared}); {least} "
            f"and one of each class are needed. They answered {n_images}: leave out the smallest, or run "
            "their notebooks with as many patients"
        )
    draws = {name: part[1][:, part[0].index.get_indexer(images.index)] for name, part in found.items()}
    drawn = {name: f"{key[0]} {key[-1]} {len(draws[name])}" for name, key in chosen.items()}
    patients = images["patient_id"].to_numpy(object)
    ids, y = images.index.to_numpy(object), images["label"].to_numpy()
    return Answers(ids, y, patients, classes, draws, drawn, n_images)


def score_table(said: Answers, *, metric: str = "auroc", seed: int = 0, n_boot: int = 1000) -> pd.DataFrame:
    """Median over draws of `metric` of each method on the shared images, with its 95% interval.

    Args:
        metric: of `METRICS`; for two classes macro-F1 and balanced accuracy split at one half.
        seed, n_boot: of the resamplings of patients and draws, and how many.

    Returns:
        ``name, value, ci_low, ci_high, text, n_draws, n_test, n_patients, n_answered`` (images that the
        method answered, shared or not).
    """
    rows = []
    for name, samples in _resampled(said, metric, seed=seed, n_boot=n_boot).items():
        found = Interval(float(samples[0]), *limits(samples[1:]))
        row = {"name": name, **{c: getattr(found, c) for c in ("value", "ci_low", "ci_high")}}
        rows.append({**row, "text": str(found), "n_draws": len(said.draws[name]), **_size(said)})
        rows[-1]["n_answered"] = said.n_images[name]
    return pd.DataFrame(rows)


def pairs(
    said: Answers,
    *,
    metric: str = "auroc",
    reference: str | None = None,
    seed: int = 0,
    n_boot: int = 1000,
) -> pd.DataFrame:
    """How far the methods differ in `metric` on the same images, in pairs.

    Patients are resampled together for all methods, and draws for each, together where they belong together
    (`Answers.drawn`), so methods may have different numbers of draws; with equal draws this is
    `intervals.paired_differences`, whose p-value it uses. Holm's (1979) correction is over all rows returned.

    Args:
        reference: compare each method with this one; None for all pairs.
        metric, seed, n_boot: of `score_table`.

    Returns:
        ``first, second, difference`` (first minus second, of medians over draws)``, ci_low, ci_high, text, p,
        p_holm, verdict`` (told apart where ``p_holm < 0.05``)``, n_test, n_patients``.

    Raises:
        DataError: fewer than two methods, a reference that is none of them, an unknown metric, or a metric
            that needs a threshold from the anomaly detector.
    """
    names = list(said.draws)
    if len(names) < 2 or reference not in (None, *names):
        raise DataError(f"{len(names)} methods, reference {reference!r}; give two or more and one of {names}")
    samples = _resampled(said, metric, seed=seed, n_boot=n_boot)
    both = combinations(names, 2) if reference is None else ((n, reference) for n in names if n != reference)
    rows = []
    for a, b in both:
        n_draws = min(len(said.draws[a]), len(said.draws[b]))
        found = difference_interval(samples[a] - samples[b], n_draws=n_draws, n_test=len(said.y))
        row = {"first": a, "second": b, "difference": found.value, "ci_low": found.ci_low}
        rows.append({**row, "ci_high": found.ci_high, "text": str(found), "p": found.p_value})
    return judged_by_holm(pd.DataFrame(rows)).assign(**_size(said))


def _size(said: Answers) -> dict[str, int]:
    return {"n_test": len(said.y), "n_patients": len(set(said.patients))}


def _resampled(said: Answers, metric: str, *, seed: int, n_boot: int) -> dict[str, np.ndarray]:
    """For each method the observed metric and then the resampled ones, (n_boot + 1,): medians over draws."""
    if metric not in METRICS:
        raise DataError(f"metric {metric!r} is not one of {METRICS}")
    unset = [name for name in said.draws if name.startswith("anomaly: ")]
    if metric != "auroc" and unset:
        raise DataError(
            f"{unset} rank images and have no threshold for {metric}; leave them out, or take auroc"
        )
    rng = np.random.default_rng(seed)
    weights = resampling_weights(len(said.y), said.patients, n_boot=n_boot, rng=rng)
    out = {}
    for name, draws in said.draws.items():
        scored = [score_all(said.y, p, names=[metric], weights=weights)[metric] for p in draws]
        rng = np.random.default_rng([seed, zlib.crc32(said.drawn[name].encode())])
        pick = rng.integers(len(draws), size=(len(draws), n_boot + 1))
        pick[:, 0] = np.arange(len(draws))
        out[name] = np.median(np.take_along_axis(np.stack(scored), pick, axis=0), axis=0)
    return out
