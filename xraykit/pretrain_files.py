"""What a pretraining run is told and what it writes: `Config`, checkpoints, and the file of weights."""

import io
import json
import shlex
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from xraykit.backbones.weight_files import DAMAGED
from xraykit.datasets import synthetic
from xraykit.errors import DataError
from xraykit.storage import write_atomic

METHODS = ("simclr", "vicreg")
PRECISIONS = ("32-true", "bf16-mixed")
RESERVED = "reserved"
NEW_ENCODER = "phantom:random"
VERSION = "0"


@dataclass(frozen=True)
class Config:
    """Everything the weights depend on, beside the images of a data set and the machine's arithmetic.

    Attributes:
        method: one of `METHODS`, see `pretrain_methods`.
        dataset: whose training images are learned from, without their labels and without its development
            fold (`splits.development`); `RESERVED` renders patients that no data set shows.
        network: where it starts, as `backbones.load` takes it, such as ``resnet18:random``; `NEW_ENCODER` is
            an untrained `nets.SmallEncoder` of `width`, normalised by the images' own grey levels.
        images: of `RESERVED`, half from ``synthetic``, half from ``synthetic-nih``, one of each patient; None
            for 10,000. A data set gives all it has.
        epochs: passes over the images.
        seed: of the generator (another seed than 0 is another hospital than that of the data sets), of the
            initial weights, of the views and of their order.
        fold_seed: of the development fold that is held out; the notebooks' ``seed``.
        size: side of the stored images in pixels, and of those that the finished backbone takes.
        view_size: side of the views; smaller ones cost less, and the encoder takes any multiple of 16.
        width: channels of the first layer of `NEW_ENCODER`.
        batch_size: images a step.
        learning_rate: of AdamW, after a warm-up of a twentieth of the steps; falls to 0 along a cosine.
        temperature: of SimCLR's contrast; lower makes near negatives count for more.
        monitor: data set whose development fold is probed, see `pretrain_probe`; the weights do not depend on
            it. Empty for `dataset` itself, and ``synthetic`` for `RESERVED`.
    """

    method: str = "simclr"
    dataset: str = RESERVED
    network: str = NEW_ENCODER
    images: int | None = None
    epochs: int = 12
    seed: int = 7
    fold_seed: int = 0
    size: int = 96
    view_size: int = 64
    width: int = 32
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    temperature: float = 0.2
    monitor: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DataError(f"pretraining method {self.method!r} is unknown; use one of {', '.join(METHODS)}")
        whole = "it must be a positive multiple of 16 pixels"
        share = "choose above 0, and at most 1"
        for name, holds, rule in (
            ("epochs", self.epochs >= 1, "train for at least 1"),
            ("batch_size", self.batch_size >= 2, "a step compares at least 2 images"),
            ("size", self.size >= 16 and self.size % 16 == 0, whole),
            ("view_size", self.view_size >= 16 and self.view_size % 16 == 0, whole),
            ("learning_rate", 0 < self.learning_rate <= 1, share),
            ("temperature", 0 < self.temperature <= 1, share),
            ("seed", self.seed >= 0, "choose a whole number from 0"),
            ("fold_seed", self.fold_seed >= 0, "choose a whole number from 0"),
        ):
            if not holds:
                raise DataError(f"{name} = {getattr(self, name)}; {rule}")
        if self.dataset != RESERVED and self.images is not None:
            raise DataError(
                f"images = {self.images} of {self.dataset}: a data set gives all its training images; leave "
                f"the number out, or use --dataset {RESERVED}"
            )
        most = 2 * len(synthetic.PATIENT_RANGES["pretrain"])
        if self.dataset == RESERVED and not self.batch_size <= self.rendered <= most:
            raise DataError(f"images = {self.images}; use {self.batch_size} (one batch) to {most}")

    @property
    def rendered(self) -> int:
        """Images to render of `RESERVED`."""
        return 10_000 if self.images is None else self.images

    @property
    def monitored(self) -> str:
        """The data set whose development fold is probed."""
        return self.monitor or ("synthetic" if self.dataset == RESERVED else self.dataset)

    @property
    def architecture(self) -> str:
        """What stands before the colon when the finished file is loaded as a backbone."""
        name = self.network.partition(":")[0]
        return "phantom" if name == "phantom-kermany" else name

    @property
    def command(self) -> str:
        """The command that repeats the run, but for ``--precision``, ``--device`` and ``--out``."""
        first = Config()
        given = {key: value for key, value in asdict(self).items() if value != getattr(first, key)}
        shown = {"method": self.method, "epochs": self.epochs, "seed": self.seed} | given
        options = [(f"--{key.replace('_', '-')}", str(shown[key])) for key in asdict(self) if key in shown]
        return shlex.join(["xraykit", "pretrain", *chain.from_iterable(options)])


def begin(config: Config, precision: str, checkpoint: Path) -> dict:
    """The state of a run that was killed, or that of a new one.

    Returns:
        ``made_by``, the options of the run; ``losses``, the mean of each finished epoch; ``probes``, what the
        monitor said after some of them; ``seconds`` of training; ``model`` and ``optimiser``, their states,
        None at the start.

    Raises:
        DataError: an unknown precision, or `checkpoint` is damaged or of a run with other options.
    """
    if precision not in PRECISIONS:
        raise DataError(f"precision {precision!r} is unknown here; use one of {', '.join(PRECISIONS)}")
    made_by = {**asdict(config), "precision": precision}
    if not checkpoint.exists():
        return {
            "made_by": made_by,
            "losses": [],
            "probes": [],
            "seconds": 0.0,
            "model": None,
            "optimiser": None,
        }
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


def as_file(maps: nn.Module, config: Config, *, about: dict, precision: str, run: dict) -> bytes:
    """A safetensors file: weights in half precision, and as metadata what `backbones` reads and readers ask.

    Args:
        maps: the network up to its last feature map, without the normalisation before it.
        about: ``mean`` and ``std`` of that normalisation, what `pretrain_images.Source` says, and the
            ``labels`` that the network it started from was taught.
        run: ``losses`` of every epoch, ``probes`` on the development fold, and ``seconds`` of training.
    """
    tensors = {
        name: tensor.half().contiguous()
        for name, tensor in maps.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    told = (
        asdict(config)
        | about
        | {
            "name": config.architecture,
            "version": VERSION,
            "source": f"{config.command} --precision {precision}",
            "seeds": {"generator": config.seed, "training": config.seed},
            "losses": [round(loss, 4) for loss in run["losses"]],
            "probes": run["probes"],
            "seconds": float(f"{run['seconds']:.2g}"),
        }
    )
    return save(tensors, {key: v if isinstance(v, str) else json.dumps(v) for key, v in told.items()})
