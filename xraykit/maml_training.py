"""The outer loop of meta-learning: tasks in batches, validation on findings held out, checkpoints."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.func import vmap
from tqdm import tqdm

from xraykit import maml, metrics, training_batches
from xraykit.datasets import XrayDataset
from xraykit.devices import choose_device, launch, share_of_threads, team_size, torch_threads
from xraykit.episodes import Episode, Tasks
from xraykit.errors import DataError, TrainingError
from xraykit.losses import targets
from xraykit.maml import Learner
from xraykit.maml_config import MetaConfig, check_tasks, told
from xraykit.training_files import DECIDING, Fitted, State, run_folder

TRAIN_FIRST = 1_000_000  # validation episodes have the numbers below, those of training from here on


def meta_train(
    learner: Learner,
    ds: XrayDataset,
    tasks: Tasks,
    validation: Tasks,
    *,
    config: MetaConfig,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    devices: int | None = None,
    num_nodes: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Fitted:
    """Meta-train a copy of `learner` on episodes of `tasks`, and watch it on those of `validation`.

    In fp32 on every device: second-order gradients of small steps need the digits. A run with a `cache_dir`
    goes on after its last finished round when it was killed, to the same weights; finished, it is read.

    Args:
        learner: stays as it is.
        ds: the data set that the positions of both `Tasks` count.
        validation: of findings that `tasks` does not have and that none of its images shows.
        cache_dir: root of the cache; None keeps nothing on disk.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        devices, num_nodes: processes on each machine, and machines, which share the tasks of a step.
        threads: of a CPU process; None for its share of the processors.

    Returns:
        Its ``model()`` is a `Learner`; its ``history`` has ``train_loss``, ``val_loss`` and ``val_auroc``.

    Raises:
        DataError: tasks that share findings, patients or pictures of the others' findings, a network that
            does not fit.
        TrainingError: an inner loop or an outer loss that is not finite; names step and rate.
        StorageError: `cache_dir` cannot be written.
    """
    device, (devices, num_nodes) = choose_device(device), team_size(devices, num_nodes)
    check_tasks(learner, ds, tasks, validation)
    if config.tasks < devices * num_nodes:
        raise DataError(f"{config.tasks} tasks a step for {devices * num_nodes} processes; use fewer of them")
    fabric = launch(device, "fp32", devices=devices, num_nodes=num_nodes)
    learner = copy.deepcopy(learner).train()
    learner.freeze(False)
    about = {"precision": "fp32", "device": device, "world": fabric.world_size, "threads": threads}
    about |= {"inner": vars(learner.inner), "tasks": [told(tasks, ds), told(validation, ds)]}
    on = {"train": tasks.rows, "val": validation.rows, "made_by": (config, about), "fabric": fabric}
    code = (*DECIDING, "episodes", "shots", "maml", "maml_config", "maml_training")
    with run_folder(cache_dir, learner, ds, deciding=code, **on) as folder:
        state = State.begin(folder, config, about)
        if not state.finished:
            with torch.random.fork_rng(), torch_threads(threads or share_of_threads(devices)):
                _train(Work(learner, ds, tasks, validation, config, fabric), state, progress=progress)
    return Fitted(learner.cpu(), state, rank=fabric.global_rank)


@dataclass(frozen=True)
class Work:
    """What is meta-trained on what; see `meta_train`."""

    learner: Learner
    ds: XrayDataset
    tasks: Tasks
    validation: Tasks
    config: MetaConfig
    fabric: Fabric
    together: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        how, device = self.config.tasks_at_once, self.fabric.device.type
        object.__setattr__(self, "together", how == "vmap" or (how == "auto" and device != "cpu"))


def _train(work: Work, state: State, *, progress: bool) -> None:
    config, fabric, learner = work.config, work.fabric, work.learner.to(work.fabric.device)
    optimiser = torch.optim.Adam(learner.parameters(), lr=config.learning_rate)
    state.resume(learner, optimiser)
    total, steps = config.epochs * config.steps_an_epoch, config.steps_an_epoch
    hidden = not progress or fabric.global_rank > 0
    with tqdm(total=total, initial=state.epoch * steps, unit="step", disable=hidden) as bar:
        while not state.finished:
            started = time.perf_counter()
            torch.manual_seed(1_000_003 * config.seed + state.epoch + 10_007 * fabric.global_rank)
            lost = []
            for step in range(state.epoch * steps, (state.epoch + 1) * steps):
                lost.append(outer_step(work, optimiser, step))
                bar.set_postfix_str(f"query loss {lost[-1]:.3f}", refresh=False)
                bar.update()
            found = {"train_loss": float(np.mean(lost)), **_validate(work)}
            state.add(found, learner, seconds=time.perf_counter() - started)
            if fabric.global_rank == 0:
                state.save(optimiser)
            fabric.barrier()


def outer_step(work: Work, optimiser: torch.optim.Optimizer, step: int) -> float:
    """One step on ``config.tasks`` episodes, shared among the processes; their mean query loss."""
    config, fabric, learner = work.config, work.fabric, work.learner.train()
    first = TRAIN_FIRST + step * config.tasks
    mine = range(first + fabric.global_rank, first + config.tasks, fabric.world_size)
    optimiser.zero_grad()
    where = f"outer step {step + 1}"
    loss, inner = _losses(work, [work.tasks.episode(i) for i in mine])
    # Added up first, so that what diverges in one process stops all of them.
    mean = float(fabric.all_reduce(loss, reduce_op="sum")) / config.tasks
    maml.check_inner(inner, learner, where=where)
    if not np.isfinite(mean):
        raise _not_finite(work, "query loss", mean, where)
    for parameter in learner.parameters():
        slope = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad / config.tasks
        parameter.grad = fabric.all_reduce(slope, reduce_op="sum")
    norm = float(torch.nn.utils.clip_grad_norm_(learner.parameters(), config.clip or float("inf")))
    if not np.isfinite(norm):
        raise _not_finite(work, "gradient's norm", norm, where)
    optimiser.step()
    return mean


def _not_finite(work: Work, name: str, value: float, where: str) -> TrainingError:
    rates = f"outer rate {work.config.learning_rate:g}, inner rate {work.learner.inner.rate:g}"
    return TrainingError(
        f"the {name} is {value} in {where} ({rates}); lower one of the rates. The last finished round is kept"
    )


def _losses(work: Work, episodes: Sequence[Episode]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the query losses, whose gradients are added to those of the weights; support losses (T, steps).

    The sum is not finite where any support loss is not.
    """
    learner = work.learner
    batches = [_batch(work, episode) for episode in episodes]
    if not work.together:
        total, inner = torch.zeros((), device=work.fabric.device), []
        for support, query in batches:  # the graph of one task at a time
            loss, (lost, _) = maml.query_loss(learner, learner.weights(), support, query)
            loss.backward()
            total += loss.detach() + 0 * lost.sum()
            inner.append(lost)
        return total, torch.stack(inner)
    stacked = [torch.stack(part) for part in zip(*(s + q for s, q in batches), strict=True)]

    def of_task(xs: torch.Tensor, ys: torch.Tensor, xq: torch.Tensor, yq: torch.Tensor) -> tuple:
        return maml.query_loss(learner, learner.weights(), (xs, ys), (xq, yq))

    loss, (inner, _) = vmap(of_task, randomness="different")(*stacked)
    loss.sum().backward()
    return loss.detach().sum() + 0 * inner.sum(), inner


