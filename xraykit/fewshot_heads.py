"""Better few-shot heads on the frozen features of one backbone, all of them inductive.

============================= =====================================================================
head                          what it does
============================= =====================================================================
nearest class mean            the simplest head, as in `fewshot`
logistic regression           as in `fewshot`
SVC RBF                       as in `fewshot`; the heads below change one thing about it
SVC RBF, power transform      features first made less skewed, by a root
SVC RBF, augmented support    a labelled image is the mean of itself and of its augmented views
label propagation             labels spread over the unlabelled pool, see `fewshot_propagation`
SVC RBF + label propagation   mean of the two probabilities
SVC RBF, line from the pool   decision line where the scores of unlabelled pool images part in two
============================= =====================================================================

The unlabelled images are training images; no head looks at a test image but the one that it scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from xraykit.errors import DataError
from xraykit.fewshot import Scores, check_task, evaluate, normalise
from xraykit.fewshot_line import moved, pool_line
from xraykit.fewshot_propagation import METHOD, propagate
from xraykit.fewshot_transforms import averaged_support, powered

SVC = "SVC RBF"
LINE_IMAGES = 1000  # of the pool, at most, that a line is drawn from

ByShots = dict[int, np.ndarray]  # float32 (n_draws, M, K) for each number of shots


@dataclass(frozen=True)
class Task:
    """What all heads start from. What several of them need is computed once, when the first asks for it.

    Attributes:
        raw: features of the pool and the test images, (N, D) and (M, D), not normalised.
        labels, support, shots, view_features: as in `evaluate_heads`.
        plain: the classifiers of `fewshot` that some head needs on the ``"l2"`` features.
        line_rows: rows of the pool that they score besides the test images, to draw lines from.
    """

    raw: tuple[np.ndarray, np.ndarray]
    labels: np.ndarray
    support: np.ndarray
    shots: Sequence[int]
    view_features: tuple[np.ndarray, np.ndarray] | None
    plain: Sequence[str]
    line_rows: np.ndarray

    @cached_property
    def unit(self) -> tuple[np.ndarray, np.ndarray]:
        """Pool and test features, ``"l2"`` normalised."""
        return normalise(*self.raw, how="l2")

    @cached_property
    def scores(self) -> Scores:
        """Of the classifiers `plain`: float32 (n_draws, M + len(line_rows), K), the test images first."""
        pool, test = self.unit
        return self.evaluated(pool, np.concatenate([test, pool[self.line_rows]]), self.plain)

    @cached_property
    def propagated(self) -> ByShots:
        """Of label propagation."""
        pool, test = self.unit
        near = min(10, len(pool) - 1)
        about = {"support": self.support, "shots": self.shots, "n_neighbors": near}
        found = propagate(pool, self.labels, test, **about)
        return {k: p for (_, k), p in found.items()}

    def evaluated(self, pool: np.ndarray, test: np.ndarray, classifiers: Sequence[str]) -> Scores:
        """`fewshot.evaluate` of these features."""
        about = {"support": self.support, "shots": self.shots, "classifiers": classifiers}
        return evaluate(pool, self.labels, test, **about)

    def of_test(self, name: str) -> ByShots:
        """Scores of the test images from one of the classifiers `plain`."""
        return {k: self.scores[name, k][:, : len(self.raw[1])] for k in self.shots}


@dataclass(frozen=True)
class Head:
    """One of `HEADS`.

    Attributes:
        scores: from a `Task` to float32 (n_draws, M, K) for each number of shots.
        plain: the classifier of `fewshot` whose scores on the ``"l2"`` features it needs.
        needs_views: it needs features of augmented views.
        draws_line: it needs the scores of pool images, and exactly two classes.
    """

    scores: Callable[[Task], ByShots]
    plain: str | None = None
    needs_views: bool = False
    draws_line: bool = False


def _less_skewed(task: Task) -> ByShots:
    return {k: p for (_, k), p in task.evaluated(*powered(*task.raw), [SVC]).items()}


def _averaged(task: Task) -> ByShots:
    features, rows = task.view_features
    without = np.setdiff1d(task.support[:, :, : max(task.shots)], rows)
    if len(without):
        raise DataError(
            f"{len(without)} drawn images have no views, row {without[0]} first; make views of all"
        )
    pool, test = task.unit
    unit = normalise(task.raw[0], features.reshape(-1, features.shape[-1]), how="l2")[1]
    found = task.evaluated(averaged_support(pool, unit.reshape(features.shape), rows), test, [SVC])
    return {k: p for (_, k), p in found.items()}


def _together(task: Task) -> ByShots:
    return {k: (p + task.propagated[k]) / 2 for k, p in task.of_test(SVC).items()}


def _with_line(task: Task) -> ByShots:
    """A draw's own images are left out: an SVC scores them as the labels that it was given."""
    found = {}
    for k, p in task.of_test(SVC).items():
        of_pool = task.scores[SVC, k][:, p.shape[1] :, 1]
        unlabelled = [~np.isin(task.line_rows, rows) for rows in task.support[:, :, :k]]
        lines = [pool_line(q[mine]) for q, mine in zip(of_pool, unlabelled, strict=True)]
        found[k] = np.stack([moved(q, line) for q, line in zip(p, lines, strict=True)]).astype(np.float32)
    return found


