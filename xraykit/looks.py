"""Looks at held-out patients: scores with intervals, into the ledger and, for the test split, its log."""

from collections.abc import Mapping, Sequence

import numpy as np

from xraykit import intervals, pixel_baseline
from xraykit.classifiers import kind_of
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.intervals import Interval
from xraykit.results import Run
from xraykit.training_config import EVALUATED

Scores = dict[str, Interval]


def judge(
    run: Run,
    ds: XrayDataset,
    parts: Mapping[str, np.ndarray],
    p: Mapping[str, Sequence[np.ndarray]],
    *,
    task: str,
    method: str,
    boot: Mapping[str, int],
    names: Sequence[str] = (),
    threshold: float = 0.5,
    seconds: float | None = None,
    settings: Mapping[str, object] | None = None,
    **about: str,
) -> dict[str, Scores]:
    """Scores of classes on each part, recorded; a part of test images is logged as a look at test.

    Args:
        parts: positions in `ds` of each part, such as ``development`` and ``test``.
        p: for each part the probabilities (M, K) of each draw or seed.
        task, method, about: of `Run.record`.
        boot: ``n_boot`` and ``seed`` of `intervals.bootstrap`.
        names: metrics; empty for the usual ones of two classes or more.
        threshold: of the positive class of two.
        seconds: of training, for the ledger of full runs.
        settings: what else decided the answers, such as how they were trained; for the log.

    Raises:
        DataError: a part of test images and others.
    """
    about = {"task": task, "method": method, **about}
    names = list(names or EVALUATED[kind_of(ds)])
    found = {}
    for part, answers in p.items():
        rows, how = parts[part], {"names": names, "threshold": threshold, **boot}
        found[part] = intervals.bootstrap(ds.labels[rows], answers, ds.patients[rows], **how)
        decided = {"threshold": round(float(threshold), 4), **(settings or {})}
        keep(run, ds, rows, found[part], settings=decided, seconds=seconds, **about)
    return found


def judge_one(
    run: Run, ds: XrayDataset, rows: np.ndarray, p: Sequence[np.ndarray], **about: object
) -> Scores:
    """`judge` of a single part."""
    return judge(run, ds, {"part": rows}, {"part": p}, **about)["part"]


def split_of(ds: XrayDataset, rows: np.ndarray) -> str:
    """``"test"`` for images of the test split, ``"development"`` for others.

    Raises:
        DataError: some are and some are not.
    """
    of_test = (ds.records["split"].to_numpy()[rows] == "test").mean()
    if of_test not in (0, 1):
        raise DataError(f"{of_test:.0%} of these {len(rows)} images are of the test split; take all or none")
    return "test" if of_test else "development"


def baselines(
    ds: XrayDataset, train: np.ndarray, parts: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list[np.ndarray]]]:
    """What must be beaten, by method and part: the constant answer, and logistic regression on 16x16 pixels.

    The constant is the positive class of two, else the commonest class of `train`.
    """
    features = {part: pixel_baseline.pixel_features(ds.images[rows]) for part, rows in parts.items()}
    seen, labels, k = pixel_baseline.pixel_features(ds.images[train]), ds.labels[train], len(ds.classes)
    answer = 1 if k == 2 else int(np.bincount(labels).argmax())
    constant = {part: [np.tile(np.eye(k)[answer], (len(rows), 1))] for part, rows in parts.items()}
    pixels = {
        part: [pixel_baseline.fit_predict(seen, labels, x, n_classes=k)] for part, x in features.items()
    }
    return {f"always {ds.classes[answer]}": constant, "logistic regression, pixels": pixels}


def gain(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    p: Sequence[np.ndarray],
    baseline: np.ndarray,
    *,
    metric: str,
    method: str,
    boot: Mapping[str, int],
    **about: str,
) -> Interval:
    """What the draws `p` have more than the one `baseline` on the same images, in pairs; recorded.

    Args:
        p, baseline: probabilities (M, K) of the images `rows`, of each draw and of the baseline.
        method, about: of `Run.record`.
    """
    pair = (list(p), [baseline] * len(p), ds.patients[rows])
    found = intervals.paired_differences(ds.labels[rows], *pair, names=[metric], **boot)[metric]
    keep(run, ds, rows, {f"{metric} difference": found}, method=method, **about)
    return found


def keep(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    scores: Scores,
    *,
    settings: Mapping[str, object] | None = None,
    seconds: float | None = None,
    **about: str,
) -> str:
    """Scores of the images `rows` into the ledger and, where they are of the test split, its log.

    Args:
        settings: what else decided them; for the log.
        seconds: of training, for the ledger of full runs.
        about: of `Run.record`.

    Returns:
        The split, see `split_of`.
    """
    split = split_of(ds, rows)
    run.record_scores(scores, split=split, train_seconds=seconds, **about)
    if split == "test":
        log(run, about | dict(settings or {}), scores)
    return split


def log(run: Run, about: Mapping[str, object], scores: Scores) -> None:
    """Append a look at test: what was looked at, and the scores."""
    run.log_test({**about, "seed": run.seed}, {name: value.value for name, value in scores.items()})
