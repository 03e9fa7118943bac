"""Meta-training: against a loop by hand, and each of its promises."""

import copy
import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from processes import free_port, reports_of
from torch.func import functional_call
from training_children import file_of, same

from xraykit import classifiers, episodes, maml, maml_training, metrics
from xraykit.backbones import own
from xraykit.datasets import XrayDataset
from xraykit.devices import launch
from xraykit.episodes import Tasks
from xraykit.errors import DataError, TrainingError
from xraykit.maml import Inner, Learner
from xraykit.maml_training import TRAIN_FIRST, MetaConfig, Work, check_tasks, meta_train, outer_step
from xraykit.training_files import Fitted, State

FINDINGS = ("Edema", "Hernia", "Mass", "Nodule", "Pneumonia")
PLACES = ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4))
TRAIN, VAL = np.arange(160), np.arange(160, 240)
SEEN, HELD = FINDINGS[:3], FINDINGS[3:]
QUIET = {"device": "cpu", "progress": False}

# One pair of processes for all of it, with the environment that torchrun gives them, and forked after the
# imports, since starting takes most of the time.
SHARED = """
import json, os, sys
from test_maml_training import INNERS, digest, run

rank = "1" if os.fork() == 0 else "0"
os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0"}
os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2], "TORCHELASTIC_RUN_ID": "test"}
for name, inner in INNERS.items():
    for again in range(2):
        how = "vmap" if name == "first order" else "loop"
        fitted = run(inner, cache_dir=sys.argv[1], n_validation=3, tasks_at_once=how)
        report = {"name": name, "rank": fitted.rank, "cached": fitted.cached, "state": digest(fitted)}
        sys.stdout.write(json.dumps(report | fitted.history.to_dict("list")) + "\\n")
        sys.stdout.flush()
if rank == "0":
    sys.exit(os.wait()[1])
"""

INNERS = {
    "second order": Inner(2, 0.1),
    "first order": Inner(2, 0.1, second_order=False),
    "head, learned rates": Inner(2, 0.1, part="head", learn_rates=True),
}


def blobs(n: int = 240) -> XrayDataset:
    """Images of 16 pixels, one a patient, most with one finding: a bright square at its own place."""
    rng = np.random.default_rng(0)
    labels = np.zeros((n, len(FINDINGS)), np.uint8)
    labels[np.arange(n), np.arange(n) % len(FINDINGS)] = np.arange(n) % 6 < 5
    images = rng.integers(0, 60, (n, 16, 16))
    for k, (row, column) in enumerate(PLACES):
        images[:, row : row + 7, column : column + 7] += 150 * labels[:, k, None, None]
    records = pd.DataFrame(labels, columns=list(FINDINGS)).assign(split="train")
    records["No Finding"] = (labels.sum(axis=1) == 0).astype(np.uint8)
    records["image_id"], records["patient_id"] = [f"i{i}" for i in range(n)], [f"p{i}" for i in range(n)]
    classes = (*FINDINGS, "No Finding")
    return XrayDataset("blobs", images.astype(np.uint8), records, classes, "multilabel", "", "")


def both(ds: XrayDataset, *, shots: int = 2, queries: int = 2, **options: object) -> tuple[Tasks, Tasks]:
    """Tasks of three findings to learn from, and of the two that none of their images shows."""
    about = {"shots": shots, "queries": queries, **options}
    train = Tasks(ds, episodes.without(ds, TRAIN, HELD), SEEN, seed=0, **about)
    return train, Tasks(ds, VAL, HELD, seed=1, **about)


def config(**changes: object) -> MetaConfig:
    """Three rounds of two steps of three tasks."""
    return MetaConfig(**{"epochs": 3, "steps_an_epoch": 2, "tasks": 3, "n_validation": 4, **changes})


def network(n_outputs: int = 1, *, dropout: float = 0.0) -> classifiers.Classifier:
    """As ``cnn-small-group-norm``, but of a quarter of its width."""
    body = own.build_cnn(width=4, norm="group", light=True)
    return classifiers.build(body, n_outputs, dropout=dropout)


def run(
    inner: Inner = INNERS["second order"],
    *,
    cache_dir: Path | str | None = None,
    dropout: float = 0.0,
    **changes: object,
) -> Fitted:
    ds = blobs()
    learner = Learner(network(dropout=dropout), inner)
    return meta_train(learner, ds, *both(ds), config=config(**changes), cache_dir=cache_dir, **QUIET)


