"""Trainings side by side."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from toy_backbones import toy

from xraykit import training, training_study
from xraykit.augment import Augment
from xraykit.backbones import registry
from xraykit.backbones.base import Pooled, Pretraining, from_module
from xraykit.classifiers import build
from xraykit.datasets import XrayDataset
from xraykit.decisions import probabilities
from xraykit.errors import DataError, DownloadError, TrainingError, TrainingMemoryError
from xraykit.training_config import Config
from xraykit.training_study import (
    fit_seeds,
    images_a_class,
    logits_of,
    model_table,
    probabilities_of,
    share_of,
    transfer,
)

HOW = {"device": "cpu", "progress": False}
CONFIG = Config(epochs=2, batch_size=8, learning_rate=0.01, seed=99)
TRAIN, VAL = np.arange(32), np.arange(32, 48)


def dataset(classes: tuple[str, ...] = ("normal", "pneumonia")) -> XrayDataset:
    """48 images of noise, the brighter the larger the code of the class, each of a patient of its own."""
    rng = np.random.default_rng(0)
    codes, ids = np.arange(48) % len(classes), [f"i{i}" for i in range(48)]
    images = rng.integers(0, 200, (48, 16, 16)) + 20 * codes[:, None, None]
    records = pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "train"})
    records["label"] = np.array(classes)[codes]
    return XrayDataset("toy", images.astype(np.uint8), records, classes, "multiclass", "none", "none")


@pytest.fixture(scope="module")
def ds() -> XrayDataset:
    return dataset()


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """``toy`` takes any images, ``large`` none below 40 pixels; ``elsewhere`` has no weights here."""

    def small(weights: str | None, *, seed: int, weights_dir: object) -> object:
        return toy(seed)

    def large(weights: str | None, *, seed: int, weights_dir: object) -> object:
        net = Pooled(nn.Conv2d(1, 4, 40), mean=[0.5], std=[0.25])
        return from_module(net, name="large", size=64, pretraining=Pretraining())

    def elsewhere(weights: str | None, *, seed: int, weights_dir: object) -> object:
        raise DownloadError(f"no network for {weights_dir}\nput it there yourself")

    for name, builder in {"toy": small, "large": large, "elsewhere": elsewhere}.items():
        monkeypatch.setitem(registry._REGISTERED, name, builder)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The arguments of every training, which takes place nevertheless."""
    asked: list[dict] = []

    def fit(real: Callable, model: nn.Module, ds: XrayDataset, **about: object) -> object:
        asked.append({"model": model, **about})
        return real(model, ds, **about)

    monkeypatch.setattr(training, "fit", partial(fit, training.fit))
    return asked


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


def test_each_seed_is_the_training_by_hand(ds, networks) -> None:
    on = {"train": TRAIN, "val": VAL, **HOW}
    found = fit_seeds("toy", ds, config=CONFIG, seeds=[3, 5], dropout=0.2, **on)
    for seed, fitted in zip((3, 5), found, strict=True):
        model = build("toy", 1, seed=seed, dropout=0.2)
        config = Config(epochs=2, batch_size=8, learning_rate=0.01, seed=seed)
        expected = training.fit(model, ds, config=config, **on)
        assert_same_weights(fitted.model("last"), expected.model("last"))
        pd.testing.assert_frame_equal(
            fitted.history.drop(columns="seconds"), expected.history.drop(columns="seconds")
        )
    assert not found[0].history["val_loss"].equals(found[1].history["val_loss"])


def test_three_classes_get_three_outputs_and_keywords_reach_fit(networks, fits, tmp_path) -> None:
    ds = dataset(("normal", "bacterial", "viral"))
    about = {"train": TRAIN, "val": VAL, "config": CONFIG, "seeds": (0,), "cache_dir": tmp_path, **HOW}
    assert fit_seeds("toy", ds, **about)[0].model().n_outputs == 3
    assert fits[0]["cache_dir"] == tmp_path
    assert fit_seeds("toy", ds, **about)[0].cached


def test_no_seeds(ds) -> None:
    with pytest.raises(DataError, match="no seeds; give at least one"):
        fit_seeds("cnn-small", ds, train=TRAIN, val=VAL, config=CONFIG, seeds=[])


