"""Fits on all images, class priors and thresholds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from sklearn.svm import SVC

from xraykit import fewshot
from xraykit.errors import DataError
from xraykit.fewshot_shift import best_threshold, explanations, fit_scores, prior_corrected, told_apart
from xraykit.metrics import score_all


def blobs(n: int, positives: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < positives).astype(int)
    return (rng.normal(size=(n, 5)) + labels[:, None]).astype(np.float32), labels


@pytest.mark.parametrize("name", fewshot.CLASSIFIERS)
def test_a_fit_on_all_is_an_evaluation_with_all_in_the_support_set(name: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    train, test = rng.normal(size=(60, 5)) + np.eye(5)[labels], rng.normal(size=(9, 5))
    ours = fit_scores(train, labels, test, classifier=fewshot.classifier(name))
    support = np.arange(60).reshape(1, 3, 20)
    expected = fewshot.evaluate(train, labels, test, support=support, shots=(20,), classifiers=[name])
    np.testing.assert_allclose(ours, expected[name, 20][0], atol=1e-4)
    assert ours.dtype == np.float32


def test_class_weights_move_the_line_as_scikit_learns_do() -> None:
    train, labels = blobs(400, 0.8, 0)
    test, _ = blobs(200, 0.5, 1)
    plain = fit_scores(train, labels, test, classifier=fewshot.classifier("SVC linear"))
    weighted = fit_scores(
        train, labels, test, classifier=fewshot.classifier("SVC linear"), class_weight="balanced"
    )
    expected = SVC(kernel="linear", class_weight="balanced").fit(train, labels).predict(test)
    np.testing.assert_array_equal(weighted.argmax(axis=1), expected)
    assert weighted.argmax(axis=1).mean() < plain.argmax(axis=1).mean() - 0.05


def test_prior_corrected_by_hand() -> None:
    p = np.array([[0.2, 0.8], [0.5, 0.5]])
    # Odds 4 and 1, times (1/1) / (3/1): 4/3 and 1/3.
    found = prior_corrected(p, train_prior=(0.25, 0.75), target_prior=(0.5, 0.5))
    np.testing.assert_allclose(found, [[3 / 7, 4 / 7], [3 / 4, 1 / 4]])
    alone = prior_corrected(p[:, 1], train_prior=(0.25, 0.75), target_prior=(0.5, 0.5))
    np.testing.assert_allclose(alone, found[:, 1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_prior_correction_keeps_the_ranking_and_can_be_undone(p: list, a: float, b: float) -> None:
    p = np.array(p)
    there = prior_corrected(p, train_prior=(1 - a, a), target_prior=(1 - b, b))
    assert (np.diff(there[np.argsort(p)]) >= -1e-12).all()
    np.testing.assert_allclose(
        prior_corrected(there, train_prior=(1 - b, b), target_prior=(1 - a, a)), p, atol=1e-9
    )


def test_prior_correction_recovers_the_other_mix() -> None:
    # Known densities: class c is normal around c, so the posterior is a logistic function of x.
    x = np.linspace(-2, 3, 41)

    def posterior(prior: float) -> np.ndarray:
        return 1 / (1 + np.exp(-(x - 0.5)) * (1 - prior) / prior)

    found = prior_corrected(posterior(0.9), train_prior=(0.1, 0.9), target_prior=(0.6, 0.4))
    np.testing.assert_allclose(found, posterior(0.4))


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])),
        min_size=2,
        max_size=20,
    )
)
def test_no_threshold_is_better(pairs: list) -> None:
    y, p = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    if len(set(y)) < 2:
        with pytest.raises(DataError, match="both present"):
            best_threshold(y, p)
        return

    def macro_f1(threshold: float) -> float:
        return f1_score(y, p >= threshold, average="macro", labels=[0, 1], zero_division=0)

    found = best_threshold(y, p)
    assert macro_f1(found) == pytest.approx(max(map(macro_f1, [*set(p), 2])))


def test_best_threshold_by_hand() -> None:
    y, p = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.7, 0.8, 0.9])
    assert best_threshold(y, p) == pytest.approx(0.75)
    assert best_threshold(y, np.stack([1 - p, p], axis=1)) == pytest.approx(0.75)


def test_bad_input() -> None:
    x, y = blobs(20, 0.5, 0)
    svc = fewshot.classifier("SVC RBF")
    nan = x.copy()
    nan[4, 2] = np.nan
    with pytest.raises(DataError, match="training features: row 4, column 2 is nan"):
        fit_scores(nan, y, x, classifier=svc)
    with pytest.raises(DataError, match="20 labels"):
        fit_scores(x[:-1], y, x, classifier=svc)
    with pytest.raises(DataError, match=r"classes \[1\] of 3 empty"):
        fit_scores(x, 2 * y, x, classifier=svc)
    with pytest.raises(DataError, match="at least two classes"):
        fit_scores(x, 0 * y, x, classifier=svc)
    with pytest.raises(DataError, match="KNN has no loss to weight"):
        fit_scores(x, y, x, classifier=fewshot.classifier("KNN"), class_weight="balanced")
    half = {"train_prior": (0.5, 0.5), "target_prior": (0.5, 0.5)}
    for p in ([1.2], [-0.1], [np.nan], [[0.0, 0.0]], [[0.6, 0.6]]):
        with pytest.raises(DataError, match=r"in 0\.\.1"):
            prior_corrected(np.array(p), **half)
    for prior in ((0.5, 0.4), (1.0, 0.0), (0.2, 0.3, 0.5)):
        with pytest.raises(DataError, match="2 positive shares"):
            prior_corrected(np.array([0.2]), train_prior=(0.5, 0.5), target_prior=prior)
    with pytest.raises(DataError, match=r"labels \(20,\)"):
        best_threshold(y, np.zeros(19))
    with pytest.raises(DataError, match="must be 0 and 1"):
        best_threshold(y + 1, np.zeros(20))


def test_a_class_mix_moves_the_line_and_three_cures_repair_it() -> None:
    train, labels = blobs(3000, 0.9, 0)
    test, truth = blobs(2000, 0.5, 1)
    support = fewshot.draws(labels, np.arange(3000).astype(str), shots=[50], n_draws=2, seed=0)
    found = explanations(train, labels, test, support=support, rng=np.random.default_rng(0))
    assert [len(p) for p in found.values()] == [2, 1, 1, 1, 1]
    assert list(found)[:2] == ["50 a class", "all images"]
    said = {name: float((p[-1] >= 0.5).mean()) for name, p in found.items()}
    assert said["all images"] > 0.65
    plain = score_all(truth, found["all images"][0], names=["macro_f1"])["macro_f1"][0]
    for cure in list(found)[2:]:
        assert abs(said[cure] - 0.5) < 0.05
        assert score_all(truth, found[cure][0], names=["macro_f1"])["macro_f1"][0] > plain + 0.05


def test_one_source_cannot_be_told_apart_and_another_can() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 4)), rng.normal(size=(200, 4))
    ids = np.array([f"a{i // 2}" for i in range(300)]), np.array([f"b{i // 2}" for i in range(200)])
    for moved, low, high in ((0.0, 0.35, 0.65), (2.0, 0.95, 1.0)):
        source, p, patients = told_apart(a, b + moved, *ids, rng=np.random.default_rng(0))
        assert source.tolist() == [0] * 300 + [1] * 200
        assert patients.tolist() == [*ids[0], *ids[1]]
        assert low < score_all(source, p, names=["auroc"])["auroc"][0] <= high


def test_few_patients_of_one_source_with_many_images_score_one_half_on_average() -> None:
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        who = np.repeat(np.arange(40), rng.integers(1, 8, 40))
        x = (rng.normal(size=(40, 6))[who] + rng.normal(size=(len(who), 6))).astype(np.float32)
        first = who < 25
        ids = who.astype(str)
        source, p, _ = told_apart(x[first], x[~first], ids[first], ids[~first], rng=rng)
        found.append(score_all(source, p, names=["auroc"])["auroc"][0])
    assert abs(np.mean(found) - 0.5) < 0.05
