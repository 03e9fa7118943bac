"""The ladder: every kind of frozen feature with every head, chosen on a development fold, tested once.

A *rung* is what the features are (raw pixels, a network trained without labels, two layers side by side),
a head what is made of k labelled images of them (`fewshot_heads`). On a development fold each rung chooses
its head, and an ensemble the rungs that it is made of; on test nothing is chosen any more::

    tried = climb(features, labels, labels_dev, support=support, shots=(10, 100))
    choice = choose(tried, labels_dev, shots=10)
    seen = climb(on_test, ...)
    ensemble = joined(seen, choice, shots=10)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xraykit.backbones import Backbone
from xraykit.errors import DataError
from xraykit.fewshot_heads import evaluate_heads
from xraykit.metrics import per_draw
from xraykit.splits import digest

# Sets that are made of the images of another one, so that their patients cannot be told apart by name.
SAME_IMAGES = {"pneumoniamnist": "kermany", "chestmnist": "nih"}

Features = Mapping[str, tuple[np.ndarray, np.ndarray]]
Found = dict[tuple[str, str, int], np.ndarray]  # (rung, head, shots): (draws, images, classes)


@dataclass(frozen=True)
class Choice:
    """What a development fold decided for one number of shots.

    Attributes:
        heads: the best head of each rung, in the order of the rungs.
        members: the rungs of the ensemble, each with its own head, in the order in which they joined.
    """

    heads: dict[str, str]
    members: tuple[str, ...]

    @property
    def rung(self) -> str:
        """The best rung alone: the first member of the ensemble."""
        return self.members[0]


def climb(
    features: Features,
    labels: np.ndarray,
    *,
    support: np.ndarray,
    shots: Sequence[int],
    views: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    seed: int = 0,
) -> Found:
    """Pseudo-probabilities of the query images from every head on every rung.

    Args:
        features: of each rung (pool, query), (N, D) and (M, D), not normalised.
        labels: class codes (N,) of the pool; only those of drawn images matter.
        support: from `fewshot.draws`.
        views: rungs whose ``view_features`` there are, see `fewshot_heads.evaluate_heads`.
        seed: of the part of the pool that a decision line is found from.

    Returns:
        float32 (n_draws, M, K) by (rung, head, shots).
    """
    found = {}
    for rung, (pool, query) in features.items():
        about = {"support": support, "shots": shots, "view_features": (views or {}).get(rung), "seed": seed}
        heads = evaluate_heads(pool, labels, query, **about)
        found |= {(rung, head, k): p for (head, k), p in heads.items()}
    return found


def choose(found: Found, labels: np.ndarray, *, shots: int, metric: str = "macro_f1") -> Choice:
    """The head of each rung and the rungs of an ensemble with the best median over draws.

    The ensemble begins with the best rung and takes, as long as that raises the median, the rung that raises
    it most (Caruana et al., Ensemble selection from libraries of models, ICML 2004, without replacement). Of
    equals the first counts.

    Args:
        found: from `climb`, of the development fold.
        labels: class codes (M,) of its images.

    Raises:
        DataError: nothing was found with so many shots.
    """
    median = table(found, labels, shots=shots, metric=metric)
    heads = {rung: str(row.idxmax()) for rung, row in median.iterrows()}
    best, members, left = -np.inf, [], list(heads)
    while left:
        tried = {rung: _mean(found, heads, [*members, rung], shots) for rung in left}
        values = {rung: float(np.median(per_draw(labels, p, metric))) for rung, p in tried.items()}
        rung = max(values, key=values.__getitem__)
        if values[rung] <= best:
            break
        best = values[rung]
        members.append(rung)
        left.remove(rung)
    return Choice(heads, tuple(members))


def joined(found: Found, choice: Choice, *, shots: int) -> np.ndarray:
    """Mean probabilities (n_draws, M, K) of the members of the chosen ensemble."""
    return _mean(found, choice.heads, choice.members, shots)


def table(found: Found, labels: np.ndarray, *, shots: int, metric: str = "macro_f1") -> pd.DataFrame:
    """Median over draws of `metric`: rungs as rows, heads as columns, NaN where a rung has no such head.

    Raises:
        DataError: nothing was found with so many shots.
    """
    rows = {
        (rung, head): np.median(per_draw(labels, p, metric))
        for (rung, head, k), p in found.items()
        if k == shots
    }
    if not rows:
        raise DataError(
            f"nothing was evaluated with {shots} shots; choose of {sorted({k for *_, k in found})}"
        )
    return pd.Series(rows).unstack(sort=False)  # noqa: PD010


def check_held_out(backbones: Sequence[Backbone], dataset: str, patients: np.ndarray) -> None:
    """Refuse networks that were pretrained on the patients of this development fold.

    Args:
        patients: of the fold, from `splits.development`.

    Raises:
        DataError: a network that learned from `dataset` and left other patients out; names it.
    """
    same = {dataset, SAME_IMAGES.get(dataset, dataset)}
    same |= {name for name, source in SAME_IMAGES.items() if source == dataset}
    for b in backbones:
        learned = any(data.partition(" (train")[0] in same for data in b.pretraining.data)
        if learned and b.pretraining.held_out != digest(patients):
            raise DataError(
                f"{b.name} was pretrained on images of {dataset} that may be in this development fold; what "
                "is chosen on it would be too good. Run with the seed and the patients that it was made "
                "with, pretrain it again with --fold-seed, or leave it out"
            )


def _mean(found: Found, heads: Mapping[str, str], rungs: Sequence[str], shots: int) -> np.ndarray:
    return np.mean([found[rung, heads[rung], shots] for rung in rungs], axis=0, dtype=np.float32)
