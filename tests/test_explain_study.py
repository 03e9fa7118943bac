"""Where lesions are known to be, which layer and method to take, and what is recorded."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from toy_explained import PAIR, noise, own

from xraykit import classifiers, explain_study, results
from xraykit.classifiers import Classifier
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.explain import METHODS, explain
from xraykit.explain_cut import Explained, network
from xraykit.explain_occlusion import gain
from xraykit.explain_study import (
    CHOSEN_BY,
    LEAST_PLACES,
    boxed_out,
    compare,
    judge_maps,
    judge_pairs,
    judge_values,
    lesions,
    maps_of,
    record,
    tuned_values,
)
from xraykit.intervals import Interval
from xraykit.localisation import localise, mean_interval, paired
from xraykit.results import Run

BOOT = {"n_boot": 40, "seed": 1}
LAYERS = ("1", "3")
VAL, TEST = np.arange(4, 14), np.arange(14, 24)


def dataset(*, size: int = 8, n: int = 24) -> XrayDataset:
    """Images of noise, two of each patient, the last ten of the test split; pneumonia is a bright square."""
    i = np.arange(n)
    images = noise(n, size) // 2
    masks = np.zeros(images.shape, np.uint16)
    for k in i[i % 4 >= 2]:
        masks[k, k % 5 : k % 5 + 3, 2:5] = 2
    images[masks > 0] += 100
    records = pd.DataFrame({"image_id": [f"i{k}" for k in i], "patient_id": [f"p{k // 2}" for k in i]})
    records["split"] = np.where(i < 14, "train", "test")
    records["label"] = np.array(PAIR)[(i % 4 >= 2).astype(int)]
    return XrayDataset("toy", images, records, PAIR, "multiclass", "none", "none", masks=masks)


@pytest.fixture(scope="module")
def ds() -> XrayDataset:
    return dataset()


@pytest.fixture(scope="module")
def model() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        body = own(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU())
    return classifiers.build(body, 1, seed=5).eval()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(notebook="08", dataset="toy", profile="quick", seed=9, figures_dir=tmp_path)


def looks_at_test(run: Run) -> list[tuple[dict, dict]]:
    """Configuration and scores of each look that is logged."""
    path = run.folder / "test_log.csv"
    if not path.exists():
        return []
    table = pd.read_csv(path)
    return [tuple(map(json.loads, row)) for row in table[["configuration", "scores"]].itertuples(index=False)]


# ---- lesions


def findings(**about: object) -> XrayDataset:
    """Four images of 10 x 20 pixels with two findings."""
    images = np.zeros((4, 10, 20), np.uint8)
    records = pd.DataFrame({"image_id": list("abcd"), "patient_id": list("abcd"), "split": "test"})
    records[["Mass", "Edema"]] = 0
    return XrayDataset("toy", images, records, ("Mass", "Edema"), "multilabel", "none", "none", **about)


def test_lesions_of_masks() -> None:
    masks = np.zeros((4, 10, 20), np.uint16)
    masks[0, 1, 2] = 1
    masks[1, 3, 4:6] = [2, 3]
    masks[3, 9, 9] = 2
    ds, rows = findings(masks=masks), np.array([3, 2, 1, 0])
    for finding, expected in (
        ("", {3: [(9, 9)], 1: [(3, 4), (3, 5)], 0: [(1, 2)]}),
        ("Mass", {1: [(3, 5)], 0: [(1, 2)]}),
        ("Edema", {3: [(9, 9)], 1: [(3, 4), (3, 5)]}),
    ):
        known, found = lesions(ds, rows, finding=finding)
        assert found.dtype == bool
        assert known.tolist() == list(expected)
        assert [list(map(tuple, np.argwhere(on).tolist())) for on in found] == list(expected.values())
    known, found = lesions(ds, [2])
    assert (len(known), found.shape) == (0, (0, 10, 20))


def boxes(*rows: tuple[str, str, float, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image_id", "finding", "x", "y", "w", "h"])


def test_boxes_are_filled() -> None:
    ds = findings(
        boxes=boxes(
            ("a", "Mass", 0.5, 0.2, 0.1, 0.3),  # columns 10 and 11, rows 2 to 4
            ("c", "Mass", 0.1, 0.1, 0.2, 0.2),  # 0.1 + 0.2 is above 0.3 in floats: rows 1 and 2, no more
            ("c", "Edema", 0.51, 0.95, 0.02, 0.05),  # columns 10.2 to 10.6, rows 9.5 to 10: of pixel (9, 10)
            ("d", "Edema", 0.0, 0.0, 1.0, 1.0),
        )
    )
    a, c, edema = np.zeros((3, 10, 20), bool)
    a[2:5, 10:12] = True
    c[1:3, 2:6] = True
    edema[9, 10] = True
    for finding, expected in (
        ("", {0: a, 2: c | edema}),
        ("Mass", {0: a, 2: c}),
        ("Edema", {2: edema}),
    ):
        known, found = lesions(ds, np.array([0, 1, 2]), finding=finding)
        assert known.tolist() == list(expected)
        np.testing.assert_array_equal(found, list(expected.values()))
    known, found = lesions(ds, np.array([3, 1]))
    assert known.tolist() == [3]
    assert found.all()


def test_masks_go_before_boxes() -> None:
    masks = np.zeros((4, 10, 20), np.uint16)
    masks[1, 0, 0] = 1
    known, found = lesions(findings(masks=masks, boxes=boxes(("a", "Mass", 0, 0, 1, 1))), np.arange(4))
    assert known.tolist() == [1]
    assert found.sum() == 1


def test_a_set_that_says_nothing_about_places() -> None:
    known, found = lesions(findings(), np.arange(4))
    assert (len(known), found.shape, found.dtype) == (0, (0, 10, 20), bool)


def test_a_finding_that_is_no_class() -> None:
    for ds in (findings(), findings(masks=np.zeros((4, 10, 20), np.uint16))):
        with pytest.raises(DataError, match="'Nodule' is no class of toy; choose from Mass, Edema"):
            lesions(ds, np.arange(4), finding="Nodule")


def test_the_room_for_masks_is_that_of_the_images_with_boxes() -> None:
    ds = findings(boxes=boxes(("b", "Mass", 0.0, 0.0, 0.1, 0.2), ("d", "Edema", 0.5, 0.5, 0.1, 0.1)))
    rows = np.concatenate([np.tile([0, 2], 25_000), [3, 1]])
    tracemalloc.start()
    known, found = lesions(ds, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert known.tolist() == [3, 1]
    assert found.sum(axis=(1, 2)).tolist() == [1 * 2, 2 * 2]
    assert peak < 5e6  # masks of all would have 10 MB


# ---- compare, maps_of


def cutter(model: Classifier):
    def cut(layer: str) -> Explained:
        return network(model, PAIR, size=8, layer=layer)

    return cut


def about(**changed: object) -> dict[str, object]:
    return {"layers": LAYERS, "target": "pneumonia", "n_occluded": 4, "boot": BOOT} | changed


@pytest.fixture
def few_places_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_study, "LEAST_PLACES", 4)


@pytest.mark.usefixtures("few_places_do")
def test_every_layer_with_every_method_the_best_first(ds: XrayDataset, model: Classifier) -> None:
    found = compare(cutter(model), ds, VAL, **about(), batch_size=3)
    assert set(found) == {(layer, method) for layer in LAYERS for method in METHODS}
    known = VAL[ds.labels[VAL] == 1]
    for (layer, method), scores in found.items():
        ready, how = cutter(model)(layer), {"target": "pneumonia", "method": method, "batch_size": 3}
        maps = explain(ready, ds.images, rows=known, **how).maps
        names = ["energy_inside", "pointing_game"]
        expected = localise(maps, ds.masks[known] > 0, ds.patients[known], names=names, **BOOT)
        few = VAL[:4]
        maps = explain(ready, ds.images, rows=few, **how).maps
        gained = gain(ready, ds.images, rows=few, maps=maps, target="pneumonia")
        expected[CHOSEN_BY[1]] = mean_interval(gained, ds.patients[few], **BOOT)
        assert list(scores) == [*names, "insertion minus deletion"]
        for name, score in scores.items():
            assert vars(score) == pytest.approx(vars(expected[name]), abs=1e-6, nan_ok=True)
    energies = [scores["energy_inside"].value for scores in found.values()]
    assert energies == sorted(energies, reverse=True)
    assert len(set(energies)) > 4
    assert list(found) != sorted(found)


@pytest.mark.usefixtures("few_places_do")
def test_without_known_lesions_occlusion_decides(ds: XrayDataset, model: Classifier) -> None:
    blind = replace(ds, masks=None)
    found = compare(cutter(model), blind, VAL, **about(n_occluded=10, methods=METHODS[:3]))
    assert len(found) == 6
    assert all(list(scores) == ["insertion minus deletion"] for scores in found.values())
    gained = [scores["insertion minus deletion"] for scores in found.values()]
    assert [g.n_test for g in gained] == [10] * 6
    values = [g.value for g in gained]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    # The order is another one than that of the energy.
    seen = compare(cutter(model), ds, VAL, **about(n_occluded=10, methods=METHODS[:3]))
    assert list(seen) != list(found)
    for way, scores in found.items():
        assert seen[way]["insertion minus deletion"] == pytest.approx(scores["insertion minus deletion"])


def test_a_choice_is_not_made_by_a_handful_of_lesions(ds: XrayDataset, model: Classifier) -> None:
    known, _ = lesions(ds, VAL)
    assert 0 < len(known) < LEAST_PLACES
    found = compare(cutter(model), ds, VAL, **about(methods=["HiResCAM"]))
    assert all(list(scores) == ["insertion minus deletion"] for scores in found.values())


@pytest.mark.usefixtures("few_places_do")
def test_nothing_to_occlude(ds: XrayDataset, model: Classifier) -> None:
    found = compare(cutter(model), ds, VAL, **about(n_occluded=0, methods=["HiResCAM"], layers=["3"]))
    assert {way: list(scores) for way, scores in found.items()} == {
        ("3", "HiResCAM"): ["energy_inside", "pointing_game"]
    }
    message = (
        "toy: lesions are known in 0 of 10 images, 4 are needed, and n_occluded = 0; occlude at least one"
    )
    with pytest.raises(DataError, match=message):
        compare(cutter(model), replace(ds, masks=None), VAL, **about(n_occluded=0))


def test_maps_by_the_name_of_the_way(ds: XrayDataset, model: Classifier) -> None:
    ways = {"usual": ("Grad-CAM", ""), "early": ("HiResCAM", "1")}
    targets = ["normal", "pneumonia"] * 5
    found = maps_of(model, ds, TEST, ways=ways, target=targets)
    assert list(found) == ["usual", "early"]
    for name, layer, method in (("usual", "3", "Grad-CAM"), ("early", "1", "HiResCAM")):
        ready = network(model, PAIR, size=8, layer=layer)
        expected = explain(ready, ds.images, rows=TEST, target=targets, method=method).maps
        np.testing.assert_array_equal(found[name], expected)
    assert found["usual"].shape == (10, 8, 8)
    assert abs(found["usual"] - found["early"]).max() > 0.1


# ---- tuned_values


def test_values_of_two_networks_by_hand() -> None:
    above = np.array([[[1, 1], [0, 0]]], bool)
    # All that is in the lesion and nothing else is above 0.35 to 0.6, and above 0.55 to 0.7: both at 0.55.
    tuned = {"cam": [np.array([[[0.9, 0.6], [0.3, 0]]]), np.array([[[0.8, 0.7], [0.5, 0]]])]}
    truth = np.array([[[1, 0], [1, 0]], [[0, 0], [0, 0]]], bool)
    first, second = ([[0.6, 0.1], [0.2, 0.1]], [[0.5, 0.8], [0.6, 0.1]])
    maps = {"cam": [np.array([m, m]) for m in (first, second)]}
    found = tuned_values(tuned, above, maps, truth)
    assert list(found) == ["cam"]
    assert list(found["cam"]) == ["pointing_game", "energy_inside", "iou"]
    expected = {
        "pointing_game": (1 + 0) / 2,
        "energy_inside": (0.8 / 1 + 1.1 / 2) / 2,
        "iou": (1 / 2 + 1 / 3) / 2,  # 0.6 of two pixels; of 0.8 and 0.6 one, and three in all
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found["cam"][name], [value, np.nan])


def test_each_name_has_its_own_threshold_and_without_tuning_images_there_is_none() -> None:
    above = np.array([[[1, 1], [0, 0]]], bool)
    map_ = np.array([[[0.9, 0.6], [0.3, 0]]])
    tuned = {"as it is": [map_], "halved": [map_ / 2]}
    found = tuned_values(tuned, above, tuned, above)
    assert [found[name]["iou"].tolist() for name in tuned] == [[1], [1]]
    assert found["halved"]["energy_inside"] == pytest.approx(1.5 / 1.8)
    for none in ({}, {name: [np.zeros((0, 2, 2))] for name in tuned}):
        blind = tuned_values(none, above[:0], tuned, above)
        assert {name: list(scores) for name, scores in blind.items()} == {
            "as it is": ["pointing_game", "energy_inside"],
            "halved": ["pointing_game", "energy_inside"],
        }


# ---- recorded


def test_maps_are_judged_and_a_look_at_test_is_logged(run: Run, ds: XrayDataset) -> None:
    maps = np.random.default_rng(0).random((24, 8, 8), np.float32)
    names, how = ["pixel_auroc", "energy_inside", "iou"], {"method": "Grad-CAM", "threshold": 0.7}
    masks, who = ds.masks > 0, ds.patients
    found = {
        split: judge_maps(
            run, ds, rows, maps[rows], masks[rows], names=names, boot=BOOT, backbone="cnn-small", **how
        )
        for split, rows in (("development", VAL), ("test", TEST))
    }
    ledger = results.numbers(run.folder).set_index(["split", "metric"])
    assert len(ledger) == 6
    for split, rows in (("development", VAL), ("test", TEST)):
        expected = localise(maps[rows], masks[rows], who[rows], names=names, threshold=0.7, **BOOT)
        assert str(found[split]) == str(expected)
        for name in names:
            row = ledger.loc[split, name]
            assert row["value"] == pytest.approx(expected[name].value, rel=1e-5)
            assert row["ci_high"] == pytest.approx(expected[name].ci_high, rel=1e-5)
    columns = ["notebook", "task", "method", "backbone"]
    assert ledger[columns].drop_duplicates().to_numpy().tolist() == [
        ["08", "localisation", "Grad-CAM", "cnn-small"]
    ]
    ((configuration, scores),) = looks_at_test(run)
    assert configuration == {
        "task": "localisation", "method": "Grad-CAM", "backbone": "cnn-small", "seed": 9,
    }  # fmt: skip
    assert scores == pytest.approx({name: s.value for name, s in found["test"].items()}, rel=1e-5)


def test_values_and_their_differences(run: Run, ds: XrayDataset) -> None:
    rng = np.random.default_rng(3)
    values, others = ({"energy": rng.random(10), "gain": rng.random(10)} for _ in range(2))
    values["gain"][2] = np.nan
    for rows in (VAL, TEST):
        about, who = {"boot": BOOT, "target": "pneumonia"}, ds.patients[rows]
        means = judge_values(run, ds, rows, values, method="ours", **about)
        apart = judge_pairs(run, ds, rows, values, others, method="ours over theirs", **about)
        assert list(means) == ["energy", "gain"]
        assert list(apart) == ["energy difference", "gain difference"]
        for name, value in values.items():
            assert str(vars(means[name])) == str(vars(mean_interval(value, who, **BOOT)))
            assert apart[f"{name} difference"] == paired(value, others[name], who, **BOOT)
    assert means["gain"].value == pytest.approx(np.nanmean(values["gain"]))
    assert means["gain"].n_test == 9
    difference = np.nanmean(values["gain"] - others["gain"])
    assert apart["gain difference"].value == pytest.approx(difference)
    assert apart["gain difference"].p_value < 1
    ledger = results.numbers(run.folder)
    assert len(ledger) == 8
    assert set(ledger["task"]) == {"localisation"}
    assert set(ledger["target"]) == {"pneumonia"}
    kept = ledger.set_index(["split", "method", "metric"])["value"]
    assert kept["test", "ours over theirs", "gain difference"] == pytest.approx(difference, rel=1e-5)
    assert kept["development", "ours", "energy"] == pytest.approx(values["energy"].mean(), rel=1e-5)
    logged = looks_at_test(run)
    assert [list(scores) for _, scores in logged] == [[*means], [*apart]]
    assert [c["method"] for c, _ in logged] == ["ours", "ours over theirs"]


def test_what_is_recorded_of_development_images_is_no_look_at_test(run: Run, ds: XrayDataset) -> None:
    scores = {"energy_inside": Interval(0.5, 0.25, 0.75, n_test=10)}
    record(run, ds, VAL, scores, method="edges", target="Mass")
    assert looks_at_test(run) == []
    record(run, ds, TEST[:1], scores, method="centre")
    ((configuration, logged),) = looks_at_test(run)
    assert (configuration["method"], logged) == ("centre", {"energy_inside": 0.5})
    ledger = results.numbers(run.folder).set_index("method")
    assert ledger["split"].to_dict() == {"edges": "development", "centre": "test"}
    assert ledger.loc["edges", ["target", "value", "ci_low", "n_test"]].tolist() == ["Mass", 0.5, 0.25, 10]


def test_images_of_both_splits_are_refused_before_anything_is_written(run: Run, ds: XrayDataset) -> None:
    rows = np.arange(10, 20)
    with pytest.raises(DataError, match="60% of these 10 images are of the test split; take all or none"):
        judge_values(run, ds, rows, {"energy": np.ones(10)}, method="m", boot=BOOT)
    assert results.load(run.folder).empty
    assert looks_at_test(run) == []


def test_boxed_patients_are_not_trained_on() -> None:
    ds = findings(boxes=boxes(("b", "Mass", 0.0, 0.0, 0.1, 0.2)))
    other = np.flatnonzero(ds.patients != ds.patients[1])
    inside, val = boxed_out(ds, np.arange(len(ds)), np.array([], int))
    assert inside.tolist() == other.tolist()
    assert val.tolist() == [1]


def test_a_set_with_masks_keeps_its_parts(ds: XrayDataset) -> None:
    inside, val = boxed_out(ds, np.arange(10), np.arange(10, 14))
    assert (inside.tolist(), val.tolist()) == (list(range(10)), list(range(10, 14)))
