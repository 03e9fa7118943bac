"""Looks at held-out patients: what is scored, written to the ledger, and logged as a look at test."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from xraykit import intervals, looks, looks_networks, pixel_baseline, results
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.results import Run
from xraykit.training_study import images_a_class

BOOT = {"n_boot": 40, "seed": 1}
TRAIN, VAL, TEST = np.arange(24), np.arange(24, 36), np.arange(36, 60)
PARTS = {"development": VAL, "test": TEST}


def dataset(classes: tuple[str, ...] = ("normal", "pneumonia"), *, n: int = 60) -> XrayDataset:
    """Images of noise, the brighter the larger the code, two of each patient; after the first 36 test."""
    i = np.arange(n)
    codes = (i // 2) % len(classes)
    images = np.random.default_rng(0).integers(0, 150, (n, 16, 16)) + 40 * codes[:, None, None]
    records = pd.DataFrame({"image_id": [f"i{k}" for k in i], "patient_id": [f"p{k // 2}" for k in i]})
    records["split"] = np.where(i < 36, "train", "test")
    records["label"] = np.array(classes)[codes]
    return XrayDataset("toy", images.astype(np.uint8), records, classes, "multiclass", "none", "none")


@pytest.fixture(scope="module")
def ds() -> XrayDataset:
    return dataset()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(notebook="05", dataset="toy", profile="quick", seed=9, figures_dir=tmp_path)


def answers(ds: XrayDataset, rows: np.ndarray, *, seed: int = 0, sure: float = 0.5) -> np.ndarray:
    """Probabilities (M, K) that are right more often than not."""
    k = len(ds.classes)
    raw = np.random.default_rng(seed).random((len(rows), k)) + sure * np.eye(k)[ds.labels[rows]]
    return raw / raw.sum(axis=1, keepdims=True)


def log_of(run: Run) -> list[tuple[dict, dict]]:
    """Configuration and scores of each look at the test split."""
    path = run.folder / "test_log.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame({"configuration": [], "scores": []})
    return [
        (json.loads(a), json.loads(b)) for a, b in zip(table["configuration"], table["scores"], strict=True)
    ]


def fitted(name: str = "toy", *, seconds: float = 2.0, shift: int = 0) -> SimpleNamespace:
    """What is asked of a `Fitted` here; `shift` tells one from another in `stub`."""
    return SimpleNamespace(seconds=seconds, shift=shift, name=name)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """`probabilities_of` without networks; what else it was given."""
    asked = []

    def of(models, ds, rows, **on):
        asked.append(on)
        if ds.task == "multilabel":
            draw = np.random.default_rng(5).random((len(rows), len(ds.classes)))
            return [np.clip(draw / 2 + 0.4 * ds.labels[rows], 0, 1) for _ in models]
        return [answers(ds, rows, seed=getattr(model, "shift", 0)) for model in models]

    monkeypatch.setattr(looks_networks, "probabilities_of", of)
    return asked


# ---- judge


def test_both_parts_are_scored_and_recorded_but_test_alone_is_logged(run, ds) -> None:
    p = {part: [answers(ds, rows)] for part, rows in PARTS.items()}
    found = looks.judge(run, ds, PARTS, p, task="binary", method="cnn", boot=BOOT, backbone="cnn-small")
    assert list(found) == ["development", "test"]
    for part, rows in PARTS.items():
        y, said = ds.labels[rows], p[part][0][:, 1] >= 0.5
        expected = {
            "accuracy": reference.accuracy_score(y, said),
            "balanced_accuracy": reference.balanced_accuracy_score(y, said),
            "sensitivity": reference.recall_score(y, said),
            "specificity": reference.recall_score(y, said, pos_label=0),
            "macro_f1": reference.f1_score(y, said, average="macro"),
            "auroc": reference.roc_auc_score(y, p[part][0][:, 1]),
        }
        assert list(found[part]) == list(expected)
        assert {m: v.value for m, v in found[part].items()} == pytest.approx(expected, abs=1e-6)
        assert {v.n_test for v in found[part].values()} == {len(rows)}
        same = intervals.bootstrap(y, p[part], ds.patients[rows], names=list(expected), **BOOT)
        assert repr(found[part]) == repr(same)
    ledger = results.numbers(run.folder)
    assert len(ledger) == 12
    assert set(ledger["split"]) == {"development", "test"}
    about = ledger[["notebook", "task", "method", "backbone"]]
    assert about.drop_duplicates().to_numpy().tolist() == [["05", "binary", "cnn", "cnn-small"]]
    kept = ledger.set_index(["split", "metric"])["value"]
    assert kept["test", "auroc"] == pytest.approx(found["test"]["auroc"].value, abs=1e-5)
    ((configuration, scores),) = log_of(run)
    assert configuration == {
        "task": "binary", "method": "cnn", "backbone": "cnn-small", "seed": 9, "threshold": 0.5,
    }  # fmt: skip
    assert scores == pytest.approx({m: v.value for m, v in found["test"].items()}, abs=1e-5)


def test_development_alone_is_no_look_at_test(run, ds) -> None:
    p = {"development": [answers(ds, VAL)]}
    looks.judge(run, ds, PARTS, p, task="binary", method="cnn", boot=BOOT)
    assert set(results.load(run.folder)["split"]) == {"development"}
    assert not (run.folder / "test_log.csv").exists()


def test_the_threshold_decides_and_is_logged(run, ds) -> None:
    p = {"test": [answers(ds, TEST)]}
    options = {"names": ["sensitivity", "specificity"], "threshold": 0.123456, "task": "binary"}
    found = looks.judge(run, ds, PARTS, p, method="low", boot=BOOT, **options)["test"]
    said = p["test"][0][:, 1] >= 0.123456
    assert found["sensitivity"].value == pytest.approx(reference.recall_score(ds.labels[TEST], said))
    assert found["specificity"].value == pytest.approx(reference.recall_score(1 - ds.labels[TEST], ~said))
    ((configuration, scores),) = log_of(run)
    assert configuration["threshold"] == 0.1235
    assert sorted(scores) == ["sensitivity", "specificity"]


def test_several_seeds_give_the_median_and_full_runs_their_seconds(tmp_path, ds) -> None:
    run = Run(notebook="05", dataset="toy", profile="full", seed=0, figures_dir=tmp_path)
    draws = [answers(ds, VAL, seed=s) for s in range(3)]
    options = {"names": ["auroc"], "seconds": 12.34, "task": "binary", "target": "x"}
    found = looks.judge(run, ds, PARTS, {"development": draws}, method="m", boot=BOOT, **options)
    each = [reference.roc_auc_score(ds.labels[VAL], p[:, 1]) for p in draws]
    assert found["development"]["auroc"].value == pytest.approx(np.median(each), abs=1e-6)
    (row,) = results.numbers(run.folder).to_dict("records")
    assert (row["n_draws"], row["train_seconds"], row["target"]) == (3, 12, "x")


def test_three_classes_have_their_own_metrics(run) -> None:
    three = dataset(("normal", "bacterial", "viral"))
    p = {"test": [answers(three, TEST)]}
    found = looks.judge(run, three, PARTS, p, task="3-class", method="cnn", boot=BOOT)["test"]
    assert list(found) == ["accuracy", "balanced_accuracy", "macro_f1", "auroc"]
    said = p["test"][0].argmax(axis=1)
    assert found["accuracy"].value == pytest.approx(reference.accuracy_score(three.labels[TEST], said))
    auroc = reference.roc_auc_score(three.labels[TEST], p["test"][0], multi_class="ovr")
    assert found["auroc"].value == pytest.approx(auroc, abs=1e-6)


def test_a_part_of_both_splits_is_refused_before_anything_is_written(run, ds) -> None:
    both = np.arange(33, 45)
    with pytest.raises(DataError, match="75% of these 12 images are of the test split; take all or none"):
        looks.judge(run, ds, {"x": both}, {"x": [answers(ds, both)]}, task="binary", method="m", boot=BOOT)
    assert results.load(run.folder).empty


def test_split_of(ds) -> None:
    assert (looks.split_of(ds, TEST), looks.split_of(ds, VAL)) == ("test", "development")
    assert looks.split_of(ds, TEST[:1]) == "test"
    val = replace(ds, records=ds.records.assign(split="val"))
    assert looks.split_of(val, TEST) == "development"  # an official validation split is no test
    with pytest.raises(DataError, match="50% of these 2 images"):
        looks.split_of(ds, np.array([0, 59]))


# ---- baselines, votes


def test_baselines_of_two_classes(ds) -> None:
    found = looks.baselines(ds, TRAIN, PARTS)
    assert list(found) == ["always pneumonia", "logistic regression, pixels"]
    for part, rows in PARTS.items():
        (constant,), (pixels,) = (found[method][part] for method in found)
        assert constant.tolist() == [[0, 1]] * len(rows)
        features = [pixel_baseline.pixel_features(ds.images[r]) for r in (TRAIN, rows)]
        expected = pixel_baseline.fit_predict(features[0], ds.labels[TRAIN], features[1])
        np.testing.assert_array_equal(pixels, expected)


def test_of_three_classes_the_commonest_of_train_is_the_constant() -> None:
    three = dataset(("normal", "bacterial", "viral"))
    train = np.array([0, 2, 3, 8, 9, 4])
    assert three.labels[train].tolist() == [0, 1, 1, 1, 1, 2]
    assert np.bincount(three.labels[TEST]).argmax() == 0  # not asked
    found = looks.baselines(three, train, {"test": TEST})
    assert found["always bacterial"]["test"][0].tolist() == [[0, 1, 0]] * len(TEST)
    assert found["logistic regression, pixels"]["test"][0].shape == (len(TEST), 3)


def test_votes_are_those_of_scikit_learn(ds) -> None:
    features = np.random.default_rng(2).normal(3, [1, 5, 0.2, 40], (60, 4)).astype(np.float32)
    features[:, 3] += 30 * ds.labels
    found = looks_networks.votes(features, ds, TRAIN, PARTS, k=5)
    scaler = StandardScaler().fit(features[TRAIN])
    machine = KNeighborsClassifier(5).fit(scaler.transform(features[TRAIN]), ds.labels[TRAIN])
    for part, rows in PARTS.items():
        (p,) = found[part]
        np.testing.assert_allclose(p, machine.predict_proba(scaler.transform(features[rows])), atol=1e-9)
        assert set(np.round(p * 5, 9).ravel() % 1) == {0}
    everyone = looks_networks.votes(features, ds, TRAIN[:7], PARTS, k=99)["test"][0]
    share = ds.labels[TRAIN[:7]].mean()  # 7 neighbours, and no more
    np.testing.assert_allclose(everyone, np.tile([1 - share, share], (len(TEST), 1)))


# ---- gain


def test_the_gain_is_a_paired_difference(run, ds) -> None:
    better = [answers(ds, TEST, seed=s, sure=1.5) for s in range(2)]
    worse = answers(ds, TEST, seed=7, sure=0.1)
    about = {"metric": "auroc", "method": "cnn over pixels", "task": "binary", "boot": BOOT}
    found = looks.gain(run, ds, TEST, better, worse, **about)
    y = ds.labels[TEST]
    of = [reference.roc_auc_score(y, p[:, 1]) for p in (*better, worse)]
    assert found.value == pytest.approx(np.mean(of[:2]) - of[2], abs=1e-6)
    assert found.ci_low < found.value < found.ci_high
    assert found.n_draws == 2
    (row,) = results.numbers(run.folder).to_dict("records")
    assert (row["metric"], row["method"], row["split"]) == ("auroc difference", "cnn over pixels", "test")
    assert row["value"] == pytest.approx(found.value, abs=1e-5)
    same = looks.gain(run, ds, VAL, [answers(ds, VAL)], answers(ds, VAL), **about)
    assert (same.value, same.ci_low, same.ci_high) == (0, 0, 0)
    assert sorted(results.load(run.folder)["split"]) == ["development", "test"]


# ---- apart


def test_parts_that_differ_are_told_apart_and_equal_ones_are_not(run) -> None:
    ds = dataset(n=300)
    split = np.where(np.arange(300) < 200, "train", "test")
    ds = replace(ds, records=ds.records.assign(split=split))
    features = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    features[200:, 0] += 4
    parts = {"other development": np.arange(100, 200), "test": np.arange(200, 300)}
    options = {"against": np.arange(100), "rng": np.random.default_rng(3), "boot": BOOT, "backbone": "cnn"}
    found = looks_networks.apart(run, ds, features, parts, **options)
    assert [(name, list(by)) for name, by in found.items()] == [(name, list(parts)) for name in ds.classes]
    for by in found.values():
        assert by["test"]["auroc"].value > 0.95
        assert 0.3 < by["other development"]["auroc"].value < 0.7
        assert by["test"]["auroc"].n_test == 100  # of this class alone
    ledger = results.numbers(run.folder)
    assert ledger[["task", "metric", "backbone"]].drop_duplicates().to_numpy().tolist() == [
        ["data", "auroc", "cnn"]
    ]
    where = ledger.set_index(["target", "split"])["method"]
    assert where["normal", "test"] == "test images told from validation images"
    assert where["pneumonia", "development"] == "other development images told from validation images"
    logged = log_of(run)
    assert [configuration["target"] for configuration, _ in logged] == ["normal", "pneumonia"]
    assert logged[0][1]["auroc"] == pytest.approx(found["normal"]["test"]["auroc"].value, abs=1e-5)


def test_images_of_both_splits_are_not_told_apart(run, ds) -> None:
    features = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    with pytest.raises(DataError, match="of the test split; take all or none"):
        looks_networks.apart(
            run, ds, features, {"mixed": np.arange(20, 50)}, against=np.arange(20),
            rng=np.random.default_rng(0), boot=BOOT, backbone="cnn",
        )  # fmt: skip
    assert results.load(run.folder).empty


# ---- findings


def many(*, with_column: bool) -> XrayDataset:
    """60 images with Mass and Edema; Hernia, which is no class here, keeps some from having no finding."""
    ds, i = dataset(), np.arange(60)
    columns = {"Mass": i % 2, "Edema": i // 2 % 3 == 0}
    records = ds.records.drop(columns="label").assign(**{k: np.asarray(v, int) for k, v in columns.items()})
    if with_column:
        hernia = i % 5 == 0
        records["No Finding"] = ((records["Mass"] + records["Edema"] == 0) & ~hernia).astype(int)
    return XrayDataset("many", ds.images, records, ("Mass", "Edema"), "multilabel", "none", "none")


@pytest.mark.parametrize("with_column", [False, True])
def test_findings_one_by_one_their_average_and_none(run, stub, with_column: bool) -> None:
    ds = many(with_column=with_column)
    found = looks_networks.findings_table(
        run, ds, TEST, fitted(), boot=BOOT, method="cnn", backbone="cnn", device="cpu", precision="fp32"
    )
    assert stub == [{"device": "cpu", "precision": "fp32"}]
    assert list(found) == ["macro average", "Mass", "Edema", "No Finding"]
    p, y = looks_networks.probabilities_of([fitted()], ds, TEST)[0], ds.labels[TEST]
    none = ds.records["No Finding"].to_numpy()[TEST] if with_column else (y.sum(axis=1) == 0).astype(int)
    truth = {"Mass": (y[:, 0], p[:, 0]), "Edema": (y[:, 1], p[:, 1])}
    truth["No Finding"] = (none, (1 - p[:, 0]) * (1 - p[:, 1]))
    for name, (labels, scores) in truth.items():
        assert found[name]["auroc"].value == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-6)
        precision = reference.average_precision_score(labels, scores)
        assert found[name]["auprc"].value == pytest.approx(precision, abs=1e-6)
    mean = np.mean([found[name]["auroc"].value for name in ("Mass", "Edema")])
    assert found["macro average"]["auroc"].value == pytest.approx(mean, abs=1e-6)
    ledger = results.load(run.folder)
    assert set(ledger["target"]) == {"", "Mass", "Edema", "No Finding"}
    assert set(ledger["split"]) == {"test"}
    assert len(ledger) == 8
    logged = log_of(run)
    assert [configuration["target"] for configuration, _ in logged] == ["", "Mass", "Edema", "No Finding"]
    assert {configuration["task"] for configuration, _ in logged} == {"multi-label"}


def test_findings_on_validation_images_are_no_look_at_test(run, stub) -> None:
    looks_networks.findings_table(
        run, many(with_column=True), VAL, fitted(), boot=BOOT, method="cnn", backbone="cnn"
    )
    assert log_of(run) == []
    assert set(results.load(run.folder)["split"]) == {"development"}


# ---- shares, table


def test_shares_are_rows_of_a_curve(tmp_path, ds, stub) -> None:
    run = Run(notebook="05", dataset="toy", profile="full", seed=9, figures_dir=tmp_path)
    moved = {
        ("scratch", 0.25): [fitted("cnn", seconds=1.0), fitted("cnn", seconds=3.0, shift=1)],
        ("frozen", 1.0): [fitted("phantom", seconds=7.0, shift=2)],
    }
    table = looks_networks.shares_table(run, ds, TEST, moved, train=TRAIN, boot=BOOT, device="cpu")
    assert stub == [{"device": "cpu"}] * 2
    assert table["metric"].tolist() == ["macro_f1", "auroc", "accuracy"] * 2
    assert images_a_class(ds, TRAIN) == 12
    assert table["shots"].tolist() == [3] * 3 + [12] * 3
    assert table["method"].tolist() == ["scratch"] * 3 + ["frozen"] * 3
    each = [
        reference.accuracy_score(ds.labels[TEST], answers(ds, TEST, seed=s).argmax(axis=1)) for s in (0, 1)
    ]
    assert table.loc[2, "value"] == pytest.approx(np.mean(each), abs=1e-6)
    assert {"ci_low", "ci_high", "spread_low", "spread_high"} <= set(table)
    ledger = results.numbers(run.folder).set_index(["method", "shots", "metric"])
    row = ledger.loc[("scratch", "3", "auroc")]
    assert (row["backbone"], row["split"], row["train_seconds"], row["n_draws"]) == ("cnn", "test", 2, 2)
    assert ledger.loc[("frozen", "", "auroc"), "backbone"] == "phantom"
    assert [c["method"] for c, _ in log_of(run)] == ["scratch", "frozen"]


def test_the_table_has_scores_or_the_reason(run, ds, stub) -> None:
    keys = [("resnet50", way, kept) for way in ("augmented", "plain") for kept in ("accuracy", "sensitivity")]
    found = dict.fromkeys(keys, SimpleNamespace(shift=3)) | {("vgg16", "", ""): "not run: no network"}
    table = looks_networks.table_of(run, ds, TEST, found, boot=BOOT, device="cpu")
    assert table.index.names == ["network", "augmentation", "kept by"]
    assert table.index.tolist() == [*keys, ("vgg16", "", "")]
    assert list(table) == ["accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc"]
    assert table.loc[("vgg16", "", "")].tolist() == ["not run: no network", "", "", "", ""]
    p = answers(ds, TEST, seed=3)
    auroc = reference.roc_auc_score(ds.labels[TEST], p[:, 1])
    assert table.loc[keys[0], "auroc"].startswith(f"{auroc:.3f} [")
    ledger = results.load(run.folder)
    assert len(ledger) == 20
    assert set(ledger["method"]) == {f"resnet50, {way}, kept by {kept}" for _, way, kept in keys}
    assert [c["method"] for c, _ in log_of(run)] == [
        f"resnet50, {way}, kept by {kept}" for _, way, kept in keys
    ]


def test_not_listed() -> None:
    absent = looks_networks.not_listed(["cnn-small", "resnet50:imagenet"], why="not run: no time")
    rows = [
        ("augmented", "accuracy"),
        ("augmented", "sensitivity"),
        ("plain", "accuracy"),
        ("plain", "sensitivity"),
    ]
    assert absent == {(n, *row): "not run: no time" for n in ("vgg16", "inception_v3") for row in rows}
    assert looks_networks.not_listed(list(looks_networks.PUBLISHED), why="") == {}


def earlier(run: Run, *, profile: str, value: float, **changes: object) -> None:
    """A number of notebook 04: by default on test, of its frozen choice, on the features phantom."""
    other = Run(notebook="04", dataset="toy", profile=profile, seed=0, figures_dir=run.folder.parent)
    about = {"task": "binary", "split": "test", "method": "SVC", "backbone": "phantom", "shots": 5}
    other.record(**{**about, "metric": "auroc", "value": value, **changes})


def test_few_shot_rows_are_those_of_the_frozen_choice_on_test(run) -> None:
    assert looks_networks.few_shot_rows(run, "phantom").empty
    earlier(run, profile="quick", value=0.6, backbone="pixels")  # names the frozen choice
    for shots in (5, 50, 100):  # the ladder does not, on however many shots
        earlier(run, profile="quick", value=0.9, method="ladder, SVC", backbone="pixels", shots=shots)
    assert looks_networks.few_shot_rows(run, "phantom").empty
    earlier(run, profile="quick", value=0.7)
    earlier(run, profile="quick", value=0.8, shots=50)
    earlier(run, profile="full", value=0.75)  # instead of the quick one
    earlier(run, profile="quick", value=0.65, metric="macro_f1")
    for changes in (
        {"method": "KNN"},  # not the frozen choice
        {"split": "development"},
        {"task": "3-class"},
        {"setting": "transductive"},
        {"target": "viral"},
        {"metric": "auprc"},
        {"shots": ""},
        {"backbone": "densenet121"},
    ):
        earlier(run, profile="quick", value=0.99, **changes)
    rows = looks_networks.few_shot_rows(run, "phantom").set_index(["shots", "metric"])
    assert rows["value"].to_dict() == {("5", "auroc"): 0.75, ("50", "auroc"): 0.8, ("5", "macro_f1"): 0.65}
    assert set(rows["method"]) == {"notebook 04: SVC"}
    assert rows.loc[("5", "auroc"), "profile"] == "full"
