"""Self-supervised pretraining of the small encoder on reserved synthetic patients: ``xraykit pretrain``.

SimCLR (Chen et al., ICML 2020): two views of one image shall be more alike than views of two images.
No finding, no lesion mask and no image of a patient of train, val or test takes part.
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from xraykit.datasets import synthetic
from xraykit.errors import DataError
from xraykit.nets import SmallEncoder
from xraykit.pretrain_files import Config, as_file, begin, save_checkpoint
from xraykit.pretrain_views import view
from xraykit.storage import write_atomic


class Contrast(nn.Module):
    """Encoder, average pooling, and the projection that is thrown away after pretraining."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = SmallEncoder(width)
        hidden = [nn.Linear(8 * width, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128)]
        self.project = nn.Sequential(*hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(self.encoder(x).mean(dim=(2, 3)))


def nt_xent(first: torch.Tensor, second: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Mean over all 2B views of -log softmax of the cosine to the other view of the same image.

    Chen et al. 2020, equation 1.

    Args:
        first, second: (B, D) projections; row i of both are views of one image.
    """
    z = F.normalize(torch.cat([first, second]), dim=1)
    like = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(like, torch.arange(len(z), device=z.device).roll(len(first)))


def draw_images(config: Config, *, progress: bool = True) -> np.ndarray:
    """Rendered images uint8 (images, size, size), the first one of each reserved patient."""
    numbers = synthetic.PATIENT_RANGES["pretrain"]
    drawn = np.empty((config.images, config.size, config.size), np.uint8)
    for i, image in enumerate(tqdm(drawn, "images", unit="image", disable=not progress)):
        patient, name = numbers[i // 2], synthetic.NAMES[i % 2]
        image[:] = synthetic.render(patient, name=name, size=config.size, seed=config.seed).image
    return drawn


def pretrain(
    config: Config, *, out: Path, device: str = "auto", precision: str = "32-true", progress: bool = True
) -> list[float]:
    """Train an encoder and write it to `out`; a killed run goes on after its last finished epoch.

    The same `config`, `precision`, number of threads and processor give the same weights, killed or not.

    Args:
        out: the ``.safetensors`` file; its ``.checkpoint`` beside it is removed at the end.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``: Lightning Fabric's accelerator.
        precision: Fabric's; ``bf16-mixed`` is twice as fast where the processor has it.

    Returns:
        The mean loss of each epoch.

    Raises:
        DataError: `out` exists, or its checkpoint is of other options.
        StorageError: `out` cannot be written.
    """
    if out.suffix != ".safetensors" or out.exists():
        raise DataError(f"{out} exists or does not end with .safetensors; choose another file with --out")
    checkpoint = out.with_suffix(".checkpoint")
    state = begin(config, precision, checkpoint)
    images = draw_images(config, progress=progress)
    mean, std = float(images.mean() / 255), float(images.std() / 255)
    fabric = Fabric(accelerator=device, devices=1, precision=precision)
    model, optimiser = _model(config, state, fabric)
    for epoch in range(len(state["losses"]), config.epochs):
        started = time.perf_counter()
        bar = tqdm(
            _batches(images, config, epoch), f"epoch {epoch + 1}/{config.epochs}", disable=not progress
        )
        generator = torch.Generator(fabric.device).manual_seed(1_000_003 * config.seed + epoch)
        losses = []
        for step, batch in enumerate(bar, start=epoch * len(bar)):
            optimiser.param_groups[0]["lr"] = learning_rate(step, config.epochs * len(bar), config)
            grey = torch.from_numpy(images[batch]).unsqueeze(1).to(fabric.device) / 255
            views = [view(grey, size=config.view_size, generator=generator) for _ in range(2)]
            both = ((torch.cat(views) - mean) / std).contiguous(memory_format=torch.channels_last)
            loss = nt_xent(*model(both).float().chunk(2), temperature=config.temperature)
            optimiser.zero_grad()
            fabric.backward(loss)
            optimiser.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
        state["losses"].append(float(np.mean(losses)))
        state["seconds"] += time.perf_counter() - started
        state |= {"model": model.module.state_dict(), "optimiser": optimiser.state_dict()}
        save_checkpoint(state, checkpoint)
    encoder = model.module.encoder.cpu()
    write_atomic(out, as_file(encoder, config, mean=mean, std=std, precision=precision, run=state))
    checkpoint.unlink(missing_ok=True)
    return state["losses"]


def learning_rate(step: int, steps: int, config: Config) -> float:
    """Learning rate of step 0 .. steps-1: linear warm-up over the first twentieth, then a cosine to 0."""
    warm = max(1, steps // 20)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def _model(config: Config, state: dict, fabric: Fabric) -> tuple:
    """Model and optimiser as `state` has them, or new ones from the seed, set up by Fabric."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = Contrast(config.width).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    model, optimiser = fabric.setup(model, optimiser)
    if state["model"]:
        model.module.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    return model.train(), optimiser


def _batches(images: np.ndarray, config: Config, epoch: int) -> list[np.ndarray]:
    """Indices of each whole batch, in the random order of this epoch."""
    order = np.random.default_rng([config.seed, epoch]).permutation(len(images))
    return np.split(
        order[: len(order) // config.batch_size * config.batch_size], len(order) // config.batch_size
    )
