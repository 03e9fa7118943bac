"""What a published comparison of MAML with fine-tuning does wrong, as functions to measure it with."""

import copy
from dataclasses import replace

import numpy as np

from xraykit import maml
from xraykit.episode_methods import Picked
from xraykit.episode_scores import Method
from xraykit.episodes import Episode
from xraykit.errors import DataError


def only_positives(picked: Picked, images: np.ndarray) -> Method:
    """Fine-tuning on the support images with the finding alone, without a single negative."""

    def answer(episode: Episode) -> np.ndarray:
        alone = replace(episode, support=episode.support[1:])
        positive = np.ones(alone.support.size, np.int64)
        return maml.curve(picked.learner, images, alone, steps=picked.steps, labels=positive)[-1]

    return answer


def in_training_mode(picked: Picked, images: np.ndarray, *, dropout: float = 0.0) -> Method:
    """Adapting and answering with dropout before the head and with batch statistics of all queries."""
    noisy = copy.deepcopy(picked.learner)
    noisy.net.head[0].p = dropout
    about = {"steps": picked.steps, "at": [picked.steps], "training": True}
    return lambda episode: maml.curve(noisy, images, episode, **about)[0]


def few_tasks(differences: np.ndarray, *, n: int, times: int, rng: np.random.Generator) -> np.ndarray:
    """The mean differences (times,) that studies of `n` random episodes each would report.

    Args:
        differences: (E,) one an episode.

    Raises:
        DataError: fewer episodes than n, or n below 1.
    """
    if not 1 <= n <= len(differences):
        raise DataError(f"{n} of {len(differences)} episodes; choose 1 to {len(differences)}")
    return np.array([rng.choice(differences, n, replace=False).mean() for _ in range(times)])
