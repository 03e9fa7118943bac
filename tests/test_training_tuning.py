"""The search over the settings of a training."""

from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from xraykit import training, training_tuning
from xraykit.augment import Augment
from xraykit.classifiers import Classifier
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError, TrainingError
from xraykit.training_config import Config
from xraykit.training_tuning import improve

BASE = Config(epochs=3, learning_rate=1e-3, augment=Augment(rotation=5), patience=2, seed=7)


@pytest.fixture(scope="module")
def ds() -> XrayDataset:
    rng = np.random.default_rng(0)
    ids = [f"i{i}" for i in range(24)]
    records = pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "train", "label": ["a", "b"] * 12})
    images = rng.integers(0, 256, (24, 16, 16)).astype(np.uint8)
    return XrayDataset("toy", images, records, ("a", "b"), "multiclass", "none", "none")


@pytest.fixture
def on(ds: XrayDataset) -> dict:
    return {"train": np.arange(16), "val": np.arange(16, 24), "base": BASE, "seed": 0, "progress": False}


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list:
    """Instead of a training: AUROC .5 to 1, the nearer to a rate of 1e-2 the better; what was asked for."""
    asked = []

    def fit(model, ds, *, config, **about):
        width = model.head[1].in_features // 8
        light = next(m.stride for m in model.modules() if isinstance(m, torch.nn.Conv2d)) == (2, 2)
        asked.append({"config": config, "width": width, "light": light, **about})
        value = 1 - 0.1 * abs(np.log10(config.learning_rate) + 2) - 1e-3 * (width != 16)
        return finished([0.0, value], model)

    monkeypatch.setattr(training, "fit", fit)
    return asked


def finished(auroc: list[float], model: Classifier) -> SimpleNamespace:
    """What is asked of a `Fitted`."""
    kept = {"last": model}
    return SimpleNamespace(history=pd.DataFrame({"val_auroc": auroc}), model=kept.__getitem__)


def test_the_base_settings_come_first_and_the_best_trial_wins(ds, on, fits) -> None:
    found = improve(ds, **on, n_trials=9, cache_dir="cache", device="cpu")
    trials = found.trials
    assert list(trials) == [
        "number", "val_auroc", "learning_rate", "batch_size", "weight_decay", "width", "state",
    ]  # fmt: skip
    assert trials["number"].tolist() == list(range(9))
    assert trials.loc[0, ["learning_rate", "batch_size", "weight_decay", "width"]].tolist() == [
        1e-3,
        32,
        0.01,
        16,
    ]
    assert trials.loc[0, "val_auroc"] == pytest.approx(1 - 0.1, abs=1e-12)
    top = trials.loc[trials["val_auroc"].idxmax()]
    assert (found.best.learning_rate, found.best.batch_size, found.best.weight_decay, found.width) == (
        top["learning_rate"], top["batch_size"], top["weight_decay"], top["width"],
    )  # fmt: skip
    kept = ("epochs", "augment", "patience", "monitor", "seed")
    assert [getattr(found.best, name) for name in kept] == [getattr(BASE, name) for name in kept]


def test_what_is_trained_is_what_the_table_says(ds, on, fits) -> None:
    trials = improve(ds, **on, n_trials=5, cache_dir="cache", device="cpu").trials
    for trial, asked in zip(trials.itertuples(), fits, strict=True):
        config = asked["config"]
        assert (trial.learning_rate, trial.batch_size, trial.weight_decay, trial.width) == (
            config.learning_rate, config.batch_size, config.weight_decay, asked["width"],
        )  # fmt: skip
        assert (config.monitor, config.patience, config.seed, config.epochs) == ((), 0, 7, 3)
        assert (asked["cache_dir"], asked["device"], asked["progress"]) == ("cache", "cpu", False)
        assert asked["val"].tolist() == list(range(16, 24))
        assert asked["light"]


def test_seeded_quiet_and_inside_its_space(ds, on, fits, capfd) -> None:
    before = optuna.logging.get_verbosity()
    one = improve(ds, **on, n_trials=12)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before
    pd.testing.assert_frame_equal(one.trials, improve(ds, **on, n_trials=12).trials)
    assert not one.trials.equals(improve(ds, **on | {"seed": 1}, n_trials=12).trials)
    low, high = one.trials.min(numeric_only=True), one.trials.max(numeric_only=True)
    assert training_tuning.LEARNING_RATES[0] <= low["learning_rate"]
    assert high["learning_rate"] <= training_tuning.LEARNING_RATES[1]
    assert training_tuning.WEIGHT_DECAYS[0] <= low["weight_decay"]
    assert high["weight_decay"] <= training_tuning.WEIGHT_DECAYS[1]
    assert set(one.trials["batch_size"]) <= {16, 32, 64}
    assert set(one.trials["width"]) <= {8, 16, 32}


