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
from xraykit.classifiers import Classifier, kind_of
from xraykit.datasets import XrayDataset
from xraykit.decisions import probabilities
from xraykit.devices import choose_device, choose_precision, launch, team_size, torch_threads
from xraykit.errors import DataError
from xraykit.images import check_images
from xraykit.losses import make_loss, targets
from xraykit.threads import cores
from xraykit.training_checks import check, check_finite, explained
from xraykit.training_config import EVALUATED, Config, make_optimiser, rate
from xraykit.training_files import Fitted, State, run_folder

PREDICTED_AT_ONCE = 128


def fit(
    model: Classifier,
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
        model: from `classifiers.build`; stays as it is.
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
    check(model, ds, train=train, val=val, config=config)
    device, (devices, num_nodes) = choose_device(device), team_size(devices, num_nodes)
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
            with torch.random.fork_rng(), torch_threads(threads or _share_of_threads(devices)):
                _train(Work(model, ds, train, val, config, fabric), state, progress=progress)
    return Fitted(model.cpu(), state, rank=fabric.global_rank)


def _share_of_threads(devices: int) -> int:
    """As many as PyTorch has; of several processes on this machine, each its part of the processors."""
    return torch.get_num_threads() if devices == 1 else max(1, cores() // devices)


@dataclass(frozen=True)
class Work:
    """What is trained on what; see `fit`."""

    model: Classifier
    ds: XrayDataset
    train: np.ndarray
    val: np.ndarray
    config: Config
    fabric: Fabric

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Positions in `train` of each batch of an epoch; no batch is smaller than two, or than the team."""
        least = max(2, self.fabric.world_size)
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
            torch.manual_seed(1_000_003 * config.seed + state.epoch)
            learned = _epoch(work, net, optimiser, epoch=state.epoch, bar=bar)
            found = learned | _validate(work, epoch=state.epoch)
            state.add(found, work.model, optimiser, seconds=time.perf_counter() - started)
            if fabric.global_rank == 0:
                state.save()
            fabric.barrier()


def _epoch(work: Work, net: nn.Module, optimiser: torch.optim.Optimizer, *, epoch: int, bar: tqdm) -> dict:
    """One pass over the training images: mean loss and accuracy, as they were while learning."""
    config, fabric, kind = work.config, work.fabric, kind_of(work.ds)
    loss_of = make_loss(config.loss, kind=kind, weights=config.weights, gamma=config.gamma)
    truth, batches = targets(work.ds.labels, kind), work.batches(epoch)
    work.model.freeze(
        config.trainable == "head" or (config.trainable == "head_then_all" and epoch < config.head_epochs)
    )
    net.train()
    total = torch.zeros(2, device=fabric.device)
    for step, batch in enumerate(batches, start=epoch * len(batches)):
        mine = batch[fabric.global_rank :: fabric.world_size]
        with explained(work.ds, when=f"step {step}", at_once=config.batch_size, fix="a smaller batch_size"):
            for group in optimiser.param_groups:
                group["lr"] = rate(step, config.epochs * len(batches), config)
            images = training_batches.read(work.ds.images, work.train[mine], fabric.device)
            if config.augment:
                images = augment(images, mine, epoch=epoch, seed=config.seed, options=config.augment)
            y = truth[work.train[mine]].to(fabric.device)
            logits = net(images).float()
            loss = loss_of(logits, y).sum()
            check_finite("loss", loss, config, when=f"epoch {epoch + 1}, step {step}")
            optimiser.zero_grad()
            # Fabric averages over the processes, whose shares of a batch may differ by one image.
            fabric.backward(loss * (fabric.world_size / len(batch)))
            if config.clip:
                norm = fabric.clip_gradients(net, optimiser, max_norm=config.clip, error_if_nonfinite=False)
                check_finite("gradient's norm", norm, config, when=f"epoch {epoch + 1}, step {step}")
            optimiser.step()
        total += torch.stack([loss.detach(), _hits(logits.detach(), y)])
        bar.set_postfix_str(
            f"epoch {epoch + 1}/{config.epochs}, loss {loss.item() / len(mine):.3f}", refresh=False
        )
        bar.update()
    loss, accuracy = (fabric.all_reduce(total, reduce_op="sum") / len(work.train)).tolist()
    return {"learning_rate": optimiser.param_groups[0]["lr"], "train_loss": loss, "train_accuracy": accuracy}


def _hits(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Number of right answers; of several labels an image, the share of them."""
    if y.ndim == 1:
        return (logits.argmax(dim=1) == y).sum().float()
    return ((logits > 0) == (y > 0)).float().mean(dim=1).sum()


def _validate(work: Work, *, epoch: int) -> dict[str, float]:
    """Loss and scores of the validation images, which the processes share."""
    fabric, kind = work.fabric, kind_of(work.ds)
    mine = slice(fabric.global_rank, None, fabric.world_size)
    logits = torch.zeros(len(work.val), work.model.n_outputs, device=fabric.device)
    about = {"when": f"the validation of epoch {epoch + 1}", "fix": "device='cpu'"}
    with explained(work.ds, at_once=min(PREDICTED_AT_ONCE, len(work.val)), **about), fabric.autocast():
        if len(work.val[mine]):
            logits[mine] = _logits(work.model, work.ds.images, work.val[mine], fabric.device)
    # Each process has zeros where the others have their images, so that the sum is what they all found.
    logits = fabric.all_reduce(logits, reduce_op="sum").cpu()
    check_finite("largest validation logit", logits.abs().max(), work.config, when=f"epoch {epoch + 1}")
    loss_of = make_loss(work.config.loss, kind=kind, weights=work.config.weights, gamma=work.config.gamma)
    labels = work.ds.labels[work.val]
    found = {"val_loss": float(loss_of(logits, targets(labels, kind)).mean())}
    p = probabilities(logits.numpy(), kind)
    if kind == "multilabel":
        both = (labels.min(axis=0) == 0) & (labels.max(axis=0) == 1)
        labels, p = labels[:, both], p[:, both]
    scores = metrics.score_all(labels, p, names=EVALUATED[kind])
    return found | {f"val_{name}": float(value[0]) for name, value in scores.items()}


def predict(
    model: Classifier, images: np.ndarray, *, device: str = "auto", precision: str = "fp32"
) -> np.ndarray:
    """Logits float32 (N, n_outputs) of grey images uint8 (N, H, W), array or memmap.

    The model is put into evaluation mode and stays on the device.

    Raises:
        DataError: a device or precision that is not there, or images that are not uint8 (N, H, W).
    """
    check_images(images)
    device = choose_device(device)
    mixed = choose_precision(precision, device) == "bf16"
    model = model.to(device)
    with torch.autocast(device, torch.bfloat16, enabled=mixed):
        return _logits(model, images, np.arange(len(images)), device).cpu().numpy()


@torch.inference_mode()
def _logits(
    model: Classifier, images: np.ndarray, rows: np.ndarray, device: torch.device | str
) -> torch.Tensor:
    model.eval()
    parts = (rows[i : i + PREDICTED_AT_ONCE] for i in range(0, len(rows), PREDICTED_AT_ONCE))
    return torch.cat([model(training_batches.read(images, part, device)).float() for part in parts])
