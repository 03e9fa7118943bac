"""Scores against scikit-learn and against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from xraykit.errors import DataError
from xraykit.metrics import confusion, ece, mean_confusion, per_draw, score_all

BINARY = [
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "f1",
    "macro_f1",
    "auroc",
    "auprc",
]


def one(y, scores, name, **kwargs):
    return score_all(np.array(y), np.array(scores), names=[name], **kwargs)[name][0]


def test_hand_worked_binary_numbers():
    # predictions 0 1 1 0 1 against labels 0 0 1 1 1: TP 2, FN 1, FP 1, TN 1
    y, p = [0, 0, 1, 1, 1], [0.1, 0.6, 0.7, 0.2, 0.9]
    expected = {
        "accuracy": 3 / 5,
        "sensitivity": 2 / 3,
        "specificity": 1 / 2,
        "precision": 2 / 3,
        "f1": 2 / 3,
    }
    expected |= {"balanced_accuracy": 7 / 12, "macro_f1": (2 / 3 + 1 / 2) / 2}
    # positives .7 .2 .9 against negatives .1 .6: 2 + 1 + 2 of 6 pairs in order
    expected["auroc"] = 5 / 6
    for name, value in expected.items():
        assert one(y, p, name) == pytest.approx(value), name


def test_hand_worked_calibration_error():
    # bin 1 (p = .1, twice, no hit) is off by .1; bin 12 (p = .8, twice, one hit) by .3; mean over images .2
    assert ece(np.array([0, 0, 1, 0]), np.array([0.1, 0.1, 0.8, 0.8]), np.ones((1, 4)))[0] == pytest.approx(
        0.2
    )


def test_always_pneumonia_on_the_kermany_test_split():
    y = np.r_[np.zeros(234, int), np.ones(390, int)]
    said = np.ones(624)
    assert one(y, said, "accuracy") == pytest.approx(0.625)
    assert one(y, said, "f1") == pytest.approx(0.769, abs=5e-4)
    assert one(y, said, "balanced_accuracy") == pytest.approx(0.5)


def sklearn_binary(y, p, w):
    said = (p >= 0.5).astype(int)
    kwargs = {"sample_weight": w, "zero_division": 0}
    return {
        "accuracy": sk.accuracy_score(y, said, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(y, said, sample_weight=w),
        "sensitivity": sk.recall_score(y, said, **kwargs),
        "specificity": sk.recall_score(y, said, pos_label=0, **kwargs),
        "precision": sk.precision_score(y, said, **kwargs),
        "f1": sk.f1_score(y, said, **kwargs),
        "macro_f1": sk.f1_score(y, said, average="macro", **kwargs),
        "auroc": sk.roc_auc_score(y, p, sample_weight=w),
        "auprc": sk.average_precision_score(y, p, sample_weight=w),
    }


@given(st.integers(0, 10_000), st.integers(2, 60))
def test_binary_scores_equal_sklearn_under_any_weights(seed, n):
    rng = np.random.default_rng(seed)
    y = np.r_[0, 1, rng.integers(2, size=n)]
    p = rng.integers(0, 8, size=n + 2) / 8  # many ties
    weights = np.c_[np.ones((3, 2)), rng.integers(0, 3, size=(3, n))]
    ours = score_all(y, p, names=BINARY, weights=weights)
    for b in range(3):
        for name, value in sklearn_binary(y, p, weights[b]).items():
            assert ours[name][b] == pytest.approx(value), name


@given(st.integers(0, 10_000))
def test_multiclass_scores_equal_sklearn(seed):
    rng = np.random.default_rng(seed)
    y = np.r_[0, 1, 2, rng.integers(3, size=40)]
    p = rng.dirichlet(np.ones(3), size=43)
    w = rng.uniform(0.1, 2, size=43)
    ours = {
        k: v[0]
        for k, v in score_all(y, p, names=["accuracy", "macro_f1", "auroc", "auprc"], weights=w[None]).items()
    }
    said = p.argmax(1)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(y, said, sample_weight=w))
    assert ours["macro_f1"] == pytest.approx(sk.f1_score(y, said, average="macro", sample_weight=w))
    rank = [sk.roc_auc_score(y == k, p[:, k], sample_weight=w) for k in range(3)]
    assert ours["auroc"] == pytest.approx(np.mean(rank))
    assert ours["auprc"] == pytest.approx(
        np.mean([sk.average_precision_score(y == k, p[:, k], sample_weight=w) for k in range(3)])
    )


def test_multilabel_score_is_the_mean_over_labels_and_skips_a_lost_label():
    y = np.array([[0, 1], [1, 0], [1, 1], [0, 0]])
    p = np.array([[0.2, 0.7], [0.6, 0.8], [0.9, 0.9], [0.7, 0.1]])
    each = [one(y[:, k], p[:, k], "auroc") for k in range(2)]
    assert one(y, p, "auroc") == pytest.approx(np.mean(each))
    assert one(y, p, "macro_f1") == pytest.approx(np.mean([one(y[:, k], p[:, k], "f1") for k in range(2)]))
    lost = np.array([[1.0, 0, 0, 1]])  # label 0 keeps negatives only
    assert score_all(y, p, names=["auroc"], weights=lost)["auroc"][0] == pytest.approx(1.0)


def test_undefined_auroc_is_nan_not_a_guess():
    assert np.isnan(one([1, 1], [0.2, 0.9], "auroc"))
    assert np.isnan(one([0, 0], [0.2, 0.9], "auprc"))


def test_confusion_rows_are_the_truth():
    matrix = confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), n_classes=3, weights=np.ones((1, 4)))
    assert matrix[0].tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("y", "p", "says"),
    [
        ([0, 1], [0.2], "do not match"),
        ([], [], "do not match"),
        ([0, 1], [0.2, 1.4], "0..1"),
        ([0, 1], [0.2, np.nan], "0..1"),
        ([0, 2], [0.2, 0.3], "labels must lie in 0..1"),
        ([0, 0.9], [0.2, 0.3], "whole numbers"),
        ([0, np.nan], [0.2, 0.3], "whole numbers"),
        ([[0, 1], [1, 1]], [[0.2, 0.3], [0.4, 0.5]], r"labels \[1\] have only one value in these 2"),
    ],
)
def test_bad_input_is_named(y, p, says):
    with pytest.raises(DataError, match=says):
        score_all(np.array(y), np.array(p), names=["accuracy"])


def test_unknown_metric_lists_the_known_ones():
    with pytest.raises(DataError, match=r"\['recal'\].*sensitivity"):
        score_all(np.array([0, 1]), np.array([0.2, 0.9]), names=["recal"])


def test_two_columns_of_a_binary_task_mean_the_second():
    y, p = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.6, 0.7, 0.2, 0.9])
    two = score_all(y, np.c_[1 - p, p], names=[*BINARY, "ece"])
    assert two == score_all(y, p, names=[*BINARY, "ece"])


def test_each_draw_has_its_own_number():
    y = np.array([0, 0, 1, 1])
    draws = [np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.1, 0.8, 0.2, 0.9])]
    assert per_draw(y, draws, "accuracy").tolist() == [1.0, 0.5]


def test_confusion_matrices_are_averaged_over_draws():
    y, right, wrong = np.array([0, 0, 1]), np.eye(2)[[0, 0, 1]], np.eye(2)[[1, 1, 0]]
    assert mean_confusion(y, [right, wrong]).tolist() == [[1.0, 1.0], [0.5, 0.5]]
