"""The cache of training runs: kills, finished runs, what makes another run, damage, and two runs at once."""

import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_children import (
    QUIET,
    TRAIN,
    VAL,
    config,
    file_of,
    network,
    same,
    tiny,
    train,
    train_and_die,
)

from xraykit import classifiers, training, training_files
from xraykit.errors import DataError, StorageError

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")


class Killed(BaseException):
    """What a kill is in a test that stays in its process."""


def interrupted(monkeypatch: pytest.MonkeyPatch, cache_dir: Path, *, after: int, **options: object) -> None:
    """Train, and die in the middle of the epoch after `after` finished ones."""
    original, epochs = training._epoch, []

    def epoch_of(work, net, optimiser, *, epoch, bar):
        epochs.append(epoch)
        found = original(work, net, optimiser, epoch=epoch, bar=bar)
        if epoch == after:
            raise Killed
        return found

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", epoch_of)
        with pytest.raises(Killed):
            run(cache_dir, **options)
    assert epochs[-1] == after


def run(cache_dir: Path | None, *, kind: str = "binary", **options: object) -> training_files.Fitted:
    options = {"monitor": ("auroc", "loss")[: 2 if kind == "binary" else 1], **options}
    return train(network(kind, norm="batch", dropout=0.3), kind, cache_dir=cache_dir, **options)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs that are trained, from 0."""
    epochs, original = [], training._epoch

    def epoch_of(*args, epoch, **options):
        epochs.append(epoch)
        return original(*args, epoch=epoch, **options)

    monkeypatch.setattr(training, "_epoch", epoch_of)
    return epochs


# ---- kills


@pytest.mark.parametrize(("after", "optimiser"), [(0, "adamw"), (1, "sgd"), (2, "adamax"), (3, "adadelta")])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tmp_path, monkeypatch, trained, after: int, optimiser: str
) -> None:
    options = {"trainable": "head_then_all", "optimiser": optimiser}
    interrupted(monkeypatch, tmp_path, after=after, **options)
    trained.clear()
    torch.manual_seed(99)  # the generator of the process decides nothing
    resumed = run(tmp_path, **options)
    assert trained == list(range(after, 4))
    assert not resumed.cached
    same(resumed, run(None, **options))


def test_a_run_interrupted_twice(tmp_path, monkeypatch, trained) -> None:
    options = {"kind": "multilabel", "patience": 4, "epochs": 5}
    interrupted(monkeypatch, tmp_path, after=1, **options)
    interrupted(monkeypatch, tmp_path, after=3, **options)
    trained.clear()
    resumed = run(tmp_path, **options)
    assert trained[0] == 3
    same(resumed, run(None, **options))


def test_patience_goes_on_where_it_was(tmp_path, monkeypatch) -> None:
    auroc = [0.5, 0.7, 0.6, 0.6, 0.9]
    monkeypatch.setattr(training, "_validate", lambda work, *, epoch: {"val_auroc": auroc[epoch]})
    options = {"kind": "multiclass", "epochs": 5, "patience": 2}
    interrupted(monkeypatch, tmp_path, after=3, **options)
    resumed = run(tmp_path, **options)
    assert (len(resumed.history), resumed.best) == (4, {"auroc": 2})
    assert run(tmp_path, **options).cached
    same(resumed, run(None, **options))


def start(cache_dir: Path, *, kill_at: int = 0, pause: float = 0) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_fabric", "xraykit.training"])  # once for all children
    child = context.Process(target=train_and_die, args=(cache_dir, kill_at, pause))
    child.start()
    return child


@POSIX
@pytest.mark.parametrize(("kill_at", "finished"), [(1, 0), (4, 3)])
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path, trained, kill_at: int, finished: int) -> None:
    child = start(tmp_path, kill_at=kill_at)
    child.join(timeout=60)
    assert child.exitcode == -signal.SIGKILL
    resumed = run(tmp_path)
    assert trained == list(range(finished, 4))
    same(resumed, run(None))


@POSIX
def test_two_runs_at_once_train_each_epoch_once(tmp_path) -> None:
    children = [start(tmp_path, pause=0.1) for _ in range(2)]
    for child in children:
        child.join(timeout=60)
    assert [child.exitcode for child in children] == [0, 0]
    assert sorted(int((tmp_path / f"{child.pid}.json").read_text()) for child in children) == [0, 4]
    found = run(tmp_path)
    assert found.cached
    same(found, run(None))


# ---- finished runs


def test_a_finished_run_is_read_and_not_repeated(tmp_path, trained) -> None:
    first, again = run(tmp_path), run(tmp_path)
    assert trained == [0, 1, 2, 3]
    assert (first.cached, again.cached) == (False, True)
    same(first, again)
    assert again.history["seconds"].tolist() == first.history["seconds"].tolist()
    assert again.seconds == first.seconds == pytest.approx(first.history["seconds"].sum())
    assert (again.device, again.precision) == ("cpu", "fp32")


def test_nothing_is_kept_without_a_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not run(None).cached
    assert not list(tmp_path.iterdir())


def test_a_finished_run_has_no_state_of_the_optimiser(tmp_path, monkeypatch) -> None:
    interrupted(monkeypatch, tmp_path, after=2)
    part = torch.load(file_of(tmp_path), weights_only=True)
    assert (len(part["rows"]), bool(part["optimiser"])) == (2, True)
    run(tmp_path)
    whole = torch.load(file_of(tmp_path), weights_only=True)
    assert (len(whole["rows"]), whole["optimiser"]) == (4, {})
    assert list(whole["weights"]) == ["last", "auroc", "loss"]


def changed(what: str) -> dict:
    """Arguments of `fit` of which one is another."""
    ds, model = tiny(), network()
    options = {"ds": ds, "model": model, "train": TRAIN, "val": VAL, "config": config(epochs=1), **QUIET}
    if what == "labels":
        ds.records.loc[[0, 1], "label"] = ["pneumonia", "normal"]
    elif what == "pixels":
        ds.images[31, 0, 0] ^= 1
    elif what == "weights":
        model.head[1].bias.data[0] += 1e-6
    elif what == "dropout":
        model.head[0].p = 0.1
    elif what == "augmentation":
        options["config"] = replace(options["config"], augment=None)
    elif what in ("seed", "learning_rate"):
        options["config"] = replace(options["config"], **{what: 5})
    elif what == "train":
        options["train"] = np.append(TRAIN, 0)
    elif what == "order":
        options["train"] = TRAIN[::-1]
    elif what == "val":
        options["val"] = VAL[:-1]
    return options


@pytest.mark.parametrize(
    "what",
    [
        "labels",
        "pixels",
        "weights",
        "dropout",
        "augmentation",
        "seed",
        "learning_rate",
        "train",
        "order",
        "val",
    ],
)
def test_what_decides_the_result_makes_another_run(tmp_path, what: str) -> None:
    for name, cached in (("", False), (what, False), (what, True), ("", True)):
        options = changed(name)
        fitted = training.fit(options.pop("model"), options.pop("ds"), cache_dir=tmp_path, **options)
        assert fitted.cached is cached
    assert len(list(tmp_path.glob("training/*/run.pt"))) == 2


def test_what_decides_nothing_makes_no_other_run(tmp_path) -> None:
    options = changed("")
    model, ds = options.pop("model"), options.pop("ds")
    training.fit(model, ds, cache_dir=tmp_path, **options)
    model.eval().freeze(True)
    of_test = ds.images.copy()
    of_test[32:] ^= 1
    for x in (np.asfortranarray(ds.images), ds.images.copy(), of_test):
        found = training.fit(
            model,
            replace(ds, images=x, name="other"),
            cache_dir=str(tmp_path),
            **options | {"train": list(TRAIN)},
        )
        assert found.cached


def test_edited_code_makes_another_run(tmp_path, monkeypatch) -> None:
    read = Path.read_bytes
    assert not run(tmp_path).cached
    assert run(tmp_path).cached
    for name in training_files.DECIDING:
        edited = {f"{name}.py"}
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda self, e=edited: read(self) + b"#" * (self.name in e))
            assert not run(tmp_path, epochs=1).cached


# ---- damage


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_a_damaged_file_is_named(tmp_path, damage: str) -> None:
    run(tmp_path)
    file = file_of(tmp_path)
    if damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "other":
        torch.save({"rows": []}, file)
    else:
        file.write_bytes(b"no run" if damage == "text" else b"")
    with pytest.raises(DataError, match=r"run\.pt is damaged .*; delete it to train anew"):
        run(tmp_path)
    file.unlink()
    assert not run(tmp_path).cached


@pytest.mark.skipif(sys.platform == "win32", reason="permissions as on Unix")
def test_a_cache_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "training").write_text("a file where a folder is needed")
    with pytest.raises(StorageError, match="cannot write to"):
        run(tmp_path)


# ---- what remains


def test_models_of_a_run_are_copies(tmp_path) -> None:
    fitted = run(tmp_path)
    first = fitted.model("loss")
    before = first.state_dict()["head.1.weight"].clone()
    first.head[1].weight.data.zero_()
    assert torch.equal(fitted.model("loss").head[1].weight, before)
    assert all(p.device.type == "cpu" for p in first.parameters())


def test_a_cached_model_is_as_trainable_as_a_fresh_one(tmp_path) -> None:
    found = [run(tmp_path, trainable="head").model() for _ in range(2)]
    for model in found:
        assert (model.frozen, model.training) == (False, False)
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_written_and_restored_predict_the_same(tmp_path) -> None:
    ds, trained = tiny(), run(None).model()
    classifiers.save(trained, tmp_path / "net.safetensors", task="binary")
    restored = classifiers.restore(network(norm="batch", dropout=0.3), tmp_path / "net.safetensors")
    expected = training.predict(trained, ds.images, device="cpu")
    found = training.predict(restored, ds.images, device="cpu")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
