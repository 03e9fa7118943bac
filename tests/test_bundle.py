"""What a bundle answers."""

import functools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from toy_bundles import FINDINGS, PAIR, THREE, estimator, network, xrays
from toy_explained import air_and_tissue

from xraykit import explain
from xraykit.bundle import Bundle, Predictor, Support, explained, neighbours, prepared, targets_for
from xraykit.bundle_answers import Answers, answers_of
from xraykit.bundle_build import from_network
from xraykit.bundle_heads import fitted_part
from xraykit.errors import DataError
from xraykit.fewshot_classifiers import CLASSIFIERS
from xraykit.images import Preprocess
from xraykit.known import Known


@pytest.fixture(scope="module")
def pair() -> Bundle:
    return estimator()


def by_hand(*, threshold: float = 0.5, temperature: float = 2.0, **options: object) -> Bundle:
    """A network whose logit is 3 m - 1, m the mean grey level in 0..1."""
    images, codes = xrays(3, side=16)
    about = {"classes": PAIR, "size": 16, "images": images, "labels": codes, "name": "by hand"}
    about |= {"temperature": temperature, "thresholds": [threshold], "architecture": "own"}
    return from_network(air_and_tissue(), **about | options)


# ---- probabilities and decisions


@pytest.mark.parametrize(("threshold", "said"), [(0.59, "pneumonia"), (0.6, "normal")])
def test_a_probability_and_its_threshold(threshold: float, said: str) -> None:
    grey = np.full((1, 20, 30), 153, np.uint8)  # .6, so that the logit is .8
    answers = Predictor(by_hand(threshold=threshold)).answer(grey)
    p = expit(0.8 / 2)  # .5987
    np.testing.assert_allclose(answers.probabilities, [[1 - p, p]], atol=1e-6)
    assert answers.said == (said,)
    np.testing.assert_allclose(answers.features, [[0.6, 0.4]], atol=1e-6)
    assert (answers.features.dtype, answers.probabilities.dtype) == (np.float32, np.float64)


def test_the_threshold_itself_is_positive() -> None:
    bundle = by_hand()
    features = np.float32([[1 / 3, 2 / 3]])
    p = answers_of(bundle, features).probabilities[0, 1]
    assert answers_of(replace(bundle, thresholds=(p,)), features).said == ("pneumonia",)
    assert answers_of(replace(bundle, thresholds=(np.nextafter(p, 1),)), features).said == ("normal",)


def test_the_largest_of_three_wins() -> None:
    answers = Predictor(network("multiclass")).answer(xrays(4, 3)[0])
    assert answers.said == tuple(THREE[k] for k in answers.probabilities.argmax(axis=1))
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1)


def test_findings_have_a_threshold_each() -> None:
    bundle = network("multilabel")
    images = xrays(2)[0]
    p = Predictor(bundle).answer(images).probabilities
    for thresholds, said in (
        ((0, 0, 0), "mass, nodule, oedema"),
        ((1, 0, 1), "nodule"),
        ((1, 1, 1), "none"),
    ):
        answers = Predictor(replace(bundle, thresholds=thresholds)).answer(images)
        assert answers.said == (said,) * 4
        np.testing.assert_array_equal(answers.probabilities, p)


def test_far_from_the_known_images_is_unknown() -> None:
    bundle = by_hand()

    class Far(Known):
        def distance(self, features: np.ndarray) -> np.ndarray:
            return np.array([0.5, 1.0, 1.01])

    answers = answers_of(
        replace(bundle, known=Far(bundle.known.features, 1.0)), np.eye(3, 2, dtype=np.float32)
    )
    assert answers.distance.tolist() == [0.5, 1.0, 1.01]
    assert answers.unknown.tolist() == [False, False, True]


