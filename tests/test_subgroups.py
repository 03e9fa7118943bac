"""Scores within groups of patients, and how far the groups lie apart."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from xraykit import intervals
from xraykit.datasets import load
from xraykit.errors import DataError
from xraykit.subgroups import AGE_BANDS, age_groups, attributes, by_group, differences

FEW = {"n_boot": 50}


def toy(n: int = 120, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities, and patients of two images each."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) // 2 % 2
    return y, np.clip(rng.normal(0.4 + 0.2 * y, 0.2), 0, 1), np.arange(n) // 2


def halves(n: int) -> dict[str, np.ndarray]:
    return {"sex": np.where(np.arange(n) < n // 2, "F", "M").astype(object)}


def test_age_bands() -> None:
    ages = [0, 1, 1.9, 2, 5.5, 6, 12, 13, 17.9, 18, 39, 40, 59, 60, 120, np.nan, -1, 121, 411]
    assert age_groups(np.array(ages)).tolist() == [
        "0-1", "0-1", "0-1", "2-5", "2-5", "6-12", "6-12", "13-17", "13-17", "18-39", "18-39",
        "40-59", "40-59", "60+", "60+", "", "", "", "",
    ]  # fmt: skip


@given(st.lists(st.floats(0, 120), min_size=1, max_size=20))
def test_every_age_is_in_the_band_that_names_it(ages: list[float]) -> None:
    for age, band in zip(ages, age_groups(np.array(ages)), strict=True):
        first, last = (60, 120) if band == "60+" else map(int, band.split("-"))
        assert first <= np.floor(age) <= last
    order = list(AGE_BANDS)
    places = [order.index(band) for band in age_groups(np.sort(ages))]
    assert places == sorted(places)


def test_groups_by_hand() -> None:
    # F: normal .1 .3 and ill .2 .9 each ten times, 3 of 4 pairs are right; M: all right.
    y = np.tile([0, 0, 1, 1], 20)
    p = np.r_[np.tile([0.1, 0.3, 0.2, 0.9], 10), np.tile([0.1, 0.2, 0.6, 0.7], 10)]
    table = by_group(y, p, np.arange(80), halves(80), n_boot=300).set_index(["group", "metric"])
    found = {
        key: table.loc[key, ["value", "n_images", "n_patients", "n_positive"]].tolist() for key in table.index
    }
    assert found == {
        ("F", "auroc"): [0.75, 40, 40, 20],
        ("F", "sensitivity"): [0.5, 40, 40, 20],
        ("F", "specificity"): [1.0, 40, 40, 20],
        ("M", "auroc"): [1.0, 40, 40, 20],
        ("M", "sensitivity"): [1.0, 40, 40, 20],
        ("M", "specificity"): [1.0, 40, 40, 20],
    }
    assert table.loc[("M", "auroc"), "text"] == "1.000 [1.000, 1.000]"
    low, high = table.loc[("F", "sensitivity"), ["ci_low", "ci_high"]]
    assert low == pytest.approx(0.5 - 1.96 * np.sqrt(0.25 / 20), abs=0.06)
    assert high == pytest.approx(0.5 + 1.96 * np.sqrt(0.25 / 20), abs=0.06)


def test_the_group_of_all_is_the_bootstrap_of_the_ledger() -> None:
    y, p, patients = toy()
    how = {"names": ["auroc", "specificity"], "seed": 4, "n_boot": 100, "threshold": 0.4}
    table = by_group(y, p, patients, {"all": np.full(len(y), "all")}, **how)
    for name, found in intervals.bootstrap(y, [p], patients, **how).items():
        row = table.set_index("metric").loc[name]
        assert row[["value", "ci_low", "ci_high"]].tolist() == [found.value, found.ci_low, found.ci_high]
    assert table["text"].tolist() == [f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in
                                      table[["value", "ci_low", "ci_high"]].to_numpy()]  # fmt: skip


def test_several_seeds_have_their_median_and_a_wider_interval() -> None:
    y, p, patients = toy()
    group = {"all": np.full(len(y), "all")}
    draws = [p, p[::-1].copy(), toy(seed=1)[1]]
    both = [np.stack([1 - d, d], axis=1) for d in draws]
    one, three = (by_group(y, of, patients, group, names=["auroc"], n_boot=200) for of in (p, both))
    assert three["value"][0] == pytest.approx(np.median([roc_auc_score(y, d) for d in draws]), abs=1e-12)
    width = [t["ci_high"][0] - t["ci_low"][0] for t in (one, three)]
    assert width[1] > 1.5 * width[0]


def test_too_few_images_or_patients_have_no_number() -> None:
    y, p, patients = toy(120)
    sizes = {"few ill": 38, "enough": 40}  # of 38 images in a row 18 are ill
    for name, n in sizes.items():
        group = {"x": np.where(np.arange(120) < n, name, "")}
        table = by_group(y, p, patients, group, names=["auroc"], least=20, **FEW)
        assert table["n_images"].tolist() == [n]
        assert table["note"].tolist() == ([""] if n == 40 else ["too few"])
        assert table["value"].isna().tolist() == [n != 40]
        assert (table["text"][0] == "too few") == (n != 40)
    same = np.where(y == 1, 0, np.arange(120))  # one patient has all ill images
    assert by_group(y, p, same, {"x": np.full(120, "a")}, **FEW)["note"].tolist() == ["too few"] * 3


def test_a_resampling_without_the_class_is_left_out() -> None:
    # Ill patients 5 of 300, all found: a resampling that lost them would read a sensitivity of 0.
    y = np.r_[np.ones(10, int), np.zeros(590, int)]
    p = np.where(y == 1, 0.9, 0.1)
    patients = np.r_[np.arange(10) // 2, 5 + np.arange(590) // 2]
    lost = (intervals.patient_weights(patients, n_boot=1000, rng=np.random.default_rng(0))[:, :10] == 0).all(
        1
    )
    assert lost.sum() > 0
    table = by_group(y, p, patients, {"x": np.full(600, "a")}, names=["sensitivity"])
    assert table[["value", "ci_low", "ci_high"]].to_numpy().tolist() == [[1, 1, 1]]


def test_missing_groups_are_left_out_and_bands_stand_by_age() -> None:
    y, p, patients = toy(120)
    ages = np.repeat([70, 7, 20, np.nan, 1, 3], 20)
    sex = np.repeat(np.array(["M", None, "F", "", np.nan, "M"], object), 20)
    table = by_group(y, p, patients, {"age": age_groups(ages), "sex": sex}, names=["auroc"], **FEW)
    assert table[["attribute", "group", "n_images"]].to_numpy().tolist() == [
        ["age", "0-1", 20], ["age", "2-5", 20], ["age", "6-12", 20], ["age", "18-39", 20], ["age", "60+", 20],
        ["sex", "F", 20], ["sex", "M", 40],
    ]  # fmt: skip


def test_differences_are_those_of_the_groups_and_holm_is_over_all() -> None:
    y, p, patients = toy(240)
    groups = {**halves(240), "age": age_groups(np.tile(np.repeat([3, 30, 70], 4), 20))}
    names = ["auroc", "sensitivity"]
    table = differences(y, p, patients, groups, names=names, n_boot=200)
    assert len(table) == (1 + 3) * 2
    assert table[["attribute", "first", "second"]].drop_duplicates().to_numpy().tolist() == [
        ["sex", "F", "M"], ["age", "2-5", "18-39"], ["age", "2-5", "60+"], ["age", "18-39", "60+"],
    ]  # fmt: skip
    scores = by_group(y, p, patients, groups, names=names, n_boot=200)
    value = scores.set_index(["attribute", "group", "metric"])["value"]
    for row in table.to_dict("records"):
        expected = (
            value[row["attribute"], row["first"], row["metric"]]
            - value[row["attribute"], row["second"], row["metric"]]
        )
        assert row["difference"] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(table["p_holm"], intervals.holm(table["p"]))
    assert (table["verdict"] == "not told apart").all()


def test_a_group_in_which_the_answers_are_noise_is_told_apart() -> None:
    y, _, patients = toy(400)
    rng = np.random.default_rng(0)
    p = np.where(np.arange(400) < 200, rng.uniform(size=400), np.clip(rng.normal(0.3 + 0.4 * y, 0.1), 0, 1))
    table = differences(y, p, patients, halves(400), names=["auroc"])
    assert table["verdict"].tolist() == ["told apart"]
    # As the sum of two independent errors, from the intervals of each group.
    width = by_group(y, p, patients, halves(400), names=["auroc"]).eval("ci_high - ci_low")
    assert table.eval("ci_high - ci_low")[0] == pytest.approx(np.hypot(*width), rel=0.15)
    assert table["ci_high"][0] < -0.3


def test_no_two_groups_give_no_differences() -> None:
    y, p, patients = toy(120)
    table = differences(y, p, patients, {"x": np.full(120, "a"), "y": np.full(120, "b")}, **FEW)
    assert len(table) == 0
    assert {"difference", "p_holm", "verdict"} <= set(table.columns)


def test_attributes_of_synthetic_patients() -> None:
    ds = load("synthetic", size=64, n_patients=40, progress=False).binary()
    rows = np.flatnonzero(ds.records["split"] == "test")
    found = attributes(ds, rows)
    assert list(found) == ["age", "sex", "view"]
    assert found["sex"].tolist() == ds.records["sex"].iloc[rows].tolist()
    assert found["view"].tolist() == ds.records["view"].iloc[rows].tolist()
    assert found["age"].tolist() == age_groups(ds.records["age"].iloc[rows].to_numpy()).tolist()
    assert set(found["age"]) <= set(AGE_BANDS)


def test_attributes_that_are_missing_or_empty() -> None:
    ds = load("synthetic", size=64, n_patients=10, progress=False)
    records = ds.records.drop(columns="age").assign(view=None)
    records["sex"] = pd.Categorical(["F", None] + ["M"] * (len(ds) - 2))
    for name, expected in (("sex", ["F", "", "M"]), ("view", None)):
        found = attributes(type(ds)(**{**vars(ds), "records": records}), np.arange(3)).get(name)
        assert (None if found is None else found.tolist()) == expected
    bare = type(ds)(**{**vars(ds), "records": records.drop(columns=["sex", "view"])})
    assert attributes(bare, np.arange(3)) == {}
    y, p, patients = toy(40)
    assert len(by_group(y, p, patients, {})) == 0


def test_bad_input() -> None:
    y, p, patients = toy(40)
    with pytest.raises(DataError, match="ages must be numbers of years"):
        age_groups(np.array(["old"]))
    with pytest.raises(DataError, match=r"ages of shape \(2, 1\)"):
        age_groups(np.ones((2, 1)))
    with pytest.raises(DataError, match=r"sex: groups of shape \(3,\) for 40 images"):
        by_group(y, p, patients, {"sex": np.array(["F"] * 3)}, **FEW)
    with pytest.raises(DataError, match=r"subgroups are of a binary task.*\(40, 3\)"):
        by_group(y, np.full((40, 3), 1 / 3), patients, halves(40), **FEW)
    with pytest.raises(DataError, match="subgroups are of a binary task"):
        by_group(y + 1, p, patients, halves(40), **FEW)
    with pytest.raises(DataError, match="scores must be probabilities"):
        by_group(y, p + 3, patients, halves(40), **FEW)
    with pytest.raises(DataError, match="40 labels but 39 patient ids"):
        by_group(y, p, patients[:-1], halves(40), **FEW)