def test_images_a_class_by_hand() -> None:
    assert images_a_class(dataset(), np.arange(7)) == 3.5
    three = dataset(("normal", "bacterial", "viral"))
    assert images_a_class(three, np.array([0, 3, 1])) == 1.0  # none is viral
    columns = {"Mass": [1, 1, 0, 0], "Edema": [1, 0, 0, 0]}
    records = pd.DataFrame({"image_id": list("abcd"), "patient_id": list("abcd"), "split": "train"} | columns)
    many = XrayDataset("m", np.zeros((4, 2, 2), np.uint8), records, ("Mass", "Edema"), "multilabel", "", "")
    assert images_a_class(many, np.arange(4)) == 1.5


def test_transfer_trains_what_it_was_told(ds, networks, fits) -> None:
    config = Config(epochs=2, batch_size=8, patience=1, learning_rate=0.01)
    kinds = {"scratch": ("toy", "all"), "frozen": ("toy", "head"), "tuned": ("toy", "head_then_all")}
    options = {"shares": (0.25, 1.0), "seeds": (0, 4), "images_an_epoch": 20, "rates": {"tuned": 1e-4}}
    found = transfer(kinds, ds, train=TRAIN, val=VAL, config=config, **options, **HOW)
    assert list(found) == [(name, share) for name in kinds for share in (0.25, 1.0)]
    assert {len(group) for group in found.values()} == {2}
    expected = [(s, seed, name) for s in (0.25, 1.0) for seed in (0, 4) for name in kinds]
    for (share, seed, name), asked in zip(expected, fits, strict=True):
        part = share_of(ds, TRAIN, share, seed=seed)
        times = {8: 3, 32: 1}[len(part)]
        assert asked["train"].tolist() == part.tolist() * times
        told = asked["config"]
        assert (told.trainable, told.seed) == (kinds[name][1], seed)
        assert told.learning_rate == (1e-4 if name == "tuned" else 0.01)
        assert (told.monitor, told.patience) == ((), 0)
        assert_same_weights(asked["model"], build("toy", 1, seed=seed))
    start, frozen = fits[1]["model"], found["frozen", 0.25][0].model()
    assert_same_weights(frozen.body, start.body)
    assert not torch.equal(frozen.head[1].weight, start.head[1].weight)
    assert not torch.equal(found["scratch", 0.25][0].model().body.maps[0].weight, start.body.maps[0].weight)


def test_transfer_of_a_name_that_is_not_there(ds) -> None:
    options = {"shares": (1.0,), "seeds": (0,), "images_an_epoch": 1, "rates": {"tuned": 1e-4}}
    with pytest.raises(DataError, match=r"rates for \['tuned'\]; the networks are \['scratch'\]"):
        transfer({"scratch": ("cnn", "all")}, ds, train=TRAIN, val=VAL, config=CONFIG, **options)


def test_one_training_gives_both_checkpoints_of_the_table(ds, networks, fits) -> None:
    augment = Augment(rotation=3)
    config = Config(epochs=4, batch_size=8, learning_rate=0.05, augment=augment, patience=1)
    table = model_table(["toy"], ds, train=TRAIN, val=VAL, config=config, seed=6, **HOW)
    assert list(table) == [
        ("toy", "augmented", "accuracy"),
        ("toy", "augmented", "sensitivity"),
        ("toy", "plain", "accuracy"),
        ("toy", "plain", "sensitivity"),
    ]
    assert [asked["config"].augment for asked in fits] == [augment, None]
    for way, options in (("augmented", augment), ("plain", None)):
        monitored = Config(
            epochs=4,
            batch_size=8,
            learning_rate=0.05,
            augment=options,
            monitor=("accuracy", "sensitivity"),
            seed=6,
        )
        fitted = training.fit(build("toy", 1, seed=6), ds, train=TRAIN, val=VAL, config=monitored, **HOW)
        for monitor in ("accuracy", "sensitivity"):
            assert_same_weights(table["toy", way, monitor], fitted.model(monitor))
            assert fitted.best[monitor] == fitted.history[f"val_{monitor}"].argmax() + 1