def _batch(work: Work, episode: Episode) -> tuple[tuple, tuple]:
    """Images and targets of support and query, on the device."""

    def of(rows: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        x = training_batches.read(work.ds.images, rows.ravel(), work.fabric.device)
        return x.contiguous(), targets(labels, work.learner.kind).to(x.device)

    return of(episode.support, episode.support_labels), of(episode.query, episode.query_labels)


def _validate(work: Work) -> dict[str, float]:
    """Mean query loss and AUROC of the validation episodes, which the processes share."""
    fabric, learner = work.fabric, work.learner.eval()
    found = torch.zeros(2, device=fabric.device)
    for i in range(fabric.global_rank, work.config.n_validation, fabric.world_size):
        support, query = _batch(work, work.validation.episode(i))
        with torch.no_grad():
            loss, (inner, logits) = maml.query_loss(learner, learner.weights(), support, query)
        where = f"validation episode {i + 1}"
        maml.check_inner(inner[None], learner, where=where)
        if not logits.isfinite().all():
            raise _not_finite(work, "query loss", float(loss), where)
        p = maml.answers(logits, learner)
        labels = query[1].cpu().numpy().astype(np.int64).ravel()
        area = metrics.score_all(labels, p, names=["auroc"])["auroc"][0]
        found += torch.tensor([float(loss), float(area)], device=fabric.device)
    loss, area = (fabric.all_reduce(found, reduce_op="sum") / work.config.n_validation).tolist()
    return {"val_loss": loss, "val_auroc": area}
