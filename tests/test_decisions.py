"""Thresholds, temperatures and mistakes against numbers worked out by hand and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, logit
from sklearn.metrics import precision_recall_curve, roc_curve

from xraykit.decisions import (
    TEMPERATURES,
    fit_temperature,
    most_confident_mistakes,
    probabilities,
    threshold_for_sensitivity,
    trade_off,
)
from xraykit.errors import DataError
from xraykit.metrics import score_all

# Scores with many ties, and a positive and a negative in front so that both classes are there.
scored = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=0, max_size=40).map(
    lambda rows: np.array([(1, 4), (0, 3), *rows]).T
)
Y, P = np.array([0, 0, 1, 1, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.6, 0.6, 0.7, 0.9])


def test_threshold_for_sensitivity_by_hand() -> None:
    # positives .4 .6 .6 .9: sensitivity 1/4 from .9 on, 3/4 from .6 on, 1 from .4 on
    found = {w: threshold_for_sensitivity(Y, P, wanted=w) for w in (0.01, 0.25, 0.26, 0.5, 0.75, 0.76, 1)}
    assert found == {0.01: 0.9, 0.25: 0.9, 0.26: 0.6, 0.5: 0.6, 0.75: 0.6, 0.76: 0.4, 1: 0.4}
    assert threshold_for_sensitivity(Y, np.stack([1 - P, P], axis=1), wanted=0.75) == 0.6


def test_a_wanted_share_is_reached_exactly_in_spite_of_rounding() -> None:
    assert 0.07 * 100 > 7  # so the images needed must not be counted by multiplying
    y, p = np.r_[np.ones(100, int), 0], np.r_[np.arange(100), 0]
    found = [threshold_for_sensitivity(y, p, wanted=hits / 100) for hits in range(1, 101)]
    assert found == list(range(99, -1, -1))


@given(scored, st.floats(0.01, 1))
def test_no_higher_score_reaches_the_wanted_sensitivity(rows: np.ndarray, wanted: float) -> None:
    y, p = rows[0], rows[1] / 8
    found = threshold_for_sensitivity(y, p, wanted=wanted)

    def sensitivity(threshold: float) -> float:
        return score_all(y, p, names=["sensitivity"], threshold=threshold)["sensitivity"][0]

    assert sensitivity(found) >= wanted
    assert sensitivity(np.nextafter(found, 2)) < wanted


def test_threshold_of_float32_scores_survives_the_way_back() -> None:
    p = np.array([0.1, 0.3, 0.7], np.float32)
    found = threshold_for_sensitivity(np.array([0, 1, 1]), p, wanted=1)
    assert (p >= found).tolist() == [False, True, True]


def test_trade_off_by_hand() -> None:
    table = trade_off(Y, P)
    assert table["threshold"].tolist() == [0.1, 0.4, 0.6, 0.7, 0.9]
    by_hand = {  # said positive: 7, 6, 4, 2, 1 images, of which positive: 4, 4, 3, 1, 1
        "sensitivity": [1, 1, 3 / 4, 1 / 4, 1 / 4],
        "specificity": [0, 1 / 3, 2 / 3, 2 / 3, 1],
        "precision": [4 / 7, 4 / 6, 3 / 4, 1 / 2, 1],
        "f1": [8 / 11, 8 / 10, 6 / 8, 2 / 6, 2 / 5],
        "accuracy": [4 / 7, 5 / 7, 5 / 7, 3 / 7, 4 / 7],
        "balanced_accuracy": [1 / 2, 2 / 3, 17 / 24, 11 / 24, 5 / 8],
    }
    assert list(table) == ["threshold", *by_hand]
    for name, values in by_hand.items():
        np.testing.assert_allclose(table[name], values, rtol=1e-15, err_msg=name)


@given(scored)
def test_trade_off_equals_the_metrics_at_each_threshold(rows: np.ndarray) -> None:
    y, p = rows[0], rows[1] / 8
    table = trade_off(y, p).set_index("threshold")
    assert table.index.tolist() == sorted(set(p))
    for threshold, row in table.iterrows():
        expected = score_all(y, p, names=list(table), threshold=threshold)
        np.testing.assert_allclose(row, [expected[n][0] for n in table], rtol=1e-12)


def test_trade_off_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 500)
    p = np.round(np.clip(rng.normal(0.4 + 0.2 * y, 0.2), 0, 1), 2)
    table = trade_off(y, p)
    fpr, tpr, thresholds = roc_curve(y, p, drop_intermediate=False)
    np.testing.assert_allclose(table["threshold"], thresholds[:0:-1])
    np.testing.assert_allclose(table["sensitivity"], tpr[:0:-1])
    np.testing.assert_allclose(table["specificity"], 1 - fpr[:0:-1])
    precision, recall, thresholds = precision_recall_curve(y, p)
    np.testing.assert_allclose(table["threshold"], thresholds)
    np.testing.assert_allclose(table["precision"], precision[:-1])
    np.testing.assert_allclose(table["sensitivity"], recall[:-1])


def test_probabilities_by_hand() -> None:
    binary = probabilities(np.log([[1.0], [3.0]]), "binary")
    np.testing.assert_allclose(binary, [[1 / 2, 1 / 2], [1 / 4, 3 / 4]], rtol=1e-15)
    logits = np.log([[1.0, 3.0, 4.0], [9.0, 1.0, 0.25]])
    np.testing.assert_allclose(probabilities(logits, "multiclass")[0], [1 / 8, 3 / 8, 1 / 2])
    np.testing.assert_allclose(probabilities(logits, "multilabel")[0], [1 / 2, 3 / 4, 4 / 5])
    half = probabilities(logits, "multiclass", temperature=2)  # square roots of the ratios
    np.testing.assert_allclose(half[1], np.array([3, 1, 0.5]) / 4.5)


@given(arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)), st.floats(0.05, 20))
def test_probabilities_are_finite_and_sum_to_one_at_any_size(logits: np.ndarray, temperature: float) -> None:
    for kind in ("binary", "multiclass", "multilabel"):
        given_logits = logits[:, :1] if kind == "binary" else logits
        p = probabilities(given_logits, kind, temperature=temperature)
        assert p.dtype == np.float64
        assert ((p >= 0) & (p <= 1)).all()
        if kind != "multilabel":
            np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
            largest = (
                given_logits.argmax(axis=1) if kind == "multiclass" else (given_logits[:, 0] > 0).astype(int)
            )
            np.testing.assert_array_equal(p[np.arange(3), largest], p.max(axis=1))


def test_the_negative_probability_of_a_sure_positive_is_kept() -> None:
    assert probabilities(np.array([[100.0]]), "binary")[0, 0] == pytest.approx(np.exp(-100), rel=1e-12, abs=0)


@pytest.mark.parametrize("t0", [0.1, 0.5, 1.0, 2.5, 15.0])
def test_temperature_of_a_calibrated_binary_model_is_found(t0: float) -> None:
    # of 100 images with probability p exactly 100 p are positive, so that T0 is the exact minimum
    percent = np.array([1, 5, 20, 50, 70, 95])
    y = np.concatenate([np.repeat([0, 1], [100 - n, n]) for n in percent])
    p = np.repeat(percent / 100, 100)
    assert fit_temperature(t0 * logit(p)[:, None], y, kind="binary") == pytest.approx(t0, rel=1e-6)
    both = t0 * np.stack([logit(p), logit(1 - p)], axis=1)
    labels = np.stack([y, 1 - y], axis=1)
    assert fit_temperature(both, labels, kind="multilabel") == pytest.approx(t0, rel=1e-6)


@pytest.mark.parametrize("t0", [0.3, 1.0, 4.0])
def test_temperature_of_a_calibrated_multiclass_model_is_found(t0: float) -> None:
    counts = np.array([[5, 3, 2], [1, 8, 1], [2, 2, 6]])
    y = np.concatenate([np.repeat([0, 1, 2], row) for row in counts])
    logits = t0 * np.log(np.repeat(counts / 10, 10, axis=0)) + 3  # a shift of all classes is nothing
    assert fit_temperature(logits, y, kind="multiclass") == pytest.approx(t0, rel=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_no_temperature_of_a_grid_does_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, y = rng.normal(size=(30, 3)) * rng.uniform(0.1, 10), np.r_[0, 1, rng.integers(0, 3, 28)]

    def nll(temperature: float) -> float:
        return -log_softmax(logits / temperature, axis=1)[np.arange(30), y].mean()

    found = fit_temperature(logits, y, kind="multiclass")
    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]
    assert nll(found) <= min(map(nll, np.geomspace(*TEMPERATURES, 100))) + 1e-12


def test_a_temperature_without_a_minimum_is_the_limit_itself() -> None:
    y = np.array([0, 0, 1, 1])
    for size in (0.01, 1, 1000):  # the loss of the last is zero to the last bit over most of the range
        right = size * np.array([[-1.0], [-2], [3], [1]])
        assert fit_temperature(right, y, kind="binary") == TEMPERATURES[0]
        assert fit_temperature(-right, y, kind="binary") == TEMPERATURES[1]
        assert fit_temperature(np.hstack([-right, right]), y, kind="multiclass") == TEMPERATURES[0]


def test_most_confident_mistakes_by_hand() -> None:
    y = np.array([0, 1, 2, 0, 1, 2])
    p = np.array(
        [
            [0.8, 0.1, 0.1],
            [0.6, 0.3, 0.1],
            [0.0, 0.9, 0.1],
            [0.2, 0.2, 0.6],
            [0.1, 0.8, 0.1],
            [0.4, 0.35, 0.25],
        ]
    )
    assert most_confident_mistakes(y, p, n=10).tolist() == [2, 1, 3, 5]  # .9, .6, .6, .4
    assert most_confident_mistakes(y, p, n=2).tolist() == [2, 1]
    assert most_confident_mistakes(y, np.eye(3)[y], n=2).tolist() == []


def test_mistakes_of_two_classes_agree_with_the_metrics() -> None:
    y, p = np.array([0, 0, 1, 1, 0]), np.array([0.5, 0.9, 0.5, 0.05, 0.2])
    for given_p in (p, np.stack([1 - p, p], axis=1)):
        found = most_confident_mistakes(y, given_p, n=5)
        assert found.tolist() == [3, 1, 0]  # .95 for the negative, .9 and .5 for the positive class
        assert score_all(y, given_p, names=["accuracy"])["accuracy"][0] == 1 - len(found) / 5


@pytest.mark.parametrize("function", [trade_off, lambda y, p: threshold_for_sensitivity(y, p, wanted=0.9)])
def test_bad_scores(function) -> None:
    with pytest.raises(DataError, match=r"16 labels, of the classes \[1\]; a threshold needs both"):
        function(np.ones(16, int), np.linspace(0, 1, 16))
    with pytest.raises(DataError, match="must be 0 and 1"):
        function(Y + 1, P)
    with pytest.raises(DataError, match=r"labels \(7,\) must be 0 and 1, and scores \(6,\)"):
        function(Y, P[1:])
    with pytest.raises(DataError, match=r"0 labels, of the classes \[\]"):
        function(Y[:0], P[:0])
    with pytest.raises(DataError, match="1 of 7 scores are not finite"):
        function(Y, np.r_[np.nan, P[1:]])


@pytest.mark.parametrize("wanted", [0, -0.1, 1.01, np.nan])
def test_bad_wanted_sensitivity(wanted: float) -> None:
    with pytest.raises(DataError, match="choose above 0 and at most 1"):
        threshold_for_sensitivity(Y, P, wanted=wanted)


def test_bad_logits() -> None:
    with pytest.raises(DataError, match=r"kind 'ternary'; choose from \['binary'"):
        probabilities(np.zeros((2, 1)), "ternary")
    for shape, kind in (((4,), "binary"), ((4, 2), "binary"), ((4, 1), "multiclass"), ((0, 3), "multilabel")):
        with pytest.raises(DataError, match=f"{kind} logits have the shape"):
            probabilities(np.zeros(shape), kind)
    with pytest.raises(DataError, match="1 of 2 rows of logits are not finite; the network has diverged"):
        probabilities(np.array([[0.0, np.nan], [0, 0]]), "multiclass")
    for temperature in (0, -1, np.nan, np.inf):
        with pytest.raises(DataError, match="finite number above 0"):
            probabilities(np.zeros((2, 1)), "binary", temperature=temperature)


def test_bad_labels_of_a_temperature() -> None:
    logits = np.zeros((4, 3))
    with pytest.raises(DataError, match=r"need labels \(4,\) of 0..2; got shape \(3,\)"):
        fit_temperature(logits, np.array([0, 1, 2]), kind="multiclass")
    with pytest.raises(DataError, match=r"of 0..2"):
        fit_temperature(logits, np.array([0, 1, 2, 3]), kind="multiclass")
    with pytest.raises(DataError, match=r"need labels \(4, 3\) of 0..1; got shape \(4,\)"):
        fit_temperature(logits, np.zeros(4, int), kind="multilabel")
    with pytest.raises(DataError, match="all 4 labels are 1; a temperature needs"):
        fit_temperature(logits[:, :1], np.ones(4, int), kind="binary")


def test_bad_mistakes() -> None:
    with pytest.raises(DataError, match="must be codes of the classes"):
        most_confident_mistakes(np.array([0, 3]), np.eye(3)[:2], n=1)
    with pytest.raises(DataError, match="must be codes of the classes"):
        most_confident_mistakes(np.eye(3), np.eye(3), n=1)
    for wrong in (1.5, -0.5, np.nan):
        with pytest.raises(DataError, match=r"probabilities in 0\.\.1"):
            most_confident_mistakes(np.array([0, 1]), np.array([0.5, wrong]), n=1)
    with pytest.raises(DataError, match="n = 0"):
        most_confident_mistakes(np.array([0, 1]), np.array([0.5, 0.5]), n=0)
