"""The ledger: every number, figure and look at a test split goes through a `Run`.

Under ``figures/<dataset>/``: ``results.csv`` (one row a number), ``predictions.parquet`` (per-image test
scores), ``manifest.json`` (what made each figure), ``test_log.csv`` (every look at a test split) and the
figures. All are replaced atomically under one lock, so that notebooks may run side by side.
"""

import csv
import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pandas as pd

from xraykit import paths
from xraykit.errors import DataError
from xraykit.intervals import Interval
from xraykit.provenance import commit, versions
from xraykit.storage import locked, write_atomic

TASKS = ("data", "binary", "3-class", "multi-label", "anomaly", "episodes", "localisation")
SETTINGS = ("inductive", "transductive")
SPLITS = ("", "development", "test")
PROFILES = ("quick", "full")
LOCK_SECONDS = 120  # a write takes a fraction of a second; whoever waits longer waits for something broken
KEY = ("notebook", "task", "target", "method", "backbone", "shots", "setting", "split", "metric", "profile")
NUMBERS = ("value", "ci_low", "ci_high", "spread_low", "spread_high", "n_draws", "n_test", "train_seconds")
COLUMNS = (*KEY[:-1], *NUMBERS, "seed", "profile")
PREDICTION_KEY = ("notebook", "task", "target", "method", "backbone", "shots", "setting", "profile")
PREDICTION_COLUMNS = (*PREDICTION_KEY, "draw", "image_id", "patient_id", "class", "label", "score")
PICTURES = "xray-pictures"  # label of a Figure that shows X-ray images; see plots


