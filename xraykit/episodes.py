"""Episodes for few-shot learning of findings that no training has seen: which images, drawn by which rules.

An episode is one small task: a support set with a few labelled images a class, from which one adapts, and
query images of the same classes, on which the adapted classifier is judged. It takes at most one image a
patient over support and query together, so that nobody is on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xraykit.datasets import XrayDataset
from xraykit.datasets.catalogue import NO_FINDING
from xraykit.errors import DataError
from xraykit.labels import patient_codes
from xraykit.shots import feasible_shots, k_shot_draw

# Patients of a class among whom an episode is drawn, chosen anew for each: keeps the time of a draw the same
# for a set of any size. More than any episode needs, so that a draw is as feasible as among all of them.
CANDIDATES = 1000
WITHOUT = "without "


@dataclass(frozen=True)
class Episode:
    """One task: positions in the data set, grouped by class.

    Attributes:
        classes: the N names, in the order of the codes; of a finding ``("without X", "X")``.
        support: (N, k) positions; row c are the images of class c.
        query: (N, q) positions, of other patients.
    """

    classes: tuple[str, ...]
    support: np.ndarray
    query: np.ndarray

    @property
    def finding(self) -> str:
        """The finding of a binary task; of N classes all of them."""
        return ", ".join(sorted(name for name in self.classes if not name.startswith(WITHOUT)))

    @property
    def query_labels(self) -> np.ndarray:
        """Class codes (N*q,) of ``query.ravel()``."""
        return np.repeat(np.arange(len(self.query)), self.query.shape[1])

    @property
    def support_labels(self) -> np.ndarray:
        """Class codes (N*k,) of ``support.ravel()``."""
        return np.repeat(np.arange(len(self.support)), self.support.shape[1])

    def at(self, shots: int) -> "Episode":
        """The same task with the first `shots` support images of each class and the same queries.

        Raises:
            DataError: more than there are, or fewer than one.
        """
        if not 1 <= shots <= self.support.shape[1]:
            raise DataError(f"{shots} shots of an episode drawn with {self.support.shape[1]}; draw it larger")
        return Episode(self.classes, self.support[:, :shots], self.query)


class Tasks:
    """All episodes of some findings among some images, each a function of a seed and its number.

    With `way` = 0 an episode is about one finding: images without it are class 0, images with it class 1,
    whatever else they show. With `way` = N it has N of the findings, and images that show exactly one of
    these; which is which code is random, so that nothing can be known before the support set is seen.

    Args:
        ds: a multi-label set.
        rows: positions of the images to draw from.
        findings: whose episodes; a name each from the classes of `ds`.
        shots, queries: images of each class in support and query.
        way: 0, or the number of findings of an episode.
        shuffled: of one finding: let chance decide for each episode whether images with the finding are
            class 1 or class 0. Else "shows something" answers every task, before any support image is seen
            (Yin et al., Meta-learning without memorization, ICLR 2020).
        seed: of all its episodes.

    Raises:
        DataError: one class an image, an unknown finding, or too few patients: names the feasible shots.
    """

    def __init__(
        self,
        ds: XrayDataset,
        rows: np.ndarray,
        findings: Sequence[str],
        *,
        shots: int,
        queries: int,
        seed: int,
        way: int = 0,
        shuffled: bool = False,
    ) -> None:
        check_findings(ds, findings)
        if shots < 1 or queries < 1 or way == 1 or way < 0 or way > len(findings) or len(rows) == 0:
            raise DataError(
                f"shots = {shots}, queries = {queries}, way = {way} of {len(findings)} findings and "
                f"{len(rows)} images; use at least 1 shot and 1 query, 2 findings or more for an N-way task "
                "(way = 0 for one finding against the rest), and some images"
            )
        self.rows, self.findings = np.asarray(rows), tuple(findings)
        self.shots, self.queries, self.way = shots, queries, way
        self.shuffled, self.seed = shuffled, seed
        self._shows = ds.records[list(findings)].to_numpy(bool)[self.rows]
        self._patient = patient_codes(ds.patients[self.rows], len(self.rows))[0]
        self._check()

    def _check(self) -> None:
        """Every finding must allow episodes; of N ways, each finding beside any others of its kind."""
        beside = self._beside() if self.way else 0
        for k, finding in enumerate(self.findings):
            if self.way:
                alone = self._shows[:, k] & (self._shows.sum(axis=1) == 1)
                # Enough, whichever findings stand beside it: their patients cannot use up all of these.
                feasible = max(beside, len(set(self._patient[alone])) // self.way)
                kind = f"patients with {finding} and none of {', '.join(self.findings)} beside it"
            else:
                alone = self._shows[:, k]
                feasible = _room(alone, self._patient)
                kind = f"patients with {finding}"
            if feasible < self.shots + self.queries:
                raise DataError(
                    f"{finding}: {len(set(self._patient[alone]))} {kind} among {len(self.rows)} images allow "
                    f"{max(0, feasible - self.queries)} shots beside {self.queries} queries a class, but "
                    f"{self.shots} are wanted; take fewer shots or queries, more images, or leave it out"
                )

    def _beside(self) -> int:
        """Feasible images a class with all findings as classes, each beside none of the others."""
        one = self._shows.sum(axis=1) == 1
        label = self._shows[one].argmax(axis=1)
        return feasible_shots(label, self._patient[one]) if len(np.unique(label)) == len(self.findings) else 0

    def episode(self, number: int) -> Episode:
        """Episode `number`, 0 or more; those of one finding take turns among the findings."""
        rng = np.random.default_rng([self.seed, number])
        if self.way:
            chosen = rng.permutation(len(self.findings))[: self.way]
            one = self._shows[:, chosen].sum(axis=1) == 1
            label = np.where(one, self._shows[:, chosen].argmax(axis=1), -1)
            return self._draw(label, tuple(self.findings[k] for k in chosen), rng)
        k = number % len(self.findings)
        finding, label = self.findings[k], self._shows[:, k].astype(np.int64)
        if self.shuffled and rng.random() < 0.5:
            return self._draw(1 - label, (finding, WITHOUT + finding), rng)
        return self._draw(label, (WITHOUT + finding, finding), rng)

    def _draw(self, label: np.ndarray, classes: tuple[str, ...], rng: np.random.Generator) -> Episode:
        """`label` -1: not to be drawn."""
        some = np.concatenate([self._candidates(label == c, rng) for c in range(len(classes))])
        k = self.shots + self.queries
        drawn = k_shot_draw(label[some], self._patient[some], k=k, rng=rng, classes=classes)
        of_class = self.rows[some[drawn]].reshape(len(classes), k)
        return Episode(classes, of_class[:, : self.shots], of_class[:, self.shots :])

    def _candidates(self, member: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        where = np.flatnonzero(member)
        patients = np.unique(self._patient[where])
        if len(patients) <= CANDIDATES:
            return where
        return where[np.isin(self._patient[where], rng.choice(patients, CANDIDATES, replace=False))]


def room(ds: XrayDataset, rows: np.ndarray, finding: str) -> int:
    """Largest shots + queries a class of `finding` against the rest that the images `rows` allow.

    Raises:
        DataError: one class an image, or an unknown finding.
    """
    check_findings(ds, [finding])
    return _room(ds.records[finding].to_numpy(bool)[rows], ds.patients[rows])


def _room(shows: np.ndarray, patients: np.ndarray) -> int:
    """Feasible images a class of those that show something (N,) bool and those that do not."""
    return feasible_shots(shows.astype(np.int64), patients) if shows.any() and not shows.all() else 0


def with_room(
    ds: XrayDataset, rows: np.ndarray, findings: Sequence[str], *, images: int
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Those of `findings` that allow `images` a class in an episode, and the `room` of the others."""
    rooms = {finding: room(ds, rows, finding) for finding in findings}
    few = {finding: n for finding, n in rooms.items() if n < images}
    return tuple(f for f in findings if f not in few), few


