"""The table in which a notebook sets each published mistake beside the right way."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from xraykit import intervals
from xraykit.intervals import Interval
from xraykit.results import Run


class MistakeTable:
    """Rows of mistakes measured on the same held-out images of two classes, written to the ledger too.

    Attributes:
        rows: ``mistake, metric, honest, as published, note``.
        gained: by mistake the AUROC with it minus that without, in pairs.
    """

    def __init__(
        self,
        run: Run,
        y: np.ndarray,
        patients: np.ndarray,
        *,
        backbone: str,
        boot: Mapping[str, int],
        task: str = "binary",
    ) -> None:
        """`y` (N,) 0/1 and `patients` (N,) of development images; `boot` as for `intervals.bootstrap`; `task`
        of `Run.record`."""
        self._run, self._y, self._patients, self._task = run, y, patients, task
        self._backbone, self._boot = backbone, boot
        self.rows: list[dict[str, str]] = []
        self.gained: dict[str, Interval] = {}

    def note(self, mistake: str, metric: str, *, honest: Interval, published: Interval, remark: str) -> None:
        """Add a row, and two to the ledger."""
        ways = {"honest": honest, "as published": published}
        shown = {way: str(value) for way, value in ways.items()}
        self.rows.append({"mistake": mistake, "metric": metric, **shown, "note": remark})
        for way, value in ways.items():
            about = {"task": self._task, "backbone": self._backbone, "split": "development"}
            self._run.record(metric=metric, value=value, method=f"{mistake}, {way}", **about)

    def against(
        self,
        mistake: str,
        wrong: Sequence[np.ndarray],
        right: Sequence[np.ndarray],
        *,
        remark: str,
        metric: str = "auroc",
    ) -> None:
        """A row from probabilities (N,) of the positive class, one array a seed, with the mistake or not."""
        pair = (self._y, wrong, right, self._patients)
        self.gained[mistake] = intervals.paired_differences(*pair, names=["auroc"], **self._boot)["auroc"]
        about = {"names": [metric], **self._boot}
        of = [intervals.bootstrap(self._y, p, self._patients, **about)[metric] for p in (right, wrong)]
        self.note(mistake, metric, honest=of[0], published=of[1], remark=remark)

    def frame(self) -> pd.DataFrame:
        """The rows, by mistake."""
        return pd.DataFrame(self.rows).set_index("mistake")
