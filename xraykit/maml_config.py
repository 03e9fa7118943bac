"""What a meta-training is told, and what makes it impossible or dishonest before it starts."""

import hashlib
from dataclasses import dataclass

from xraykit.datasets import XrayDataset
from xraykit.episodes import Tasks
from xraykit.errors import DataError
from xraykit.maml import Learner
from xraykit.training_checks import check_size, has_batch_norm

MONITORS = ("auroc", "loss")
WAYS = ("auto", "loop", "vmap")


@dataclass(frozen=True)
class MetaConfig:
    """Everything that decides a meta-training beside learner, data and tasks.

    Attributes:
        epochs: rounds of `steps_an_epoch` outer steps; validation follows each.
        steps_an_epoch: outer steps of a round.
        tasks: episodes of an outer step, whose query losses are averaged.
        learning_rate: of Adam on weights and learned rates, as Finn et al. 2017 use it.
        clip: largest norm of the outer gradient; 0 does not clip.
        n_validation: episodes of the validation findings after each round, always the same.
        monitor: ``("auroc",)`` or ``("loss",)`` of these, whose best round is kept; () keeps the last.
        patience: rounds without a better value after which training stops; 0 never stops early.
        tasks_at_once: ``"loop"`` one by one, ``"vmap"`` all together, ``"auto"`` loop on a CPU, which
            keeps the graph of one task at a time, and vmap on an accelerator. On two CPU cores vmap takes 0.8
            of the time with cnn-small-group-norm and 1.2 with cnn-group-norm, second order.
        seed: of dropout; the tasks have their own.
    """

    epochs: int = 10
    steps_an_epoch: int = 50
    tasks: int = 4
    learning_rate: float = 1e-3
    clip: float = 10.0
    n_validation: int = 40
    monitor: tuple[str, ...] = ("auroc",)
    patience: int = 0
    tasks_at_once: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"epochs": 1, "steps_an_epoch": 1, "tasks": 1, "n_validation": 1, "patience": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise DataError(f"{name} = {value!r}; use a whole number, at least {low}")
        if isinstance(self.monitor, list):
            object.__setattr__(self, "monitor", tuple(self.monitor))
        if not (0 < self.learning_rate < float("inf") and self.clip >= 0):
            raise DataError(
                f"learning_rate = {self.learning_rate}, clip = {self.clip}; use above 0, and 0 up"
            )
        if self.patience and not self.monitor:
            raise DataError(f"patience = {self.patience} needs a monitor; use {' or '.join(MONITORS)}")
        if self.tasks_at_once not in WAYS or set(self.monitor) - set(MONITORS):
            raise DataError(
                f"tasks_at_once = {self.tasks_at_once!r}, monitor = {self.monitor}; use one of "
                f"{', '.join(WAYS)}, and of {', '.join(MONITORS)}"
            )


def check_tasks(learner: Learner, ds: XrayDataset, tasks: Tasks, validation: Tasks) -> None:
    """Raise DataError when meta-training on `tasks` would see what `validation` holds out."""
    both = set(tasks.findings) & set(validation.findings)
    if both:
        raise DataError(f"{', '.join(sorted(both))} are in training and validation; hold them out of one")
    seen = ds.records[list(validation.findings)].to_numpy(bool)[tasks.rows].any(axis=1)
    if seen.any():
        raise DataError(
            f"{seen.sum()} training images show {', '.join(validation.findings)}, which validation holds "
            "out; take episodes.without(ds, rows, findings)"
        )
    shared = set(ds.patients[tasks.rows]) & set(ds.patients[validation.rows])
    if shared:
        raise DataError(
            f"{len(shared)} patients are in training and validation, such as {min(shared)}; use "
            "splits.patient_folds"
        )
    wanted = tasks.way or 1
    if (validation.way or 1) != wanted or learner.net.n_outputs != wanted:
        raise DataError(
            f"a network of {learner.net.n_outputs} outputs for tasks of {tasks.way} and validation of "
            f"{validation.way} ways; it needs 1 output for way = 0, and N for N ways"
        )
    if has_batch_norm(learner.net):
        raise DataError(
            f"{learner.name} has batch norm, whose statistics would come from the queries; use a network "
            "with group norm, such as cnn-small-group-norm"
        )
    check_size(learner.net, ds)


def told(tasks: Tasks, ds: XrayDataset) -> list:
    """Everything that decides the episodes, beside labels and rows, for the key of the run."""
    who = hashlib.sha256("\n".join(map(str, ds.patients[tasks.rows])).encode()).hexdigest()
    return [*tasks.findings, tasks.shots, tasks.queries, tasks.way, tasks.shuffled, tasks.seed, who]
