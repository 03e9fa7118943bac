"""Pretraining: the losses, the views, a run that is killed, the monitor, and the file that ships."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from xraykit import backbones, datasets, splits
from xraykit.backbones.base import network_input
from xraykit.cli import app
from xraykit.datasets import synthetic
from xraykit.errors import DataError, StorageError
from xraykit.pixel_baseline import pixel_features
from xraykit.pretrain import learning_rate, pretrain
from xraykit.pretrain_files import Config
from xraykit.pretrain_images import draw_images
from xraykit.pretrain_methods import method
from xraykit.pretrain_views import expose, place, view
from xraykit.splits import k_shot_draw

TINY = Config(images=96, epochs=4, size=32, view_size=32, width=8, batch_size=32)
PHANTOM = Path(backbones.__file__).parent.parent / "weights" / "phantom.safetensors"


@pytest.fixture(autouse=True)
def small_monitor(monkeypatch):
    """The reserved patients are monitored on 60 synthetic ones instead of a thousand."""
    load = datasets.load

    def fewer(name, **options):
        return load(name, **options, **({"n_patients": 60} if name == "synthetic" else {}))

    monkeypatch.setattr(datasets, "load", fewer)


def run(out: Path, config: Config = TINY, **options) -> list[float]:
    return pretrain(config, out=out, device="cpu", progress=False, **options)["losses"]


def same(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The loss


def test_loss_by_hand():
    """Two orthogonal images, views identical, temperature 1: e / (e + 1 + 1) for each of the four views."""
    z = torch.eye(2)
    _, loss = method(4, replace(TINY, temperature=1.0))
    assert loss(z, z).item() == pytest.approx(-math.log(math.e / (math.e + 2)))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_equals_the_formula_written_out(temperature):
    first, second = torch.randn(5, 7, generator=generator()), torch.randn(5, 7, generator=generator(1))
    z = [v / np.linalg.norm(v) for v in torch.cat([first, second]).double().numpy()]
    terms = []
    for i in range(10):
        others = [math.exp(z[i] @ z[j] / temperature) for j in range(10) if j != i]
        terms.append(-math.log(math.exp(z[i] @ z[(i + 5) % 10] / temperature) / sum(others)))
    _, loss = method(7, replace(TINY, temperature=temperature))
    assert loss(first, second).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_vicreg_by_hand():
    """One view has features (1, 1) and (-1, -1), the other is 0: distance 1, hinge .5 for the one that varies
    (its standard deviation is sqrt 2) and 1 - .01 for the other, covariance 2 twice, over two features."""
    first, second = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.zeros(2, 2)
    _, loss = method(2, replace(TINY, method="vicreg"))
    variance = (max(0, 1 - math.sqrt(2 + 1e-4)) + (1 - math.sqrt(1e-4))) / 2
    assert loss(first, second).item() == pytest.approx(25 * 1 + 25 * variance + (2**2 + 2**2) / 2, rel=1e-5)


def test_vicreg_punishes_the_collapse_that_it_has_no_negatives_against():
    z = torch.randn(64, 16, generator=generator())
    _, loss = method(16, replace(TINY, method="vicreg"))
    assert loss(z, z) < loss(torch.ones(64, 16), torch.ones(64, 16))


def test_learning_rate_warms_up_and_falls_to_zero():
    config = replace(TINY, learning_rate=1.0)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert learning_rate(0, 1, config) == 1


# The views


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_views_stay_in_range_and_depend_on_the_generator_alone(seed, grey):
    images = torch.full((3, 1, 24, 24), grey)
    images[:, :, 8:12] = 1 - grey
    a, b = (view(images, size=16, generator=generator(seed)) for _ in range(2))
    assert a.shape == (3, 1, 16, 16)
    assert torch.equal(a, b)
    assert 0 <= a.min() <= a.max() <= 1
    assert not torch.equal(a[0], a[1])


def test_views_do_not_touch_the_global_generator_nor_their_input():
    images = torch.rand(2, 1, 32, 32, generator=generator())
    before, state = images.clone(), torch.random.get_rng_state()
    view(images, size=32, generator=generator())
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_places_are_never_mirrored_and_keep_the_middle():
    """A picture that brightens to the right does so in every view, and its middle stays in the view."""
    ramp = torch.linspace(0, 1, 64).expand(200, 1, 64, 64)
    placed = place(ramp, size=64, generator=generator())
    assert (placed[..., 48:].mean((1, 2, 3)) - placed[..., :16].mean((1, 2, 3)) > 0.4).all()
    assert ((placed[..., 31:33, 31:33].mean((1, 2, 3)) - 0.5).abs() < 0.08).all()  # SHIFT is a half of .15


def test_exposure_keeps_the_order_of_grey_levels():
    """Never inverted: the brighter half of an image stays the brighter one."""
    images = torch.full((200, 1, 16, 16), 0.3)
    images[..., 8:] = 0.6
    changed = expose(images, generator=generator())
    assert (changed[..., 8:].mean((1, 2, 3)) > changed[..., :8].mean((1, 2, 3)) + 0.05).all()


# What it sees


def test_images_are_of_reserved_patients_of_both_generators():
    drawn = draw_images(replace(TINY, images=32), progress=False)
    first = synthetic.PATIENT_RANGES["pretrain"].start
    for i, (patient, name) in {
        0: (0, "synthetic"),
        1: (0, "synthetic-nih"),
        31: (15, "synthetic-nih"),
    }.items():
        expected = synthetic.render(first + patient, name=name, size=32, seed=TINY.seed).image
        assert np.array_equal(drawn[i], expected)


# A run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, list[float]]:
    out = tmp_path_factory.mktemp("pretrain") / "whole.safetensors"
    return out, run(out, replace(TINY, epochs=6, width=16, images=192))


def test_loss_falls(finished):
    losses = finished[1]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.1


def test_same_seed_same_weights_and_other_seed_others(tmp_path):
    one_epoch = replace(TINY, epochs=1)
    for name in "ab":
        run(tmp_path / f"{name}.safetensors", one_epoch)
    run(tmp_path / "c.safetensors", replace(one_epoch, seed=8))
    assert same(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not same(tmp_path / "a.safetensors", tmp_path / "c.safetensors")


def test_file_loads_as_a_backbone(finished):
    out, losses = finished
    assert list(out.parent.iterdir()) == [out]
    backbone = backbones.load(f"phantom:{out}")
    assert (backbone.size, backbone.dim) == (32, 128)
    assert backbone.pretraining.labels == ()
    assert "--epochs 6" in backbone.pretraining.source
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["losses"]) == [round(loss, 4) for loss in losses]


SCRIPT = """
import sys
from pathlib import Path
from tests_pretrain_config import CONFIG
from xraykit.pretrain import pretrain
pretrain(CONFIG, out=Path(sys.argv[1]), device="cpu", progress=False)
"""


def epochs_done(checkpoint: Path) -> int:
    return len(torch.load(checkpoint, weights_only=True)["losses"])


def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    config = replace(TINY, epochs=20, images=64, width=4)
    (tmp_path / "tests_pretrain_config.py").write_text(
        f"from xraykit.pretrain_files import Config\nCONFIG = {config!r}\n"
    )
    killed, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    search = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(killed)], env={**os.environ, "PYTHONPATH": search}
    )
    checkpoint = killed.with_suffix(".checkpoint")
    while process.poll() is None and not (checkpoint.exists() and epochs_done(checkpoint)):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = epochs_done(checkpoint)
    assert 1 <= done < 20
    assert not killed.exists()
    assert len(run(killed, config)) == 20
    run(whole, config)
    assert same(killed, whole)
    assert not checkpoint.exists()


def test_half_precision_repeats_too(tmp_path):
    for name in "ab":
        run(tmp_path / f"{name}.safetensors", replace(TINY, epochs=1, images=64), precision="bf16-mixed")
    assert same(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_command_writes_to_the_data_folder_and_says_how_to_use_it(tmp_path):
    options = ["--images", "64", "--epochs", "1", "--device", "cpu", "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(app, ["pretrain", *options])
    assert result.exit_code == 0, result.output
    out = tmp_path / "weights" / "phantom-reserved-simclr-7.safetensors"
    assert f"phantom:{out}" in result.stdout
    assert "after epoch 1: AUROC knn 0." in result.stdout
    assert backbones.load(f"phantom:{out}").dim == 256


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "byol"}, "use one of simclr, vicreg"),
        ({"learning_rate": 1.5}, "above 0, and at most 1"),
        ({"dataset": "kermany"}, "leave the number out"),
        ({"epochs": 0}, "at least 1"),
        ({"batch_size": 1}, "at least 2"),
        ({"images": 31}, "32 .one batch. to 2000000"),
        ({"images": 2_000_001}, "32 .one batch. to 2000000"),
        ({"view_size": 40}, "multiple of 16"),
    ],
)
def test_a_bad_option_is_named_with_its_limit(change, message):
    with pytest.raises(DataError, match=message):
        replace(TINY, **change)


def test_nothing_is_overwritten(tmp_path):
    out = tmp_path / "mine.safetensors"
    out.write_bytes(b"precious")
    with pytest.raises(DataError, match="exists"):
        run(out)
    assert out.read_bytes() == b"precious"
    with pytest.raises(DataError, match=r"end with \.safetensors"):
        run(tmp_path / "mine.pth")


def test_a_checkpoint_of_other_options_is_refused(tmp_path):
    out = tmp_path / "a.safetensors"
    made_by = {**vars(TINY), "precision": "32-true", "epochs": 9}
    torch.save({"made_by": made_by, "losses": [1.0], "probes": []}, out.with_suffix(".checkpoint"))
    with pytest.raises(DataError, match="other epochs; repeat its options"):
        run(out)
    out.with_suffix(".checkpoint").write_bytes(b"PK")
    with pytest.raises(DataError, match="damaged"):
        run(out)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        run(tmp_path / "file" / "a.safetensors", replace(TINY, images=32, epochs=1))


# What ships


@pytest.fixture(scope="module")
def metadata() -> dict:
    with safe_open(PHANTOM, framework="pt") as file:
        return {
            k: v if k in ("name", "source", "method") else json.loads(v) for k, v in file.metadata().items()
        }


def test_shipped_file_is_small_half_precision_and_says_what_it_is(metadata):
    assert PHANTOM.stat().st_size < 5e6
    assert {str(t.dtype) for t in load_file(PHANTOM).values()} == {"torch.float16"}
    assert (metadata["name"], metadata["labels"], metadata["width"]) == ("phantom", [], 32)
    assert metadata["data"] == ["synthetic (pretrain patients)", "synthetic-nih (pretrain patients)"]
    assert metadata["source"].startswith("xraykit pretrain --method simclr")
    assert len(metadata["losses"]) == metadata["epochs"]
    assert metadata["losses"][-1] < metadata["losses"][0] / 2
    assert metadata["seconds"] > 60


def test_shipped_file_saw_reserved_patients_only(metadata):
    start, stop = metadata["patients"]
    assert set(range(start, stop)) <= set(synthetic.PATIENT_RANGES["pretrain"])
    assert stop - start == metadata["images"] // 2
    for use in ("train", "val", "test"):
        assert not set(range(start, stop)) & set(synthetic.PATIENT_RANGES[use])


def test_model_card_has_the_command_and_the_warning(metadata):
    card = PHANTOM.with_suffix(".md").read_text()
    assert metadata["source"] in card
    assert "not for clinical use" in card.lower()


KERMANY = PHANTOM.with_name("phantom-kermany.safetensors")


def test_the_file_learned_from_kermany_says_so_and_names_its_licence():
    backbone = backbones.load("phantom-kermany")
    assert (backbone.name, backbone.size, backbone.dim) == ("phantom-kermany", 96, 256)
    about = backbone.pretraining
    assert about.data == ("kermany (train without the development fold)",)
    assert about.labels == ()
    assert KERMANY.stat().st_size < 5e6
    card = KERMANY.with_suffix(".md").read_text()
    assert about.source.partition(": ")[2] in card
    assert hashlib.sha256(KERMANY.read_bytes()).hexdigest()[:12] in card
    with safe_open(KERMANY, framework="pt") as file:
        told = file.metadata()
    assert told["licence"] == "CC BY 4.0"
    assert told["citation"].rpartition("doi:")[2] in card
    for look in json.loads(told["probes"]):
        line = f"| {look['epoch']} | {look['knn']:.3f} | {look['linear']:.3f} |".replace(" 0.", " .")
        assert line in card


def test_other_weights_of_the_kermany_encoder_are_refused():
    with pytest.raises(DataError, match=r"has one file, not 'random'; load others as phantom:random"):
        backbones.load("phantom-kermany:random")


@pytest.mark.skipif("XRAYKIT_KERMANY_DIR" not in os.environ, reason="XRAYKIT_KERMANY_DIR is not set")
def test_the_file_learned_from_kermany_left_out_the_development_fold_of_seed_0(tmp_path):
    train = datasets.load("kermany", size=32, data_dir=tmp_path, progress=False).split("train")
    inside, dev = splits.development(train, seed=0)
    assert backbones.load("phantom-kermany").pretraining.held_out == splits.digest(train.patients[dev])
    assert f"({len(inside):,} images of children)" in KERMANY.with_suffix(".md").read_text()


def test_shipped_file_beats_pixels_and_random_weights():
    """Pneumonia at 10 images a class, patients of train: AUROC over draws, better by .03 or more."""
    images, _, records = synthetic.generate(range(500_000, 500_320), size=128)
    y, patients = (records["label"] != "normal").to_numpy().astype(int), records["patient_id"].to_numpy()
    pool = np.isin(patients, np.unique(patients)[:160])
    with torch.inference_mode():
        batch = network_input(images, 128)
        features = {
            name: torch.cat([backbones.load(name).module(part) for part in batch.split(64)]).numpy()
            for name in ("phantom", "phantom:random")
        }
    features["pixels"] = pixel_features(images)
    found = {name: few_shot(x, y, pool, patients) for name, x in features.items()}
    print(found)
    assert found["phantom"] > max(found["pixels"], found["phantom:random"]) + 0.03


def few_shot(x: np.ndarray, y: np.ndarray, pool: np.ndarray, patients: np.ndarray) -> float:
    x = (x - x[pool].mean(0)) / (x[pool].std(0) + 1e-8)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    scores = []
    for seed in range(20):
        draw = k_shot_draw(y[pool], patients[pool], k=10, rng=np.random.default_rng(seed))
        model = LogisticRegression(C=10).fit(x[pool][draw], y[pool][draw])
        scores.append(roc_auc_score(y[~pool], model.decision_function(x[~pool])))
    return float(np.median(scores))
