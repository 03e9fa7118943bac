"""Fitted scikit-learn classifiers as differentiable modules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC

from xraykit.errors import DataError
from xraykit.explain_heads import head_of

NAMES = ("normal", "bacterial", "viral")
KERNELS = {
    "linear": SVC(kernel="linear", C=0.5),
    "rbf, scale": SVC(),
    "rbf, auto": SVC(gamma="auto", C=10),
    "rbf, number": SVC(gamma=0.3),
    "poly, scale": SVC(kernel="poly"),
    "poly, auto": SVC(kernel="poly", degree=2, gamma="auto", coef0=1),
    "poly, number": SVC(kernel="poly", degree=4, gamma=0.2, coef0=-0.5),
    "class weights": SVC(class_weight="balanced"),
    "other class weights": SVC(kernel="linear", C=10, class_weight={0: 2, 1: 0.5}),
}
SCALINGS = {
    "none": (),
    "standard": (StandardScaler(),),
    "unit length": (Normalizer(),),
    "both": (StandardScaler(), Normalizer()),
    "both, the other way round": (Normalizer(), StandardScaler()),
    "without mean": (StandardScaler(with_mean=False),),
    "without std": (StandardScaler(with_std=False),),
    "neither": (StandardScaler(with_mean=False, with_std=False),),
}


def data(k: int, *, dtype: type = np.float32, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (50, 6) of k classes of unequal size, their labels, and 20 others, some of them far away."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), np.sort(rng.integers(k + 1, size=50 - k)) % k])
    scale = np.array([0.1, 1, 3, 1, 1, 0.5])
    x = scale * (rng.normal(size=(50, 6)) + 0.6 * rng.normal(size=(k, 6))[y] + 0.5)
    others = scale * np.repeat([1, 5], 10)[:, None] * rng.normal(size=(20, 6))
    return x.astype(dtype), y, others.astype(dtype)


def margins(fitted: BaseEstimator, features: np.ndarray, k: int) -> np.ndarray:
    head = head_of(fitted, NAMES[:k])
    found = head(torch.from_numpy(features))
    assert found.dtype == torch.float64
    assert found.shape == (len(features), len(head.names))
    half = found.shape[1] // 2
    assert torch.equal(found[:, half:], -found[:, :half])
    return found[:, :half].numpy()


def decision(fitted: BaseEstimator, features: np.ndarray) -> np.ndarray:
    """What scikit-learn says, (B, P)."""
    return fitted.decision_function(features).reshape(len(features), -1)


def pairs_of(scores: np.ndarray) -> np.ndarray:
    """Differences of the scores of two classes each, i < j; of two classes the second minus the first."""
    if scores.shape[1] == 2:
        return scores[:, 1:] - scores[:, :1]
    return np.stack([scores[:, i] - scores[:, j] for i, j in ((0, 1), (0, 2), (1, 2))], axis=1)


def test_a_linear_margin_by_hand() -> None:
    x = np.array([[0.0, 0.0], [2.0, 0.0]])
    fitted = SVC(kernel="linear", C=100).fit(x, [0, 1])  # the widest gap: x_0 - 1
    head = head_of(fitted, ("normal", "pneumonia"))
    assert head.names == ("pneumonia over normal", "normal over pneumonia")
    found = head(torch.tensor([[0.0, 7.0], [1.0, 0.0], [3.5, -1.0]]))
    np.testing.assert_allclose(found, [[-1, 1], [0, 0], [2.5, -2.5]], atol=1e-12)


def test_a_nearest_mean_by_hand() -> None:
    x = np.array([[0, 0], [2, 0], [0, 4]]) + np.array([[[-1, -1]], [[1, 1]]])
    fitted = NearestCentroid().fit(x.reshape(6, 2), [0, 1, 2, 0, 1, 2])
    head = head_of(fitted, NAMES)
    # squared distances of (1, 1) to the means: 2, 2 and 10; half the differences, the near class positive
    np.testing.assert_allclose(head(torch.ones(1, 2)), [[0, 4, 4, 0, -4, -4]], atol=1e-12)


def test_names_of_three_classes() -> None:
    x, y, _ = data(3)
    names = ("normal over bacterial", "normal over viral", "bacterial over viral")
    turned = ("bacterial over normal", "viral over normal", "viral over bacterial")
    for fitted in (SVC().fit(x, y), LogisticRegression().fit(x, y), NearestCentroid().fit(x, y)):
        assert head_of(fitted, NAMES).names == names + turned
    head = head_of(SVC().fit(x, y), ("left over right", "a", "b"))  # a name may hold the word
    assert head.names[3] == "a over left over right"


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_margins_of_an_svc_are_its_decision_function(kernel: str, scaling: str, k: int) -> None:
    # In float64 nothing but the order of sums differs. Embeddings are float32, and there StandardScaler
    # rounds to float32, which the head does not.
    for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 1e-4)):
        x, y, others = data(k, dtype=dtype)
        machine = clone(KERNELS[kernel]).set_params(decision_function_shape="ovo")
        fitted = make_pipeline(*map(clone, SCALINGS[scaling]), machine).fit(x, y)
        expected = decision(fitted, others)
        np.testing.assert_allclose(margins(fitted, others, k), expected, atol=tolerance * np.ptp(expected))


@settings(max_examples=40)
@given(
    kernel=st.sampled_from(list(KERNELS)),
    scaling=st.sampled_from(["none", "standard", "unit length", "both"]),
    k=st.sampled_from([2, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_margins_of_any_embeddings(kernel: str, scaling: str, k: int, seed: int) -> None:
    x, y, others = data(k, seed=seed)
    machine = clone(KERNELS[kernel]).set_params(decision_function_shape="ovo")
    fitted = make_pipeline(*map(clone, SCALINGS[scaling]), machine).fit(x, y)
    expected, found = decision(fitted, others), margins(fitted, others, k)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))
    if k == 2:
        sure = abs(expected[:, 0]) > 1e-3
        assert ((found[:, 0] > 0) == fitted.predict(others))[sure].all()


def test_float32_without_a_scaler_is_exact() -> None:
    x, y, others = data(3)
    for machine in KERNELS.values():
        fitted = clone(machine).set_params(decision_function_shape="ovo").fit(x, y)
        expected = decision(fitted, others)
        np.testing.assert_allclose(margins(fitted, others, 3), expected, atol=1e-9 * np.ptp(expected))


def test_votes_of_the_margins_are_the_prediction() -> None:
    x, y, others = data(3, dtype=np.float64)
    fitted = make_pipeline(StandardScaler(), SVC(decision_function_shape="ovr")).fit(x, y)
    found = margins(fitted, others, 3) > 0
    votes = np.stack([found[:, :2].sum(1), ~found[:, 0] + 0 + found[:, 2], (~found[:, 1:]).sum(1)], axis=1)
    clear = votes.max(axis=1) == 2  # else one vote each
    assert clear.sum() > 10
    assert (votes.argmax(axis=1) == fitted.predict(others))[clear].all()


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_logistic_regression(scaling: str, k: int) -> None:
    x, y, others = data(k, dtype=np.float64)
    machine = LogisticRegression(class_weight="balanced", max_iter=1000)
    fitted = make_pipeline(*map(clone, SCALINGS[scaling]), machine).fit(x, y)
    scores = decision(fitted, others)
    expected = scores if k == 2 else pairs_of(scores)
    np.testing.assert_allclose(margins(fitted, others, k), expected, atol=1e-9)
    # The same by probabilities: a difference of logits is the logarithm of their ratio.
    p = np.log(fitted.predict_proba(others))
    np.testing.assert_allclose(margins(fitted, others, k), pairs_of(p), atol=1e-6)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("shrink", [None, 0.3])
def test_nearest_class_mean(shrink: float | None, scaling: str, k: int) -> None:
    x, y, others = data(k, dtype=np.float64)
    fitted = make_pipeline(*map(clone, SCALINGS[scaling]), NearestCentroid(shrink_threshold=shrink)).fit(x, y)
    inner = fitted[:-1].transform(others) if len(fitted) > 1 else others
    distances = cdist(inner, fitted[-1].centroids_, "sqeuclidean")
    found = margins(fitted, others, k)
    np.testing.assert_allclose(found, pairs_of(-distances / 2), atol=1e-9)
    predicted = fitted.predict(others)
    if k == 2:
        assert ((found[:, 0] > 0) == predicted).all()
    else:
        against_first = np.stack([np.zeros(20), -found[:, 0], -found[:, 1]], axis=1)
        assert (against_first.argmax(axis=1) == predicted).all()
    assert len(set(predicted)) == k


def fitted_heads() -> dict[str, BaseEstimator]:
    x, y, _ = data(3, dtype=np.float64)
    heads = {name: clone(machine) for name, machine in KERNELS.items()}
    heads |= {"logistic regression": LogisticRegression(), "means": NearestCentroid()}
    heads |= {f"{name}, scaled": make_pipeline(StandardScaler(), Normalizer(), clone(heads[name])) for name in
              ("linear", "rbf, scale", "poly, auto", "logistic regression", "means")}  # fmt: skip
    return {name: machine.fit(x, y) for name, machine in heads.items()}


@pytest.mark.parametrize(("name", "fitted"), fitted_heads().items())
def test_gradients_are_finite_differences(name: str, fitted: BaseEstimator) -> None:
    head, (_, _, others) = head_of(fitted, NAMES), data(3, dtype=np.float64)
    features = torch.from_numpy(others[:2]).requires_grad_()
    assert torch.autograd.gradcheck(head, (features,), eps=1e-6, atol=1e-6, rtol=1e-5)
    # And by scikit-learn alone, along a random direction.
    step = 1e-5 * np.random.default_rng(1).normal(size=(2, 6))
    (slope,) = torch.autograd.grad(head(features)[:, 2].sum(), features)
    ahead, behind = (margins(fitted, others[:2] + s, 3)[:, 2] for s in (step, -step))
    if name in KERNELS:
        fitted.set_params(decision_function_shape="ovo")
        ahead, behind = (decision(fitted, others[:2] + s)[:, 2] for s in (step, -step))
    expected = (ahead - behind) / 2
    np.testing.assert_allclose((slope.numpy() * step).sum(axis=1), expected, rtol=1e-4, atol=1e-10)


def test_features_of_zeros_stay_zeros() -> None:
    x, y, _ = data(2)
    fitted = make_pipeline(Normalizer(), SVC()).fit(x, y)
    zeros = torch.zeros(1, 6, requires_grad=True)
    head = head_of(fitted, NAMES[:2])
    assert head(zeros)[0, 0].item() == pytest.approx(fitted.decision_function(np.zeros((1, 6)))[0])
    (slope,) = torch.autograd.grad(head(zeros)[0, 0], zeros)
    assert slope.isfinite().all()


def test_a_head_holds_no_weights_that_learn_and_stays_in_evaluation_mode() -> None:
    x, y, _ = data(2)
    head = head_of(make_pipeline(StandardScaler(), SVC()).fit(x, y), NAMES[:2])
    assert not list(head.parameters())
    assert not any(b.requires_grad for b in head.buffers())
    assert not head.training


X, Y, _ = data(2, dtype=np.float64)
X3, Y3, _ = data(3, dtype=np.float64)
ONLY = r"[sS]upported: SVC \(linear, rbf, poly\), LogisticRegression or NearestCentroid \(euclidean\), alone"


@pytest.mark.parametrize(
    ("fitted", "message"),
    [
        (KNeighborsClassifier().fit(X, Y), r"KNeighborsClassifier\(\) cannot be explained.*no gradient"),
        (LinearSVC().fit(X, Y), "LinearSVC.. cannot be explained"),
        (SVC(kernel="sigmoid").fit(X, Y), "SVC.kernel='sigmoid'. cannot be explained"),
        (SVC(kernel="precomputed").fit(X @ X.T, Y), "SVC.kernel='precomputed'. cannot be explained"),
        (SVC(kernel=lambda a, b: a @ b.T).fit(X, Y), "SVC.kernel=<function .* cannot be explained"),
        (make_pipeline(PCA(3), SVC()).fit(X, Y), r"PCA\(n_components=3\) before the classifier cannot be"),
        (make_pipeline(MinMaxScaler(), SVC()).fit(X, Y), "MinMaxScaler.. before the classifier cannot be"),
        (make_pipeline(Normalizer("l1"), SVC()).fit(X, Y), r"Normalizer\(norm='l1'\) before the classifier"),
        (make_pipeline("passthrough", SVC()).fit(X, Y), "passthrough before the classifier cannot be"),
        (NearestCentroid(metric="manhattan").fit(X, Y), "metric='manhattan'. cannot be explained"),
        (SVC(), "SVC is not fitted, or no classifier; fit it first"),
        (make_pipeline(StandardScaler(), SVC()), "StandardScaler is not fitted, or no classifier"),
        (make_pipeline(Normalizer(), SVC()), "SVC is not fitted, or no classifier"),
        (Ridge().fit(X, Y), "Ridge is not fitted, or no classifier"),
        (SVR().fit(X, Y), "SVR is not fitted, or no classifier"),
        (torch.nn.Linear(6, 2), "Linear is not fitted, or no classifier"),
    ],
)
def test_what_is_not_supported_says_what_is(fitted: BaseEstimator, message: str) -> None:
    with pytest.raises(DataError, match=f"{message}.*{ONLY}"):
        head_of(fitted, NAMES[:2])


@pytest.mark.parametrize(
    ("fitted", "message"),
    [
        (
            SVC().fit(csr_matrix(X), Y),
            "the SVC was fitted to a sparse matrix; fit it to an array",
        ),
        (NearestCentroid(priors=[0.9, 0.1]).fit(X, Y), r"by \[0.9 0.1\]; fit it with uniform priors"),
        (NearestCentroid(priors="empirical").fit(X, Y), "weighs its classes .* fit it with uniform priors"),
        (
            SVC().fit(X, Y + 1),
            r"SVC was fitted to the labels \[1 2\], but there are the 2 classes normal, ",
        ),
        (SVC().fit(X, np.array(["n", "b"])[Y]), r"labels \['b' 'n'\], .* fit it to 0 to 1, all present"),
        (SVC().fit(X3, Y3), r"labels \[0 1 2\], but there are the 2 classes"),
        (SVC().fit(X3[Y3 != 1], Y3[Y3 != 1]), r"labels \[0 2\], but there are the 2 classes"),
        (KNeighborsClassifier().fit(X, np.stack([Y, Y], 1)), "KNeighborsClassifier was fitted to the labels"),
    ],
)
def test_what_must_be_fitted_otherwise(fitted: BaseEstimator, message: str) -> None:
    with pytest.raises(DataError, match=message):
        head_of(fitted, NAMES[:2])


def test_uniform_priors_given_as_numbers_are_supported() -> None:
    fitted = NearestCentroid(priors=[0.5, 0.5]).fit(X, Y)
    np.testing.assert_array_equal(margins(fitted, X, 2), margins(NearestCentroid().fit(X, Y), X, 2))
