"""One visible training loop for every network, task and number of devices, on Lightning Fabric."""

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from xraykit import metrics, training_batches
from xraykit.augment import augment
from xraykit.autoencoder import Autoencoder
from xraykit.classifiers import Classifier
from xraykit.datasets import XrayDataset
from xraykit.decisions import probabilities
from xraykit.devices import (
    choose_device,
    choose_precision,
    launch,
    share_of_threads,
    team_size,
    torch_threads,
)
from xraykit.errors import DataError
from xraykit.images import check_rows
from xraykit.losses import hits, make_loss, targets
from xraykit.training_checks import check, check_finite, has_batch_norm, kind_of_run, memory_explained
from xraykit.training_config import EVALUATED, Config, make_optimiser, rate
from xraykit.training_files import Fitted, State, run_folder

PREDICTED_AT_ONCE = 128


def fit(
    model: Classifier | Autoencoder,
    ds: XrayDataset,
    *,
    train: np.ndarray,
    val: np.ndarray,
    config: Config,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    precision: str = "fp32",
    devices: int | None = None,
    num_nodes: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Fitted:
    """Train a copy of `model` on the images `train` of `ds` and watch it on the images `val`.

    A run with a `cache_dir` is filed under the hash of everything that decides it. Killed, it goes on after
    its last finished epoch, to the history of an uninterrupted run; finished, it is read and not repeated.

    Args:
        model: from `classifiers.build`, or an `Autoencoder`, which looks at no label; stays as it is.
        ds: labels decide the task; its images are read batch by batch, at their own size.
        train: positions in `ds`, repeats allowed (see `balance`); each repeat is augmented on its own.
        val: positions in `ds` of other patients.
        config: the rest.
        cache_dir: root of the cache, such as ``data/cache``; None keeps nothing on disk.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: ``"fp32"``, ``"bf16"`` (mixed), or ``"auto"``: bf16 where the device has it.
        devices, num_nodes: processes on each machine, and machines; as torchrun or Fabric started them.
        threads: of a CPU process; None for its share of the processors. Sums in another order make other
            weights, and every step enlarges the difference: one thread gives the same on every number of
            processors of one kind.

    Raises:
        DataError: images, labels, splits, network and options that do not go together.
        TrainingError: a loss that is not finite, or memory that is exhausted.
        StorageError: `cache_dir` cannot be written.
    """
    train, val = np.asarray(train), np.asarray(val)
    device, (devices, num_nodes) = choose_device(device), team_size(devices, num_nodes)
    check(model, ds, train=train, val=val, config=config, world=devices * num_nodes)
    precision = choose_precision(precision, device)
    several = devices * num_nodes > 1
    # While the body is frozen, its weights get no gradient, which DDP must be told.
    partly = several and config.trainable != "all"
    options = {"strategy": "ddp_find_unused_parameters_true"} if partly else {}
    fabric = launch(device, precision, devices=devices, num_nodes=num_nodes, **options)
    about = {"precision": precision, "device": device, "world": fabric.world_size}
    about |= {"threads": threads} if threads else {}
    model = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    model.freeze(False)  # its mode and what is frozen do not make it another run
    made_by = (config, about)
    with run_folder(cache_dir, model, ds, train=train, val=val, made_by=made_by, fabric=fabric) as folder:
        state = State.begin(folder, config, about)
        if not state.finished:
            with torch.random.fork_rng(), torch_threads(threads or share_of_threads(devices)):
                _train(
                    Work(model, ds, train, val, config, fabric, kept=folder is not None),
                    state,
                    progress=progress,
                )
    return Fitted(model.cpu(), state, rank=fabric.global_rank)


@dataclass(frozen=True)
class Work:
    """What is trained on what; see `fit`. `kept`: finished epochs are on disk."""

    model: Classifier | Autoencoder
    ds: XrayDataset
    train: np.ndarray
    val: np.ndarray
    config: Config
    fabric: Fabric
    kept: bool = False

    @property
    def kind(self) -> str:
        return kind_of_run(self.model, self.ds)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Positions in `train` of each batch of an epoch; none is smaller than two, or than the team; with
        batch norm each process has at least two."""
        world = self.fabric.world_size
        least = 2 * world if has_batch_norm(self.model) else max(2, world)
        return training_batches.plan(
            len(self.train), self.config.batch_size, epoch=epoch, seed=self.config.seed, at_least=least
        )


def _train(work: Work, state: State, *, progress: bool) -> None:
    """The loop over the epochs; `state` has what was done so far, and is saved after each."""
    config, fabric = work.config, work.fabric
    if min(len(work.train), config.batch_size) < fabric.world_size:
        raise DataError(
            f"{len(work.train)} training images in batches of {config.batch_size} for {fabric.world_size} "
            "processes; use fewer processes"
        )
    net, optimiser = fabric.setup(work.model, make_optimiser(work.model, config))
    state.resume(work.model, optimiser)
    steps = len(work.batches(0))
    hidden = not progress or fabric.global_rank > 0
    with tqdm(total=config.epochs * steps, initial=state.epoch * steps, unit="step", disable=hidden) as bar:
        while not state.finished:
            started = time.perf_counter()
            # Another number for each process, so that dropout does not repeat its masks.
            torch.manual_seed(1_000_003 * config.seed + state.epoch + 10_007 * fabric.global_rank)
            learned = _epoch(work, net, optimiser, epoch=state.epoch, bar=bar)
            _share_statistics(work)
            found = learned | _validate(work, epoch=state.epoch)
            state.add(found, work.model, seconds=time.perf_counter() - started)
            if fabric.global_rank == 0:
                state.save(optimiser)
            fabric.barrier()


def _share_statistics(work: Work) -> None:
    """Give every process the batch statistics of the first, which are those that are kept."""
    if work.fabric.world_size > 1:
        for buffer in work.model.buffers():
            torch.distributed.broadcast(buffer, 0)


def _epoch(work: Work, net: nn.Module, optimiser: torch.optim.Optimizer, *, epoch: int, bar: tqdm) -> dict:
    """One pass over the training images: mean loss and accuracy, as they were while learning."""
    config, fabric, kind = work.config, work.fabric, work.kind
    loss_of = make_loss(config.loss, kind=kind, weights=config.weights, gamma=config.gamma)
    truth, batches = targets(work.ds.labels, kind), work.batches(epoch)
    work.model.freeze(
        config.trainable == "head" or (config.trainable == "head_then_all" and epoch < config.head_epochs)
    )
    net.train()
    total = torch.zeros(2, device=fabric.device)
    for i, batch in enumerate(batches):
        mine = batch[fabric.global_rank :: fabric.world_size]
        about = {"when": f"epoch {epoch + 1}, step {i + 1} of {len(batches)}", "kept": work.kept}
        with memory_explained(work.ds, at_once=len(mine), fix="a smaller batch_size", **about):
            for group in optimiser.param_groups:
                group["lr"] = rate(epoch * len(batches) + i, config.epochs * len(batches), config)
            images = training_batches.read(work.ds.images, work.train[mine], fabric.device)
            if config.augment:
                images = augment(images, mine, epoch=epoch, seed=config.seed, options=config.augment)
            y = truth[work.train[mine]].to(fabric.device)
            logits = net(images).float()
            loss = loss_of(logits, y).sum()
            optimiser.zero_grad()
            # Fabric averages over the processes, whose shares of a batch may differ by one image.
            fabric.backward(loss * (fabric.world_size / len(batch)))
            norm = torch.zeros_like(loss)
            if config.clip:
                norm = fabric.clip_gradients(net, optimiser, max_norm=config.clip, error_if_nonfinite=False)
            # One transfer a step. The sum over the processes lets what one of them meets stop all of them.
            seen = fabric.all_reduce(torch.stack([loss.detach(), norm]), reduce_op="sum").tolist()
            for name, value in zip(("loss", "gradient's norm"), seen, strict=True):
                check_finite(name, value, config, **about)
            optimiser.step()
        total += torch.stack([loss.detach(), hits(logits.detach(), y)])
        bar.set_postfix_str(
            f"epoch {epoch + 1}/{config.epochs}, loss {seen[0] / len(batch):.3f}", refresh=False
        )
        bar.update()
    loss, accuracy = (fabric.all_reduce(total, reduce_op="sum") / len(work.train)).tolist()
    learned = {"learning_rate": optimiser.param_groups[0]["lr"], "train_loss": loss}
    return learned if kind == "reconstruction" else learned | {"train_accuracy": accuracy}


def _validate(work: Work, *, epoch: int) -> dict[str, float]:
    """Loss and scores of the validation images, which the processes share."""
    fabric, kind = work.fabric, work.kind
    mine = slice(fabric.global_rank, None, fabric.world_size)
    logits = torch.zeros(len(work.val), work.model.n_outputs, device=fabric.device)
    about = {"when": f"the validation of epoch {epoch + 1}", "kept": work.kept}
    at_once = min(PREDICTED_AT_ONCE, len(work.val[mine]))
    with memory_explained(work.ds, at_once=at_once, fix="device='cpu'", **about), fabric.autocast():
        if len(work.val[mine]):
            logits[mine] = _logits(work.model, work.ds.images, work.val[mine], fabric.device)
    # Each process has zeros where the others have their images, so that the sum is what they all found.
    logits = fabric.all_reduce(logits, reduce_op="sum").cpu()
    about["when"] = f"epoch {epoch + 1}"
    check_finite("largest validation logit", float(logits.abs().max()), work.config, **about)
    loss_of = make_loss(work.config.loss, kind=kind, weights=work.config.weights, gamma=work.config.gamma)
    labels = work.ds.labels[work.val]
    found = {"val_loss": float(loss_of(logits, targets(labels, kind)).mean())}
    if kind == "reconstruction":
        return found
    p = probabilities(logits.numpy(), kind)
    if kind == "multilabel":
        both = (labels.min(axis=0) == 0) & (labels.max(axis=0) == 1)
        labels, p = labels[:, both], p[:, both]
    scores = metrics.score_all(labels, p, names=EVALUATED[kind])
    return found | {f"val_{name}": float(value[0]) for name, value in scores.items()}


def predict(
    model: Classifier | Autoencoder,
    images: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> np.ndarray:
    """Logits float32 (M, n_outputs) of grey images uint8 (N, H, W), array or memmap, read batch by batch.

    Of an `Autoencoder` they are errors.

    The model is put into evaluation mode and stays on the device.

    Args:
        rows: positions (M,) of the images; None for all N.

    Raises:
        DataError: a device or precision that is not there, images that are not uint8 (N, H, W), or rows that
            are not positions of them.
    """
    rows = check_rows(images, rows)
    device = choose_device(device)
    mixed = choose_precision(precision, device) == "bf16"
    model = model.to(device)
    with torch.autocast(device, torch.bfloat16, enabled=mixed):
        return _logits(model, images, rows, device).cpu().numpy()


@torch.inference_mode()
def _logits(
    model: Classifier | Autoencoder, images: np.ndarray, rows: np.ndarray, device: torch.device | str
) -> torch.Tensor:
    model.eval()
    parts = (rows[i : i + PREDICTED_AT_ONCE] for i in range(0, len(rows), PREDICTED_AT_ONCE))
    return torch.cat([model(training_batches.read(images, part, device)).float() for part in parts])
