"""The training loop: against a loop by hand, and each of its promises."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import free_port, reports_of
from training_children import QUIET, TRAIN, VAL, config, network, tiny, train

from xraykit import backbones, classifiers, metrics, training, training_batches
from xraykit.augment import augment
from xraykit.backbones import Pretraining, from_module
from xraykit.devices import BF16_SETS, instruction_set
from xraykit.errors import DataError
from xraykit.losses import make_loss, targets
from xraykit.training_config import Config, rate

PLAIN = {"augment": None, "clip": 0.0, "warmup": 0.0, "schedule": "constant", "optimiser": "sgd"}

# One pair of processes for all of it, with the environment that torchrun gives them, and forked after the
# imports, since starting takes most of the time. A torchrun itself: test_training_outputs.
SHARED = """
import hashlib, json, os, sys
import torch
from training_children import VAL, network, tiny, train
from xraykit import training
from xraykit.errors import TrainingError

seeds, epoch_of = [], training._epoch

def noted(*args, **options):
    seeds.append(torch.initial_seed())
    return epoch_of(*args, **options)

training._epoch = noted

def again(fitted):
    logits = torch.from_numpy(training.predict(fitted.model("last"), tiny().images, rows=VAL, device="cpu"))
    y = torch.from_numpy(tiny().labels[VAL]).float()
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y))

def digest(fitted):
    state = fitted.model("last").state_dict().values()
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in state)).hexdigest()

rank = "1" if os.fork() == 0 else "0"
os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0"}
os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2], "TORCHELASTIC_RUN_ID": "test"}
for trainable, norm in (("all", "group"), ("all", "group"), ("head_then_all", "group"), ("head", "batch"),
                        ("all", "batch")):
    model = network(norm=norm)
    fitted = train(model, cache_dir=sys.argv[1], trainable=trainable, head_epochs=2, batch_size=7)
    before, after = model.body.state_dict(), fitted.model("last").body.state_dict()
    report = fitted.history.to_dict("list") | {"trainable": trainable, "cached": fitted.cached}
    report |= {"norm": norm, "again": again(fitted), "state": digest(fitted), "seeds": seeds[:]}
    seeds.clear()
    report["moved"] = sum(float((after[name] - before[name]).abs().sum()) for name in after)
    sys.stdout.write(json.dumps(report) + "\\n")
    sys.stdout.flush()
make_loss = training.make_loss
if rank == "1":  # a loss that one process alone finds to be NaN
    training.make_loss = lambda *a, **k: lambda z, y: make_loss(*a, **k)(z, y) * float("nan")
try:
    train(network(), clip=0.0)
except TrainingError as error:
    sys.stdout.write(json.dumps({"trainable": "", "stopped": str(error)}) + "\\n")
    sys.stdout.flush()
if rank == "0":
    sys.exit(os.wait()[1])
