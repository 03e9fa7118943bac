"""Every method of the series: which rows of a ledger it is, and how the methods differ on shared images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from xraykit import comparison, intervals
from xraykit.comparison import Answers
from xraykit.errors import DataError, DataNotFoundError
from xraykit.intervals import Interval
from xraykit.results import Run

CLASSES = ("normal", "pneumonia")
N = 80


def run(root: Path, notebook: str, profile: str = "quick") -> Run:
    return Run(notebook=notebook, dataset="toy", profile=profile, seed=0, figures_dir=root)


def records(first: int = 0, n: int = N) -> pd.DataFrame:
    """Image i of patient i // 2."""
    ids = range(first, first + n)
    return pd.DataFrame({"image_id": [f"i{i:03}" for i in ids], "patient_id": [f"p{i // 2:03}" for i in ids]})


def labels(first: int = 0, n: int = N) -> np.ndarray:
    return np.arange(first, first + n) % 3 // 2


def said(seed: int, *, y: np.ndarray, draws: int, help: float = 0.2) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    p = [np.clip(rng.normal(0.4 + help * y, 0.2), 0, 1) for _ in range(draws)]
    return [np.stack([1 - one, one], axis=1) for one in p]


def keep(
    at: Run, method: str, *, draws: int = 1, first: int = 0, n: int = N, seed: int = 0, **about: object
) -> None:
    y = labels(first, n)
    p = said(seed, y=y, draws=draws)
    at.record_predictions(records(first, n), p, classes=CLASSES, labels=y, method=method, **about)


