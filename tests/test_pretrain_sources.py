"""Which images a pretraining run may see, what watches it, and networks other than phantom."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.metrics import roc_auc_score
from torch import nn
from typer.testing import CliRunner

from xraykit import backbones, datasets, splits
from xraykit.backbones.base import UNKNOWN, Pretraining, network_input
from xraykit.cli import app
from xraykit.errors import DataError, StorageError, TrainingError
from xraykit.pretrain import pretrain, seen, start
from xraykit.pretrain_files import Config
from xraykit.pretrain_images import unlabelled
from xraykit.pretrain_probe import Probe
from xraykit.storage import locked

TINY = Config(dataset="synthetic", epochs=1, size=32, view_size=32, width=8, batch_size=16)


@pytest.fixture(autouse=True, scope="module")
def few_patients():
    """``synthetic`` has 90 patients, about 100 images in train."""
    load, patch = datasets.load, pytest.MonkeyPatch()
    patch.setattr(datasets, "load", lambda name, **options: load(name, n_patients=90, **options))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def train():
    return datasets.load("synthetic", size=32).split("train")


def test_the_development_fold_is_left_out_and_named_by_its_digest(train):
    source = unlabelled(TINY)
    inside, dev = splits.development(train, seed=0)
    assert np.array_equal(source.images, train.images[inside])
    assert not set(train.patients[inside]) & set(train.patients[dev])
    assert source.about["held_out"] == splits.digest(train.patients[dev])
    assert 0.2 < len(dev) / len(train) < 0.3


def test_the_development_fold_is_that_of_three_classes_where_there_are_three(train):
    by_three = splits.development(train, seed=3)
    again = splits.patient_folds(
        train.labels, train.patients, fractions=[0.75, 0.25], rng=np.random.default_rng(3)
    )
    assert np.array_equal(by_three[1], np.flatnonzero(again == 1))
    assert not np.array_equal(by_three[1], splits.development(train, seed=4)[1])


def test_digest_is_of_the_set_of_patients():
    assert splits.digest(["b", "a", "a"]) == splits.digest(["a", "b"])
    assert splits.digest(["a", "b"]) != splits.digest(["a"])
    assert len(splits.digest(["a"])) == 16


def test_too_few_images_for_a_batch():
    with pytest.raises(DataError, match=r"fewer than one batch of 500; use a larger set"):
        unlabelled(replace(TINY, batch_size=500))


# The monitor


class Brightness(nn.Module):
    """A network with a weight, whose first feature is the image's mean and whose second is nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([self.weight * mean, torch.zeros_like(mean)], dim=1)


def test_line_of_one_feature_has_the_auroc_of_that_feature(train):
    """Of one feature that counts, a line ranks as the feature does or the other way round."""
    probe = Probe("synthetic", size=32)
    _, dev = splits.development(train, seed=0)
    y = (train.records["label"].iloc[dev] != "normal").to_numpy()
    # "l2" leaves the sign of the feature alone, so that it ranks by above or below the mean of the pool.
    inside = train.images[probe.rows[0]].mean(axis=(1, 2)) / 255
    above = network_input(train.images[dev], 32).mean(dim=(1, 2, 3)).numpy() > inside.mean()
    auroc = roc_auc_score(y, above)
    assert probe(Brightness())["linear"] == pytest.approx(max(auroc, 1 - auroc), abs=2e-4)


def test_probe_looks_at_development_patients_and_leaves_the_mode_alone(train):
    probe, module = Probe("synthetic", size=32), Brightness().train()
    assert set(probe(module)) == {"knn", "linear"}
    assert module.training
    inside, dev = (set(train.patients[rows]) for rows in probe.rows)
    assert not inside & dev


# Other networks


@pytest.mark.parametrize(
    ("network", "method"), [("phantom:random", "vicreg"), ("squeezenet1_1:random", "simclr")]
)
def test_a_file_of_any_network_loads_as_a_backbone(tmp_path, network, method):
    """In half precision, with what the network was shown and what it was not."""
    out = tmp_path / "mine.safetensors"
    config = replace(TINY, network=network, method=method, width=32)
    found = pretrain(config, out=out, device="cpu", progress=False)
    assert [look["epoch"] for look in found["probes"]] == [0, 1]
    assert found["probes"][0] != found["probes"][1]
    architecture = network.partition(":")[0]
    backbone, (begun, _) = backbones.load(f"{architecture}:{out}"), start(config, unlabelled(config).images)
    about = backbone.pretraining
    assert (backbone.size, about.labels, about.held_out) == (32, (), unlabelled(config).about["held_out"])
    assert about.data == ("synthetic (train without the development fold)",)
    assert f"--method {method}" in about.source or method == "simclr"
    before, after = begun.maps.state_dict(), backbone.module.maps.state_dict()
    assert before.keys() == after.keys()
    moved = [key for key in before if key.endswith("weight") and not torch.equal(before[key], after[key])]
    assert len(moved) == sum(key.endswith("weight") for key in before)
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["probes"]) == found["probes"]