def check_findings(ds: XrayDataset, findings: Sequence[str]) -> None:
    """Raise DataError when `findings` are not different findings of the multi-label set `ds`."""
    if ds.task != "multilabel":
        raise DataError(f"{ds.name} has one class an image; episodes of findings need a multi-label set")
    known = [c for c in ds.classes if c != NO_FINDING]
    wrong = [f for f in findings if f not in known]
    if wrong or len(findings) == 0 or len(set(findings)) < len(findings):
        raise DataError(
            f"findings {', '.join(wrong or findings) or '(none)'}: name each once, of {', '.join(known)}"
        )


def without(ds: XrayDataset, rows: np.ndarray, unseen: Sequence[str]) -> np.ndarray:
    """Those of `rows` whose images show none of `unseen`: what meta-training may look at.

    A held-out finding that stays in the pictures is seen, if not by name: it would teach the network that
    such images are "without" everything else.
    """
    check_findings(ds, unseen)
    return rows[~ds.records[list(unseen)].to_numpy(bool)[rows].any(axis=1)]


def rotations(ds: XrayDataset, n: int) -> list[dict[str, tuple[str, ...]]]:
    """The findings in three groups, `n` times, so that each finding is held out exactly once.

    The findings are dealt to `n` hands, the commonest (by patients) first and back and forth, so that every
    hand has common and rare ones. In rotation r hand r is held out, the next validates, the others train.

    Returns:
        For each rotation the findings by group: ``train``, ``validation``, ``held_out``.

    Raises:
        DataError: fewer than three rotations, or fewer findings than rotations.
    """
    check_findings(ds, (findings := [c for c in ds.classes if c != NO_FINDING]))
    if not 3 <= n <= len(findings):
        raise DataError(
            f"{n} rotations of {len(findings)} findings; use 3, for three groups, to {len(findings)}"
        )
    with_it = {f: len(set(ds.patients[ds.records[f].to_numpy(bool)])) for f in findings}
    order = sorted(findings, key=lambda f: (-with_it[f], f))
    hands = [[] for _ in range(n)]
    for i, finding in enumerate(order):
        turn, place = divmod(i, n)
        hands[place if turn % 2 == 0 else n - 1 - place].append(finding)
    return [
        {
            "train": tuple(f for i in range(2, n) for f in hands[(r + i) % n]),
            "validation": tuple(hands[(r + 1) % n]),
            "held_out": tuple(hands[r]),
        }
        for r in range(n)
    ]
