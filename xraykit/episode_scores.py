"""Scores of methods over many episodes, with intervals that know how few patients and findings there are.

Hundreds of episodes drawn from the same patients and findings are not hundreds of independent ones: the
bootstrap resamples meta-trainings, the findings held out in each, and patients, never episodes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

from xraykit.datasets import XrayDataset
from xraykit.episodes import Episode
from xraykit.errors import DataError
from xraykit.intervals import Interval, limits, patient_weights
from xraykit.metrics import score_all

Method = Callable[[Episode], np.ndarray]  # from an episode to the probabilities of its queries, (M, N)
METRICS = ("auroc", "f1", "precision", "sensitivity")


@dataclass(frozen=True)
class Asked:
    """An episode, and the meta-training whose findings it does not know.

    Attributes:
        run: number of the meta-training (its seed and rotation).
        episode: with its queries; shots do not matter here.
    """

    run: int
    episode: Episode


class Jury:
    """Resamplings of one set of episodes, the same for every method, so that methods are compared in pairs.

    The score of a method is the mean over findings of the mean over the episodes of each. One resampling
    draws meta-trainings with replacement, findings within each, and gives every patient a weight with which
    it counts among the queries of all episodes. Support sets stay as they were drawn.

    Args:
        asked: the episodes.
        patients: patient id (N,) of each image of the data set.
        seed, n_boot: of the resamplings.
        names: of `metrics.score_all`.

    Raises:
        DataError: no episodes.
    """

    def __init__(
        self,
        asked: Sequence[Asked],
        patients: np.ndarray,
        *,
        seed: int,
        n_boot: int = 1000,
        names: Sequence[str] = METRICS,
    ) -> None:
        if len(asked) == 0:
            raise DataError("no episodes to score; draw some with episodes.Tasks")
        self.asked, self.names = list(asked), tuple(names)
        cells = sorted({(one.run, one.episode.finding) for one in asked})
        self._cell = np.array([cells.index((one.run, one.episode.finding)) for one in asked])
        rng = np.random.default_rng(seed)
        queries = [one.episode.query.ravel() for one in asked]
        some, place = np.unique(np.concatenate(queries), return_inverse=True)
        weights = np.concatenate(
            [np.ones((1, len(some)), np.float32), patient_weights(patients[some], n_boot=n_boot, rng=rng)]
        )
        cuts = np.cumsum([len(q) for q in queries])[:-1]
        self._weights, self._place = weights, np.split(place, cuts)
        self._counts = _cell_counts(np.array([run for run, _ in cells]), n_boot, rng)
        self.n_queries, self.findings = len(some), sorted({finding for _, finding in cells})
        n_runs = len({run for run, _ in cells})
        self.freedom = max(1, (n_runs if n_runs > 1 else len(cells)) - 1)

    def hear(self, answers: Sequence[np.ndarray]) -> "Heard":
        """Score one method.

        Args:
            answers: for each episode the probabilities of its queries, (M, N), or (M,) of the finding.

        Raises:
            DataError: not one answer for each episode; and as `metrics.score_all`.
        """
        if len(answers) != len(self.asked):
            raise DataError(f"{len(answers)} answers to {len(self.asked)} episodes; give one for each")
        by_episode = {name: np.empty((len(answers), len(self._weights)), np.float32) for name in self.names}
        for i, (one, p) in enumerate(zip(self.asked, answers, strict=True)):
            weights, labels = self._weights[:, self._place[i]], one.episode.query_labels
            # A resampling without any patient of a class has no score; it is told by NaN, as for AUROC.
            lost = [~weights[:, labels == c].any(axis=1) for c in np.unique(labels)]
            weights = np.where(np.any(lost, axis=0)[:, None], 1, weights)
            scores = score_all(labels, p, names=self.names, weights=weights)
            for name in self.names:
                by_episode[name][i] = np.where(np.any(lost, axis=0), np.nan, scores[name])
        return Heard(self, by_episode)

    def records(self, ds: XrayDataset) -> pd.DataFrame:
        """Every query of every episode, one after the other, as `results.Run.record_predictions` takes them.

        Columns ``image_id, patient_id, draw`` (number of the episode) and ``label`` (1 with the finding).
        """
        rows = np.concatenate([one.episode.query.ravel() for one in self.asked])
        found = ds.records[["image_id", "patient_id"]].iloc[rows].reset_index(drop=True)
        sizes = [one.episode.query.size for one in self.asked]
        labels = np.concatenate([one.episode.query_labels for one in self.asked])
        return found.assign(draw=np.repeat(np.arange(len(sizes)), sizes), label=labels)

    def ask(self, methods: Mapping[int, Method]) -> "Heard":
        """`hear` what the method of each run answers to the episodes of that run."""
        return self.hear([methods[one.run](one.episode) for one in self.asked])

    def mean(self, by_episode: np.ndarray) -> np.ndarray:
        """(E, B) to (B,): the mean over episodes within each finding, then over the findings drawn."""
        top, bottom = np.zeros(by_episode.shape[1]), np.zeros(by_episode.shape[1])
        for c, counts in enumerate(self._counts):
            mean = _mean(by_episode[self._cell == c])
            top += np.nan_to_num(mean) * counts
            bottom += np.where(np.isnan(mean), 0, counts)
        return top / np.where(bottom > 0, bottom, np.nan)


@dataclass(frozen=True)
class Heard:
    """What a `Jury` found of one method: by metric the scores (E, B) of each episode and resampling."""

    jury: Jury
    by_episode: dict[str, np.ndarray]

    def scores(self) -> dict[str, Interval]:
        """Each metric; its spread is the 2.5 and 97.5 percentiles of single episodes."""
        return {name: self._interval(self.jury.mean(x), x[:, 0]) for name, x in self.by_episode.items()}

    def by_finding(self, name: str) -> dict[str, Interval]:
        """The mean of a metric over the episodes of each finding; these intervals resample patients alone."""
        of, x = np.array([one.episode.finding for one in self.jury.asked]), self.by_episode[name]
        return {f: self._interval(_mean(x[of == f]), x[of == f, 0]) for f in self.jury.findings}

    def minus(self, other: "Heard") -> dict[str, Interval]:
        """The paired difference in each metric, with a two-sided p-value.

        It is that of Student's t with the bootstrap standard error, and one degree of freedom fewer than
        there are meta-trainings (of a single one, findings): with five, the normal distribution and the
        percentiles of the bootstrap are too sure of themselves.

        Raises:
            DataError: `other` is of another jury.
        """
        if other.jury is not self.jury:
            raise DataError("methods heard by two juries answered other episodes; use one jury for both")
        found = {}
        for name, x in self.by_episode.items():
            d = x - other.by_episode[name]
            gap = self.jury.mean(x) - self.jury.mean(other.by_episode[name])
            error = float(np.nanstd(gap[1:]))
            p = 2 * t.sf(abs(gap[0]) / error, self.jury.freedom) if error > 0 else gap[0] == 0
            found[name] = self._interval(gap, d[:, 0], p_value=float(p))
        return found

    def _interval(self, resampled: np.ndarray, single: np.ndarray, **about: float) -> Interval:
        about |= {"n_draws": len(single), "n_test": self.jury.n_queries}
        return Interval(float(resampled[0]), *limits(resampled[1:]), *limits(single), **about)


def _mean(by_episode: np.ndarray) -> np.ndarray:
    """(E, B) to (B,), leaving out NaN; NaN where a resampling lost one class of every episode's queries."""
    n = (~np.isnan(by_episode)).sum(axis=0)
    return np.nansum(by_episode, axis=0, dtype=np.float64) / np.where(n > 0, n, np.nan)


def _cell_counts(run_of: np.ndarray, n_boot: int, rng: np.random.Generator) -> np.ndarray:
    """How often each cell (a run's finding) counts, float64 (C, n_boot + 1); the first column is as observed.

    Runs are drawn with replacement, and for each drawn run as many of its findings as it has.
    """
    runs = np.unique(run_of)
    counts = np.zeros((len(run_of), n_boot + 1))
    counts[:, 0] = 1
    for b in range(1, n_boot + 1):
        for run in rng.choice(runs, len(runs)):
            members = np.flatnonzero(run_of == run)
            np.add.at(counts[:, b], rng.choice(members, len(members)), 1)
    return counts
