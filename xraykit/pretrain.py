"""Self-supervised pretraining without any label: ``xraykit pretrain``.

Of the patients that no data set shows, or of the training images of any data set without its development
fold. No image of the split test takes part, with or without a label.
"""

import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from xraykit import backbones
from xraykit.backbones import torchvision_nets
from xraykit.backbones.base import UNKNOWN, Pooled, Pretraining, pooled_module
from xraykit.devices import choose_device
from xraykit.errors import DataError, TrainingError
from xraykit.nets import SmallEncoder
from xraykit.pretrain_files import NEW_ENCODER, Config, as_file, begin, save_checkpoint
from xraykit.pretrain_images import Source, unlabelled
from xraykit.pretrain_methods import Loss, method
from xraykit.pretrain_probe import Probe
from xraykit.pretrain_views import view
from xraykit.storage import locked, write_atomic


class Student(nn.Module):
    """Images to features, and features to the projection that the loss compares."""

    def __init__(self, body: Pooled, project: nn.Module) -> None:
        super().__init__()
        self.body, self.project = body, project

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(self.body(x))


def start(config: Config, images: np.ndarray) -> tuple[Pooled, Pretraining]:
    """The network to train, grey images (B, 1, S, S) in 0..1 to features (B, D), and what it has seen.

    Args:
        images: uint8, for the normalisation of `NEW_ENCODER`.

    Raises:
        DataError: a network whose weights cannot be read from a file afterwards; or as `backbones.load`.
    """
    if config.network == NEW_ENCODER:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            encoder = SmallEncoder(config.width)
        return Pooled(
            encoder, mean=[float(images.mean() / 255)], std=[float(images.std() / 255)]
        ), Pretraining()
    if config.architecture not in ("phantom", *torchvision_nets.names()):
        raise DataError(
            f"{config.network} cannot be pretrained, its weights are not read from a file afterwards; choose "
            "phantom or a network of torchvision, such as resnet18:random"
        )
    backbone = backbones.load(config.network, seed=config.seed)
    return copy.deepcopy(pooled_module(backbone, "normalisation")), backbone.pretraining


def seen(before: Pretraining, config: Config, source: Source) -> dict[str, object]:
    """``data``, ``labels`` and ``held_out`` of the finished network: of where it started, and of the images.

    Raises:
        DataError: it started from a network that had learned from the same data set with another fold held
            out, so that no development fold would be left.
    """
    data, held_out = source.about["data"], source.about.get("held_out", "")
    if set(data) & set(before.data) and before.held_out != held_out:
        raise DataError(
            f"{config.network} has learned from {config.dataset} with other patients held out; start from "
            f"another network, or use the --fold-seed that it was made with"
        )
    unknown = before.data == UNKNOWN
    return {
        "data": list(UNKNOWN) if unknown else [*dict.fromkeys([*before.data, *data])],
        "labels": list(before.labels),
        "held_out": held_out or before.held_out,
    }


def pretrain(
    config: Config,
    *,
    out: Path,
    device: str = "auto",
    precision: str = "32-true",
    probe_every: int = 1,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, list]:
    """Train a network and write it to `out`; a killed run goes on after its last finished epoch.

    The same `config`, `precision`, number of threads and processor give the same weights, killed or not.

    Args:
        out: the ``.safetensors`` file; its ``.checkpoint`` beside it is removed at the end.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``: Lightning Fabric's accelerator.
        precision: one of `PRECISIONS`; ``bf16-mixed`` is two to three times as fast where the processor has
            it.
        probe_every: epochs from one look to the next; the last epoch is always looked at.
        data_dir: root of downloads and caches.

    Returns:
        ``losses``, the mean of each epoch, and ``probes``: ``epoch``, AUROC ``knn`` and ``linear``; epoch 0
        is before the first step.

    Raises:
        DataError: `out` exists, or its checkpoint is of other options; see also `start`, `seen`, `Probe` and
            `unlabelled`.
        TrainingError: the loss is not finite.
        StorageError: `out` cannot be written, or another run is writing it.
    """
    if out.suffix != ".safetensors" or out.exists():
        raise DataError(f"{out} exists or does not end with .safetensors; choose another file with --out")
    if probe_every < 1:
        raise DataError(f"probe_every = {probe_every}; look at least every epoch, 1")
    device = choose_device(device)
    with locked(out.with_suffix(".lock"), timeout=0, advice="choose another file with --out"):
        found = _run(config, out, device, precision, probe_every, data_dir, progress)
    out.with_suffix(".lock").unlink(missing_ok=True)
    return found


