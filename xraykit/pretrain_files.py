"""What a pretraining run is told and what it writes: `Config`, checkpoints, and the file of weights."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from xraykit.backbones.weight_files import DAMAGED
from xraykit.datasets import synthetic
from xraykit.datasets.synthetic.loader import GENERATOR_VERSION
from xraykit.errors import DataError
from xraykit.nets import SmallEncoder
from xraykit.storage import write_atomic

METHODS = ("simclr",)
VERSION = "0"


@dataclass(frozen=True)
class Config:
    """Everything the weights depend on, beside the machine's arithmetic.

    Attributes:
        method: one of `METHODS`.
        images: half from ``synthetic``, half from ``synthetic-nih``, one of each patient.
        epochs: passes over the images.
        seed: of the generator (another seed than 0 is another hospital than that of the data sets), of the
            initial weights, of the views and of their order.
        size: side of the rendered images in pixels, and of those that the finished backbone takes.
        view_size: side of the views; smaller ones cost less, and the encoder takes any multiple of 16.
        width: channels of the encoder's first layer.
        batch_size: images a step; each meets twice as many views less two as negatives.
        learning_rate: of AdamW, after a warm-up of a twentieth of the steps; falls to 0 along a cosine.
        temperature: of the contrast; lower makes near negatives count for more.
    """

    method: str = "simclr"
    images: int = 10_000
    epochs: int = 12
    seed: int = 7
    size: int = 96
    view_size: int = 64
    width: int = 32
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    temperature: float = 0.2

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DataError(f"pretraining method {self.method!r} is unknown; use one of {', '.join(METHODS)}")
        if self.epochs < 1:
            raise DataError(f"epochs = {self.epochs}; train for at least 1")
        if self.batch_size < 2:
            raise DataError(f"batch_size = {self.batch_size}; contrast needs at least 2 images")
        most = 2 * len(synthetic.PATIENT_RANGES["pretrain"])
        if not self.batch_size <= self.images <= most:
            raise DataError(f"images = {self.images}; use {self.batch_size} (one batch) to {most}")
        if self.view_size % 16 or self.view_size < 16:
            raise DataError(f"view_size = {self.view_size} pixels; it must be a positive multiple of 16")


def begin(config: Config, precision: str, checkpoint: Path) -> dict:
    """The state of a run that was killed, or that of a new one.

    Returns:
        ``made_by``, the options of the run; ``losses``, the mean of each finished epoch; ``seconds`` of
        training; ``model`` and ``optimiser``, their states, None at the start.

    Raises:
        DataError: `checkpoint` is damaged or of a run with other options.
    """
    made_by = {**asdict(config), "precision": precision}
    if not checkpoint.exists():
        return {"made_by": made_by, "losses": [], "seconds": 0.0, "model": None, "optimiser": None}
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        differing = [key for key, value in made_by.items() if state["made_by"].get(key) != value]
    except DAMAGED as error:
        raise DataError(f"{checkpoint} is damaged ({error}); delete it to begin anew") from error
    if differing:
        raise DataError(
            f"{checkpoint} is of a run with other {', '.join(differing)}; repeat its options to finish it, "
            "delete the file to begin anew, or choose another --out"
        )
    return state


def save_checkpoint(state: dict, path: Path) -> None:
    """Write `state` so that a kill leaves the last checkpoint or this one."""
    data = io.BytesIO()
    torch.save(state, data)
    write_atomic(path, data.getvalue())


def as_file(
    encoder: SmallEncoder, config: Config, *, mean: float, std: float, precision: str, run: dict
) -> bytes:
    """A safetensors file: weights in half precision, and as metadata what `backbones` reads and readers ask.

    Args:
        mean, std: of the images' grey levels in 0..1; the encoder takes images normalised by them.
        run: ``losses`` of every epoch, and ``seconds`` of training in all.
    """
    tensors = {
        name: tensor.half().contiguous()
        for name, tensor in encoder.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    start = synthetic.PATIENT_RANGES["pretrain"].start
    about = asdict(config) | {
        "name": "phantom",
        "version": VERSION,
        "mean": [round(mean, 4)],
        "std": [round(std, 4)],
        "data": [f"{name} (pretrain patients)" for name in synthetic.NAMES],
        "labels": [],
        "source": f"xraykit pretrain --method {config.method} --images {config.images} "
        f"--epochs {config.epochs} --seed {config.seed} --precision {precision}",
        "seeds": {"generator": config.seed, "training": config.seed},
        "patients": [start, start + (config.images + 1) // 2],
        "generator_version": GENERATOR_VERSION,
        "losses": [round(loss, 4) for loss in run["losses"]],
        "seconds": float(f"{run['seconds']:.2g}"),
    }
    return save(tensors, {key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()})