def test_an_estimator_answers_as_scikit_learn(pair: Bundle) -> None:
    answers = Predictor(pair).answer(xrays(3, seed=1)[0])
    np.testing.assert_array_equal(
        answers.probabilities, pair.head.predict_proba(answers.features.astype(float))
    )
    assert answers.said == (*("normal",) * 3, *("pneumonia",) * 3)
    assert (pair.few_shot, pair.size, network().few_shot) == (True, 96, False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite(pair: Bundle, bad: float) -> None:
    with pytest.raises(DataError, match="phantom makes NaN or infinite features"):
        answers_of(pair, np.full((1, 256), bad, np.float32))


# ---- batches


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_stream_gives_the_answers_of_each_batch_in_order(pair: Bundle, batch_size: int) -> None:
    images = xrays(4, seed=2)[0]
    whole = Predictor(pair).answer(images)
    parts = [images[:1], images[1:6], [*images[6:]]]
    found = list(Predictor(pair, batch_size=batch_size).stream(parts))
    assert [len(a.said) for a in found] == [1, 5, 2]
    np.testing.assert_allclose(
        np.concatenate([a.probabilities for a in found]), whole.probabilities, atol=1e-5
    )
    assert sum((a.said for a in found), ()) == whole.said


def test_a_stream_reads_no_further_than_it_answers(pair: Bundle) -> None:
    read = []

    def batches() -> Iterator[np.ndarray]:
        for row in range(5):
            read.append(row)
            yield xrays(1, seed=row)[0]

    answers = Predictor(pair).stream(batches())
    next(answers)
    assert read == [0]
    assert len(list(answers)) == 4


def test_images_of_different_sizes(pair: Bundle) -> None:
    images = [xrays(1, side=side)[0][0] for side in (40, 64, 200)]
    images.append(images[0][:, :30])
    together = Predictor(pair).answer(images)
    for row, image in enumerate(images):
        alone = Predictor(pair).answer(image[None])
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[row], atol=1e-5)
    assert prepared(pair, images).shape == (4, 96, 96)


def test_preprocessing_is_applied_once() -> None:
    dark = np.full((1, 16, 16), 100, np.uint8)
    answers = Predictor(by_hand(preprocess=Preprocess(size=16, brightness=53))).answer(dark)
    np.testing.assert_allclose(answers.features, [[0.6, 0.4]], atol=1e-6)


def test_openvino_says_nearly_the_same(pair: Bundle) -> None:
    pytest.importorskip("openvino")
    images = xrays(3, seed=3)[0]
    found = Predictor(pair, backend="openvino", batch_size=4).answer(images)
    np.testing.assert_allclose(found.probabilities, Predictor(pair).answer(images).probabilities, atol=1e-3)


def test_bad_images_and_options(pair: Bundle) -> None:
    predictor = Predictor(pair)
    for images, message in (
        (np.zeros((0, 8, 8), np.uint8), "at least one image"),
        ([], "no images; give at least one"),
        (np.zeros((2, 8, 8)), "images are float64"),
        ([np.zeros((8, 8, 3), np.uint8)], r"the image is uint8 \(8, 8, 3\)"),
    ):
        with pytest.raises(DataError, match=message):
            predictor.answer(images)
    with pytest.raises(DataError, match="batch_size is 0; at least 1"):
        Predictor(pair, batch_size=0)
    with pytest.raises(DataError, match="'tensorrt' is unknown"):
        Predictor(pair, backend="tensorrt")


