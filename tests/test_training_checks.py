"""What makes a training run impossible, one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_backbones import pictures
from training_children import QUIET, TRAIN, VAL, config, network, tiny, train

from xraykit import classifiers, training
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError, TrainingError
from xraykit.training_checks import check, check_finite, check_size, memory_explained


def checked(
    ds: XrayDataset | None = None,
    *,
    on: np.ndarray = TRAIN,
    val: np.ndarray = VAL,
    model: classifiers.Classifier | None = None,
    **changes: object,
) -> None:
    check(model or network(), ds or tiny(), train=on, val=val, config=config(**changes))


def test_what_goes_together_passes_and_changes_nothing() -> None:
    for kind in ("binary", "multiclass", "multilabel"):
        model = network(kind, norm="batch").train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        checked(tiny(kind), model=model, on=np.repeat(TRAIN, 2))
        assert model.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# ---- positions


@pytest.mark.parametrize("name", ["on", "val"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.array([], int), r"int64 \(0,\); give positions of at least one image"),
        (np.zeros(40, bool), r"bool \(40,\); give positions"),
        (np.array([[1, 2]]), r"int64 \(1, 2\); give positions"),
        (np.array([-1, 3]), "goes from -1 to 3; tiny has 0 to 39"),
        (np.array([3, 40]), "goes from 3 to 40; tiny has 0 to 39"),
    ],
)
def test_positions(name: str, wrong: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=f"{'train' if name == 'on' else 'val'} (has )?{message}"):
        checked(**{name: wrong})


def test_patients_on_both_sides() -> None:
    ds = tiny()
    ds.records.loc[[3, 25], "patient_id"] = "p-both"
    with pytest.raises(DataError, match=r"1 patients are in train and val, such as p-both; use splits\.p"):
        checked(ds)


@pytest.mark.parametrize("name", ["on", "val"])
def test_test_images_are_never_trained_or_validated_on(name: str) -> None:
    with pytest.raises(DataError, match="images of the test split are among train or val"):
        checked(**{name: np.array([32, 33])})


# ---- classes


@pytest.mark.parametrize(("name", "shown"), [("on", "train"), ("val", "val")])
def test_a_class_that_is_missing(name: str, shown: str) -> None:
    one = {"on": TRAIN[::2], "val": VAL[::2]}  # every other image is normal
    with pytest.raises(DataError, match=rf"{shown} lacks pneumonia \(normal {len(one[name])}, pneumonia 0\)"):
        checked(**{name: one[name]})


def test_findings_with_one_value() -> None:
    ds, model = tiny("multilabel"), network("multilabel")
    with pytest.raises(DataError, match="train has one value only of Mass; leave them out"):
        checked(ds, model=model, on=TRAIN[::2])
    with pytest.raises(DataError, match="train has one value only of Mass, Nodule"):
        checked(ds, model=model, on=TRAIN[3::4])
    with pytest.raises(DataError, match="val has no finding with both values"):
        checked(ds, model=model, val=VAL[::4])
    checked(ds, model=model, val=VAL[::2])  # Nodule has both


# ---- options


def test_options_that_do_not_fit_the_labels() -> None:
    with pytest.raises(DataError, match="monitor sensitivity is not computed for a multiclass task; use lo"):
        checked(tiny("multiclass"), model=network("multiclass"), monitor=("auroc", "sensitivity"))
    with pytest.raises(DataError, match=r"3 weights of the loss for 2 classes; .* normal, pneumonia"):
        checked(weights=(1, 2, 3))
    with pytest.raises(DataError, match="loss 'cross_entropy' does not fit a multilabel task"):
        train(network("multilabel"), "multilabel", loss="cross_entropy")


# ---- networks


def test_the_wrong_number_of_outputs() -> None:
    with pytest.raises(DataError, match=r"toy has 1 outputs, tiny \(multiclass\) needs 3; build it with"):
        checked(tiny("multiclass"))


def test_batches_of_one_image_with_batch_norm() -> None:
    both = np.array([0, 1])
    with pytest.raises(
        DataError, match=r"batches of one image \(2 in train, batch_size 1\) leave batch norm"
    ):
        checked(model=network(norm="batch"), on=both, batch_size=1)
    checked(model=network(norm="batch"), on=both, batch_size=1, trainable="head")
    checked(model=network(norm="group"), on=both, batch_size=1)
    checked(model=network(norm="batch"), on=both, batch_size=2)
    options = {"train": TRAIN, "val": VAL, "world": 2}
    with pytest.raises(DataError, match=r"22 in train, batch_size 3, 2 processes.*use at least 4"):
        check(network(norm="batch"), tiny(), config=config(batch_size=3), **options)
    check(network(norm="batch"), tiny(), config=config(batch_size=4), **options)
    check(network(norm="group"), tiny(), config=config(batch_size=3), **options)


def test_a_last_batch_of_one_image_joins_the_one_before() -> None:
    options = {"train": TRAIN[:9], "val": VAL, "config": config(epochs=1, batch_size=4), **QUIET}
    training.fit(network(norm="batch"), tiny(side=8), **options)  # at 1 x 1 maps one image would raise


def test_images_too_small_for_inception() -> None:
    model = classifiers.build("inception_v3:random", 1)
    with pytest.raises(DataError, match=r"inception_v3:random cannot take images of 64x64 .* size is 299"):
        checked(tiny(side=64), model=model)
    checked(tiny(side=75), model=model)


def test_a_checkpoint_of_another_architecture(tmp_path) -> None:
    classifiers.save(network(norm="batch"), tmp_path / "cnn.safetensors")
    with pytest.raises(
        DataError, match=r"cnn\.safetensors holds cnn with 1 outputs, which does not fit toy "
    ):
        classifiers.restore(network(), tmp_path / "cnn.safetensors")
    with pytest.raises(
        DataError, match="holds cnn with 1 outputs, which does not fit cnn with 3; build that"
    ):
        classifiers.restore(network("multiclass", norm="batch"), tmp_path / "cnn.safetensors")


# ---- while training


@pytest.mark.parametrize("norm", ["", "batch"])
@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("batch_size", [8, 22])
@pytest.mark.parametrize("rate", [1e6, 1e12, 1e18, 1e30])
def test_a_run_that_diverges(norm: str, clip: float, batch_size: int, rate: float) -> None:
    """Wherever it shows first: the loss, the gradient, or the logits of the validation images."""
    changes = {"learning_rate": rate, "clip": clip, "batch_size": batch_size, "optimiser": "sgd"}
    message = (
        r"the (loss|gradient's norm|largest validation logit) is (nan|-?inf) in epoch \d.*lower the rate"
    )
    with pytest.raises(TrainingError, match=message):
        train(network(norm=norm), warmup=0, epochs=6, **changes)


def test_numbers_that_are_finite_pass() -> None:
    check_finite("loss", torch.tensor(3.0), config(), when="epoch 1")
    with pytest.raises(
        TrainingError, match=r"the loss is nan in epoch 1, step 7 \(learning rate 0\.01, clip"
    ):
        check_finite("loss", torch.tensor(torch.nan), config(), when="epoch 1, step 7")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    ],
)
def test_memory_that_is_exhausted(monkeypatch, error: Exception) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(training, "augment", exhausted)
    with pytest.raises(
        TrainingError, match="out of memory in epoch 1, step 1 of 3 with 8 images of 16 pixels a batch; use a"
    ):
        train(network())


@pytest.mark.parametrize("cached", [False, True])
def test_the_last_epoch_is_kept_only_with_a_folder(tmp_path, cached: bool) -> None:
    with pytest.raises(TrainingError) as found:
        train(network(), learning_rate=1e30, optimiser="sgd", cache_dir=tmp_path if cached else None)
    assert ("The last finished epoch is kept" in str(found.value)) == cached


def test_memory_that_is_exhausted_in_validation(monkeypatch) -> None:
    forward = classifiers.Classifier.forward

    def exhausted(self: classifiers.Classifier, x: torch.Tensor) -> torch.Tensor:
        if len(x) == len(VAL):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, x)

    monkeypatch.setattr(classifiers.Classifier, "forward", exhausted)
    message = (
        "out of memory in the validation of epoch 1 with 10 images of 16 pixels a batch; use device='cpu'"
    )
    with pytest.raises(TrainingError, match=message):
        train(network())


def test_the_size_is_tried_on_the_device_of_the_model(monkeypatch) -> None:
    seen = []

    def forward(self: classifiers.Classifier, x: torch.Tensor) -> torch.Tensor:
        seen.append(x.device.type)
        return x.new_zeros(len(x), 1)

    monkeypatch.setattr(classifiers.Classifier, "forward", forward)
    check_size(network().to("meta"), tiny())
    check_size(network(), tiny())
    assert seen == ["meta", "cpu"]


def test_other_errors_stay_what_they_are() -> None:
    with (
        pytest.raises(RuntimeError, match="shapes do not match"),
        memory_explained(tiny(), when="step 1", at_once=8, fix="less"),
    ):
        raise RuntimeError("shapes do not match")


def test_images_of_another_type_are_refused_by_predict() -> None:
    with pytest.raises(DataError, match="uint8"):
        training.predict(network(), pictures(3).astype(np.float32))
    with pytest.raises(DataError, match="at least one image"):
        training.predict(network(), pictures(3)[:0])
    for rows in (np.array([], int), np.array([0.5]), np.array([[0]])):
        with pytest.raises(DataError, match="give positions of at least one image"):
            training.predict(network(), pictures(3), rows=rows)
    with pytest.raises(DataError, match="rows go from -1 to 3; the images are 0 to 2"):
        training.predict(network(), pictures(3), rows=np.array([-1, 3]))


def test_an_official_val_split_may_be_trained_on() -> None:
    ds = tiny()
    checked(replace(ds, records=ds.records.assign(split="val")))


def test_devices_and_precisions_that_do_not_exist() -> None:
    ds = tiny()
    with pytest.raises(DataError, match="'tpu' is unknown"):
        training.fit(network(), ds, train=TRAIN, val=VAL, config=config(), device="tpu")
    with pytest.raises(DataError, match="'fp8' is unknown"):
        training.fit(network(), ds, train=TRAIN, val=VAL, config=config(), device="cpu", precision="fp8")
