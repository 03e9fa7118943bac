"""Model-agnostic meta-learning: the inner loop, with `torch.func`, and what it is told.

Finn, Abbeel and Levine, ICML 2017 (MAML, and its first-order kind); Raghu et al., ICLR 2020 (ANIL); Li et
al., 2017 (Meta-SGD: learned rates). The outer loop is `maml_training.meta_train`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_

from xraykit import training_batches
from xraykit.classifiers import Classifier
from xraykit.decisions import probabilities
from xraykit.episodes import Episode
from xraykit.errors import DataError, TrainingError
from xraykit.images import check_images
from xraykit.losses import Loss, make_loss, targets

PARTS = ("all", "head")
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Inner:
    """How a network adapts to a support set: plain gradient descent on its mean loss.

    Attributes:
        steps: of gradient descent, 0 or more.
        rate: learning rate, above 0; where rates are learned, that from which all of them begin.
        second_order: differentiate through the inner gradients (MAML); False takes them as constants
            (FOMAML).
        part: ``"all"`` weights adapt, or the ``"head"`` alone (ANIL).
        learn_rates: a rate of its own for each adapting weight, meta-learned with the weights (Meta-SGD).
    """

    steps: int = 5
    rate: float = 0.1
    second_order: bool = True
    part: str = "all"
    learn_rates: bool = False

    def __post_init__(self) -> None:
        numbers = isinstance(self.steps, int) and isinstance(self.rate, int | float)
        if not (numbers and self.steps >= 0 and 0 < self.rate < float("inf")):
            raise DataError(f"steps = {self.steps}, rate = {self.rate}; use 0 or more whole steps, rate > 0")
        if self.part not in PARTS:
            raise DataError(f"part = {self.part!r}; use one of {', '.join(PARTS)}")


class Learner(nn.Module):
    """A network with its way of adapting; what meta-training changes are its weights and, if learned, rates.

    Attributes:
        net: a `classifiers.Classifier`, of one output for one finding against the rest, or of N ways.
        inner: an `Inner`.
        rates: by position in `adapting` the learned rates, as large as the weights; or none.
        adapting: names of the weights in `net` that a support set changes.
        name: of the network.
    """

    def __init__(self, net: Classifier, inner: Inner) -> None:
        super().__init__()
        self.net, self.inner, self.name = net, inner, net.name
        named = dict(net.named_parameters())
        self.adapting = [n for n in named if inner.part == "all" or n.startswith("head.")]
        learned = self.adapting if inner.learn_rates else []
        self.rates = nn.ParameterList(torch.full_like(named[n], inner.rate) for n in learned)

    @property
    def kind(self) -> str:
        """Of `losses.make_loss`."""
        return "binary" if self.net.n_outputs == 1 else "multiclass"

    def freeze(self, frozen: bool) -> None:
        """As `Classifier.freeze`."""
        self.net.freeze(frozen)

    def weights(self) -> Weights:
        """Those of the network by name, where adaptation begins."""
        return dict(self.net.named_parameters())

    def rate_of(self) -> dict[str, torch.Tensor | float]:
        """The rate of each adapting weight."""
        if self.inner.learn_rates:
            return dict(zip(self.adapting, self.rates, strict=True))
        return dict.fromkeys(self.adapting, self.inner.rate)

    def loss(self) -> Loss:
        """Of logits and labels, for inner and outer loop."""
        return make_loss(kind=self.kind)


def descend(
    learner: Learner, weights: Weights, images: torch.Tensor, y: torch.Tensor, *, steps: int
) -> tuple[list[Weights], torch.Tensor]:
    """The weights after each inner step on a support set (Finn et al. 2017, eq. 1), and the losses before.

    Args:
        weights: of `learner.net` by name, where it begins.
        images, y: the support set, grey float32 (B, 1, S, S) in 0..1, and its targets (`losses.targets`).

    Returns:
        The adapting weights after step 0 .. `steps`, and the mean support loss at each but the last (steps,).
        They can be differentiated with respect to `weights` and the rates: in first order as if the inner
        gradients were constants.
    """
    net, loss_of, rate, second = learner.net, learner.loss(), learner.rate_of(), learner.inner.second_order
    if learner.inner.part == "head":
        # The body does not change in the inner loop, so that its features are computed once.
        body = {n: w if second else w.detach() for n, w in weights.items() if n not in rate}
        features = functional_call(net.body, _below(body, "body."), images)

    def support_loss(fast: Weights) -> tuple[torch.Tensor, torch.Tensor]:
        if learner.inner.part == "head":
            logits = functional_call(net.head, _below(fast, "head."), features)
        else:
            logits = functional_call(net, fast, images)
        value = loss_of(logits, y).mean()
        return value, value.detach()

    path, losses = [{n: weights[n] for n in learner.adapting}], []
    for _ in range(steps):
        fast = path[-1]
        point = fast if second else {n: w.detach() for n, w in fast.items()}
        slope, value = grad(support_loss, has_aux=True)(point)
        path.append({n: w - rate[n] * slope[n] for n, w in fast.items()})
        losses.append(value)
    return path, torch.stack(losses) if losses else images.new_zeros(0)


def _below(weights: Weights, prefix: str) -> Weights:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def query_loss(
    learner: Learner,
    weights: Weights,
    support: tuple[torch.Tensor, torch.Tensor],
    query: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """What the outer loop makes small for one task: the query loss after adaptation.

    Returns:
        The mean loss; beside it, detached, the support losses (steps,) and the query logits.
    """
    path, losses = descend(learner, weights, *support, steps=learner.inner.steps)
    logits = functional_call(learner.net, weights | path[-1], query[0])
    return learner.loss()(logits, query[1]).mean(), (losses, logits.detach())


def check_inner(losses: torch.Tensor, learner: Learner, *, where: str) -> None:
    """Raise TrainingError where a number of an inner loop is not finite: names task, step and rate.

    Args:
        losses: (tasks, steps) support loss before each inner step.
        where: such as ``"outer step 3"``.
    """
    bad = np.argwhere(~np.isfinite(losses.detach().cpu().numpy().reshape(-1, max(1, losses.shape[-1]))))
    if len(bad):
        task, step = bad[0]
        raise TrainingError(
            f"the inner loop diverged: in {where} task {task + 1} has a support loss of "
            f"{float(losses.reshape(-1, losses.shape[-1])[task, step])} after {step} inner steps (inner "
            f"rate {learner.inner.rate:g}{', learned' if learner.inner.learn_rates else ''}); lower the rate "
            "or take fewer steps"
        )


@torch.no_grad()
def curve(
    learner: Learner,
    images: np.ndarray,
    episode: Episode,
    *,
    steps: int | None = None,
    device: str = "cpu",
    labels: np.ndarray | None = None,
    training: bool = False,
    at: Sequence[int] | None = None,
) -> np.ndarray:
    """Probabilities of the queries of `episode` after each inner step on its support set.

    Every query is answered on its own: evaluation mode, no statistics of the others.

    Args:
        images: uint8 (N, H, W) that the positions of `episode` count.
        steps: of gradient descent; None for those of meta-training.
        device: where to compute, see `devices.choose_device`.
        labels: class codes of ``episode.support.ravel()``; None for those of `episode`.
        training: adapt and answer in training mode, with dropout and with batch statistics of the queries: a
            published mistake.
        at: numbers of steps after which to answer, 0 to `steps`; None for each, which takes longer.

    Returns:
        float64 (steps + 1, M, N), that of the unadapted network first; with `at` one for each of these.

    Raises:
        DataError: images that are not uint8 (N, H, W).
        TrainingError: an inner loop that diverges; names the step and the rate.
    """
    check_images(images)
    steps = learner.inner.steps if steps is None else steps
    if training:  # statistics of the batch, kept nowhere
        learner = replace_all_batch_norm_modules_(copy.deepcopy(learner))
    learner = learner.to(device).train(training)
    support = training_batches.read(images, episode.support.ravel(), device).contiguous()
    y = targets(episode.support_labels if labels is None else labels, learner.kind).to(device)
    queries = training_batches.read(images, episode.query.ravel(), device).contiguous()
    weights = {n: w.detach() for n, w in learner.weights().items()}
    path, losses = descend(learner, weights, support, y, steps=steps)
    path = path if at is None else [path[step] for step in at]
    logits = torch.stack([functional_call(learner.net, weights | fast, queries) for fast in path])
    # The last step has no support loss behind it, so that the answers are looked at as well.
    last = logits.abs().max().reshape(1)
    check_inner(torch.cat([losses, last])[None], learner, where=f"an episode of {episode.finding}")
    return np.stack([answers(z, learner) for z in logits])


def answers(logits: torch.Tensor, learner: Learner) -> np.ndarray:
    """Probabilities float64 (M, N) of logits, those of the two classes where there is one output."""
    return probabilities(logits.float().cpu().numpy(), learner.kind)
