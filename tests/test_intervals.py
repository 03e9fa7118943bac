"""Bootstrap, paired comparison and Holm correction."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xraykit.errors import DataError
from xraykit.intervals import (
    Interval,
    bootstrap,
    frame,
    holm,
    paired_differences,
    patient_weights,
    wide,
)


def test_weights_resample_patients_not_images():
    patients = np.array(["a", "a", "b", "c", "c", "c"])
    weights = patient_weights(patients, n_boot=500, rng=np.random.default_rng(0))
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()  # three patients drawn each time


def test_interval_of_a_mean_matches_the_binomial_one():
    rng = np.random.default_rng(1)
    y = np.ones(400, int)
    p = (rng.random(400) < 0.8).astype(float)  # accuracy about .8, one image a patient
    got = bootstrap(y, [p], np.arange(400), names=["accuracy"], seed=0, n_boot=4000)["accuracy"]
    half = 1.96 * np.sqrt(got.value * (1 - got.value) / 400)
    assert got.ci_low == pytest.approx(got.value - half, abs=0.006)
    assert got.ci_high == pytest.approx(got.value + half, abs=0.006)
    assert got.n_test == 400


def test_repeated_images_of_a_patient_do_not_narrow_the_interval():
    rng = np.random.default_rng(2)
    y = np.ones(100, int)
    p = (rng.random(100) < 0.7).astype(float)
    alone = bootstrap(y, [p], np.arange(100), names=["accuracy"], seed=3)["accuracy"]
    ten = bootstrap(
        np.repeat(y, 10),
        [np.repeat(p, 10)],
        np.repeat(np.arange(100), 10),
        names=["accuracy"],
        seed=3,
    )["accuracy"]
    assert ten.value == alone.value
    assert (ten.ci_low, ten.ci_high) == pytest.approx((alone.ci_low, alone.ci_high))


def test_value_over_draws_is_the_median_never_the_best():
    y = np.array([0, 0, 1, 1])
    draws = [
        np.array([0.0, 0, 1, 1]),
        np.array([1.0, 0, 1, 1]),
        np.array([1.0, 1, 1, 1]),
    ]  # accuracies 1, .75, .5
    got = bootstrap(y, draws, np.arange(4), names=["accuracy"], seed=0)["accuracy"]
    assert got.value == 0.75
    assert got.n_draws == 3
    assert (got.spread_low, got.spread_high) == pytest.approx((0.5125, 0.9875))
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_the_interval_of_a_calibration_error_holds_its_value():
    rng = np.random.default_rng(5)
    p = rng.random(300)
    y = (rng.random(300) < p).astype(int)  # perfectly calibrated, so the error is noise alone
    got = bootstrap(y, [p], np.arange(300), names=["ece"], seed=0)["ece"]
    assert 0 <= got.ci_low < got.value < got.ci_high


def test_paired_difference_is_narrower_than_two_intervals_and_signs_agree():
    rng = np.random.default_rng(4)
    y = rng.integers(2, size=300)
    hard = rng.random(300) < 0.3  # both fail on the same hard images
    b = np.where(hard, 1 - y, y).astype(float)
    a = b.copy()
    a[np.flatnonzero(hard)[:15]] = y[np.flatnonzero(hard)[:15]]
    got = paired_differences(y, [a], [b], np.arange(300), names=["accuracy"], seed=0, n_boot=2000)["accuracy"]
    assert got.value == pytest.approx(15 / 300)
    assert 0 < got.ci_low < got.value < got.ci_high < 0.09
    assert got.p_value < 0.01
    same = paired_differences(y, [a], [a], np.arange(300), names=["accuracy"], seed=0)["accuracy"]
    assert (same.value, same.p_value) == (0.0, 1.0)


def test_p_value_has_the_right_size_under_the_null():
    rejected = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        y, a, b = (
            np.ones(120, int),
            (rng.random(120) < 0.7).astype(float),
            (rng.random(120) < 0.7).astype(float),
        )
        rejected += (
            paired_differences(y, [a], [b], np.arange(120), names=["accuracy"], seed=0, n_boot=300)[
                "accuracy"
            ].p_value
            < 0.05
        )
    assert rejected <= stats.binom.ppf(0.999, 100, 0.07)


def test_holm_by_hand():
    # sorted .01 .03 .04 times 3 2 1 gives .03 .06 .04, made monotone .03 .06 .06
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]).max() == 1.0


def test_no_draws_is_an_error():
    with pytest.raises(DataError, match="at least one draw"):
        bootstrap(np.array([0, 1]), [], np.arange(2), names=["accuracy"], seed=0)
    with pytest.raises(DataError, match="equally many draws; got 1 and 2"):
        paired_differences(
            np.array([0, 1]),
            [np.ones(2)],
            [np.ones(2)] * 2,
            np.arange(2),
            names=["accuracy"],
            seed=0,
        )


def test_frame_has_a_row_for_each_key_and_metric():
    found = {("binary", "none"): {"auroc": Interval(0.5, 0.4, 0.6), "f1": Interval(0.25, 0.125, 0.5)}}
    table = frame(found, levels=["task", "method"])
    assert table[["task", "method", "metric", "value", "ci_low"]].to_numpy().tolist() == [
        ["binary", "none", "auroc", 0.5, 0.4],
        ["binary", "none", "f1", 0.25, 0.125],
    ]
    assert frame({"a": {"f1": Interval(1, 1, 1)}}, levels=["method"])["method"].tolist() == ["a"]


def test_wide_has_a_row_for_each_key_and_a_column_for_each_metric():
    a, b, c = Interval(0.5, 0.25, 0.75), Interval(0.25, 0.125, 0.5), Interval(1, 1, 1)
    found = {"SVC": {"test": {"f1": a, "auroc": b}}, "KNN": {"test": {"auroc": c}, "development": {"f1": b}}}
    table = wide(found, levels=["method", "part"])
    assert table.index.names == ["method", "part"]
    assert table.index.tolist() == [("SVC", "test"), ("KNN", "test"), ("KNN", "development")]
    assert list(table) == ["f1", "auroc"]  # in the order given
    one, two, three = "0.500 [0.250, 0.750]", "0.250 [0.125, 0.500]", "1.000 [1.000, 1.000]"
    assert table.to_numpy().tolist() == [[one, two], ["", three], [two, ""]]
    flat = {(method, part): scores for method, parts in found.items() for part, scores in parts.items()}
    pd.testing.assert_frame_equal(wide(flat, levels=["method", "part"]), table)
    deeper = wide({"binary": flat}, levels=["task", "method", "part"])
    pd.testing.assert_frame_equal(deeper.loc["binary"], table)
    plain = wide({"SVC": {"f1": a}, "KNN": {"f1": c}}, levels=["method"])
    assert plain["f1"].to_dict() == {"SVC": one, "KNN": three}


def test_wide_of_other_levels_than_its_keys():
    with pytest.raises(ValueError, match="shorter"):
        wide({"SVC": {"f1": Interval(1, 1, 1)}}, levels=["method", "part"])


def test_patients_that_do_not_match_are_named():
    y, p = np.array([0, 1, 1]), [np.array([0.1, 0.9, 0.8])]
    with pytest.raises(DataError, match="3 labels but 2 patient ids"):
        bootstrap(y, p, np.array(["a", "b"]), names=["accuracy"], seed=0)
    with pytest.raises(DataError, match="1 images have no patient id, row 2 first"):
        bootstrap(y, p, np.array(["a", "b", None], object), names=["accuracy"], seed=0)
