"""The state of a training run, the file it is kept in, and what remains of it: `Fitted`."""

import contextlib
import copy
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric

from xraykit.backbones import weights_hash
from xraykit.backbones.weight_files import DAMAGED
from xraykit.classifiers import Classifier, kind_of
from xraykit.datasets import XrayDataset
from xraykit.devices import instruction_set
from xraykit.embedding_key import code_hash, pixels_hash
from xraykit.errors import DataError
from xraykit.storage import locked, write_atomic
from xraykit.training_config import Config

FILE = "run.pt"
# Modules whose code decides what a run comes to, beside the network's own.
DECIDING = (
    "training", "training_batches", "training_config", "training_files", "augment", "losses", "decisions",
    "metrics",
)  # fmt: skip


class State:
    """What a run has done so far: everything that it needs to go on.

    Attributes:
        rows: the history, one dict a finished epoch.
        weights: by name, those of the best epoch of each monitor, and ``"last"``.
        best: by monitor its best epoch, from 1, and its value there.
        optimiser: its state as it was read, until `resume`; nothing is kept of it while training.
    """

    def __init__(self, folder: Path | None, config: Config, about: dict) -> None:
        self.folder, self.config, self.about = folder, config, about
        self.rows: list[dict] = []
        self.weights: dict[str, dict[str, torch.Tensor]] = {}
        self.best: dict[str, list] = {}
        self.optimiser: dict = {}
        self.cached = False

    @classmethod
    def begin(cls, folder: Path | None, config: Config, about: dict) -> "State":
        """That of a run which was killed or is finished, or of a new one.

        Raises:
            DataError: the file is damaged.
        """
        state = cls(folder, config, about)
        if folder is None or not (folder / FILE).exists():
            return state
        try:
            kept = torch.load(folder / FILE, map_location="cpu", weights_only=True)
            state.rows, state.weights = kept["rows"], kept["weights"]
            state.best, state.optimiser = kept["best"], kept["optimiser"]
        except (*DAMAGED, OSError, IndexError) as error:  # what it says depends on where the file was cut
            reason = type(error).__name__
            raise DataError(f"{folder / FILE} is damaged ({reason}); delete it to train anew") from error
        state.cached = state.finished
        return state

    @property
    def epoch(self) -> int:
        """Number of finished epochs, which is that of the next one counted from 0."""
        return len(self.rows)

    @property
    def finished(self) -> bool:
        """All epochs are done, or patience is at its end."""
        patient = self.config.patience
        waited = patient and self.rows and self.epoch - self.best[self.config.monitor[0]][0] >= patient
        return self.epoch >= self.config.epochs or bool(waited)

    def resume(self, model: Classifier, optimiser: torch.optim.Optimizer) -> None:
        """Put weights and optimiser where the last finished epoch left them."""
        if self.rows:
            model.load_state_dict(self.weights["last"])
            optimiser.load_state_dict(self.optimiser)
            self.optimiser = {}

    def add(self, found: dict[str, float], model: Classifier, *, seconds: float) -> None:
        """Note a finished epoch: its numbers, the weights after it, and whether it is the best so far."""
        self.rows.append({"epoch": self.epoch + 1, **found, "seconds": seconds})
        last = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        self.weights["last"] = last
        for name in self.config.monitor:
            value = found[f"val_{name}"]
            ahead = -value if name == "loss" else value
            if name not in self.best or ahead > (-1 if name == "loss" else 1) * self.best[name][1]:
                self.best[name], self.weights[name] = [self.epoch, value], last

    def save(self, optimiser: torch.optim.Optimizer) -> None:
        """Write everything so that a kill leaves the last epoch or this one; nothing without a folder.

        The state of `optimiser` is written, from whatever device, unless the run is finished.
        """
        if self.folder is None:
            return
        data = io.BytesIO()
        kept = {"rows": self.rows, "weights": self.weights, "best": self.best}
        torch.save(kept | {"optimiser": {} if self.finished else optimiser.state_dict()}, data)
        write_atomic(self.folder / FILE, data.getvalue())


class Fitted:
    """A finished training run.

    Attributes:
        name: of the network that was trained.
        history: one row an epoch: ``epoch`` (from 1), ``learning_rate`` (of its last step), ``train_loss``
            and ``train_accuracy`` (while learning, on augmented images), ``val_loss``, ``val_<metric>``,
            ``seconds``. With several labels an image, ``train_accuracy`` is the share of right labels, and
            there is no ``val_accuracy``.
        best: for each monitor the number of its best epoch.
        seconds: of training and validation together.
        cached: read from the cache instead of trained.
        precision, device: as computed.
        rank: of this process among those that trained together; each has the whole result.
    """

    def __init__(self, model: Classifier, state: State, *, rank: int = 0) -> None:
        self._model, self._weights, self.rank = model, state.weights, rank
        self.name = model.name
        model.freeze(False)
        self.history = pd.DataFrame(state.rows)
        self.best = {name: int(epoch) for name, (epoch, _) in state.best.items()}
        self.seconds = float(self.history["seconds"].sum())
        self.cached = state.cached
        self.precision, self.device = state.about["precision"], state.about["device"]
        self._chosen = state.config.monitor[0] if state.config.monitor else "last"

    def model(self, which: str = "") -> Classifier:
        """A copy with the weights of the best epoch of monitor `which`, or ``"last"``; in evaluation mode.

        Without `which` it is the first monitor of the configuration, or the last epoch where there is none.

        Raises:
            DataError: weights that were not kept.
        """
        which = which or self._chosen
        if which not in self._weights:
            raise DataError(f"no weights {which!r} were kept; there are {', '.join(self._weights)}")
        model = copy.deepcopy(self._model)
        model.load_state_dict(self._weights[which])
        return model.eval()


def _deciding_code(modules: Sequence[str]) -> str:
    """Hex digest of the source of `modules`."""
    sources = [(resources.files("xraykit") / f"{name}.py").read_bytes() for name in modules]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


@contextlib.contextmanager
def run_folder(
    cache_dir: str | Path | None,
    model: Classifier,
    ds: XrayDataset,
    *,
    train: np.ndarray,
    val: np.ndarray,
    made_by: tuple[Config, dict],
    fabric: Fabric | None = None,
    deciding: Sequence[str] = DECIDING,
) -> Iterator[Path | None]:
    """The folder of this run, named by the hash of all that decides it, held so that two runs do not write to
    it at once (by the first process of `fabric` for all of them); None without `cache_dir`. The code of the
    modules `deciding` is part of the hash."""
    if cache_dir is None:
        yield None
        return
    config, about = made_by
    gpu = torch.cuda.get_device_name() if about["device"] == "cuda" else ""
    arrays = {"labels": ds.labels, "train": np.asarray(train), "val": np.asarray(val)}
    fields = {
        "config": asdict(config),
        **about,
        "kind": kind_of(ds),
        "pixels": pixels_hash(ds.images, np.unique(np.concatenate([train, val]))),
        "shape": list(ds.images.shape[1:]),
        "label type": [str(ds.labels.dtype), *ds.labels.shape],
        **{name: hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for name, a in arrays.items()},
        "weights": weights_hash(model),
        "code": [code_hash(model), _deciding_code(deciding)],
        "versions": [torch.__version__, instruction_set(), gpu],
    }
    key = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]
    folder = Path(cache_dir) / "training" / key
    waiting = f"another run trains {folder.name}; waiting for it"
    first = fabric is None or fabric.global_rank == 0
    with locked(folder / ".lock", waiting=waiting) if first else contextlib.nullcontext():
        if fabric:
            fabric.barrier()
        yield folder