def _run(
    config: Config,
    out: Path,
    device: str,
    precision: str,
    probe_every: int,
    data_dir: str | Path | None,
    progress: bool,
) -> dict[str, list]:
    """`pretrain`, of which no other run has the file."""
    checkpoint = out.with_suffix(".checkpoint")
    state = begin(config, precision, checkpoint)
    source = unlabelled(config, data_dir=data_dir, progress=progress)
    network, before = start(config, source.images)
    about = source.about | seen(before, config, source) | {"monitor": config.monitored}
    probe = Probe(config.monitored, size=config.size, seed=config.fold_seed, data_dir=data_dir)
    fabric = Fabric(accelerator=device, devices=1, precision=precision)
    model, optimiser, loss_of = _setup(network, config, state, fabric)
    if not state["probes"]:
        state["probes"].append({"epoch": 0} | probe(model.module.body))
        save_checkpoint(state, checkpoint)  # a folder that cannot be written is found before the first epoch
    for epoch in range(len(state["losses"]), config.epochs):
        began = time.perf_counter()
        losses = _epoch(model, optimiser, loss_of, source.images, config, epoch, fabric, progress)
        state["losses"].append(float(np.mean(losses)))
        state["seconds"] += time.perf_counter() - began
        if (epoch + 1) % probe_every == 0 or epoch + 1 == config.epochs:
            state["probes"].append({"epoch": epoch + 1} | probe(model.module.body))
        state |= {"model": model.module.state_dict(), "optimiser": optimiser.state_dict()}
        save_checkpoint(state, checkpoint)
    trained = model.module.body.cpu()
    for name in ("mean", "std"):
        about[name] = [float(f"{v:.4g}") for v in getattr(trained, name).flatten().tolist()]
    if isinstance(trained.maps, SmallEncoder):
        about["width"] = trained.maps.stem[0].out_channels
    write_atomic(out, as_file(trained.maps, config, about=about, precision=precision, run=state))
    checkpoint.unlink(missing_ok=True)
    return {"losses": state["losses"], "probes": state["probes"]}


def _epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_of: Loss,
    images: np.ndarray,
    config: Config,
    epoch: int,
    fabric: Fabric,
    progress: bool,
) -> list[float]:
    """One pass over the images in whole batches; the loss of each step."""
    batches = _batches(images, config, epoch)
    bar = tqdm(batches, f"epoch {epoch + 1}/{config.epochs}", disable=not progress)
    generator = torch.Generator(fabric.device).manual_seed(1_000_003 * config.seed + epoch)
    losses = []
    for step, batch in enumerate(bar, start=epoch * len(batches)):
        optimiser.param_groups[0]["lr"] = learning_rate(step, config.epochs * len(batches), config)
        grey = torch.from_numpy(images[batch]).unsqueeze(1).to(fabric.device) / 255
        views = [view(grey, size=config.view_size, generator=generator) for _ in range(2)]
        both = torch.cat(views).contiguous(memory_format=torch.channels_last)
        loss = loss_of(*model(both).float().chunk(2))
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss of step {step} is {losses[-1]}; choose a learning rate below "
                f"{config.learning_rate}, or precision 32-true"
            )
        optimiser.zero_grad()
        fabric.backward(loss)
        optimiser.step()
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses


def learning_rate(step: int, steps: int, config: Config) -> float:
    """Learning rate of step 0 .. steps-1: linear warm-up over the first twentieth, then a cosine to 0."""
    warm = max(1, steps // 20)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def _setup(network: Pooled, config: Config, state: dict, fabric: Fabric) -> tuple:
    """Model, optimiser and loss, as `state` has them, or new ones from the seed, set up by Fabric."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        project, loss_of = method(_features(network, config.view_size), config)
    model = Student(network, project).requires_grad_(True).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    model, optimiser = fabric.setup(model, optimiser)
    if state["model"]:
        model.module.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    return model.train(), optimiser, loss_of


def _features(network: Pooled, size: int) -> int:
    """D of the features of a view.

    Raises:
        DataError: views too small for the network.
    """
    try:
        with torch.no_grad():
            return network.eval()(torch.zeros(1, 1, size, size)).shape[1]
    except (RuntimeError, AssertionError, ValueError) as error:
        raise DataError(
            f"this network takes no views of {size} pixels ({error}); choose another --view-size"
        ) from error


def _batches(images: np.ndarray, config: Config, epoch: int) -> list[np.ndarray]:
    """Indices of each whole batch, in the random order of this epoch."""
    order = np.random.default_rng([config.seed, epoch]).permutation(len(images))
    return np.split(
        order[: len(order) // config.batch_size * config.batch_size], len(order) // config.batch_size
    )
