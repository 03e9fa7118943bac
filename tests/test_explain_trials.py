"""Tests of trust as a notebook runs them: what is measured, averaged and recorded."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xraykit import classifiers, results
from xraykit.classifiers import Classifier
from xraykit.datasets import XrayDataset, synthetic
from xraykit.errors import DataError
from xraykit.explain_cut import network
from xraykit.explain_occlusion import FILLS, area, lesion_first, occlusion
from xraykit.explain_study import Way, lesions, maps_of
from xraykit.explain_trials import by_lesion, few_shot, forgetting, groups, heat_at, take_away
from xraykit.explain_trust import cascade, similarity
from xraykit.localisation import heat_share, mean_interval
from xraykit.results import Run
from xraykit.shortcut import near_marker

BOOT = {"n_boot": 30, "seed": 2}
ON = {"boot": BOOT, "backbone": "cnn-small"}
WAYS: dict[str, Way] = {"late": ("Grad-CAM", ""), "early": ("HiResCAM", "layers.6")}


@pytest.fixture(scope="module")
def kinds() -> XrayDataset:
    """Normal, bacterial and viral pneumonia."""
    return synthetic.load("synthetic", size=64, n_patients=24, progress=False)


@pytest.fixture(scope="module")
def ds(kinds: XrayDataset) -> XrayDataset:
    return kinds.binary()


@pytest.fixture(scope="module")
def rows(ds: XrayDataset) -> np.ndarray:
    """Six images of the test split, with lesions."""
    return lesions(ds, np.flatnonzero(ds.records["split"] == "test"))[0][:6]


@pytest.fixture(scope="module")
def nets() -> list[Classifier]:
    return [classifiers.build("cnn-small", 1, seed=seed).eval() for seed in (0, 1, 3)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(notebook="08", dataset="synthetic", profile="quick", seed=9, figures_dir=tmp_path)


def recorded(run: Run) -> pd.DataFrame:
    ledger = results.numbers(run.folder)
    assert set(ledger["task"]) == {"localisation"}
    assert set(ledger["backbone"]) == {"cnn-small"}
    return ledger.set_index(["method", "metric"])


def looks_at_test(run: Run) -> list[dict]:
    table = pd.read_csv(run.folder / "test_log.csv")
    return [json.loads(text) for text in table["configuration"]]


# ---- by_lesion


def test_means_by_lesion_by_hand(run: Run, kinds: XrayDataset) -> None:
    of_kind = [np.flatnonzero((kinds.records["split"] == "test") & (kinds.labels == k)) for k in (1, 2)]
    rows = np.concatenate([of_kind[0][:3], of_kind[1][:1]])
    truth = np.zeros((4, 64, 64), bool)
    for mask, area_ in zip(truth, (10, 10, 400, 10), strict=True):
        mask.flat[:area_] = True
    values = {
        "cam": {"iou": np.array([1, 0, 0.5, 0.25]), "pointing_game": np.array([1, 1, 0, 0.0])},
        "edges": {"iou": np.array([0.5, 0.5, 0.25, 0.75])},
    }
    found = by_lesion(run, kinds, rows, values, truth, cuts=np.array([50, 300]) / 64**2, **ON)
    expected = {
        "bacterial: cam": {"iou": 0.5, "pointing_game": 2 / 3},
        "bacterial: edges": {"iou": 1.25 / 3},
        "viral: cam": {"iou": 0.25, "pointing_game": 0},
        "viral: edges": {"iou": 0.75},
        "small: cam": {"iou": 1.25 / 3, "pointing_game": 2 / 3},
        "small: edges": {"iou": 1.75 / 3},
        "large: cam": {"iou": 0.5, "pointing_game": 0},
        "large: edges": {"iou": 0.25},
    }  # none is of middle size
    assert list(found) == list(expected)
    ledger = results.numbers(run.folder).set_index(["target", "method", "metric"])
    assert len(ledger) == 12
    assert set(ledger["split"]) == {"test"}
    for name, scores in expected.items():
        group, method = name.split(": ")
        assert {q: s.value for q, s in found[name].items()} == pytest.approx(scores)
        for q, value in scores.items():
            assert ledger.loc[(group, method, q), "value"] == pytest.approx(value, rel=1e-5)
    assert [found[f"{group}: cam"]["iou"].n_test for group in ("bacterial", "viral", "small")] == [3, 1, 3]
    here = np.array([0, 1, 3])
    interval = mean_interval(values["edges"]["iou"][here], kinds.patients[rows[here]], **BOOT)
    assert found["small: edges"]["iou"] == interval
    assert [look["target"] for look in looks_at_test(run)] == [name.split(": ")[0] for name in expected]


# ---- forgetting


def test_forgetting_is_similarity_to_the_first_stage(
    run: Run, ds: XrayDataset, rows: np.ndarray, nets: list[Classifier]
) -> None:
    copies = cascade(nets[0], stages=2, seed=0)
    stages = {"trained": nets[:1], **{name: [net] for name, net in copies.items()}}
    curves, maps = forgetting(run, ds, rows, stages, ways=WAYS, target="pneumonia", **ON)
    assert list(curves) == list(WAYS)
    made = {s: maps_of(of[0], ds, rows, ways=WAYS, target="pneumonia") for s, of in stages.items()}
    assert list(maps) == list(stages) == ["trained", "head.1", "body.maps.layers.0"]
    ledger = recorded(run)
    assert len(ledger) == 4
    for way, points in curves.items():
        assert [stage for stage, _ in points] == list(copies)
        for stage in stages:
            np.testing.assert_array_equal(maps[stage][way], made[stage][way])
        for stage, score in points:
            alike = similarity(made[stage][way], made["trained"][way])
            assert score == mean_interval(alike, ds.patients[rows], **BOOT)
            row = ledger.loc[f"{way}, {stage}", "similarity"]
            assert [row["value"], row["n_test"]] == pytest.approx([alike.mean(), 6], rel=1e-5)
            assert row["split"] == "test"
    assert len({score.value for points in curves.values() for _, score in points}) == 4
    assert len(looks_at_test(run)) == 4


def test_the_likeness_of_several_networks_is_their_mean(
    run: Run, ds: XrayDataset, rows: np.ndarray, nets: list[Classifier]
) -> None:
    ways = {"late": WAYS["late"]}
    stages = {"trained": nets[:1], "others": nets[1:], "itself": nets[:1] * 2}
    curves, maps = forgetting(run, ds, rows, stages, ways=ways, target="pneumonia", **ON)
    trained, *others = [maps_of(net, ds, rows, ways=ways, target="pneumonia")["late"] for net in nets]
    alike = np.mean([similarity(x, trained) for x in others], axis=0)
    (_, several), (_, itself) = curves["late"]
    assert several == mean_interval(alike, ds.patients[rows], **BOOT)
    assert several.n_test == 6  # an image counts once, however many networks
    assert abs(several.value - similarity(others[0], trained).mean()) > 0.01
    assert itself.value == pytest.approx(1)
    np.testing.assert_array_equal(maps["others"]["late"], others[0])


@pytest.mark.parametrize("n", [0, 2])
def test_there_is_one_trained_network_to_compare_with(
    run: Run, ds: XrayDataset, rows: np.ndarray, nets: list[Classifier], n: int
) -> None:
    stages = {"trained": nets[:n], "later": nets[2:]}
    with pytest.raises(DataError, match=f"stage 'trained' has {n} networks; give the trained one alone"):
        forgetting(run, ds, rows, stages, ways=WAYS, target="normal", **ON)
    assert results.load(run.folder).empty


# ---- take_away


def test_take_away_is_occlusion_in_each_order_with_each_fill(
    run: Run, ds: XrayDataset, rows: np.ndarray, nets: list[Classifier]
) -> None:
    model = network(nets[0], ds.classes, size=64)
    truth = ds.masks[rows] > 0
    orders = {"true lesion": lesion_first(truth), "by chance": np.random.default_rng(0).random(truth.shape)}
    how = {"target": "pneumonia", "steps": 4}
    curves, found = take_away(run, model, ds, rows, orders, **how, **ON)
    assert {fill: list(of) for fill, of in curves.items()} == {fill: list(orders) for fill in FILLS}
    assert list(found) == [(fill, name) for fill in FILLS for name in orders]
    ledger = recorded(run)
    assert len(ledger) == 4
    for (fill, name), scores in found.items():
        direct = occlusion(model, ds.images, rows=rows, maps=orders[name], fill=fill, **how)
        drawn = curves[fill][name]
        assert list(drawn) == ["deletion", "insertion"]
        assert drawn["deletion"].shape == (6, 5)
        np.testing.assert_allclose(drawn["deletion"], direct.deletion, atol=1e-6)
        np.testing.assert_allclose(drawn["insertion"], direct.insertion, atol=1e-6)
        gained = (area(direct.insertion) - area(direct.deletion)).mean()
        assert list(scores) == ["insertion minus deletion"]
        score = scores["insertion minus deletion"]
        assert [score.value, score.n_test] == pytest.approx([gained, 6], abs=1e-5)
        row = ledger.loc[f"{name}, {fill}", "insertion minus deletion"]
        assert row["value"] == pytest.approx(score.value, rel=1e-5)
        assert row["split"] == "test"
    assert len({score["insertion minus deletion"].value for score in found.values()}) == 4


# ---- heat_at


def test_heat_at_the_marker_by_network_and_way(run: Run, ds: XrayDataset, nets: list[Classifier]) -> None:
    some = ds.split("test")
    near = near_marker(some.records, 64)
    targets = [some.classes[k] for k in 1 - some.labels]
    both = {"biased": nets[:2], "fair": nets[2:]}
    found, maps = heat_at(run, some, both, near, ways=WAYS, target=targets, **ON)
    assert list(found) == [*((name, way) for name in both for way in WAYS), ("any", "constant")]
    assert list(maps) == list(found)[:-1]
    every, ledger = np.arange(len(some.images)), recorded(run)
    assert len(ledger) == 2 * 4 + 1
    for name, trained in both.items():
        made = [maps_of(net, some, every, ways=WAYS, target=targets) for net in trained]
        for way in WAYS:
            np.testing.assert_array_equal(maps[name, way], made[0][way])
            shares = np.mean([heat_share(x[way], near) for x in made], axis=0)
            score = found[name, way]["heat at the marker"]
            assert score == mean_interval(shares, some.patients, **BOOT)
            assert score.n_test == len(every)
            hits = [on[x == x.max()].mean() for m in made for x, on in zip(m[way], near, strict=True)]
            assert found[name, way]["points at the marker"].value == pytest.approx(np.mean(hits))
            for metric, value in found[name, way].items():
                row = ledger.loc[f"{way}, {name}", metric]
                assert row["value"] == pytest.approx(value.value, rel=1e-5)
                assert row["split"] == "test"
    flat = found["any", "constant"]
    assert list(flat) == ["heat at the marker"]
    assert flat["heat at the marker"].value == pytest.approx(near.mean())
    assert ledger.loc[("constant", "heat at the marker"), "value"] == pytest.approx(near.mean(), rel=1e-5)
    assert 0.005 < near.mean() < 0.1


def test_heat_of_both_splits_together_is_refused(run: Run, ds: XrayDataset, nets: list[Classifier]) -> None:
    near = near_marker(ds.records, 64)
    with pytest.raises(DataError, match="of these 48 images are of the test split; take all or none"):
        heat_at(run, ds, {"a": nets[:1]}, near, ways={"late": WAYS["late"]}, target="normal", **ON)
    assert results.load(run.folder).empty


def test_few_shot_is_a_fitted_pipeline_of_as_many_images_as_there_are_patients_for() -> None:
    rng = np.random.default_rng(0)
    labels, patients = np.repeat([0, 1], 12), np.array([f"p{i // 2}" for i in range(24)], object)
    features = (rng.normal(size=(24, 3)) + 3 * labels[:, None]).astype(np.float32)
    about = {"features": features, "patients": patients, "pool": np.arange(24), "seed": 1}
    pipe, k = few_shot("SVC poly", labels, shots=4, **about)
    assert k == 4
    assert pipe[0].n_samples_seen_ == 24
    assert pipe[-1].decision_function_shape == "ovo"
    assert (pipe.predict(features) == labels).mean() > 0.9
    assert few_shot("nearest class mean", labels, shots=50, **about)[1] == 6


def test_groups_by_hand(kinds: XrayDataset) -> None:
    rows = np.array([np.flatnonzero(kinds.labels == k)[0] for k in (1, 2, 0, 0, 0)])
    masks = np.zeros((5, 4, 4), bool)
    for mask, extent in zip(masks, (1, 2, 3, 4, 5), strict=True):
        mask.flat[:extent] = True
    cuts = np.array([2, 4]) / 16  # as large as a cut is not above it
    sizes = {
        "small": [True, True, False, False, False],
        "middle": [False, False, True, True, False],
        "large": [False, False, False, False, True],
    }
    kind = {"bacterial": [True, False, False, False, False], "viral": [False, True, False, False, False]}
    assert {name: here.tolist() for name, here in groups(kinds, rows, masks, cuts).items()} == kind | sizes
    two = groups(kinds.binary(), rows, masks, cuts)
    assert {name: here.tolist() for name, here in two.items()} == sizes