def test_the_table_augments_even_where_the_configuration_does_not(ds, networks, fits) -> None:
    plain = Config(epochs=1, augment=None)
    model_table(["toy"], ds, train=TRAIN, val=VAL, config=plain, seed=0, **HOW)
    assert [asked["config"].augment for asked in fits] == [Augment(), None]


def test_what_cannot_be_run_says_why(ds, networks, fits) -> None:
    names = ["elsewhere", "toy:missing.pth", "large", "cnn-small", "resnet18:missing.pth"]
    on = {"train": TRAIN, "val": VAL, "config": Config(epochs=1), "seed": 0, **HOW}
    table = model_table(names, ds, **on, weights_dir="here")
    assert len(table) == 20
    for way in ("augmented", "plain"):
        for monitor in ("accuracy", "sensitivity"):
            said = "not run: its weights are not here and could not be downloaded"
            assert table["elsewhere", way, monitor] == said
            assert table["large", way, monitor] == "not run: images of 16 pixels are too small for it"
            said = "not run: no such file of weights"
            assert table["resnet18:missing.pth", way, monitor] == said
            assert table["cnn-small", way, monitor].n_outputs == 1
    assert len(fits) == 4


def test_memory_that_is_exhausted_is_a_reason_too(ds, networks, monkeypatch) -> None:
    def fit(*args: object, **about: object) -> None:
        raise TrainingMemoryError("out of memory in epoch 1, step 1 of 4 with 8 images")

    monkeypatch.setattr(training_study.training, "fit", fit)
    table = model_table(["toy"], ds, train=TRAIN, val=VAL, config=CONFIG, seed=0, **HOW)
    assert len(table) == 4
    assert set(table.values()) == {"not run: out of memory with 8 images of 16 pixels a batch"}


def test_what_is_wrong_otherwise_is_not_hidden(ds, networks, monkeypatch) -> None:
    on = {"train": TRAIN, "val": VAL, "config": CONFIG, "seed": 0, **HOW}
    with pytest.raises(DataError, match="no backbone is named 'tyo'"):
        model_table(["tyo"], ds, **on)
    with pytest.raises(DataError, match="in train and val"):
        model_table(["toy"], ds, **on | {"val": np.arange(4)})
    with pytest.raises(DataError, match=r"toy has 3 classes.*use ds.binary\(\)"):
        model_table(["toy"], dataset(("normal", "bacterial", "viral")), **on)

    def fit(*args: object, **about: object) -> None:
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(training_study.training, "fit", fit)
    with pytest.raises(TrainingError, match="the loss is nan"):
        model_table(["toy"], ds, **on)


def test_logits_and_probabilities_of_trainings_and_of_models(ds, networks) -> None:
    config = Config(epochs=3, batch_size=8, learning_rate=0.05, monitor=("loss",))
    found = fit_seeds("toy", ds, train=TRAIN, val=VAL, config=config, seeds=(0, 1), **HOW)
    index = np.array([40, 3, 33])
    best = logits_of(found, ds, index, device="cpu")
    for z, fitted in zip(best, found, strict=True):
        assert z.shape == (3, 1)
        np.testing.assert_array_equal(
            z, training.predict(fitted.model("loss"), ds.images[index], device="cpu")
        )
        with torch.inference_mode():
            x = torch.from_numpy(ds.images[index]).float()[:, None] / 255
            np.testing.assert_allclose(z, fitted.model("loss")(x).numpy(), atol=1e-6)
    models = [fitted.model("last") for fitted in found]
    last = logits_of(models, ds, index, device="cpu")
    np.testing.assert_array_equal(last, logits_of(found, ds, index, which="last", device="cpu"))
    p = probabilities_of(models, ds, index, device="cpu")
    np.testing.assert_array_equal(p, [probabilities(z, "binary") for z in last])
    assert p[0].shape == (3, 2)


def test_three_classes_have_three_probabilities(networks) -> None:
    p = probabilities_of([build("toy", 3)], dataset(("normal", "bacterial", "viral")), VAL, device="cpu")
    assert p[0].shape == (16, 3)
    np.testing.assert_allclose(p[0].sum(axis=1), 1)