# ---- heat maps


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "KNN"])
@pytest.mark.parametrize("k", [2, 3])
def test_every_classifier_with_a_gradient_can_be_explained(name: str, k: int) -> None:
    bundle = estimator(k, classifier=name)
    images = xrays(2, k, seed=1)[0]
    answers = Predictor(bundle).answer(images)
    targets = targets_for(bundle, answers)
    assert [target.split(" over ")[0] for target in targets] == list(answers.said)
    found = explain.explain(explained(bundle), prepared(bundle, images), target=targets)
    assert found.maps.shape == (2 * k, 96, 96)
    if k == 2:
        margin = fitted_part(bundle.head).decision_function(answers.features.astype(float))
        scale = 1 if name != "nearest class mean" else 0.5
        np.testing.assert_allclose(found.scores[:, 0], scale * margin, rtol=1e-3, atol=1e-3)
        said = np.where(found.scores[:, 0] > 0, "pneumonia", "normal")
        assert said.tolist() == list(answers.said)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_networks_can_be_explained(kind: str) -> None:
    bundle, images = network(kind), xrays(2)[0]
    answers = Predictor(bundle).answer(images)
    targets = targets_for(bundle, answers)
    if kind != "multilabel":
        assert targets == list(answers.said)
    found = explain.explain(explained(bundle, layer="layers.10"), prepared(bundle, images), target=targets)
    assert found.maps.shape == (4, 64, 64)
    assert explained(bundle).layer == "layers.14"


def test_neighbours_cannot_be_explained() -> None:
    with pytest.raises(DataError, match=r"KNeighborsClassifier.* cannot be explained: it has no gradient"):
        explained(estimator(classifier="KNN"))


def test_the_finding_that_is_explained_is_the_one_most_above_its_threshold() -> None:
    bundle = network("multilabel")  # thresholds .3, .5, .6
    p = np.array([[0.5, 0.6, 0.9], [0.45, 0.5, 0.6], [0.1, 0.4, 0.3], [0.1, 0.2, 0.55]])
    answers = Answers(np.zeros((4, 2)), p, ("",) * 4, np.zeros(4), np.zeros(4, bool))
    assert targets_for(bundle, answers) == ["oedema", "mass", "nodule", "oedema"]
    assert bundle.classes == FINDINGS


def test_the_margin_is_over_the_most_probable_other_class() -> None:
    p = np.array([[0.2, 0.5, 0.3], [0.2, 0.1, 0.7]])
    answers = Answers(np.zeros((2, 2)), p, ("bacterial", "viral"), np.zeros(2), np.zeros(2, bool))
    assert targets_for(estimator(3), answers) == ["bacterial over viral", "viral over normal"]


# ---- neighbours


@functools.cache
def one() -> Bundle:
    return by_hand()


def with_support(bundle: Bundle, features: list[list[float]]) -> Bundle:
    n = len(features)
    support = Support(np.zeros((n, 96, 96), np.uint8), np.arange(n) % 2, np.float32(features))
    return replace(bundle, support=support)


def test_neighbours_by_hand(pair: Bundle) -> None:
    bundle = with_support(pair, [[1, 0], [0, 5], [3, 4], [-1, 0]])
    rows, distances = neighbours(bundle, np.array([[2, 0], [0, 1]]), n=3)
    assert rows.tolist() == [[0, 2, 1], [1, 2, 0]]  # of equals the first
    np.testing.assert_allclose(distances, [[0, 0.4, 1], [0, 0.2, 1]], atol=1e-7)
    rows, distances = neighbours(bundle, np.array([[1, 0]]), n=9)
    assert rows.tolist() == [[0, 2, 1, 3]]
    assert distances[0, 3] == 2


def test_neighbours_without_support(pair: Bundle) -> None:
    with pytest.raises(DataError, match="'toy' was saved without pictures of its training images"):
        neighbours(replace(pair, support=None), np.ones((1, 256)), n=1)
    with pytest.raises(DataError, match="n = 0; ask for at least 1"):
        neighbours(pair, np.ones((1, 256)), n=0)


@given(
    st.lists(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), min_size=1, max_size=6),
    st.integers(1, 7),
)
def test_neighbours_are_sorted_and_in_range(features: list[list[float]], n: int) -> None:
    bundle = with_support(one(), features)
    rows, distances = neighbours(bundle, np.array([[1.0, 2.0, -1.0]]), n=n)
    assert rows.shape == distances.shape == (1, min(n, len(features)))
    assert (np.diff(distances) >= 0).all()
    assert ((distances >= 0) & (distances <= 2)).all()
    assert len(set(rows[0])) == rows.size
