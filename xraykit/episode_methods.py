"""Ways to answer an episode: all see the same support images and nothing else of the finding.

A method is a function from an `Episode` to the probabilities of its queries, (M, N). `asked_of` draws the
episodes, `answers` lets methods answer them at every number of shots.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from xraykit import fewshot, maml, metrics
from xraykit.backbones import Backbone, check_unseen
from xraykit.classifiers import Classifier, as_backbone, build
from xraykit.datasets import XrayDataset
from xraykit.episode_scores import Asked
from xraykit.episodes import Episode, Tasks, with_room
from xraykit.errors import DataError
from xraykit.maml import Inner, Learner

Method = Callable[[Episode], np.ndarray]


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
    smallest, few = with_room(ds, rows, findings, images=min(shots) + queries)
    if not smallest:
        raise DataError(
            f"none of {', '.join(findings)} has {min(shots)} + {queries} patients a class among {len(rows)} "
            f"images ({few}); take fewer shots or queries, or more images"
        )
    room = {f: max(k for k in shots if with_room(ds, rows, [f], images=k + queries)[0]) for f in smallest}
    about = {"queries": queries, "seed": seed}
    tasks = [Tasks(ds, rows, [f], shots=room[f], **about) for f in smallest]
    asked = [Asked(run, tasks[i % len(tasks)].episode(i)) for i in range(n_episodes)]
    return asked, few | {f: room[f] + queries for f in smallest if room[f] < max(shots)}


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


def adapted(learner: Learner, images: np.ndarray, *, steps: int, device: str = "cpu") -> Method:
    """A network after `steps` inner steps on the support set, whatever its weights were before."""
    return lambda episode: maml.curve(learner, images, episode, steps=steps, device=device)[-1]


def frozen(features: np.ndarray, name: str) -> Method:
    """One of `fewshot.CLASSIFIERS` on frozen features (N, D) of all images, normalised."""

    def answer(episode: Episode) -> np.ndarray:
        rows, (n, k) = episode.support.ravel(), episode.support.shape
        on = {"support": np.arange(n * k).reshape(1, n, k), "shots": [k], "classifiers": [name]}
        pool, queries = features[rows], features[episode.query.ravel()]
        return fewshot.evaluate(pool, episode.support_labels, queries, **on)[name, k][0]

    return answer


def unseen_backbone(net: Classifier, held_out: Sequence[str]) -> Backbone:
    """The body of a trained network, which must not have been taught any of `held_out`.

    Raises:
        DataError: it was; see `backbones.check_unseen`.
    """
    backbone = as_backbone(net, name=net.name, size=net.size, pretraining=net.pretraining)
    check_unseen(backbone, held_out)
    return backbone


def fine_tuned(start: Backbone, inner: Inner, *, n_outputs: int = 1, seed: int = 0) -> Learner:
    """A `Learner` that was not meta-trained: the weights of `start` with a new head, and a way to adapt.

    With the weights of `start` random, that is training from scratch on the support set.
    """
    return Learner(build(start, n_outputs, seed=seed), inner)


def choose_adaptation(
    learners: Sequence[Learner], images: np.ndarray, episodes: Sequence[Episode], *, steps: int
) -> tuple[Learner, int, float]:
    """The learner and the number of steps, 1 to `steps`, with the best mean AUROC on validation episodes.

    Args:
        learners: the same weights with different rates, or a single one.
        episodes: of validation findings, never of those held out for the test.

    Returns:
        The learner, its number of steps (the fewest among equals), and that AUROC.
    """
    best: tuple[Learner, int, float] | None = None
    for learner in learners:
        area = mean_auroc_by_step(learner, images, episodes, steps=steps)
        step = int(area[1:].argmax()) + 1
        if best is None or area[step] > best[2]:
            best = learner, step, float(area[step])
    if best is None:
        raise DataError("no learner to choose from; give at least one")
    return best


def mean_auroc_by_step(
    learner: Learner, images: np.ndarray, episodes: Sequence[Episode], *, steps: int
) -> np.ndarray:
    """Mean AUROC of the queries after 0 .. `steps` inner steps, float64 (steps + 1,)."""
    areas = []
    for episode in episodes:
        path = maml.curve(learner, images, episode, steps=steps)
        areas.append(metrics.per_draw(episode.query_labels, path, "auroc"))
    return np.mean(areas, axis=0)