def _text(value: object) -> str:
    """One cell of results.csv: six significant digits, empty for missing."""
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class Run:
    """One execution of one notebook on one data set, with the folder that its numbers and figures go to.

    Args:
        notebook: its two digits, such as ``"02"``.
        dataset: name of the data set; the folder is ``<figures_dir>/<dataset>``, with ``-full`` behind it
            for a full run on synthetic patients.
        profile: ``"quick"`` or ``"full"``. A quick run never replaces a full row, figure or prediction.
        seed: the run's seed, written beside each number.
        figures_dir: root; None or empty for ``XRAYKIT_FIGURES_DIR``, else ``figures/`` of the project.
        parameters: the notebook's parameters, for the manifest; folders are left out.
        precision, backend: what computed the numbers.
    """

    def __init__(
        self,
        *,
        notebook: str,
        dataset: str,
        profile: str,
        seed: int,
        figures_dir: str | Path | None = None,
        parameters: Mapping[str, object] | None = None,
        precision: str = "fp32",
        backend: str = "cpu",
    ) -> None:
        if not (len(notebook) == 2 and notebook.isdigit()):
            raise DataError(f"notebook must be its two digits, such as '02'; got {notebook!r}")
        if profile not in PROFILES:
            raise DataError(f"profile {profile!r} is not one of {PROFILES}")
        self.notebook, self.dataset, self.profile, self.seed = notebook, dataset, profile, seed
        # Figures of synthetic patients are those that `make figures` makes; a full run has its own.
        own = "-full" if profile == "full" and dataset.startswith("synthetic") else ""
        self.folder = paths.figures_dir(figures_dir) / (dataset + own)
        self.parameters = {k: v for k, v in (parameters or {}).items() if not k.endswith("_dir")}
        self.precision, self.backend = precision, backend

    def record(self, *, metric: str, value: float | Interval, **about: object) -> None:
        """Write one number to results.csv, replacing the row with the same key.

        `value` is a plain number or an `Interval`; `about` are ``task`` and ``method`` and, where they apply,
        ``target, backbone, shots, setting, split, train_seconds``. `split` is what it was measured on:
        ``"test"``, ``"development"`` (patients held out of the training data), or empty for a fact about the
        data. `train_seconds` is kept by full runs only, to two significant digits.

        Raises:
            DataError: an unknown task or setting, or a value that is not a number.
        """
        self._upsert([self._row(metric=metric, value=value, **about)])

    def _row(
        self,
        *,
        task: str,
        method: str,
        metric: str,
        value: float | Interval,
        target: str = "",
        backbone: str = "",
        shots: int | str = "",
        setting: str = "inductive",
        split: str = "",
        train_seconds: float | None = None,
    ) -> dict[str, str]:
        """One line of results.csv, checked."""
        for word, allowed in ((task, TASKS), (setting, SETTINGS), (split, SPLITS)):
            if word not in allowed:
                raise DataError(f"{word!r} is not one of {allowed}")
        interval = (
            value if isinstance(value, Interval) else Interval(float(value), float("nan"), float("nan"))
        )
        if not math.isfinite(interval.value):
            raise DataError(
                f"{method}, {metric}: the value is {interval.value}; only finite numbers are recorded"
            )
        seconds = (
            float(f"{train_seconds:.2g}") if train_seconds is not None and self.profile == "full" else None
        )
        key = (self.notebook, task, target, method, backbone, shots, setting, split, metric, self.profile)
        row = {
            **dict(zip(KEY, key, strict=True)),
            **vars(interval),
            "train_seconds": seconds,
            "seed": self.seed,
        }
        return {c: _text(row[c]) for c in COLUMNS}

    def record_scores(self, scores: Mapping[str, Interval], **about: object) -> None:
        """`record` each metric of `scores` (from `intervals.bootstrap`) with the same arguments `about`."""
        self._upsert([self._row(metric=metric, value=value, **about) for metric, value in scores.items()])

    def record_many(self, numbers: Sequence[Mapping[str, object]]) -> None:
        """`record` several numbers, each with its own arguments, in one write of the ledger."""
        self._upsert([self._row(**number) for number in numbers])

    def _upsert(self, new: Sequence[Mapping[str, str]]) -> None:
        path = self.folder / "results.csv"
        with self._lock():
            rows = {_key(row): row for row in (*load(self.folder).to_dict("records"), *new)}
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[key] for key in sorted(rows))
            write_atomic(path, text.getvalue().encode())

    def save_figure(self, fig: object, name: str) -> Path | None:
        """Write `fig` as ``<name>.png`` with its line in manifest.json, and return the path.

        A figure that shows X-rays of a downloaded data set goes to the subfolder ``pictures/``, which git
        ignores. A quick run leaves a full run's figure in place, warns, and returns None.
        """
        if not name.startswith(f"{self.notebook}_"):
            raise DataError(f"figure {name!r} of notebook {self.notebook} must be named '{self.notebook}_…'")
        private = fig.get_label() == PICTURES and not self.dataset.startswith("synthetic")
        path = self.folder / ("pictures" if private else "") / f"{name}.png"
        with self._lock():
            manifest_path = self.folder / "manifest.json"
            manifest = json.loads(manifest_path.read_text()) if manifest_path.exists() else {}
            if self.profile == "quick" and manifest.get(name, {}).get("profile") == "full":
                warnings.warn(f"{path.name} was made by a full run; this quick run leaves it", stacklevel=2)
                return None
            buffer = io.BytesIO()
            fig.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
            write_atomic(path, buffer.getvalue())
            if not private:
                manifest[name] = {
                    **{"notebook": self.notebook, "dataset": self.dataset, "profile": self.profile},
                    **{"seed": self.seed, "parameters": self.parameters},
                    **{"precision": self.precision, "backend": self.backend, "versions": versions()},
                }
                write_atomic(manifest_path, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
        return path

    def record_predictions(
        self,
        records: pd.DataFrame,
        draws: Sequence[np.ndarray],
        *,
        classes: Sequence[str],
        labels: np.ndarray,
        task: str,
        method: str,
        target: str = "",
        backbone: str = "",
        shots: int | str = "",
        setting: str = "inductive",
    ) -> None:
        """Write per-image test scores to predictions.parquet, replacing those with the same key.

        One row an image, draw and class: ``image_id, patient_id, draw, class, label, score``.

        Args:
            records: of the N test images, with ``image_id`` and ``patient_id``; where each draw has images of
                its own, as episodes have, all of them one after the other with their ``draw``, and one array
                of `draws`.
            draws: probabilities (N, K) of each draw or seed, in 0..1.
            classes: the K names.
            labels: class codes (N,), or 0/1 indicators (N, K).
        """
        n, k = len(records), len(classes)
        truth = labels if labels.ndim == 2 else np.eye(k, dtype=np.uint8)[labels]
        if truth.shape != (n, k) or any(np.shape(d) != (n, k) for d in draws):
            raise DataError(f"predictions and labels must be ({n}, {k}); got {[np.shape(d) for d in draws]}")
        key = (self.notebook, task, target, method, backbone, str(shots), setting, self.profile)
        one = {c: np.repeat(records[c].to_numpy(object), k) for c in ("image_id", "patient_id")}
        one |= {"class": np.tile(np.asarray(classes, object), n), "label": truth.ravel().astype(np.uint8)}
        own = np.repeat(records["draw"].to_numpy(), k) if "draw" in records else None
        tables = [
            pd.DataFrame(one).assign(draw=i if own is None else own, score=np.ravel(d))
            for i, d in enumerate(draws)
        ]
        new = pd.concat(tables).assign(**dict(zip(PREDICTION_KEY, key, strict=True)))
        new = new.astype({"draw": "int16", "score": "float32"})[list(PREDICTION_COLUMNS)]
        self._upsert_predictions(new, key)

    def _upsert_predictions(self, new: pd.DataFrame, key: tuple[str, ...]) -> None:
        path = self.folder / "predictions.parquet"
        with self._lock():
            if path.exists():
                old = pd.read_parquet(path)
                same = (old[list(PREDICTION_KEY)] == list(key)).all(axis=1)
                new = pd.concat([old[~same], new], ignore_index=True)
            buffer = io.BytesIO()
            new.sort_values(list(PREDICTION_COLUMNS[:-2]), kind="stable").to_parquet(
                buffer, index=False, compression="zstd"
            )
            write_atomic(path, buffer.getvalue())

    def log_test(self, configuration: Mapping[str, object], scores: Mapping[str, float]) -> None:
        """Append one look at the test split to test_log.csv: commit, profile, configuration, scores."""
        row = {
            **{"commit": commit(), "notebook": self.notebook, "profile": self.profile},
            "configuration": json.dumps(dict(configuration), sort_keys=True),
            "scores": json.dumps({k: float(_text(float(v))) for k, v in scores.items()}, sort_keys=True),
        }
        path = self.folder / "test_log.csv"
        with self._lock():
            old = path.read_bytes() if path.exists() else b""
            line = pd.DataFrame([row]).to_csv(index=False, header=not old, lineterminator="\n")
            write_atomic(path, old + line.encode())

    def _lock(self) -> AbstractContextManager[None]:
        lock = self.folder / ".ledger.lock"
        return locked(lock, timeout=LOCK_SECONDS, advice="pass another --figures-dir")


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    """The key of a row, which sorts shots 5, 10, 100 in that order and leaves words alone."""
    return tuple(row[k].zfill(9) if row[k].isdigit() else row[k] for k in KEY)


def load(folder: str | Path) -> pd.DataFrame:
    """All rows of ``<folder>/results.csv`` as text columns; no rows where there is no such file.

    Raises:
        DataError: the file has other columns than the ledger's.
    """
    path = Path(folder) / "results.csv"
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS), dtype=str)
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(rows.columns) != list(COLUMNS):
        raise DataError(
            f"{path} has the columns {list(rows.columns)}, not the ledger's {list(COLUMNS)}; move it away"
        )
    return rows


def numbers(folder: str | Path, *, profile: str | None = None) -> pd.DataFrame:
    """The ledger with its number columns as floats (NaN where empty), of one profile or of both.

    A further column ``text`` has the value with its interval, for reading: ``0.667 [0.621, 0.717]``.
    """
    rows = load(folder)
    rows = rows if profile is None else rows[rows["profile"] == profile]
    rows = rows.assign(**{c: pd.to_numeric(rows[c]) for c in (*NUMBERS, "seed")}).reset_index(drop=True)
    limits = zip(rows["value"], rows["ci_low"], rows["ci_high"], strict=True)
    return rows.assign(text=[str(Interval(*v)) if v[1] == v[1] else f"{v[0]:.6g}" for v in limits])