def test_the_command_in_the_file_repeats_the_run(monkeypatch):
    assert Config().command == "xraykit pretrain --method simclr --epochs 12 --seed 7"
    config = replace(TINY, network="phantom:my file.safetensors", temperature=0.1, monitor="kermany")
    assert config.command == (
        "xraykit pretrain --method simclr --dataset synthetic --network 'phantom:my file.safetensors' "
        "--epochs 1 --seed 7 --size 32 --view-size 32 --width 8 --batch-size 16 --temperature 0.1 "
        "--monitor kermany"
    )
    calls = []
    monkeypatch.setattr(
        "xraykit.pretrain.pretrain", lambda config, **_: calls.append(config) or {"losses": [], "probes": []}
    )
    result = CliRunner().invoke(app, shlex.split(config.command)[1:])
    assert result.exit_code == 0, result.output
    assert calls == [config]


@pytest.mark.parametrize("network", ["pixels", "cnn"])
def test_a_network_that_no_file_can_be_read_into_is_refused_before_it_trains(network):
    with pytest.raises(DataError, match=f"{network} cannot be pretrained.* such as resnet18:random"):
        start(replace(TINY, network=network), np.zeros((4, 32, 32), np.uint8))


def test_views_that_a_network_does_not_take_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"takes no views of 32 pixels .*choose another --view-size"):
        pretrain(replace(TINY, network="vit_b_16:random"), out=tmp_path / "a.safetensors", progress=False)


def test_what_the_start_had_seen_is_not_forgotten(tmp_path):
    """Labels and data of the first file are in the second one; another fold of the same set is refused."""
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    pretrain(TINY, out=first, device="cpu", progress=False)
    again = replace(TINY, network=f"phantom:{first}", width=32)
    pretrain(again, out=second, device="cpu", progress=False)
    about = [backbones.load(f"phantom:{file}") for file in (first, second)]
    assert about[0].pretraining.data == about[1].pretraining.data
    assert about[0].dim == about[1].dim == 64
    with pytest.raises(DataError, match="learned from synthetic with other patients held out"):
        pretrain(replace(again, fold_seed=1), out=tmp_path / "c.safetensors", device="cpu", progress=False)
    taught = Pretraining(("ImageNet-1k",), ("pneumonia",))
    assert seen(taught, TINY, unlabelled(TINY)) == {
        "data": ["ImageNet-1k", "synthetic (train without the development fold)"],
        "labels": ["pneumonia"],
        "held_out": unlabelled(TINY).about["held_out"],
    }
    assert seen(Pretraining(UNKNOWN), TINY, unlabelled(TINY))["data"] == ["unknown"]


def test_a_second_run_on_the_same_file_is_refused(tmp_path):
    out = tmp_path / "a.safetensors"
    with (
        locked(out.with_suffix(".lock")),
        pytest.raises(StorageError, match="choose another file with --out"),
    ):
        pretrain(TINY, out=out, device="cpu", progress=False)


def test_a_monitor_of_one_class_is_refused(monkeypatch):
    ill = datasets.load("synthetic", size=32)
    ill = ill.take((ill.records["label"] != "normal").to_numpy())
    monkeypatch.setattr(datasets, "load", lambda name, **options: ill)
    with pytest.raises(DataError, match=r"and 0 images of their rarer class.*choose another --monitor"):
        Probe("synthetic", size=32)


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_no_file(tmp_path, monkeypatch):
    from xraykit import pretrain as module

    linear = nn.Linear(64, 4)
    broken = (linear, lambda a, b: (a - b).sum() * float("nan"))
    monkeypatch.setattr(module, "method", lambda dim, config: broken)
    with pytest.raises(TrainingError, match=r"loss of step 0 is nan; choose a learning rate below 0\.002"):
        pretrain(TINY, out=tmp_path / "a.safetensors", device="cpu", progress=False)
    assert not (tmp_path / "a.safetensors").exists()
