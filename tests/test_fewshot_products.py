"""Classifiers from inner products equal scikit-learn's on the features."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.svm import SVC

from xraykit.fewshot_classifiers import CLASSIFIERS, classifier
from xraykit.fewshot_products import _kernel_logistic, mean_scores, products, pseudo_probabilities, scores


def case(
    *, n: int, n_classes: int, dim: int, seed: int, kind: str = "random"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Support features (n * n_classes, dim), labels, test features (40, dim)."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(n_classes, dim))
    labels = np.repeat(np.arange(n_classes), n)
    x, test = centre[labels] + rng.normal(size=(len(labels), dim)), rng.normal(size=(40, dim)) * 1.5
    if kind == "repeated":  # each image of a class twice
        x[1::2] = x[::2][: len(x[1::2])]
        labels[1::2] = labels[::2][: len(x[1::2])]
    elif kind == "constant":  # and on another scale
        x[:, 0] = test[:, 0] = 1000.0
    elif kind == "flat":  # all variation in one direction
        x, test = x * np.r_[1.0, [1e-6] * (dim - 1)], test * np.r_[1.0, [1e-6] * (dim - 1)]
    elif kind == "far":  # small differences on a large offset, as raw features have them
        x, test = 100 + x, 100 + test
    return x, labels, test


def from_scikit_learn(machine: BaseEstimator, x: np.ndarray, test: np.ndarray) -> np.ndarray:
    if isinstance(machine, SVC):
        return pseudo_probabilities(machine.decision_function(test))
    if hasattr(machine, "centroids_"):
        squared = ((test[:, None] - machine.centroids_) ** 2).sum(axis=2)
        return mean_scores(squared, x.var(axis=0).sum())
    return machine.predict_proba(test)


def compare(name: str, x: np.ndarray, labels: np.ndarray, test: np.ndarray, **parameters: object) -> None:
    fixed = classifier(name, **parameters)
    ours = scores(fixed, products(x, test), labels)
    if name == "KNN":
        fixed = classifier(name, **{**fixed.parameters, "n_neighbors": min(5, len(labels))})
    machine = fixed.estimator().fit(x, labels)
    np.testing.assert_allclose(ours, from_scikit_learn(machine, x, test), atol=1e-4)
    assert ours.shape == (len(test), labels.max() + 1)
    np.testing.assert_allclose(ours.sum(axis=1), 1, atol=1e-9)
    top = np.sort(ours, axis=1)
    clear = top[:, -1] - top[:, -2] > 1e-6
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(ours.argmax(axis=1)[clear], machine.predict(test)[clear])


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # NearestCentroid of one image
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 10])
@pytest.mark.parametrize("dim", [2, 8, 200])
def test_equal_scikit_learn(name: str, n_classes: int, n: int, dim: int) -> None:
    compare(name, *case(n=n, n_classes=n_classes, dim=dim, seed=n))


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # NearestCentroid of a constant feature
@pytest.mark.parametrize("kind", ["repeated", "constant", "flat", "far"])
def test_equal_scikit_learn_on_nearly_degenerate_data(name: str, n_classes: int, kind: str) -> None:
    compare(name, *case(n=8, n_classes=n_classes, dim=6, seed=1, kind=kind))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("SVC linear", {"C": 0.01}),
        ("SVC linear", {"C": 100}),
        ("SVC linear", {"max_iter": 3}),
        ("SVC RBF", {"gamma": 0.3, "C": 10}),
        ("SVC poly", {"gamma": 0.3, "degree": 2, "coef0": 0.0}),
        ("KNN", {"weights": "uniform"}),
        ("logistic regression", {"C": 100}),
    ],
)
@pytest.mark.filterwarnings("ignore:Solver terminated early")
def test_equal_scikit_learn_with_other_hyperparameters(name: str, parameters: dict) -> None:
    compare(name, *case(n=15, n_classes=2, dim=30, seed=2), **parameters)


@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 1000))
def test_every_score_is_a_share(n: int, dim: int, seed: int) -> None:
    x, labels, test = case(n=n, n_classes=3, dim=dim, seed=seed)
    for name in CLASSIFIERS:
        ours = scores(classifier(name), products(x, test), labels)
        assert ours.min() >= 0
        assert ours.max() <= 1 + 1e-12
        np.testing.assert_allclose(ours.sum(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_fold_is_a_fit_on_that_part(name: str) -> None:
    x, labels, test = case(n=6, n_classes=2, dim=5, seed=3)
    whole = products(x, test)
    out = np.array([0, 5, 7])
    rest = np.setdiff1d(np.arange(12), out)
    expected = scores(classifier(name), products(x[rest], x[out]), labels[rest])
    np.testing.assert_allclose(scores(classifier(name), whole.fold(rest, out), labels[rest]), expected)
    expected = scores(classifier(name), products(x[rest], test), labels[rest])
    np.testing.assert_allclose(scores(classifier(name), whole.take(rest), labels[rest]), expected)


@pytest.mark.filterwarnings("ignore:Line search of Newton")  # flat in the direction of the intercept
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_identical_images_know_nothing(name: str) -> None:
    x, test = np.ones((6, 3)), np.ones((2, 3))
    ours = scores(classifier(name), products(x, test), np.repeat([0, 1], 3))
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours[0], ours[1])
    if name != "KNN":  # five of six equally near: a coin
        np.testing.assert_allclose(ours, 0.5, atol=1e-6)


def test_neighbours_by_hand() -> None:
    x, test = np.array([[0.0], [3.0], [10.0]]), np.array([[1.0], [3.0]])
    labels = np.array([0, 1, 1])
    near = scores(classifier("KNN", n_neighbors=2), products(x, test), labels)
    np.testing.assert_allclose(near, [[2 / 3, 1 / 3], [0, 1]])  # weights 1 and 1/2; distance 0 decides alone
    near = scores(classifier("KNN", n_neighbors=9, weights="uniform"), products(x, test), labels)
    np.testing.assert_allclose(near, [[1 / 3, 2 / 3]] * 2)  # of three images at most three vote


def test_nearest_class_mean_by_hand() -> None:
    x, labels = np.array([[0.0], [2.0], [4.0], [6.0]]), np.array([0, 0, 1, 1])
    ours = scores(classifier("nearest class mean"), products(x, np.array([[3.0], [1.0]])), labels)
    # Class means 1 and 5, scatter (9 + 1 + 1 + 9) / 4 = 5: at 3 a tie, at 1 distances 0 and 16.
    np.testing.assert_allclose(ours, [[0.5, 0.5], [1 / (1 + np.exp(-16 / 5)), 1 / (1 + np.exp(16 / 5))]])


def test_more_iterations_than_the_limit_change_an_svc() -> None:
    x, labels, test = case(n=50, n_classes=2, dim=20, seed=0)
    of = products(x, test)
    with pytest.warns(UserWarning, match="terminated early"):
        cut = scores(classifier("SVC linear", max_iter=3), of, labels)
    assert np.abs(cut - scores(classifier("SVC linear"), of, labels)).max() > 0.05


@pytest.mark.parametrize("c", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("kind", ["random", "repeated", "flat", "far"])
def test_two_class_logistic_regression_is_at_its_optimum(c: float, kind: str) -> None:
    x, labels, _ = case(n=12, n_classes=2, dim=40, seed=5, kind=kind)
    weight, intercept = _kernel_logistic(x @ x.T, labels, c=c)
    p = expit(x @ x.T @ weight + intercept)
    # The penalised loss is convex, and this is where its gradient is zero: nothing else needs to be compared.
    np.testing.assert_allclose(weight, c * (labels - p), atol=1e-7 * c)
    assert abs((labels - p).sum()) < 1e-7