def record(at: Run, method: str, value: float, *, metrics: tuple = ("auroc", "macro_f1"), **about) -> None:
    about = {"task": "binary", "split": "test", **about}
    scores = {m: Interval(value, value - 0.05, value + 0.05, n_test=N, n_draws=3) for m in metrics}
    at.record_scores(scores, method=method, **about)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small ledger of the shape that the notebooks 02, 04, 05 and 06 write."""
    two, four, five, six = (run(tmp_path, n) for n in ("02", "04", "05", "06"))
    record(two, "oversampling", 0.6, backbone="16x16 pixels")
    keep(two, "oversampling", task="binary", backbone="16x16 pixels", seed=1)
    for i, method in enumerate(["KNN, l2", "SVC RBF, l2", "SVC poly, l2", "nearest class mean, l2"]):
        for shots in (5, 10, 100):
            record(four, method, 0.6 + i / 100, backbone="phantom", shots=shots)
        for shots in (10, 100):
            keep(four, method, draws=4, seed=i, task="binary", backbone="phantom", shots=shots)
    for shots in (5, 10, 100):
        record(four, "KNN, l2", 0.55, backbone="pixels", shots=shots)
    keep(four, "KNN, l2", draws=4, seed=9, task="binary", backbone="pixels", shots=10)
    for kernel, value in (("RBF", 0.7), ("poly", 0.8)):  # poly is the best on development
        record(four, f"SVC {kernel}, l2", value, backbone="phantom", shots=10, split="development")
    record(four, "SVC RBF, raw", 0.9, backbone="phantom", shots=10)  # a scaling that was not chosen
    record(four, "KNN, l2", 0.95, backbone="phantom", shots=10, setting="transductive")
    record(four, "commonest class", 0.4)
    record(five, "always pneumonia", 0.45, metrics=("auroc", "macro_f1", "balanced_accuracy"))
    record(five, "CNN", 0.8, backbone="cnn-small")
    keep(five, "CNN", draws=2, seed=7, first=10, n=60, task="binary", backbone="cnn-small")
    record(five, "frozen", 0.7, backbone="phantom", shots=19)
    record(five, "CNN, threshold 0.3", 0.9, backbone="cnn-small")
    about = {"task": "anomaly", "backbone": "phantom"}
    record(six, "Mahalanobis, blocks.2", 0.65, metrics=("auroc", "sensitivity"), **about)
    record(six, "PaDiM (post hoc)", 0.9, metrics=("auroc",), **about)
    keep(six, "Mahalanobis, blocks.2", seed=8, first=10, n=60, **about)
    return tmp_path / "toy"


def test_the_lineup_is_what_kept_its_answers_and_the_networks(folder: Path) -> None:
    table = comparison.lineup(folder, "binary", shots=[10])
    assert list(table["name"]) == [
        "logistic regression on pixels, all",
        "always pneumonia",
        "anomaly: Mahalanobis, blocks.2",
        "KNN, 10 a class",
        "SVC (RBF), 10 a class",
        "SVC (poly), 10 a class",
        "prototypes, 10 a class",
        "KNN, 10 a class (pixels)",
        "CNN, all",
        "frozen, 19 a class",
    ]
    assert list(table["labels"]) == ["all", "none", "0 (healthy only)", *["10"] * 5, "all", "19"]
    np.testing.assert_array_equal(table["shots"], [np.inf, np.nan, 0, *[10] * 5, np.inf, 19])
    rows = table.set_index("name")
    assert rows.loc["KNN, 10 a class", ["auroc", "auroc_value", "auroc_low", "n_draws"]].tolist() == [
        "0.600 [0.550, 0.650]", 0.6, 0.55, 3,
    ]  # fmt: skip
    assert rows.loc["anomaly: Mahalanobis, blocks.2", "macro_f1"] == ""
    assert rows.loc["always pneumonia", "balanced_accuracy"] == "0.450 [0.400, 0.500]"
    assert rows.loc["CNN, all", ["backbone", "notebook", "n_test"]].tolist() == ["cnn-small", "05", N]
    assert table["train_seconds"].isna().all()


def test_the_lineup_has_all_shots_of_the_main_backbone_and_the_kept_ones_of_others(folder: Path) -> None:
    table = comparison.lineup(folder, "binary")
    few = table[table["family"].str.startswith("few-shot")]
    shots = few.groupby(["method", "backbone"])["shots"].agg(list).to_dict()
    assert shots.pop(("KNN", "pixels")) == [10]
    assert shots == {(m, "phantom"): [5, 10, 100] for m in ("KNN", "SVC (RBF)", "SVC (poly)", "prototypes")}
    assert table["name"].is_unique


def test_a_full_run_is_preferred_to_a_quick_one(folder: Path) -> None:
    full = run(folder.parent, "04", "full")
    record(full, "KNN, l2", 0.9, backbone="phantom", shots=10, train_seconds=12.34)
    keep(full, "KNN, l2", task="binary", backbone="phantom", shots=10)
    table = comparison.lineup(folder, "binary")
    assert table[["name", "auroc_value", "train_seconds"]].to_numpy().tolist() == [
        ["KNN, 10 a class", 0.9, 12]
    ]
    assert len(comparison.lineup(folder, "binary", profile="quick")) > 10


def test_the_baselines_of_other_notebooks_stand_in(tmp_path: Path) -> None:
    record(run(tmp_path, "04"), "commonest class", 0.4)
    record(run(tmp_path, "05"), "logistic regression, pixels", 0.6)
    keep(run(tmp_path, "06"), "x", task="anomaly")
    table = comparison.lineup(tmp_path / "toy", "binary")
    assert list(table["name"]) == ["commonest class", "logistic regression on pixels, all"]


def test_the_shot_table(folder: Path) -> None:
    table = comparison.shot_table(folder, "binary", "auroc")
    lines = table[table["kind"] == "line"]
    assert lines.groupby("method")["shots"].agg(list).to_dict() == {
        m: [5, 10, 100] for m in ("KNN", "SVC (poly)", "prototypes")
    }
    rest = table[table["kind"] != "line"][["method", "kind", "shots", "value"]].to_numpy().tolist()
    assert sorted(rest) == [
        ["CNN", "band", np.inf, 0.8],
        ["always pneumonia", "band", 0, 0.45],
        ["anomaly: Mahalanobis, blocks.2", "band", 0, 0.65],
        ["frozen", "point", 19, 0.7],
        ["logistic regression on pixels", "band", np.inf, 0.6],
    ]
    np.testing.assert_allclose(table["ci_high"] - table["ci_low"], 0.1)
    macro_f1 = comparison.shot_table(folder, "binary", "macro_f1")
    assert not macro_f1["method"].str.startswith("anomaly").any()
    assert len(macro_f1) == len(table) - 1


def test_shared_images_are_those_of_the_smallest(folder: Path) -> None:
    found = comparison.answers(folder, "binary", methods=["KNN, 10 a class", "CNN, all"])
    assert found.classes == CLASSES
    np.testing.assert_array_equal(found.y, labels(10, 60))
    assert found.patients.tolist() == records(10, 60)["patient_id"].tolist()
    assert found.n_images == {"KNN, 10 a class": N, "CNN, all": 60}
    assert len(found.image_ids) == len(set(found.image_ids)) == len(found.y) == 60
    expected = np.stack(said(0, y=labels(), draws=4))[:, 10:70]
    np.testing.assert_allclose(found.draws["KNN, 10 a class"], expected, atol=1e-6)
    np.testing.assert_allclose(found.draws["CNN, all"], said(7, y=labels(10, 60), draws=2), atol=1e-6)


def test_score_table_is_the_bootstrap_of_the_ledger(folder: Path) -> None:
    names = ["logistic regression on pixels, all", "KNN, 10 a class"]
    found = comparison.answers(folder, "binary", methods=names)
    table = comparison.score_table(found, metric="auroc", seed=3, n_boot=200).set_index("name")
    how = {"names": ["auroc"], "seed": 3, "n_boot": 200}
    one = intervals.bootstrap(found.y, list(found.draws[names[0]]), found.patients, **how)["auroc"]
    numbers = ["value", "ci_low", "ci_high", "n_draws", "n_test", "n_patients"]
    assert table.loc[names[0], numbers].tolist() == [one.value, one.ci_low, one.ci_high, 1, N, N // 2]
    by_draw = [roc_auc_score(found.y, p[:, 1]) for p in found.draws[names[1]]]
    assert table.loc[names[1], "value"] == pytest.approx(np.median(by_draw), abs=1e-12)


def test_macro_f1_splits_at_one_half(folder: Path) -> None:
    found = comparison.answers(folder, "binary", methods=["CNN, all"])
    value = comparison.score_table(found, metric="macro_f1", n_boot=10)["value"][0]
    by_draw = [f1_score(found.y, p[:, 1] >= 0.5, average="macro") for p in found.draws["CNN, all"]]
    assert value == pytest.approx(np.median(by_draw), abs=1e-12)


def toy(*, n: int = 60, draws: dict[str, int], drawn: dict[str, str] | None = None) -> Answers:
    y = labels(0, n)
    p = {m: np.stack(said(i, y=y, draws=d, help=0.1 * i)) for i, (m, d) in enumerate(draws.items())}
    patients = records(0, n)["patient_id"].to_numpy(object)
    ids = np.array([f"i{k}" for k in range(len(y))], object)
    return Answers(ids, y, patients, CLASSES, p, drawn or {m: f"{m} {d}" for m, d in draws.items()}, {})


def test_pairs_against_a_brute_force_bootstrap() -> None:
    found = toy(draws={"a": 1, "b": 3})
    (row,) = comparison.pairs(found, seed=1, n_boot=2000).to_dict("records")
    rng, people = np.random.default_rng(5), np.unique(found.patients)
    images = {p: np.flatnonzero(found.patients == p) for p in people}
    gaps = []
    for _ in range(600):
        index = np.concatenate([images[p] for p in rng.choice(people, len(people))])
        of = [[roc_auc_score(found.y[index], p[index, 1]) for p in found.draws[m]] for m in "ab"]
        gaps.append(np.median(of[0]) - np.median(rng.choice(of[1], 3)))
    observed = [np.median([roc_auc_score(found.y, p[:, 1]) for p in found.draws[m]]) for m in "ab"]
    assert row["difference"] == pytest.approx(observed[0] - observed[1], abs=1e-12)
    np.testing.assert_allclose([row["ci_low"], row["ci_high"]], np.percentile(gaps, [2.5, 97.5]), atol=0.03)


def test_draws_that_belong_together_are_resampled_together() -> None:
    found = toy(draws={"a": 5, "b": 5}, drawn={"a": "04 10", "b": "04 10"})
    same = replace(found, draws={"a": found.draws["a"], "b": found.draws["a"]})
    row = comparison.pairs(same, n_boot=100).iloc[0]
    assert row[["difference", "ci_low", "ci_high", "p", "verdict"]].tolist() == [0, 0, 0, 1, "not told apart"]
    apart = replace(same, drawn={"a": "04 10", "b": "05"})
    assert comparison.pairs(apart, n_boot=100)["ci_high"][0] > 0
    how = {"names": ["auroc"], "seed": 2, "n_boot": 4000}
    whole = intervals.paired_differences(found.y, *map(list, found.draws.values()), found.patients, **how)
    row = comparison.pairs(found, seed=2, n_boot=4000).iloc[0]
    assert row["difference"] == pytest.approx(whole["auroc"].value, abs=1e-12)
    np.testing.assert_allclose(
        row[["ci_low", "ci_high"]].astype(float), [whole["auroc"].ci_low, whole["auroc"].ci_high], atol=0.01
    )


@given(st.permutations(["a", "b", "c", "d"]))
@settings(max_examples=12)
def test_the_order_of_methods_changes_signs_only(order: list[str]) -> None:
    found = toy(draws={"a": 1, "b": 2, "c": 3, "d": 2})
    turned = replace(found, draws={m: found.draws[m] for m in order})
    expected = {(r["first"], r["second"]): r for r in comparison.pairs(found, n_boot=60).to_dict("records")}
    table = comparison.pairs(turned, n_boot=60)
    assert len(table) == len(expected) == 6
    for row in table.to_dict("records"):
        same = expected.get((row["first"], row["second"]))
        other = expected.get((row["second"], row["first"]))
        numbers = [row["difference"], row["ci_low"], row["ci_high"], row["p_holm"]]
        if same:
            assert numbers == [same[c] for c in ("difference", "ci_low", "ci_high", "p_holm")]
        else:
            np.testing.assert_allclose(
                numbers,
                [-other["difference"], -other["ci_high"], -other["ci_low"], other["p_holm"]],
                atol=1e-12,
            )


@given(st.integers(0, 50))
@settings(max_examples=15)
def test_holm_never_makes_a_p_value_smaller(seed: int) -> None:
    table = comparison.pairs(toy(draws={"a": 1, "b": 2, "c": 1, "d": 3}), seed=seed, n_boot=60)
    assert (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].max() <= 1
    assert ((table["p_holm"] < 0.05) == (table["verdict"] == "told apart")).all()


def test_holm_counts_the_rows_that_are_returned() -> None:
    found = toy(draws={"a": 1, "b": 2, "c": 1, "d": 1})
    few, every = comparison.pairs(found, reference="a", n_boot=99), comparison.pairs(found, n_boot=99)
    assert few[["first", "second"]].to_numpy().tolist() == [["b", "a"], ["c", "a"], ["d", "a"]]
    np.testing.assert_allclose(few["p"], every["p"][:3], atol=1e-12)
    np.testing.assert_allclose(few["p_holm"], intervals.holm(few["p"]))
    assert few["p_holm"].min() == pytest.approx(3 * few["p"].min())
    assert every["p_holm"].min() == pytest.approx(6 * every["p"].min())
    assert every.loc[every["p"].idxmin(), "verdict"] == "told apart"


def test_the_anomaly_detector_is_compared_in_auroc_alone(folder: Path) -> None:
    names = ["anomaly: Mahalanobis, blocks.2", "CNN, all"]
    found = comparison.answers(folder, "binary", methods=names)
    assert comparison.pairs(found, n_boot=20)["n_test"].tolist() == [60]
    with pytest.raises(DataError, match=r"anomaly: Mahalanobis.* no threshold for macro_f1"):
        comparison.pairs(found, metric="macro_f1", n_boot=20)


def test_three_classes_with_normal_first(tmp_path: Path) -> None:
    y = np.arange(60) % 3
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 60)
    at, classes = run(tmp_path, "05"), ("normal", "bacterial", "viral")
    at.record_predictions(records(0, 60), [p], classes=classes, labels=y, task="3-class", method="CNN")
    record(at, "CNN", 0.5, task="3-class")
    found = comparison.answers(tmp_path / "toy", "3-class")
    assert found.classes == classes
    np.testing.assert_array_equal(found.y, y)
    expected = roc_auc_score(y, p.astype(np.float32).astype(float), multi_class="ovr", labels=[0, 1, 2])
    assert comparison.score_table(found, n_boot=10)["value"][0] == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_compared(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no kept answers of \['frozen, 19 a class'\]; choose from"):
        comparison.answers(folder, "binary", methods=["frozen, 19 a class"])
    with pytest.raises(DataError, match=r"share 60 test images \(40 normal, 20 pneumonia\); 61 and one"):
        comparison.answers(folder, "binary", least=61)
    with pytest.raises(DataError, match="task 'multi-label' is not one of"):
        comparison.lineup(folder, "multi-label")
    with pytest.raises(DataError, match=r"no quick test rows of the task '3-class'; run the notebooks"):
        comparison.lineup(folder, "3-class")
    with pytest.raises(DataError, match="metric 'f1' is not one of"):
        comparison.shot_table(folder, "binary", "f1")
    with pytest.raises(DataError, match="metric 'ece' is not one of"):
        comparison.score_table(toy(draws={"a": 1}), metric="ece")
    with pytest.raises(DataError, match=r"reference 'x'; give two or more and one of \['a', 'b'\]"):
        comparison.pairs(toy(draws={"a": 1, "b": 1}), reference="x")
    with pytest.raises(DataError, match="1 methods, reference None"):
        comparison.pairs(toy(draws={"a": 1}))
    with pytest.raises(DataNotFoundError, match=r"predictions.parquet; .* --dataset nowhere"):
        comparison.lineup(folder.parent / "nowhere", "binary")


def test_methods_that_saw_other_data_are_named(folder: Path) -> None:
    path = folder / "predictions.parquet"
    table = pd.read_parquet(path)
    moved = table["patient_id"].where(table["notebook"] != "05", "someone else")
    table.assign(patient_id=moved).to_parquet(path)
    with pytest.raises(DataError, match="KNN, 10 a class and CNN, all disagree about the label or patient"):
        comparison.answers(folder, "binary", methods=["KNN, 10 a class", "CNN, all"])
    table[(table["notebook"] != "05") | (table.index % 7 > 0)].to_parquet(path)
    with pytest.raises(DataError, match=r"CNN, all: \d+ answers are not 2 draws x 60 images x 2 classes"):
        comparison.answers(folder, "binary", methods=["CNN, all"])