"""


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- against a loop by hand


@pytest.mark.parametrize("norm", ["", "batch"])
def test_it_is_the_loop_one_would_write(norm: str) -> None:
    ds, model = tiny(), network(norm=norm)
    fitted = train(model, weight_decay=0.1, **PLAIN)
    images, truth = (
        torch.from_numpy(ds.images[:, None] / np.float32(255)),
        torch.from_numpy(ds.labels).float(),
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    losses, right, val_losses = [], [], []
    for epoch in range(4):
        model.train()
        total = hits = 0.0
        for batch in training_batches.plan(len(TRAIN), 8, epoch=epoch, seed=0, at_least=2):
            rows = TRAIN[batch]
            logits = model(images[rows])[:, 0]
            loss = F.binary_cross_entropy_with_logits(logits, truth[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(rows)
            hits += float(((logits > 0) == (truth[rows] == 1)).sum())
        losses.append(total / len(TRAIN))
        right.append(hits / len(TRAIN))
        with torch.no_grad():
            logits = model.eval()(images[VAL])[:, 0]
        val_losses.append(F.binary_cross_entropy_with_logits(logits, truth[VAL]).item())
    np.testing.assert_allclose(fitted.history["train_loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(fitted.history["train_accuracy"], right, rtol=1e-6)
    np.testing.assert_allclose(fitted.history["val_loss"], val_losses, rtol=1e-5)
    auroc = metrics.score_all(ds.labels[VAL], torch.sigmoid(logits).numpy(), names=["auroc"])["auroc"][0]
    assert fitted.history["val_auroc"].iloc[-1] == auroc
    torch.testing.assert_close(dict(fitted.model("last").state_dict()), dict(model.state_dict()))


def test_schedule_clipping_and_augmentation_are_those_of_their_modules() -> None:
    """One more loop by hand, of three classes, with everything on."""
    ds, model, settings = tiny("multiclass"), network("multiclass"), config(seed=3, clip=0.05, loss="focal")
    fitted = train(model, "multiclass", seed=3, clip=0.05, loss="focal")
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    truth, step = targets(ds.labels, "multiclass"), 0
    loss_of = make_loss("focal", kind="multiclass")
    for epoch in range(4):
        for batch in training_batches.plan(len(TRAIN), 8, epoch=epoch, seed=3, at_least=2):
            images = training_batches.read(ds.images, TRAIN[batch], "cpu")
            images = augment(images, batch, epoch=epoch, seed=3, options=settings.augment)
            optimiser.param_groups[0]["lr"] = rate(step, 12, settings)
            optimiser.zero_grad()
            loss_of(model(images), truth[TRAIN[batch]]).mean().backward()
            assert torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05) > 0.05
            optimiser.step()
            step += 1
        assert fitted.history["learning_rate"][epoch] == rate(step - 1, 12, settings)
    torch.testing.assert_close(dict(fitted.model("last").state_dict()), dict(model.state_dict()))


# ---- what is left as it was


def test_the_model_the_images_and_the_generators_stay_as_they_are() -> None:
    model, ds = network(norm="batch", dropout=0.5), tiny()
    before, images = weights(model), ds.images.copy()
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(model)
    assert equal(weights(model), before)
    assert model.training
    np.testing.assert_array_equal(ds.images, images)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002


def test_the_seed_alone_decides() -> None:
    model = network(dropout=0.5)
    losses = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        losses.append(train(model, seed=seed).history["train_loss"].tolist())
    assert losses[0] == losses[1] != losses[2]


# ---- what is trained


def test_a_frozen_body_keeps_weights_and_batch_statistics() -> None:
    model = network(norm="batch")
    fitted = train(model, trainable="head", weight_decay=0.5)
    trained = fitted.model("last")
    assert equal(weights(trained.body), weights(model.body))
    assert not torch.equal(trained.head[1].weight, model.head[1].weight)


def test_head_then_all_thaws_the_body_after_head_epochs() -> None:
    model = network(norm="batch")
    options = {"trainable": "head_then_all", "head_epochs": 2, "schedule": "constant"}
    frozen = train(model, epochs=2, trainable="head", schedule="constant")
    assert equal(weights(frozen.model("last").body), weights(model.body))
    thawed, fitted = train(model, epochs=3, **options), train(model, epochs=4, **options)
    assert thawed.history["train_loss"][:2].tolist() == frozen.history["train_loss"].tolist()
    body, before = weights(thawed.model("last").body), weights(model.body)
    statistics = [name for name in body if "running" in name]
    assert statistics
    assert not any(torch.equal(body[name], before[name]) for name in body if name.endswith("weight"))
    assert not any(torch.equal(body[name], before[name]) for name in statistics)
    assert len(fitted.history) == 4


def test_a_separable_set_is_learned_by_a_network_of_ones_own() -> None:
    class Mine(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(16 * 16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.flatten(1)).relu()

    def build(weights: str | None, *, seed: int, weights_dir: str | Path | None) -> backbones.Backbone:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return from_module(Mine(), name="mine", size=16, pretraining=Pretraining())

    backbones.register("mine", build)
    try:
        fitted = train(classifiers.build("mine", 1, seed=4), epochs=15)
    finally:
        del backbones.registry._REGISTERED["mine"]
    assert fitted.history["val_auroc"].iloc[-1] == fitted.history["val_accuracy"].iloc[-1] == 1
    assert fitted.model().name == "mine"


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_other_tasks_are_learned(kind: str) -> None:
    fitted = train(
        network(kind, norm="batch"),
        kind,
        epochs=12,
        loss="focal",
        weights=(1.0, 2.0, 3.0)[: 2 + (kind == "multiclass")],
    )
    assert fitted.history["val_auroc"].max() > 0.95
    expected = {
        "multiclass": ["accuracy", "balanced_accuracy", "macro_f1", "auroc"],
        "multilabel": ["macro_f1", "auroc"],
    }
    columns = ["epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss"]
    scores = [f"val_{name}" for name in expected[kind]]
    assert list(fitted.history) == [*columns, *scores, "seconds"]


def test_findings_without_both_values_in_val_are_left_out_of_its_scores() -> None:
    ds = tiny("multilabel")
    val = VAL[::2]  # Mass is in none of them
    fitted = training.fit(network("multilabel"), ds, train=TRAIN, val=val, config=config(epochs=1), **QUIET)
    logits = training.predict(fitted.model("last"), ds.images[val], device="cpu")
    score = metrics.score_all(
        ds.labels[val][:, 1:], torch.sigmoid(torch.from_numpy(logits[:, 1:])).numpy(), names=["auroc"]
    )
    assert fitted.history["val_auroc"][0] == score["auroc"][0]


def test_repeats_are_trained_on_and_augmented_apart(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(training, "augment", lambda x, ids, **_: seen.append(ids) or x)
    index = np.repeat(TRAIN, 2)
    training.fit(network(), tiny(), train=index, val=VAL, config=config(epochs=2), **QUIET)
    assert sorted(np.concatenate(seen[:6])) == sorted(np.concatenate(seen[6:])) == list(range(44))


# ---- early stopping and best epochs


def scripted(monkeypatch, **scores: list[float]) -> None:
    """Let the validation find these values, one an epoch."""
    found = [
        {f"val_{name}": value for name, value in zip(scores, row, strict=True)}
        for row in zip(*scores.values(), strict=True)
    ]
    monkeypatch.setattr(training, "_validate", lambda work, *, epoch: found[epoch])


def test_the_best_epoch_of_each_monitor_and_ties(monkeypatch) -> None:
    scripted(
        monkeypatch, auroc=[0.5, 0.8, 0.8, 0.7], loss=[0.9, 0.5, 0.4, 0.4], accuracy=[0.9, 0.8, 0.7, 0.1]
    )
    model = network()
    fitted = train(model, monitor=("auroc", "loss", "accuracy"))
    assert fitted.best == {"auroc": 2, "loss": 3, "accuracy": 1}  # of equals the first
    # Without a monitor, the last epoch of as many epochs of the same schedule.
    options = {"monitor": (), "schedule": "constant", "warmup": 0.0}
    again = train(model, monitor=("auroc", "loss", "accuracy"), schedule="constant", warmup=0.0)
    for name, epoch in again.best.items():
        assert equal(weights(again.model(name)), weights(train(model, epochs=epoch, **options).model()))
    assert equal(weights(again.model()), weights(again.model("auroc")))
    assert not again.model().training
    with pytest.raises(
        DataError, match="no weights 'macro_f1' were kept; there are last, auroc, loss, accura"
    ):
        again.model("macro_f1")


@pytest.mark.parametrize(
    ("auroc", "epochs", "best"),
    [
        ([0.5, 0.6, 0.6, 0.6, 0.9, 0.9], 4, 2),  # two epochs without a better one; a tie is none
        ([0.5, 0.4, 0.6, 0.5, 0.7, 0.6], 6, 5),
        ([0.5, 0.4, 0.3, 0.9, 0.9, 0.9], 3, 1),
    ],
)
def test_patience(monkeypatch, auroc: list[float], epochs: int, best: int) -> None:
    scripted(monkeypatch, auroc=auroc, loss=auroc)
    fitted = train(network(), epochs=6, patience=2)
    assert (len(fitted.history), fitted.best) == (epochs, {"auroc": best})
    assert len(train(network(), epochs=6).history) == 6
    # Of the loss, less is better.
    by_loss = train(network(), epochs=6, patience=2, monitor=("loss", "auroc"))
    assert by_loss.best["loss"] == 1 + int(np.argmin(auroc[: len(by_loss.history)]))


# ---- predict


def test_predict_is_the_network_in_order_and_in_parts(tmp_path, monkeypatch) -> None:
    ds, model = tiny("multiclass"), network("multiclass", norm="batch", dropout=0.5).train()
    before = weights(model)
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=ds.images.shape)
    mapped[:] = ds.images
    found = training.predict(model, mapped, device="cpu")
    assert (found.dtype, found.shape, model.training) == (np.float32, (40, 3), False)
    with torch.no_grad():
        expected = model(torch.from_numpy(ds.images[:, None] / np.float32(255)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(training, "PREDICTED_AT_ONCE", 7)
    np.testing.assert_allclose(training.predict(model, ds.images, device="cpu"), found, rtol=1e-5, atol=1e-6)
    assert equal(weights(model), before)


def test_predictions_are_the_validation_scores_of_the_history() -> None:
    ds = tiny()
    fitted = train(network(norm="batch"), monitor=("loss",))
    logits = training.predict(fitted.model("loss"), ds.images[VAL], device="cpu")
    loss = F.binary_cross_entropy_with_logits(
        torch.from_numpy(logits[:, 0]), torch.from_numpy(ds.labels[VAL]).float()
    )
    row = fitted.history.set_index("epoch").loc[fitted.best["loss"]]
    assert float(loss) == pytest.approx(row["val_loss"], rel=1e-6)
    assert row["val_loss"] == fitted.history["val_loss"].min()


@pytest.mark.skipif(instruction_set() not in BF16_SETS, reason="this processor has no bf16 arithmetic")
def test_bf16_stays_near_fp32() -> None:
    model, ds = network(), tiny()
    runs = [
        training.fit(model, ds, train=TRAIN, val=VAL, config=config(), precision=precision, **QUIET)
        for precision in ("fp32", "bf16", "auto")
    ]
    assert [run.precision for run in runs] == ["fp32", "bf16", "bf16"]
    losses = [run.history["train_loss"] for run in runs]
    assert not losses[1].equals(losses[0])
    assert losses[1].equals(losses[2])
    np.testing.assert_allclose(losses[1], losses[0], atol=0.02)
    assert all(tensor.dtype != torch.bfloat16 for tensor in runs[1].model().state_dict().values())
    half = training.predict(model, ds.images, device="cpu", precision="bf16")
    whole = training.predict(model, ds.images, device="cpu")
    np.testing.assert_allclose(half, whole, atol=0.02)
    assert not np.array_equal(half, whole)


def test_progress_says_epoch_and_loss(capsys) -> None:
    options = {"train": TRAIN, "val": VAL, "config": config(epochs=2), "device": "cpu"}
    training.fit(network(), tiny(), **options)
    assert "epoch 2/2, loss 0." in capsys.readouterr().err
    training.fit(network(), tiny(), progress=False, **options)
    assert capsys.readouterr().err == ""


# ---- several processes


def test_two_processes_give_the_loss_curve_of_one(tmp_path) -> None:
    """Batches of 7, 7 and 8 images: 4 and 3 in the two processes, and 4 each."""
    (tmp_path / "shared.py").write_text(SHARED)
    command = [sys.executable, str(tmp_path / "shared.py"), str(tmp_path / "cache"), free_port()]
    reports, said = reports_of(command)
    assert "deprecat" not in said.lower()
    stopped = [report["stopped"] for report in reports if "stopped" in report]
    assert len(stopped) == 2
    assert all(said.startswith("the loss is nan in epoch 1, step 1 of 3") for said in stopped)
    normed = [report for report in reports if (report["trainable"], report.get("norm")) == ("all", "batch")]
    assert normed[0]["state"] == normed[1]["state"]
    assert not set(normed[0]["seeds"]) & set(normed[1]["seeds"])
    for report in normed:
        assert report["again"] == pytest.approx(report["val_loss"][-1], rel=1e-5)
    reports = [report for report in reports if report not in normed and "stopped" not in report]
    assert len(reports) == 8
    for trainable, norm in (("all", "group"), ("head_then_all", "group"), ("head", "batch")):
        alone = train(network(norm=norm), trainable=trainable, head_epochs=2, batch_size=7).history
        found = [report for report in reports if report["trainable"] == trainable]
        assert [report["cached"] for report in found].count(True) == (2 if trainable == "all" else 0)
        for report in found:
            for column in alone.columns.drop("seconds"):
                np.testing.assert_allclose(report[column], alone[column], rtol=1e-4, err_msg=column)
            assert (report["moved"] == 0) == (trainable == "head")
    assert len(list(tmp_path.glob("cache/training/*/run.pt"))) == 4


@pytest.mark.parametrize(("norm", "least"), [("batch", 4), ("group", 2)])
def test_a_process_never_has_one_image_with_batch_norm(norm: str, least: int) -> None:
    class Two:
        world_size, global_rank = 2, 0

    train = np.arange(5 + least - 1)
    for extra, sizes in ((0, [5 + least - 1]), (1, [5, least])):
        index = np.append(train, train[:extra])
        work = training.Work(network(norm=norm), tiny(), index, VAL, Config(batch_size=5), Two())
        assert [len(batch) for batch in work.batches(0)] == sizes


def test_more_processes_than_images_a_batch() -> None:
    class Two:
        world_size, global_rank = 2, 0

    work = training.Work(network(), tiny(), TRAIN, VAL, Config(batch_size=1), Two())
    with pytest.raises(DataError, match="22 training images in batches of 1 for 2 processes; use fewer"):
        training._train(work, None, progress=False)
