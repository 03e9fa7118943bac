"""``xraykit train``: what it holds out, writes, prints and refuses, alone and with two processes."""

import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from xraykit import classifiers, cli, cli_networks, datasets, splits, training
from xraykit.augment import Augment
from xraykit.errors import DataError
from xraykit.training_config import Config

TINY = ["--network", "cnn-small", "--size", "32", "-p", "40", "--epochs", "2", "--precision", "fp32"]
TINY += ["--device", "cpu", "--data-dir", "data"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*options: str) -> str:
    """What is printed."""
    return CliRunner().invoke(cli.app, ["train", *TINY, *options], catch_exceptions=False).stdout


def weights(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def about(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as file:
        return {name: json.loads(value) for name, value in file.metadata().items()}


@pytest.fixture(scope="module")
def ds() -> datasets.XrayDataset:
    return datasets.load("synthetic", size=32, n_patients=40, progress=False)


def test_the_files_are_those_of_fit_on_four_fifths_of_train(folder, ds):
    printed = train("--task", "binary", "--out", "a.safetensors", "--seed", "0", "--batch-size", "16")
    ds = ds.binary()
    inside, val = splits.hold_out(ds, rng=np.random.default_rng(0))
    config = Config(epochs=2, batch_size=16)
    model = classifiers.build("cnn-small", 1, seed=0)
    expected = training.fit(model, ds, train=inside, val=val, config=config, device="cpu", progress=False)
    written = pd.read_csv("a.csv")
    pd.testing.assert_frame_equal(
        written.drop(columns="seconds"), expected.history.drop(columns="seconds"), check_dtype=False
    )
    for name, which in (("a.safetensors", "auroc"), ("a.last.safetensors", "last")):
        for key, tensor in expected.model(which).state_dict().items():
            assert torch.equal(weights(folder / name)[key], tensor), key
    assert about(folder / "a.safetensors") == {
        "network": "cnn-small",
        "n_outputs": 1,
        "size": 32,
        "dataset": "synthetic",
        "classes": ["normal", "pneumonia"],
        "task": "binary",
        "config": json.loads(json.dumps(asdict(config))),
        "epoch": expected.best["auroc"],
    }
    assert about(folder / "a.last.safetensors")["epoch"] == 2
    best = expected.history.iloc[expected.best["auroc"] - 1]
    lines = printed.splitlines()
    assert lines[0] == f"trained on {len(inside)} images, validated on {len(val)} of other patients"
    assert lines[1].startswith(f"validation in epoch {expected.best['auroc']} of 2, the best by auroc: loss ")
    assert lines[1].endswith(f"auroc {best['val_auroc']:.3f}")
    assert lines[2].endswith("s, fp32 on cpu")
    assert lines[3] == "written: a.safetensors, a.last.safetensors, a.csv"
    restored = classifiers.restore(classifiers.build("cnn-small", 1, seed=5), folder / "a.safetensors")
    found, wanted = (training.predict(m, ds.images[:4]) for m in (restored, expected.model("auroc")))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_again_is_read_from_the_cache_and_nothing_is_overwritten(folder):
    train("--out", "a.safetensors")
    again = train("--out", "sub/b.safetensors")
    assert "s, fp32 on cpu, from the cache\n" in again
    assert (folder / "a.csv").read_bytes() == (folder / "sub/b.csv").read_bytes()
    first, second = (weights(folder / name) for name in ("a.safetensors", "sub/b.safetensors"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    for kept in ("a.csv", "a.last.safetensors"):
        with pytest.raises(DataError, match=r"a\..* exists and is not overwritten; choose another --out"):
            train("--out", "a.safetensors")
        (folder / "a.safetensors").unlink(missing_ok=True)
        (folder / kept).unlink()
    train("--out", "a.safetensors")


def test_options_reach_the_configuration(monkeypatch):
    seen = {}

    class Stop(Exception):
        pass

    def fit(model, ds, **given):
        seen.update(given, ds=ds)
        raise Stop

    monkeypatch.setattr(training, "fit", fit)
    options = "--task 3-class --learning-rate .01 --optimiser sgd --trainable head_then_all --loss focal "
    options += (
        "--no-augment --patience 3 --seed 4 --batch-size 8 --devices 2 --num-nodes 1 --out a.safetensors"
    )
    with pytest.raises(Stop):
        train(*options.split())
    assert seen["config"] == Config(
        epochs=2,
        batch_size=8,
        learning_rate=0.01,
        optimiser="sgd",
        trainable="head_then_all",
        loss="focal",
        augment=None,
        patience=3,
        seed=4,
    )
    assert (seen["devices"], seen["num_nodes"], seen["precision"]) == (2, 1, "fp32")
    assert seen["cache_dir"] == Path("data/cache")
    assert seen["ds"].classes == ("normal", "bacterial", "viral")


def test_the_defaults_are_those_of_the_configuration():
    given = {name: p.default for name, p in inspect.signature(cli_networks.train).parameters.items()}
    config = asdict(Config())
    shared = set(given) & set(config) - {"augment"}
    assert shared == {
        "epochs",
        "batch_size",
        "learning_rate",
        "optimiser",
        "trainable",
        "loss",
        "patience",
        "seed",
    }
    assert {name: given[name] for name in shared} == {name: config[name] for name in shared}
    assert given["augment"] is True
    assert Config().augment == Augment()


def test_multi_label_leaves_no_finding_and_what_cannot_be_learnt_out(folder):
    printed = train("--dataset", "synthetic-nih", "--task", "multi-label", "--out", "a.safetensors")
    kept = about(folder / "a.safetensors")["classes"]
    left_out = [line.split(": ")[1].split(",")[0] for line in printed.splitlines() if "left out" in line]
    assert left_out
    nih = datasets.load("synthetic-nih", size=32, n_patients=40, progress=False)
    assert {*kept, *left_out} == {*nih.classes} - {"No Finding"}
    inside, val = splits.hold_out(nih, rng=np.random.default_rng(0))
    for part in (inside, val):
        share = nih.records.iloc[part][kept].mean()
        assert ((share > 0) & (share < 1)).all()


def test_another_test_split_trains_the_same_weights(folder, monkeypatch, ds):
    train("--task", "binary", "--out", "a.safetensors")
    test = (ds.records["split"] == "test").to_numpy()
    pixels = ds.images.copy()
    pixels[test] = 0
    other = replace(ds.binary(), images=pixels)
    monkeypatch.setattr(datasets, "load", lambda *_, **__: other)
    shutil.rmtree("data/cache/training")  # which would not know of the test images
    printed = train("--task", "binary", "--out", "b.safetensors")
    assert "from the cache" not in printed
    assert all(
        torch.equal(tensor, weights(folder / "b.safetensors")[name])
        for name, tensor in weights(folder / "a.safetensors").items()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "a.pt"], r"a\.pt does not end with \.safetensors"),
        (["--out", "a.safetensors", "--task", "multi-label"], "synthetic has no labels='multilabel'; choose"),
        (["--out", "a.safetensors", "--optimiser", "lion"], "optimiser = 'lion'; use one of adamw"),
        (["--out", "a.safetensors", "--network", "cnm"], "no backbone is named 'cnm'; do you mean cnn"),
        (
            ["--out", "a.safetensors", "--loss", "cross_entropy", "--dataset", "synthetic-nih"],
            "does not fit a",
        ),
    ],
)
def test_bad_options_are_one_message(folder, options, message):
    with pytest.raises(DataError, match=message):
        train(*options)
    assert not list(folder.glob("a.*"))


@pytest.mark.slow
def test_two_processes_of_torchrun_train_what_one_does(folder):
    def run(out: str, *launcher: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *launcher, "-m", "xraykit.cli", "train", *TINY]
        command += ["--network", "cnn-group-norm", "--batch-size", "15", "--out", out]
        fixed = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment = {**os.environ, **fixed}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=180
        )

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    team = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    alone, together = run("one.safetensors"), run("two.safetensors", *team, "--master-port", port)
    assert alone.returncode == 0, alone.stderr
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("validation in epoch") == 1
    one, two = pd.read_csv("one.csv"), pd.read_csv("two.csv")
    np.testing.assert_allclose(two["train_loss"], one["train_loss"], rtol=1e-4)
    np.testing.assert_allclose(two["val_loss"], one["val_loss"], rtol=1e-4)
    again = run("three.safetensors", *team, "--master-port", port)
    assert "from the cache" in again.stdout, again.stderr