HEADS: dict[str, Head] = {
    **{
        name: Head(partial(Task.of_test, name=name), plain=name)
        for name in ("nearest class mean", "logistic regression", SVC)
    },
    f"{SVC}, power transform": Head(_less_skewed),
    f"{SVC}, augmented support": Head(_averaged, needs_views=True),
    METHOD: Head(lambda task: task.propagated),
    f"{SVC} + {METHOD}": Head(_together, plain=SVC),
    f"{SVC}, line from the pool": Head(_with_line, plain=SVC, draws_line=True),
}


def evaluate_heads(
    pool: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    support: np.ndarray,
    shots: Sequence[int],
    heads: Sequence[str] | None = None,
    view_features: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
) -> Scores:
    """Pseudo-probabilities of the test images from every head, number of shots and draw.

    Args:
        pool, test: (N, D) and (M, D) features of one backbone, not normalised: each head does that itself.
        labels: class codes (N,) of the pool; only those of drawn images matter.
        support: from `fewshot.draws`.
        shots: images a class, each at most as many as `support` holds.
        heads: names from `HEADS`; None: all, but for the augmented support without `view_features` and the
            line from the pool with other than two classes.
        view_features: features (V, n, D) of the `views` of n images, not normalised, and the rows (n,) of
            these images in the pool, all drawn ones among them.
        seed: of the at most 1000 pool images that lines are drawn from, less those of the draw.

    Returns:
        float32 (n_draws, M, K) for each (head, k), as `fewshot.evaluate`; rows sum to 1.

    Raises:
        DataError: as `fewshot.evaluate`, `fewshot_propagation.propagate` and `averaged_support`; an unknown
            head, or one whose needs are not met; drawn images without views.
    """
    check_task(pool, labels, test, support=support, shots=shots)
    chosen = _chosen(heads, n_classes=support.shape[1], with_views=view_features is not None)
    n_line = min(LINE_IMAGES, len(pool)) if any(head.draws_line for head in chosen.values()) else 0
    task = Task(
        raw=(pool, test),
        labels=labels,
        support=support,
        shots=shots,
        view_features=view_features,
        plain=[*dict.fromkeys(head.plain for head in chosen.values() if head.plain)],
        line_rows=np.sort(np.random.default_rng(seed).choice(len(pool), n_line, replace=False)),
    )
    return {(name, k): p for name, head in chosen.items() for k, p in head.scores(task).items()}


def _chosen(heads: Sequence[str] | None, *, n_classes: int, with_views: bool) -> dict[str, Head]:
    """The heads asked for, each with what it needs."""
    lacking = {
        name: "features of augmented views" if head.needs_views else "exactly two classes"
        for name, head in HEADS.items()
        if (head.needs_views and not with_views) or (head.draws_line and n_classes != 2)
    }
    if heads is None:
        return {name: head for name, head in HEADS.items() if name not in lacking}
    if len(heads) == 0 or not set(heads) <= set(HEADS):
        raise DataError(f"heads {list(heads)}; choose from {'; '.join(HEADS)}")
    for name in heads:
        if name in lacking:
            raise DataError(f"{name!r} needs {lacking[name]}; give them, or leave that head out")
    return {name: HEADS[name] for name in heads}