def test_the_search_improves_and_knows_what_mattered(ds, on, fits) -> None:
    found = improve(ds, **on, n_trials=30)
    assert found.trials["val_auroc"].max() > found.trials.loc[0, "val_auroc"] + 0.08
    assert sum(found.importances.values()) == pytest.approx(1)
    assert max(found.importances, key=found.importances.get) == "learning_rate"
    assert found.importances["learning_rate"] > 0.8


def test_what_diverges_is_pruned(ds, on, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []

    def fit(model, ds, *, config, **about):
        if config.learning_rate > 5e-3:
            raise TrainingError("the loss is nan")
        value = np.nan if config.learning_rate < 3e-4 else 0.7 + config.weight_decay
        fitted = finished([value], model)
        models.append((value, model, config.learning_rate))
        return fitted

    monkeypatch.setattr(training, "fit", fit)
    found = improve(ds, **on, n_trials=12)
    rate = found.trials["learning_rate"]
    lost = (rate > 5e-3) | (rate < 3e-4)
    assert (rate > 5e-3).any()
    assert (rate < 3e-4).any()
    assert found.trials["state"].tolist() == np.where(lost, "PRUNED", "COMPLETE").tolist()
    assert found.trials["val_auroc"].isna().equals(lost)
    assert 3e-4 <= found.best.learning_rate <= 5e-3
    top = max((trained for trained in models if np.isfinite(trained[0])), key=lambda trained: trained[0])
    assert found.winner is top[1]
    assert found.best.learning_rate == top[2]
    assert found.first is models[0][1]


@pytest.mark.parametrize("how", ["raised", "nan"])
def test_base_settings_that_diverge_leave_no_first_network(ds, on, monkeypatch, how: str) -> None:
    models = []

    def fit(model, ds, *, config, **about):
        models.append(model)
        if len(models) == 1 and how == "raised":
            raise TrainingError("the loss is nan")
        return finished([np.nan if len(models) == 1 else 0.5 + len(models) / 100], model)

    monkeypatch.setattr(training, "fit", fit)
    found = improve(ds, **on, n_trials=4)
    assert found.trials["state"].tolist() == ["PRUNED"] + ["COMPLETE"] * 3
    assert found.first is None
    assert found.winner is models[3]
    assert found.best.learning_rate == found.trials.loc[3, "learning_rate"]


def test_all_diverged(ds, on, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args, **about):
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(training, "fit", fit)
    with pytest.raises(TrainingError, match=r"all 2 trials diverged.*learning rate 0.001, clip 1.*lower"):
        improve(ds, **on, n_trials=2)


def test_other_errors_are_not_swallowed(ds, on) -> None:
    with pytest.raises(DataError, match="in train and val"):
        improve(ds, **on | {"val": np.arange(4)}, n_trials=1, device="cpu")


def test_a_real_training(ds, on) -> None:
    found = improve(ds, **on, n_trials=2, device="cpu")
    assert found.trials["state"].tolist() == ["COMPLETE"] * 2
    assert found.trials["val_auroc"].between(0, 1).all()
    for number, model in {0: found.first, found.trials["val_auroc"].idxmax(): found.winner}.items():
        logits = training.predict(model, ds.images[on["val"]], device="cpu")[:, 0]
        assert roc_auc_score(ds.labels[on["val"]], logits) == found.trials.loc[number, "val_auroc"]


def test_one_trial_has_no_importances(ds, on, fits) -> None:
    found = improve(ds, **on, n_trials=1)
    assert found.importances == {}
    assert found.best == BASE
    assert found.width == 16
    assert found.first is found.winner


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_trials": 0}, "n_trials = 0; try at least 1"),
        (
            {"base": Config(learning_rate=0.1)},
            "base learning_rate = 0.1; the search goes from 0.0001 to 0.03",
        ),
        ({"base": Config(weight_decay=0)}, "base weight_decay = 0; the search goes from"),
        ({"base": Config(batch_size=48)}, r"base batch_size = 48 is not among the choices \[16, 32, 64\]"),
        ({"base_width": 4}, r"base width = 4 is not among the choices \[8, 16, 32\]; add it"),
    ],
)
def test_bad_input(ds, on, change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        improve(ds, **{**on, "n_trials": 1, **change})
