"""Which rows of the ledger are the methods of the series, and what each scored on test.

Everything is found in ``results.csv`` and ``predictions.parquet`` of one folder ``figures/<dataset>``: the
methods of the series are those whose answers were kept image by image, beside the trivial answer, the
networks of notebook 05 and, for two classes, the anomaly detector. A row marked post hoc or transductive, or
made to show a mistake, kept no answers and is none of them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from xraykit import results
from xraykit.errors import DataError, DataNotFoundError

TASKS = ("binary", "3-class")
METRICS = ("auroc", "macro_f1", "balanced_accuracy")
FAMILIES = ("baseline", "anomaly detector", "few-shot", "few-shot, other features", "network")
NETWORKS = ("CNN", "from scratch", "frozen", "fine-tuned")
PIXELS = "logistic regression on pixels"
KEY = ("notebook", "task", "method", "backbone", "shots")
ALL = float("inf")  # shots of a method that is fitted on all training images


def lineup(
    folder: str | Path, task: str, *, shots: Sequence[int] | None = None, profile: str | None = None
) -> pd.DataFrame:
    """Every method of the series with its test scores, one row each, trivial answers first.

    Args:
        folder: ``figures/<dataset>``.
        task: ``"binary"`` or ``"3-class"``. The anomaly detector tells ill from normal, so it is a row of
            ``"binary"``, with AUROC alone: it has no threshold that was chosen for macro-F1.
        shots: labelled images a class of the few-shot rows to keep; None for all. Other rows stay.
        profile: ``"quick"`` or ``"full"``; None for full where the ledger has such a row, else quick.

    Returns:
        ``name`` (unique, for figures and `comparison.pairs`), ``method, family, backbone, labels`` (images a
        class, as text), ``train_seconds`` (NaN in quick runs), ``auroc, macro_f1, balanced_accuracy`` (text
        with 95% interval, empty where none was recorded), ``notebook, n_test, n_draws``; the same as numbers
        (``auroc_value, auroc_low, auroc_high``, ...), ``shots`` (0 for no label, infinite for all, NaN for a
        constant), ``ledger`` (the method's name in results.csv) and ``key`` (of predictions.parquet).

    Raises:
        DataNotFoundError: no predictions.parquet. DataError: an unknown task, or no such row.
    """
    if task not in TASKS:
        raise DataError(f"task {task!r} is not one of {TASKS}; other tasks have other methods")
    kept, profile = kept_keys(folder, profile)
    found = _chosen(_wide(folder, task, profile), kept)
    if found.empty:
        raise DataError(
            f"{folder}/results.csv has no {profile} test rows of the task {task!r}; run the notebooks "
            "02, 04, 05 and 06 on this data set, or choose another task or profile"
        )
    found = _named(found, kept)
    if shots is not None:
        few = found["family"].str.startswith("few-shot")
        found = found[~few | found["shots"].isin(list(shots))]
    place = found["family"].map({family: i for i, family in enumerate(FAMILIES)})
    order = ["place", "notebook", "method", "backbone", "shots"]
    columns = ["name", "method", "family", "backbone", "labels", "train_seconds", *METRICS, "notebook"]
    columns += ["n_test", "n_draws", *(f"{m}_{part}" for m in METRICS for part in ("value", "low", "high"))]
    found = found.assign(place=place).sort_values(order, kind="stable")
    return found[[*columns, "shots", "ledger", "key"]].reset_index(drop=True)


def shot_table(folder: str | Path, task: str, metric: str, *, profile: str | None = None) -> pd.DataFrame:
    """One metric against labelled images a class, for `plots.comparison.against_labels`.

    Args:
        metric: of `METRICS`.
        folder, task, profile: of `lineup`.

    Returns:
        ``method, kind, shots, metric, value, ci_low, ci_high``. `kind` is ``"line"`` for the few-shot
        classifiers on the features that most of them use, of the SVC the kernel that was best on
        development; ``"point"`` for networks at their numbers of labels; ``"band"`` for what has no such
        number: the constant answer and the anomaly detector (shots 0), all labels (shots infinite).

    Raises:
        DataError: an unknown metric; and see `lineup`.
    """
    if metric not in METRICS:
        raise DataError(f"metric {metric!r} is not one of {METRICS}")
    profile = kept_keys(folder, profile)[1]
    rows = lineup(folder, task, profile=profile)
    lines = rows[rows["family"] == "few-shot"]
    lines = lines[~lines["ledger"].isin(_beaten_kernels(folder, lines, profile=profile))]
    points = rows[(rows["family"] == "network") & (rows["method"] != "CNN")]
    bands = rows[rows["family"].isin(["baseline", "anomaly detector"]) | (rows["method"] == "CNN")]
    bands = bands.assign(shots=bands["shots"].fillna(0))
    kinds = {"line": lines, "point": points, "band": bands}
    table = pd.concat([part.assign(kind=kind) for kind, part in kinds.items()], ignore_index=True)
    names = {f"{metric}_{part}": to for part, to in zip(("value", "low", "high"), _NUMBERS, strict=True)}
    table = table.drop(columns=metric).rename(columns=names).assign(metric=metric)
    table = table[table["value"].notna()]
    return table[["method", "kind", "shots", "metric", *_NUMBERS]].reset_index(drop=True)


_NUMBERS = ("value", "ci_low", "ci_high")


def kept_keys(folder: str | Path, profile: str | None) -> tuple[pd.DataFrame, str]:
    """Inductive keys (`KEY`) of predictions.parquet and the profile they are of: that given, else full where
    there is one, else quick."""
    path = Path(folder) / "predictions.parquet"
    if not path.exists():
        raise DataNotFoundError(
            f"no {path}; it holds the answers that are compared. Run the notebooks 02, 04, 05 and 06 on this "
            f"data set first: xraykit run 02 04 05 06 --dataset {Path(folder).name}"
        )
    wanted = [("task", "in", [*TASKS, "anomaly"]), ("setting", "==", "inductive"), ("target", "==", "")]
    keys = pd.read_parquet(path, columns=[*KEY, "profile"], filters=wanted).drop_duplicates()
    profile = profile or ("full" if (keys["profile"] == "full").any() else "quick")
    return keys.loc[keys["profile"] == profile, list(KEY)], profile


def _wide(folder: str | Path, task: str, profile: str) -> pd.DataFrame:
    """Test rows of the task and of anomaly detection: one row a `KEY`, columns for each of `METRICS`."""
    rows = results.numbers(folder, profile=profile)
    rows = rows[rows["task"].isin([task, *(["anomaly"] if task == "binary" else [])])]
    rows = rows[(rows["split"] == "test") & (rows["setting"] == "inductive") & (rows["target"] == "")]
    rows = rows[rows["metric"].isin(METRICS)]
    first = rows.groupby(list(KEY), sort=False)[["train_seconds", "n_test", "n_draws"]].first()
    parts = {"text": "", "value": "_value", "ci_low": "_low", "ci_high": "_high"}
    for column, suffix in parts.items():
        cells = rows.pivot_table(column, list(KEY), "metric", aggfunc="first").reindex(columns=list(METRICS))
        first = first.join(
            cells.astype(object).where(cells.notna(), "") if column == "text" else cells.add_suffix(suffix)
        )
    return first.reset_index()


def _chosen(rows: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """The methods of the series, with their ``family``."""
    same = rows[list(KEY)].apply(tuple, axis=1)
    whole = same.isin(list(kept.itertuples(index=False, name=None)))
    pair = list(KEY[:-1])
    at_any_shots = rows[pair].apply(tuple, axis=1).isin(list(kept[pair].itertuples(index=False, name=None)))
    few, main = rows["notebook"] == "04", main_backbone(kept)
    constant = _first_found(rows, ("05", "always "), ("04", "commonest class"))
    pixels = (rows["notebook"] == "02") & whole
    if not pixels.any():
        pixels = _first_found(rows, ("05", "logistic regression, pixels"))
    parts = {
        "baseline": constant | pixels,
        "anomaly detector": (rows["task"] == "anomaly") & whole,
        "few-shot": few & at_any_shots & (rows["backbone"] == main),
        "few-shot, other features": few & whole & (rows["backbone"] != main),
        "network": (rows["notebook"] == "05") & rows["method"].isin(NETWORKS),
    }
    return pd.concat([rows[mask].assign(family=family) for family, mask in parts.items()])


def _first_found(rows: pd.DataFrame, *wanted: tuple[str, str]) -> pd.Series:
    """Where the first of ``(notebook, beginning of the method)`` is that is there at all; else nowhere."""
    masks = [(rows["notebook"] == n) & rows["method"].str.startswith(m) for n, m in wanted]
    return next((mask for mask in masks if mask.any()), masks[0])


def main_backbone(kept: pd.DataFrame) -> str:
    """The backbone of notebook 04 with the most methods; of equals the first by name, of none ``""``."""
    methods = kept[kept["notebook"] == "04"].groupby("backbone")["method"].nunique()
    return str(methods.idxmax()) if len(methods) else ""


def _named(found: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """With labels that a reader understands, and a ``name`` for each row."""
    rows = []
    for row in found.to_dict("records"):
        method = _readable(row["method"], row["family"], row["notebook"])
        constant = row["family"] == "baseline" and method != PIXELS
        healthy = row["family"] == "anomaly detector"
        shots = 0.0 if healthy else float(row["shots"]) if row["shots"] else np.nan if constant else ALL
        labels = "none" if constant else "0 (healthy only)" if healthy else row["shots"] or "all"
        name = method if constant or healthy else f"{method}, {labels}{' a class' if row['shots'] else ''}"
        name += f" ({row['backbone']})" if row["family"] == "few-shot, other features" else ""
        key = tuple(row[k] for k in KEY)
        rows.append({**row, "method": method, "ledger": row["method"], "labels": labels, "name": name})
        rows[-1] |= {"shots": shots, "key": key}
    return pd.DataFrame(rows)


def _readable(method: str, family: str, notebook: str) -> str:
    """A name of the ledger as a reader says it; the scaling of features was chosen on development."""
    if family == "baseline":
        return PIXELS if notebook == "02" or method.endswith("pixels") else method
    if family == "anomaly detector":
        return f"anomaly: {method}"
    if family == "network":
        return method
    base = method.rpartition(", ")[0] or method
    kind, _, kernel = base.partition(" ")
    if kind == "SVC" and kernel:
        return f"SVC ({kernel})"
    return {"nearest class mean": "prototypes"}.get(base, base)


def _beaten_kernels(folder: str | Path, lines: pd.DataFrame, *, profile: str) -> list[str]:
    """SVCs of `lines` (ledger names) that were not the best on development; none where that is not known."""
    keys = lines.loc[lines["method"].str.startswith("SVC"), "key"]
    candidates = sorted({(task, method, backbone) for _, task, method, backbone, _ in keys})
    rows = results.numbers(folder)
    rows = rows[
        (rows["split"] == "development") & (rows["metric"] == "macro_f1") & (rows["notebook"] == "04")
    ]
    scores = rows.groupby(["task", "method", "backbone"])["value"].mean()
    known = {candidate[1]: scores[candidate] for candidate in candidates if candidate in scores.index}
    return [method for method in known if method != max(known, key=known.get)]
