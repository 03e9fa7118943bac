"""Meta-trainings with rotating findings, and the methods that each is compared with, on equal terms.

A `Trial` is one rotation: three groups of findings and three groups of patients, of which only the diagonal
is used: train findings on training patients, validation findings on validation patients, findings held out on
test patients.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xraykit import looks, maml, maml_training, training
from xraykit.backbones import Backbone, Pretraining
from xraykit.classifiers import as_backbone, build
from xraykit.datasets import XrayDataset
from xraykit.episode_methods import Picked
from xraykit.episode_scores import Heard, Jury
from xraykit.episodes import Episode, Tasks, rotations, with_room, without
from xraykit.intervals import Interval
from xraykit.maml import Inner, Learner
from xraykit.maml_config import MetaConfig
from xraykit.results import Run
from xraykit.splits import patient_folds
from xraykit.training_config import Config
from xraykit.training_files import Fitted

FEW_PATIENTS = 1000
SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}  # where the patients of a small set are dealt anew


@dataclass(frozen=True)
class Trial:
    """One meta-training: who is in it and what it may know.

    Attributes:
        number: of the rotation, and the seed of everything random in it.
        ds: the data set, its patients perhaps dealt anew.
        train, validation, held_out: findings.
        rows: positions in `ds`: ``train``, images of training patients that show no finding of the other two
            groups; ``val``, images of validation patients without any that is held out; ``test``, all images
            of the test patients.
    """

    number: int
    ds: XrayDataset
    train: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]
    rows: Mapping[str, np.ndarray]

    @property
    def unseen(self) -> tuple[str, ...]:
        """Findings that meta-training must not see."""
        return (*self.validation, *self.held_out)

    def tasks(self, *, shots: int, queries: int) -> Tasks:
        """Episodes of the training findings that have enough patients."""
        found, _ = with_room(self.ds, self.rows["train"], self.train, images=shots + queries)
        about = {"shots": shots, "queries": queries, "seed": self.number}
        return Tasks(self.ds, self.rows["train"], found or self.train, **about)

    def validation_tasks(self, *, shots: int, queries: int) -> Tasks:
        """Episodes of the validation findings, with fewer shots where the patients do not allow as many."""
        rows, found = self.rows["val"], ()
        while not found and shots > 0:
            found, _ = with_room(self.ds, rows, self.validation, images=shots + queries)
            shots -= not found
        about = {"shots": max(1, shots), "queries": queries, "seed": self.number}
        return Tasks(self.ds, rows, found or self.validation, **about)

    def validation_episodes(self, n: int, *, shots: int, queries: int, first: int = 0) -> list[Episode]:
        """Episodes for choices, from the number `first` on; others than those that meta-training watches."""
        tasks = self.validation_tasks(shots=shots, queries=queries)
        return [tasks.episode(maml_training.TRAIN_FIRST // 2 + first + i) for i in range(n)]


def trials(ds: XrayDataset, n_rotations: int, *, numbers: Iterable[int]) -> list[Trial]:
    """The rotations `numbers` of `n_rotations`.

    The patients keep the splits of `ds`. Of a set of fewer than `FEW_PATIENTS` patients, whose test split
    would have too few of most findings, they are dealt anew for each rotation, by `SHARES`.

    Raises:
        DataError: as `episodes.rotations`.
        IndexError: a number of no rotation.
    """
    groups, found = rotations(ds, n_rotations), []
    for number in numbers:
        own = dealt_anew(ds, seed=number) if len(set(ds.patients)) < FEW_PATIENTS else ds
        split, group = own.records["split"].to_numpy(), groups[number]
        rows = {name: np.flatnonzero(split == name) for name in SHARES}
        unseen = group["validation"] + group["held_out"]
        rows["train"] = without(own, rows["train"], unseen)
        rows["val"] = without(own, rows["val"], group["held_out"])
        found.append(Trial(number, own, *(group[g] for g in ("train", "validation", "held_out")), rows))
    return found


def dealt_anew(ds: XrayDataset, *, seed: int) -> XrayDataset:
    """`ds` with its patients dealt to train, val and test by `SHARES`, stratified by finding."""
    rng = np.random.default_rng([seed, 7])
    fold = patient_folds(ds.labels, ds.patients, fractions=list(SHARES.values()), rng=rng)
    return replace(ds, records=ds.records.assign(split=np.array(list(SHARES))[fold]))


def meta_trained(
    trial: Trial,
    inner: Inner,
    *,
    start: str | Backbone,
    config: MetaConfig,
    shots: int,
    queries: int,
    **how: object,
) -> Fitted:
    """A learner from the weights `start`, meta-trained on the findings of `trial`; `how` as `meta_train`."""
    learner = Learner(build(start, 1, seed=trial.number), inner)
    tasks = trial.tasks(shots=shots, queries=queries)
    watched = trial.validation_tasks(shots=shots, queries=queries)
    config = replace(config, seed=trial.number)
    return maml_training.meta_train(learner, trial.ds, tasks, watched, config=config, **how)


def shared_loss(
    trial: Trial, network: str | Backbone, *, config: Config, leak: bool = False, **how: object
) -> Backbone:
    """One network trained on all training findings at once, the usual way: multi-label, one shared loss.

    Args:
        leak: on every finding and every image of the training patients, those held out among them: a
            published mistake. `backbones.check_unseen` then refuses the result.
        how: further keywords of `training.fit`.

    Returns:
        Its body, which knows what it was taught.
    """
    ds, wanted = trial.ds, trial.train
    rows = {"train": trial.rows["train"], "val": without(ds, trial.rows["val"], trial.validation)}
    if leak:
        split, wanted = ds.records["split"].to_numpy(), (*trial.train, *trial.unseen)
        rows = {name: np.flatnonzero(split == name) for name in rows}
    there = ds.records[list(wanted)].to_numpy()[rows["train"]].any(axis=0)
    findings = tuple(f for f, some in zip(wanted, there, strict=True) if some)
    few = replace(ds, classes=findings, masks=None)
    net, config = build(network, len(findings), seed=trial.number), replace(config, seed=trial.number)
    fitted = training.fit(net, few, train=rows["train"], val=rows["val"], config=config, **how)
    about = Pretraining(data=(ds.name,), labels=findings, source="trained by episode_study.shared_loss")
    size = ds.images.shape[1]
    return as_backbone(fitted.model(), name=f"{net.name}, shared loss", size=size, pretraining=about)


def look(
    run: Run,
    ds: XrayDataset,
    jury: Jury,
    said: Mapping[str, Sequence[np.ndarray]],
    *,
    shots: int,
    settings: Mapping[str, object],
    keep: bool = True,
) -> dict[str, Heard]:
    """The answers of each method to the test episodes of `jury`: scored, recorded and logged.

    Args:
        said: for each method its answers (M, 2), as `episode_methods.answers` returns them.
        settings: what decided the answers, for the log.
        keep: write them to the predictions, too.
    """
    asked, found = jury.records(ds), {}
    for method, p in said.items():
        found[method] = jury.hear(p)
        about, scores = {"task": "episodes", "method": method, "shots": shots}, found[method].scores()
        run.record_scores(scores, split="test", **about)
        looks.log(run, about | dict(settings), scores)
        if keep:
            column = {"classes": ["finding"], "labels": asked[["label"]].to_numpy()}
            run.record_predictions(asked, [np.concatenate(p)[:, 1:]], **column, **about)
    return found


def watch(
    run: Run,
    jury: Jury,
    images: np.ndarray,
    picked: Mapping[tuple[int, str], Picked],
    method: str,
    *,
    shots: int,
    steps: int,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUROC of `method` on the test episodes of `jury` after 0 .. `steps` inner steps; recorded and logged.

    Args:
        picked: by run and method; what was picked is the rate, and the number of steps is not used.

    Returns:
        Value, low and high end of each step's interval, (steps + 1,) each, as `plots.step_curves` takes them.
    """
    about = {"steps": steps, "device": device}
    paths = [maml.curve(picked[one.run, method].learner, images, one.episode, **about) for one in jury.asked]
    found: list[Interval] = []
    for step in range(steps + 1):
        found.append(jury.hear([path[step] for path in paths]).scores()["auroc"])
        name = {"task": "episodes", "method": f"{method}, {step} steps", "shots": shots}
        run.record(metric="auroc", value=found[-1], split="test", **name)
    looks.log(run, name, {"auroc": found[-1]})
    value, low, high = np.array([[v.value, v.ci_low, v.ci_high] for v in found]).T
    return value, low, high
