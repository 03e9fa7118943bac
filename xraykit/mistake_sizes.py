"""How much each published mistake lies, read from the ledgers of the notebooks that made it on purpose."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from xraykit import results
from xraykit.errors import DataError

COLUMNS = ("project", "mistake", "notebook", "tag", "task", "metric", "published", "honest", "remark")


def read(path: str | Path) -> pd.DataFrame:
    """The table of mistakes, text in the columns `COLUMNS`; empty where a mistake has no number of its own.

    ``task`` may name several, of which the first counts that the ledger has. ``published`` and ``honest`` are
    methods of the ledger, ``honest`` also a number; alone, ``published`` is a difference. ``metric`` has two
    names with a bar between them where the two sides were scored differently. ``remark`` says what is
    compared, or why nothing can be.

    Raises:
        DataError: other columns, or a mistake with neither a metric nor a remark.
    """
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    if tuple(rows.columns) != COLUMNS:
        raise DataError(f"{path} has the columns {list(rows.columns)}; it must have {list(COLUMNS)}")
    silent = rows[(rows["metric"] == "") & (rows["remark"] == "")]
    if len(silent):
        raise DataError(f"{path}: {silent['mistake'].iloc[0]!r} has no metric; say in its remark why not")
    return rows


def sizes(mistakes: pd.DataFrame, folders: Mapping[str, Path]) -> pd.DataFrame:
    """Each mistake on each data set that has its numbers.

    Args:
        mistakes: from `read`.
        folders: folder of ``results.csv`` by data set.

    Returns:
        One row a mistake and data set, in this order: ``project, mistake, notebook, data, metric, honest,
        published, difference, ci_low, ci_high, remark``. ``honest`` and ``published`` are for reading;
        ``difference``, published minus honest, has an interval where it was measured in pairs, else NaN.
    """
    found = []
    ledgers = {name: results.numbers(folder) for name, folder in folders.items()}
    for mistake in mistakes[mistakes["metric"] != ""].itertuples(index=False):
        for data, ledger in ledgers.items():
            pair = _pair(ledger[ledger["notebook"] == mistake.notebook], mistake)
            if pair is None:
                continue
            about = {"project": mistake.project, "mistake": mistake.mistake, "notebook": mistake.notebook}
            found.append({**about, "data": data, **pair, "remark": mistake.remark})
    return pd.DataFrame(found)


def _pair(ledger: pd.DataFrame, mistake: object) -> dict[str, object] | None:
    """Both sides of one mistake in one ledger; None where it was not measured."""
    wrong_metric, _, right_metric = mistake.metric.partition("|")
    wrong = _first(ledger, tasks=mistake.task, metric=wrong_metric, method=mistake.published)
    if wrong is None:
        return None
    whole = f"{wrong_metric} against {right_metric}" if right_metric else wrong_metric
    if not mistake.honest and not right_metric:  # the ledger's row is the difference itself
        gap = {"difference": wrong["value"], "ci_low": wrong["ci_low"], "ci_high": wrong["ci_high"]}
        return {"metric": whole.removesuffix(" difference"), "honest": "", "published": "", **gap}
    if mistake.honest.isdigit():
        right = pd.Series({"value": float(mistake.honest)})
    else:
        method = mistake.honest or wrong["method"]
        right = _first(
            ledger, tasks=mistake.task, metric=right_metric or wrong_metric, method=method, like=wrong
        )
    if right is None:
        return None
    gap = {"difference": wrong["value"] - right["value"], "ci_low": np.nan, "ci_high": np.nan}
    return {"metric": whole, "honest": _text(right), "published": _text(wrong), **gap}


def _text(row: pd.Series) -> str:
    """A value with its interval where it has one, three digits."""
    return row["text"] if pd.notna(row.get("ci_low")) else f"{row['value']:.3f}"


def _first(
    ledger: pd.DataFrame, *, tasks: str, metric: str, method: str, like: pd.Series | None = None
) -> pd.Series | None:
    """The row of a method (any, where it is empty) and metric, of the first task that has one.

    Of several, the one with the shots, backbone and split of `like`, as far as there is one; without `like`
    that of ten shots.
    """
    rows = ledger[(ledger["metric"] == metric) & ((ledger["method"] == method) | (method == ""))]
    wanted = {"shots": "10"} if like is None else dict(like[["shots", "backbone", "split"]])
    for task in tasks.split(";"):
        here = rows[rows["task"] == task]
        for column, value in wanted.items():
            same = here[here[column] == value]
            here = same if len(same) else here
        if len(here):
            return here.iloc[0]
    return None