def digest(fitted: Fitted) -> str:
    state = fitted.model("last").state_dict().values()
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in state)).hexdigest()


def work_of(inner: Inner, *, dropout: float = 0.0, way: int = 0, **changes: object) -> Work:
    ds, fabric = blobs(), launch("cpu", "fp32", devices=1, num_nodes=1)
    learner = Learner(network(way or 1, dropout=dropout), inner)
    return Work(learner, ds, *both(ds, way=way), config(**changes), fabric)


class Killed(BaseException):
    """What a kill is in a test that stays in its process."""


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The outer steps that are taken, from 0."""
    steps, original = [], maml_training.outer_step

    def noted(work: Work, optimiser: torch.optim.Optimizer, step: int) -> float:
        steps.append(step)
        return original(work, optimiser, step)

    monkeypatch.setattr(maml_training, "outer_step", noted)
    return steps


def scripted(monkeypatch: pytest.MonkeyPatch, *, auroc: list[float], loss: list[float]) -> None:
    """Let the validation find these values, one a round, and let the steps do nothing."""
    found = iter([{"val_loss": x, "val_auroc": area} for x, area in zip(loss, auroc, strict=True)])
    monkeypatch.setattr(maml_training, "_validate", lambda work: next(found))
    monkeypatch.setattr(maml_training, "outer_step", lambda work, optimiser, step: 0.5)


# ---- it learns, and is the loop one would write


def test_it_learns_to_learn_findings_that_it_has_not_seen() -> None:
    """Of shuffled tasks nothing can be known before the support set, and all of it after three steps."""
    ds = blobs()
    learner, (tasks, validation) = (
        Learner(classifiers.build("cnn-small-group-norm", 1), Inner(3, 0.2)),
        both(ds, shots=3, queries=5, shuffled=True),
    )
    told = config(
        epochs=5, steps_an_epoch=10, tasks=4, n_validation=10, learning_rate=3e-3, tasks_at_once="vmap"
    )
    fitted = meta_train(learner, ds, tasks, validation, config=told, **QUIET)
    history = fitted.history
    assert list(history) == ["epoch", "train_loss", "val_loss", "val_auroc", "seconds"]
    assert history["train_loss"].iloc[0] > 0.8
    assert history["train_loss"].iloc[-1] < 0.5
    assert history["val_loss"].iloc[-1] < 0.6 < history["val_loss"].iloc[0]
    model = fitted.model()
    assert isinstance(model, Learner)
    assert not model.training
    before, after = [], []
    for i in range(100, 112):  # other episodes of the unseen findings
        episode = validation.episode(i)
        found = maml.curve(model, ds.images, episode)[..., 1]
        for where, p in ((before, found[0]), (after, found[-1])):
            where.append(metrics.score_all(episode.query_labels, p, names=["auroc"])["auroc"][0])
    assert np.mean(before) < 0.7
    assert np.mean(after) > 0.9


@pytest.mark.parametrize("name", list(INNERS))
def test_it_is_the_loop_one_would_write(name: str) -> None:
    inner, ds = INNERS[name], blobs()
    fitted = run(inner, epochs=2, clip=0.5)
    learner, (tasks, validation) = Learner(network(), inner), both(ds)
    net, rates = learner.net, list(learner.rates)
    weights = dict(net.named_parameters())
    changing = [n for n in weights if inner.part == "all" or n.startswith("head")]
    optimiser = torch.optim.Adam([*weights.values(), *rates], lr=1e-3)

    def read(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(ds.images[rows.ravel()][:, None] / np.float32(255))

    def loss_of(fast: dict, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(2.0).repeat_interleave(rows.shape[1])
        logits = functional_call(net, weights | fast, read(rows))[:, 0]
        return F.binary_cross_entropy_with_logits(logits, y), logits

    def task_loss(tasks: Tasks, number: int) -> tuple[torch.Tensor, float]:
        episode, fast = tasks.episode(number), {n: weights[n] for n in changing}
        for _ in range(inner.steps):
            loss, _ = loss_of(fast, episode.support)
            slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=inner.second_order)
            by = rates if inner.learn_rates else [inner.rate] * len(slopes)
            fast = {n: w - r * g for (n, w), r, g in zip(fast.items(), by, slopes, strict=True)}
        loss, logits = loss_of(fast, episode.query)
        y = episode.query_labels
        return loss, metrics.score_all(y, logits.sigmoid().detach().numpy(), names=["auroc"])["auroc"][0]

    for epoch in range(2):
        lost = []
        for step in range(2 * epoch, 2 * epoch + 2):
            mean = sum(task_loss(tasks, TRAIN_FIRST + 3 * step + i)[0] for i in range(3)) / 3
            optimiser.zero_grad()
            mean.backward()
            assert torch.nn.utils.clip_grad_norm_(learner.parameters(), 0.5) > 0.5
            optimiser.step()
            lost.append(mean.item())
        row = fitted.history.iloc[epoch]
        assert row["train_loss"] == pytest.approx(np.mean(lost), rel=1e-4)
        found = [task_loss(validation, i) for i in range(4)]
        assert row["val_loss"] == pytest.approx(np.mean([loss.item() for loss, _ in found]), rel=1e-3)
        assert row["val_auroc"] == pytest.approx(np.mean([area for _, area in found]))
    # Adam moves a weight by up to 1e-3 a step, however small its slope and what rounding makes of it.
    for mine, plain in zip(fitted.model("last").parameters(), learner.parameters(), strict=True):
        assert float((mine - plain).abs().mean().detach()) < 5e-6


def test_no_episode_comes_twice_but_those_of_the_validation(monkeypatch) -> None:
    asked, original = {SEEN: [], HELD: []}, Tasks.episode
    monkeypatch.setattr(Tasks, "episode", lambda self, i: asked[self.findings].append(i) or original(self, i))
    run(Inner(0))
    assert asked[SEEN] == list(range(TRAIN_FIRST, TRAIN_FIRST + 3 * 2 * 3))
    assert asked[HELD] == [0, 1, 2, 3] * 3


def test_the_learner_the_images_and_the_generators_stay_as_they_are() -> None:
    ds = blobs()
    learner, images = Learner(network(dropout=0.5), Inner(1, 0.1, learn_rates=True)), ds.images.copy()
    before = copy.deepcopy(learner.state_dict())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    fitted = meta_train(learner, ds, *both(ds), config=config(epochs=1), **QUIET)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())
    assert learner.training
    np.testing.assert_array_equal(ds.images, images)
    assert torch.equal(torch.get_rng_state(), state)
    after = fitted.model("last").state_dict()
    assert after.keys() == before.keys()
    assert not torch.equal(after["rates.0"], before["rates.0"])
    assert not torch.equal(after["net.head.1.weight"], before["net.head.1.weight"])


def test_the_seed_alone_decides_about_dropout() -> None:
    losses = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        losses.append(run(dropout=0.5, seed=seed, epochs=1).history["train_loss"].tolist())
    assert losses[0] == losses[1] != losses[2]


def test_each_round_and_each_process_drops_other_features(monkeypatch) -> None:
    seeds, ranks = [], (0, 1)
    scripted(monkeypatch, auroc=[0.5] * 6, loss=[0.5] * 6)
    monkeypatch.setattr(maml_training, "outer_step", lambda *_: seeds.append(torch.initial_seed()) or 0.5)
    for rank in ranks:
        monkeypatch.setattr(Fabric, "global_rank", property(lambda self, rank=rank: rank))
        run(steps_an_epoch=1, seed=3)
    assert seeds == [3_000_009 + epoch + 10_007 * rank for rank in ranks for epoch in range(3)]


def test_the_validation_drops_no_features() -> None:
    fitted = run(dropout=0.5)
    ds, model = blobs(), fitted.model("last")
    losses = []
    for i in range(4):
        episode = both(ds)[1].episode(i)
        p = maml.curve(model, ds.images, episode)[-1]
        losses.append(-np.log(p[np.arange(4), episode.query_labels]).mean())
    assert fitted.history["val_loss"].iloc[-1] == pytest.approx(np.mean(losses), rel=1e-4)


def test_n_ways_are_learned_too() -> None:
    ds = blobs()
    learner, (tasks, validation) = Learner(network(2), Inner(2, 0.1)), both(ds, way=2)
    fitted = meta_train(learner, ds, tasks, validation, config=config(), **QUIET)
    assert len(fitted.history) == 3
    assert np.isfinite(fitted.history).all(axis=None)
    assert fitted.history["val_auroc"].between(0, 1).all()
    episode = validation.episode(50)
    assert set(episode.classes) == set(HELD)
    assert maml.curve(fitted.model(), ds.images, episode).shape == (3, 4, 2)


# ---- one outer step


@pytest.mark.parametrize("way", [0, 2])
@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize(("part", "learn_rates"), [("all", False), ("all", True), ("head", True)])
def test_loop_and_vmap_have_the_same_slopes(
    way: int, second_order: bool, part: str, learn_rates: bool
) -> None:
    inner, found = Inner(2, 0.1, second_order, part, learn_rates), {}
    for how in ("loop", "vmap"):
        work = work_of(inner, way=way, tasks_at_once=how, clip=0)
        assert work.together == (how == "vmap")
        still = torch.optim.SGD(work.learner.parameters(), lr=0.0)
        found[how] = outer_step(work, still, 0), [p.grad for p in work.learner.parameters()]
    assert found["vmap"][0] == pytest.approx(found["loop"][0], abs=1e-5)
    assert max(float(g.abs().max()) for g in found["loop"][1]) > 0.01
    for one, other in zip(found["loop"][1], found["vmap"][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_slope_of_a_step_is_the_mean_over_its_tasks_and_clipped() -> None:
    work = work_of(INNERS["second order"], clip=0)
    learner, still = work.learner, torch.optim.SGD(work.learner.parameters(), lr=0.0)
    losses, slopes = [], []
    for i in range(TRAIN_FIRST + 6, TRAIN_FIRST + 9):
        support, query = maml_training._batch(work, work.tasks.episode(i))
        loss, _ = maml.query_loss(learner, learner.weights(), support, query)
        slopes.append(torch.autograd.grad(loss, list(learner.parameters())))
        losses.append(loss.item())
    assert outer_step(work, still, 2) == pytest.approx(np.mean(losses))
    means = [torch.stack(of_weight).mean(dim=0) for of_weight in zip(*slopes, strict=True)]
    for p, mean in zip(learner.parameters(), means, strict=True):
        torch.testing.assert_close(p.grad, mean)
    norm = torch.cat([mean.ravel() for mean in means]).norm()
    clipped = work_of(INNERS["second order"], clip=float(norm) / 4)
    outer_step(clipped, torch.optim.SGD(clipped.learner.parameters(), lr=0.0), 2)
    for p, mean in zip(clipped.learner.parameters(), means, strict=True):
        torch.testing.assert_close(p.grad, mean / 4, rtol=1e-4, atol=1e-6)


def test_vmap_drops_other_features_in_each_task(monkeypatch) -> None:
    """The same episode four times, with as many losses."""
    work = work_of(Inner(1, 0.1), dropout=0.5, tasks_at_once="vmap")
    seen, original = [], maml_training.vmap

    def noted(function, **options):
        mapped = original(function, **options)
        return lambda *batch: seen.append(mapped(*batch)) or seen[-1]

    monkeypatch.setattr(maml_training, "vmap", noted)
    maml_training._losses(work, [work.tasks.episode(0)] * 4)
    assert len(set(seen[0][0].tolist())) == 4


# ---- kills and the cache


@pytest.mark.parametrize("name", list(INNERS))
@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, stepped, name, at) -> None:
    """Killed in step `at` of 0 .. 5, which is of round at // 2."""
    options = {"inner": INNERS[name], "dropout": 0.3, "monitor": ("loss", "auroc")}
    original = maml_training.outer_step

    def die(work: Work, optimiser: torch.optim.Optimizer, step: int) -> float:
        if step == at:
            raise Killed
        return original(work, optimiser, step)

    with monkeypatch.context() as patch:
        patch.setattr(maml_training, "outer_step", die)
        with pytest.raises(Killed):
            run(cache_dir=tmp_path, **options)
    stepped.clear()
    torch.manual_seed(99)  # the generator of the process decides nothing
    resumed = run(cache_dir=tmp_path, **options)
    assert stepped == list(range(at // 2 * 2, 6))
    assert not resumed.cached
    same(resumed, run(**options))


@pytest.mark.parametrize("written", [False, True])
def test_a_kill_before_and_after_a_round_is_written(tmp_path, monkeypatch, stepped, written: bool) -> None:
    original = State.save

    def save(self: State, optimiser: torch.optim.Optimizer) -> None:
        if self.epoch < 2 or written:
            original(self, optimiser)
        if self.epoch == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(State, "save", save)
        with pytest.raises(Killed):
            run(cache_dir=tmp_path)
    stepped.clear()
    resumed = run(cache_dir=tmp_path)
    assert stepped == ([4, 5] if written else [2, 3, 4, 5])
    same(resumed, run())


def test_a_finished_run_is_read_and_not_repeated(tmp_path, stepped) -> None:
    first, again = run(cache_dir=tmp_path), run(cache_dir=tmp_path)
    assert stepped == list(range(6))
    assert (first.cached, again.cached) == (False, True)
    same(first, again)
    assert again.seconds == first.seconds
    assert (again.device, again.precision) == ("cpu", "fp32")
    assert torch.load(file_of(tmp_path), weights_only=True)["optimiser"] == {}


@pytest.mark.parametrize("damage", ["cut", "half", "nearly", "empty", "text", "words", "other"])
def test_a_damaged_file_is_named(tmp_path, damage: str) -> None:
    run(cache_dir=tmp_path, epochs=1)
    file = file_of(tmp_path)
    size = file.stat().st_size
    lengths = {"cut": 1000, "half": size // 2, "nearly": size - 100}
    if damage in lengths:
        os.truncate(file, lengths[damage])
    elif damage == "other":
        torch.save({"rows": []}, file)
    else:
        file.write_bytes({"text": b"no run", "words": b"something else", "empty": b""}[damage])
    with pytest.raises(DataError, match=r"run\.pt is damaged .*; delete it to train anew"):
        run(cache_dir=tmp_path, epochs=1)
    file.unlink()
    assert not run(cache_dir=tmp_path, epochs=1).cached


@pytest.mark.parametrize(
    "changes",
    [
        {"inner": Inner(2, 0.1, second_order=False)},
        {"inner": Inner(2, 0.1, part="head")},
        {"inner": Inner(2, 0.1, learn_rates=True)},
        {"inner": Inner(1, 0.1)},
        {"inner": Inner(2, 0.2)},
        {"learning_rate": 2e-3},
        {"tasks": 2},
        {"n_validation": 2},
        {"seed": 1},
        {"shots": 1},
        {"queries": 1},
        {"shuffled": True},
        {"pixel": 200},
        {"label": 200},
        {"patient": 200},
        {"weight": 1e-3},
    ],
    ids=str,
)
def test_what_makes_another_run(tmp_path, changes: dict) -> None:
    def once(changes: dict) -> Fitted:
        ds, told = blobs(), dict(changes)
        learner = Learner(network(), told.pop("inner", Inner(2, 0.1)))
        if "pixel" in told:
            ds.images[told.pop("pixel"), 0, 0] ^= 1
        if "label" in told:
            ds.records.loc[told.pop("label"), "Mass"] ^= 1
        if "patient" in told:
            ds.records.loc[told.pop("patient"), "patient_id"] = "somebody else"
        learner.net.head[1].bias.data += told.pop("weight", 0)
        of_tasks = {name: told.pop(name) for name in ("shots", "queries", "shuffled") if name in told}
        settings = config(**{"epochs": 1, "steps_an_epoch": 1, **told})
        return meta_train(learner, ds, *both(ds, **of_tasks), config=settings, cache_dir=tmp_path, **QUIET)

    assert [once(what).cached for what in ({}, changes, {}, changes)] == [False, False, True, True]


def test_nothing_is_kept_without_a_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not run(Inner(0), epochs=1).cached
    assert not list(tmp_path.iterdir())


# ---- early stopping and best rounds


@pytest.mark.parametrize(
    ("monitor", "rounds", "best"),
    [
        (("auroc",), 4, {"auroc": 2}),  # two rounds without a better one; a tie is none
        (("loss",), 3, {"loss": 1}),
        (("auroc", "loss"), 4, {"auroc": 2, "loss": 4}),
    ],
)
def test_patience(monkeypatch, monitor: tuple[str, ...], rounds: int, best: dict) -> None:
    scripted(monkeypatch, auroc=[0.5, 0.6, 0.6, 0.6, 0.9], loss=[0.5, 0.6, 0.5, 0.4, 0.3])
    fitted = run(epochs=5, patience=2, monitor=monitor)
    assert (len(fitted.history), fitted.best) == (rounds, best)


def test_without_patience_all_rounds_are_run_and_without_a_monitor_the_last_is_kept(monkeypatch) -> None:
    scripted(monkeypatch, auroc=[0.9, 0.8, 0.7], loss=[0.1, 0.2, 0.3])
    fitted = run(monitor=())
    assert (len(fitted.history), fitted.best) == (3, {})
    assert fitted.history["train_loss"].tolist() == [0.5] * 3
    with pytest.raises(DataError, match="no weights 'auroc' were kept; there are last"):
        fitted.model("auroc")


def test_the_weights_of_the_best_round_are_kept() -> None:
    fitted = run(monitor=("loss", "auroc"))
    for name in ("loss", "auroc"):
        alone = run(epochs=fitted.best[name], monitor=()).model()
        kept = fitted.model(name).state_dict()
        assert all(torch.equal(kept[key], tensor) for key, tensor in alone.state_dict().items())
    assert fitted.best["loss"] == 1 + int(fitted.history["val_loss"].argmin())
    assert fitted.best["auroc"] == 1 + int(fitted.history["val_auroc"].argmax())


# ---- several processes


def test_two_processes_give_the_loss_curve_of_one(tmp_path) -> None:
    """Of three tasks and three validation episodes, two are the first one's and one is the other's."""
    (tmp_path / "shared.py").write_text(SHARED)
    command = [sys.executable, str(tmp_path / "shared.py"), str(tmp_path / "cache"), free_port()]
    reports, _ = reports_of(command)
    assert len(reports) == 4 * len(INNERS)
    for name, inner in INNERS.items():
        found = [report for report in reports if report["name"] == name]
        assert sorted((r["rank"], r["cached"]) for r in found) == [
            (0, False),
            (0, True),
            (1, False),
            (1, True),
        ]
        assert len({report["state"] for report in found}) == 1
        alone = run(inner, n_validation=3).history
        for report in found:
            for column in ("train_loss", "val_loss", "val_auroc"):
                np.testing.assert_allclose(report[column], alone[column], rtol=1e-4, err_msg=column)
    assert len(list(tmp_path.glob("cache/training/*/run.pt"))) == len(INNERS)


def test_more_processes_than_tasks() -> None:
    ds = blobs()
    with pytest.raises(DataError, match="3 tasks a step for 4 processes; use fewer of them"):
        meta_train(Learner(network(), Inner()), ds, *both(ds), config=config(), devices=4, **QUIET)


# ---- what is said and what is refused


def test_progress_says_the_query_loss_or_nothing(capsys) -> None:
    ds = blobs()
    told = {"config": config(epochs=1, n_validation=1), "device": "cpu"}
    meta_train(Learner(network(), Inner(0)), ds, *both(ds), **told)
    assert "query loss " in capsys.readouterr().err
    meta_train(Learner(network(), Inner(0)), ds, *both(ds), progress=False, **told)
    assert capsys.readouterr().err == ""


def test_a_run_that_diverges_names_step_and_rates(tmp_path) -> None:
    with pytest.raises(
        TrainingError, match=r"in outer step 1 task 1 .* nan after 1 .* \(inner rate 1e\+30\)"
    ):
        run(Inner(2, 1e30))
    # One step further it is the query loss, behind which there is no support loss.
    with pytest.raises(TrainingError, match=r"query loss is nan in outer step 1 .*inner rate 1e\+30\)"):
        run(Inner(1, 1e30), cache_dir=tmp_path)
    assert not list(tmp_path.rglob("run.pt"))


def test_the_task_and_the_episode_that_diverged_are_named(monkeypatch) -> None:
    original, calls = maml.query_loss, []

    def third_fails(*batch):
        loss, (inner, logits) = original(*batch)
        calls.append(1)
        return (loss, (inner * float("nan"), logits)) if len(calls) == 3 else (loss, (inner, logits))

    monkeypatch.setattr(maml, "query_loss", third_fails)
    with pytest.raises(TrainingError, match="in outer step 1 task 3 has a support loss of nan after 0 inner"):
        run(Inner(2, 0.1))
    monkeypatch.undo()
    monkeypatch.setattr(maml_training, "outer_step", lambda work, optimiser, step: 0.5)
    with pytest.raises(TrainingError, match=r"is nan in validation episode 1 .*inner rate 1e\+30"):
        run(Inner(1, 1e30))


def test_findings_in_training_and_validation() -> None:
    ds = blobs()
    tasks, validation = both(ds)
    more = Tasks(ds, VAL, ("Mass", "Nodule"), shots=2, queries=2, seed=1)
    with pytest.raises(DataError, match=r"^Mass are in training and validation; hold them out of one"):
        check_tasks(Learner(network(), Inner()), ds, tasks, more)
    check_tasks(Learner(network(), Inner()), ds, tasks, validation)


def test_training_images_that_show_what_is_held_out() -> None:
    ds = blobs()
    seen = Tasks(ds, TRAIN, SEEN, shots=2, queries=2, seed=0)
    n = int(ds.records[list(HELD)].to_numpy(bool)[TRAIN].any(axis=1).sum())
    assert n > 0
    with pytest.raises(
        DataError, match=rf"^{n} training images show Nodule, Pneumonia, which .*episodes\.without"
    ):
        check_tasks(Learner(network(), Inner()), ds, seen, both(ds)[1])


def test_patients_in_training_and_validation() -> None:
    ds = blobs()
    tasks, validation = both(ds)
    first = int(tasks.rows[0])
    ds.records.loc[VAL[:2], "patient_id"] = [f"p{first}", f"p{tasks.rows[1]}"]
    both_sides = sorted({f"p{first}", f"p{tasks.rows[1]}"})
    with pytest.raises(DataError, match=rf"^2 patients are in .*, such as {both_sides[0]}; use splits\.pati"):
        check_tasks(Learner(network(), Inner()), ds, tasks, validation)


@pytest.mark.parametrize(
    ("outputs", "way", "val_way"), [(2, 0, 0), (1, 2, 2), (3, 2, 2), (1, 0, 2), (2, 2, 0), (2, 0, 2)]
)
def test_outputs_that_do_not_fit_the_tasks(outputs: int, way: int, val_way: int) -> None:
    ds = blobs()
    tasks, validation = both(ds, way=way)[0], both(ds, way=val_way)[1]
    said = f"{outputs} outputs for tasks of {way} and validation of {val_way} ways; it needs 1 output for way"
    with pytest.raises(DataError, match=said):
        check_tasks(Learner(network(outputs), Inner()), ds, tasks, validation)


def test_batch_norm_is_refused() -> None:
    ds = blobs()
    with pytest.raises(DataError, match=r"^cnn-small has batch norm, .* such as cnn-small-group-norm"):
        check_tasks(Learner(classifiers.build("cnn-small", 1), Inner()), ds, *both(ds))


def test_images_that_are_too_small_for_the_network() -> None:
    ds = blobs()
    small = replace(ds, images=ds.images[:, ::2, ::2])
    with pytest.raises(DataError, match="cannot take images of 8x8 pixels"):
        check_tasks(Learner(network(), Inner()), small, *both(small))


def test_meta_training_checks_before_it_begins(tmp_path) -> None:
    ds = blobs()
    learner = Learner(classifiers.build("cnn-small", 1), Inner())
    with pytest.raises(DataError, match="batch norm"):
        meta_train(learner, ds, *both(ds), config=config(), cache_dir=tmp_path, **QUIET)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        *(({name: 0}, f"{name} = 0; .* least 1") for name in ("epochs", "steps_an_epoch", "tasks")),
        ({"n_validation": 0}, "n_validation = 0; use a whole number, at least 1"),
        ({"patience": -1}, "patience = -1; use a whole number, at least 0"),
        ({"seed": -1}, "seed = -1"),
        ({"epochs": 1.5}, r"epochs = 1\.5; use a whole number"),
        ({"learning_rate": 0}, "learning_rate = 0, .* above 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
        ({"clip": -1.0}, r"clip = -1\.0"),
        ({"clip": float("nan")}, "clip = nan"),
        ({"tasks_at_once": "all"}, "tasks_at_once = 'all', .* auto, loop, vmap"),
        ({"monitor": ("accuracy",)}, "monitor = .*accuracy.* of auroc, loss"),
        ({"monitor": "auroc"}, "monitor = auroc"),
        ({"monitor": (), "patience": 1}, "patience = 1 needs a monitor; use auroc or loss"),
        ({"epochs": True}, "epochs = True; use a whole number"),
        ({"learning_rate": float("inf")}, "learning_rate = inf"),
    ],
)
def test_settings_that_do_not_exist(bad: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        MetaConfig(**bad)


def test_the_way_of_computing_is_that_of_the_device() -> None:
    found = [work_of(Inner(), tasks_at_once=how).together for how in ("auto", "loop", "vmap")]
    assert found == [False, False, True]  # on a CPU
