"""Ways to answer an episode: all see the same support images and nothing else of the finding.

A method is a function from an `Episode` to the probabilities of its queries, (M, N). `asked_of` draws the
episodes, `answers` lets methods answer them at every number of shots.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm import tqdm

from xraykit import fewshot, maml, metrics
from xraykit.backbones import Backbone
from xraykit.classifiers import build
from xraykit.datasets import XrayDataset
from xraykit.episode_scores import Asked, Method
from xraykit.episodes import Episode, Tasks, room
from xraykit.errors import DataError, TrainingError
from xraykit.maml import Inner, Learner

# Prototypes: Snell et al., NeurIPS 2017; of frozen features they are the nearest class mean.
PROBES = {"logistic regression": "logistic regression", "SVC": "SVC RBF", "prototypes": "nearest class mean"}


def asked_of(
    ds: XrayDataset,
    rows: np.ndarray,
    findings: Sequence[str],
    *,
    shots: Sequence[int],
    queries: int,
    n_episodes: int,
    seed: int,
    run: int = 0,
) -> tuple[list[Asked], dict[str, int]]:
    """Episodes of findings that meta-training `run` does not know, each with as many shots as there can be.

    A finding has episodes with the largest of `shots` that its patients allow beside the queries. Smaller
    shots are the first images of the larger ones (`Episode.at`), with the same queries.

    Args:
        shots: images of each class, all that are wanted.
        n_episodes: of all findings together.

    Returns:
        The episodes; and for each finding without the largest shots, its `episodes.room`.

    Raises:
        DataError: no finding with room for the fewest shots.
    """
    rooms = {finding: room(ds, rows, finding) for finding in findings}
    few = {finding: n for finding, n in rooms.items() if n < max(shots) + queries}
    largest = {f: max((k for k in shots if k + queries <= n), default=0) for f, n in rooms.items()}
    about = {"queries": queries, "seed": seed}
    tasks = [Tasks(ds, rows, [f], shots=k, **about) for f, k in largest.items() if k]
    if not tasks:
        raise DataError(
            f"none of {', '.join(findings)} has {min(shots)} + {queries} patients a class among {len(rows)} "
            f"images ({few}); take fewer shots or queries, or more images"
        )
    return [Asked(run, tasks[i % len(tasks)].episode(i)) for i in range(n_episodes)], few


def answers(
    methods: Mapping[int, Mapping[str, Method]], asked: Sequence[Asked], *, shots: int, progress: bool = False
) -> tuple[list[Asked], dict[str, list[np.ndarray]]]:
    """What every method says about the queries of the episodes that have so many shots.

    Args:
        methods: for each run its methods by name; a method answers only the episodes of its own run.

    Returns:
        These episodes with `shots` shots, and for each method one answer (M, N) an episode.
    """
    enough = [
        replace(one, episode=one.episode.at(shots)) for one in asked if one.episode.support.shape[1] >= shots
    ]
    names = list(next(iter(methods.values())))
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for one in tqdm(enough, f"{shots} shots", unit="episode", disable=not progress):
        for name in names:
            found[name].append(methods[one.run][name](one.episode))
    return enough, found


def frozen(features: np.ndarray, name: str) -> Method:
    """One of `fewshot.CLASSIFIERS` on frozen features (N, D) of all images, normalised."""

    def answer(episode: Episode) -> np.ndarray:
        rows, (n, k) = episode.support.ravel(), episode.support.shape
        on = {"support": np.arange(n * k).reshape(1, n, k), "shots": [k], "classifiers": [name]}
        pool, queries = features[rows], features[episode.query.ravel()]
        return fewshot.evaluate(pool, episode.support_labels, queries, **on)[name, k][0]

    return answer


def probes(features: Mapping[str, np.ndarray], pool: np.ndarray) -> dict[str, Method]:
    """`PROBES` on each of some features (N, D) of all images, called ``"prototypes, phantom"`` and so on.

    The features are standardised by those of the images `pool` and divided by their length; no label takes
    part in that.
    """
    found = {}
    for body, x in features.items():
        scaled = fewshot.normalise(x[pool], x, how="l2")[1]
        found |= {f"{name}, {body}": frozen(scaled, rule) for name, rule in PROBES.items()}
    return found


def fine_tunings(
    shared: Backbone, network: str, *, rates: Sequence[float], seed: int
) -> dict[str, list[Learner]]:
    """What gradient descent on a support set can begin at without meta-training, at every rate.

    Args:
        shared: the network of `episode_study.shared_loss`; its head is replaced.
        network: the same with random weights.
    """
    starts = {"from scratch": (network, "all"), "fine-tuned head": (shared, "head")}
    starts["fine-tuned all"] = (shared, "all")
    return {
        name: [Learner(build(start, 1, seed=seed), Inner(rate=rate, part=part)) for rate in rates]
        for name, (start, part) in starts.items()
    }


@dataclass(frozen=True)
class Picked:
    """A way to adapt that was chosen on validation episodes.

    Attributes:
        learner: the weights, and the inner rate.
        steps: of the inner loop.
        auroc: mean over the validation episodes.
        diverged: episodes, such as those with other shots, on which it diverged; it guesses there.
    """

    learner: Learner
    steps: int
    auroc: float
    diverged: list[Episode] = field(default_factory=list, compare=False)

    def method(self, images: np.ndarray, *, device: str = "cpu") -> Method:
        """As a method for the positions in `images`."""
        about = {"steps": self.steps, "device": device, "at": [self.steps]}

        def answer(episode: Episode) -> np.ndarray:
            try:
                return maml.curve(self.learner, images, episode, **about)[0]
            except TrainingError:
                self.diverged.append(episode)
                n = len(episode.classes)
                return np.full((episode.query.size, n), 1 / n)

        return answer


def choose_adaptation(
    learners: Sequence[Learner],
    images: np.ndarray,
    episodes: Sequence[Episode],
    *,
    steps: Sequence[int],
    device: str = "cpu",
) -> Picked:
    """The learner and the number of steps, of `steps`, with the best mean AUROC on validation episodes.

    Args:
        learners: the same weights with different rates, or a single one; those that diverge are left out.
        episodes: of validation findings, never of those held out for the test.

    Returns:
        The first learner and the fewest steps among equals.

    Raises:
        DataError: no learner that does not diverge.
    """
    best: Picked | None = None
    for learner in learners:
        try:
            about = {"steps": max(steps), "at": steps, "device": device}
            paths = [maml.curve(learner, images, episode, **about) for episode in episodes]
        except TrainingError:
            continue
        areas = [
            metrics.per_draw(e.query_labels, path, "auroc") for e, path in zip(episodes, paths, strict=True)
        ]
        mean = np.mean(areas, axis=0)
        if best is None or mean.max() > best.auroc:
            best = Picked(learner, steps[int(mean.argmax())], float(mean.max()))
    if best is None:
        raise DataError(f"none of {len(learners)} learners adapts without diverging; add a lower rate")
    return best
