"""Labels spread over the unlabelled pool and from there to test images, each judged alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from sklearn.semi_supervised import LabelSpreading

from xraykit import fewshot
from xraykit.errors import DataError
from xraykit.fewshot_propagation import carried, neighbours, pool_shares, propagate, spread

LP = "label propagation"
# Cosines .6 of rows 0 and 1, .8 of rows 1 and 2, 0 of rows 0 and 2; row 3 is at least 98 degrees from all.
CHAIN = np.array([[1, 0], [3, 4], [0, 2], [-1, -1]], np.float32)
S, T = 0.6**1.5 / np.sqrt(0.6**3 + 0.8**3), 0.8**1.5 / np.sqrt(0.6**3 + 0.8**3)  # s * s + t * t = 1


def random_features(n: int, seed: int, dim: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def on_a_circle(degrees: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1).astype(np.float32)


@pytest.fixture
def blobs() -> dict:
    """Arguments of propagate: pool (90, 6) of three classes, test (25, 6), two draws of 4 a class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=90)
    pool = (rng.normal(size=(90, 6)) + 2 * np.eye(6)[labels]).astype(np.float32)
    support = fewshot.draws(labels, np.arange(90).astype(str), shots=(4,), n_draws=2, seed=0)
    test = random_features(25, 1, 6)
    return {"pool": pool, "labels": labels, "test": test, "support": support, "shots": (2, 4)}


def test_the_graph_by_hand() -> None:
    """Row 1 is nearest to rows 0 and 2, row 2 to row 1; no row is like row 3."""
    graph = neighbours(CHAIN, n_neighbors=1)
    # W has .6^3 and .8^3, so the row sums are .6^3, .6^3 + .8^3 and .8^3.
    expected = [[0, S, 0, 0], [S, 0, T, 0], [0, T, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(graph.toarray(), expected, atol=1e-7)
    assert graph.format == "csr"
    # With all others as neighbours the cosines 0 and below still carry no weight.
    np.testing.assert_allclose(neighbours(CHAIN, n_neighbors=3).toarray(), expected, atol=1e-7)


@given(st.integers(2, 30), st.integers(1, 29), st.integers(0, 9))
def test_the_graph_is_symmetric_without_loops_and_bounded(n: int, n_neighbors: int, seed: int) -> None:
    pool = random_features(n, seed)
    pool[n // 2] = pool[0]  # twins
    dense = neighbours(pool, n_neighbors=min(n_neighbors, n - 1)).toarray()
    np.testing.assert_allclose(dense, dense.T, rtol=1e-12)
    assert not dense.diagonal().any()
    assert dense.min() >= 0
    assert np.abs(np.linalg.eigvalsh(dense)).max() <= 1 + 1e-9
    # With all as neighbours the degrees are known, and their roots are an eigenvector to the eigenvalue 1.
    weights = np.maximum(unit(pool) @ unit(pool).T, 0) ** 3
    np.fill_diagonal(weights, 0)
    root = np.sqrt(weights.sum(axis=1))
    np.testing.assert_allclose(neighbours(pool, n_neighbors=n - 1) @ root, root, atol=1e-6)


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)


@settings(max_examples=30)
@given(st.integers(3, 25), st.floats(0.05, 0.95), st.integers(0, 9))
def test_iteration_reaches_the_closed_form(n: int, alpha: float, seed: int) -> None:
    graph = neighbours(random_features(n, seed), n_neighbors=2)
    labelled = np.eye(n)[:, :3]
    found = spread(graph, labelled, alpha=alpha)
    exact = (1 - alpha) * np.linalg.solve(np.eye(n) - alpha * graph.toarray(), labelled)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-12)
    # However far a label travels, and however little of it arrives.
    _, part = connected_components(graph)
    np.testing.assert_array_equal(found > 0, part[:, None] == part[:3])


def test_label_spreading_of_scikit_learn_agrees() -> None:
    pool, alpha = random_features(60, 3), 0.7
    labels = np.full(60, -1)
    labels[:6] = [0, 1, 2, 0, 1, 2]
    one_way = np.zeros((60, 60))
    cos = unit(pool) @ unit(pool).T
    np.fill_diagonal(cos, -1)
    near = np.argsort(-cos, axis=1)[:, :7]
    np.put_along_axis(one_way, near, np.maximum(np.take_along_axis(cos, near, axis=1), 0) ** 3, axis=1)
    theirs = LabelSpreading(
        kernel=lambda a, b: np.maximum(one_way, one_way.T), alpha=alpha, max_iter=1000, tol=1e-12
    )
    expected = theirs.fit(pool, labels).label_distributions_
    assert (expected.sum(axis=1) > 0.99).all()  # all are reached, so that the comparison says something
    found = spread(neighbours(pool, n_neighbors=7), (labels[:, None] == np.arange(3)) * 1.0, alpha=alpha)
    np.testing.assert_allclose(found / found.sum(axis=1, keepdims=True), expected, atol=1e-5)


def test_shares_by_hand() -> None:
    """Labels at the ends of the chain 0 - 1 - 2; row 3 is reached by neither.

    From row 0, with a = alpha: F_1 = a (s F_0 + t F_2), F_2 = a t F_1 and F_0 = 1 - a + a s F_1. Since
    s s + t t = 1 that is F_1 = a s / (1 + a), F_2 = a a s t / (1 + a), F_0 = 1 - a + a a s s / (1 + a).
    """
    support, a = np.array([[[0], [2]]]), 0.8
    about = {"support": support, "shots": (1,), "n_neighbors": 1, "alpha": a}
    found = pool_shares(CHAIN, np.array([0, 0, 1, 1]), **about)[LP, 1]
    b = a / (1 + a)
    from_0 = np.array([1 - a + a * b * S * S, b * S, a * b * S * T])
    from_2 = np.array([a * b * S * T, b * T, 1 - a + a * b * T * T])
    mass = np.stack([from_0 / from_0.sum(), from_2 / from_2.sum()], axis=1)
    expected = np.vstack([mass / mass.sum(axis=1, keepdims=True), [[0.5, 0.5]]])
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    assert found.dtype == np.float32


def test_class_mass_is_equal_before_the_rows_are_normalised() -> None:
    """Class 0 labels one of twenty images that are much alike, class 1 one of two far from them."""
    pool = on_a_circle(np.r_[np.linspace(0, 1, 20), 60, 61])
    labels = np.repeat([0, 1], [20, 2])
    about = {"support": np.array([[[0], [20]]]), "shots": (1,), "n_neighbors": 19}
    found = pool_shares(pool, labels, **about)[LP, 1][0]
    mass = spread(neighbours(pool, n_neighbors=19), np.eye(22)[:, [0, 20]])
    assert mass[:, 0].sum() != pytest.approx(mass[:, 1].sum(), rel=0.05)
    odds = (mass[:, 1] / mass[:, 1].sum()) / (mass[:, 0] / mass[:, 0].sum())
    np.testing.assert_allclose(found[:, 1] / found[:, 0], odds, rtol=1e-5)


def test_a_test_image_takes_the_weighted_mean_of_its_neighbours_by_hand() -> None:
    shares = {(LP, 1): np.array([[[1, 0], [0.5, 0.5], [0, 1], [0.5, 0.5]]], np.float32)}
    # Cosines with rows 0, 1, 2, 3: .8, .96, .6 and -.99; then 0, -.8, -1, .71; then those of the same length.
    test = np.array([[4, 3], [0, -3], [8, 6]], np.float32)
    two = carried(shares, CHAIN, test, n_neighbors=2)[LP, 1][0]
    second = (0.8**3 * 0 + 0.96**3 * 0.5) / (0.8**3 + 0.96**3)
    np.testing.assert_allclose(two, [[1 - second, second], [0.5, 0.5], [1 - second, second]], atol=1e-6)
    three = carried(shares, CHAIN, test, n_neighbors=3)[LP, 1][0]
    second = (0.96**3 * 0.5 + 0.6**3) / (0.8**3 + 0.96**3 + 0.6**3)
    np.testing.assert_allclose(three[0, 1], second, atol=1e-6)
    # Nothing in the pool is like it: it points away from rows 0 to 2, which are all that there is.
    away = carried({(LP, 1): shares[LP, 1][:, :3]}, CHAIN[:3], np.float32([[-1, -1]]), n_neighbors=2)
    assert away[LP, 1].tolist() == [[[0.5, 0.5]]]


def test_labels_travel_along_a_chain_that_a_class_mean_cuts() -> None:
    """Class 0 reaches from 0 to 100 degrees, class 1 from 140 to 240; one labelled image at 0 and at 140."""
    degrees = np.r_[np.arange(0, 101, 4), np.arange(140, 241, 4)]
    labels = (degrees > 120).astype(int)
    pool, test = on_a_circle(degrees), on_a_circle(degrees + 2.0)[:-1]
    truth = labels[:-1]
    support = np.array([[[0], [int(np.flatnonzero(degrees == 140)[0])]]])
    found = propagate(pool, labels, test, support=support, shots=(1,), n_neighbors=2)[LP, 1][0]
    keep = degrees[:-1] != 100  # its test image lies in the gap
    np.testing.assert_array_equal(found.argmax(axis=1)[keep], truth[keep])
    mean = fewshot.evaluate(
        pool, labels, test, support=support, shots=(1,), classifiers=["nearest class mean"]
    )
    said = mean["nearest class mean", 1][0].argmax(axis=1)
    assert (said != truth)[keep].sum() >= 5


def test_shapes_and_sums(blobs: dict) -> None:
    found = propagate(**blobs)
    assert set(found) == {(LP, 2), (LP, 4)}
    for scores in found.values():
        assert scores.shape == (2, 25, 3)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores.sum(axis=2), 1, atol=1e-6)
    without_test = {key: value for key, value in blobs.items() if key != "test"}
    of_pool = pool_shares(**without_test)
    assert of_pool[LP, 2].shape == (2, 90, 3)
    again = carried(of_pool, blobs["pool"], blobs["test"])
    np.testing.assert_array_equal(again[LP, 4], found[LP, 4])
    fewer = {**blobs, "support": blobs["support"][:, :, :2], "shots": (2,)}
    np.testing.assert_allclose(propagate(**fewer)[LP, 2], found[LP, 2], atol=1e-6)
    assert np.abs(found[LP, 2] - found[LP, 4]).max() > 0.01
    # Labels of a class raise that class where it is labelled, and almost everywhere else.
    assert (of_pool[LP, 4].argmax(axis=2) == blobs["labels"]).mean() > 0.8
    np.testing.assert_array_equal(
        np.take_along_axis(of_pool[LP, 4].argmax(axis=2), blobs["support"].reshape(2, -1), axis=1),
        np.tile(np.repeat([0, 1, 2], 4), (2, 1)),
    )


def test_each_test_image_is_judged_alone(blobs: dict) -> None:
    together = propagate(**blobs)
    alone = propagate(**{**blobs, "test": blobs["test"][7:8]})
    others = blobs["test"].copy()
    others[:7] = 50 * blobs["pool"][:7]
    changed = propagate(**{**blobs, "test": others})
    for key, scores in together.items():
        np.testing.assert_allclose(alone[key][:, 0], scores[:, 7], atol=1e-6)
        np.testing.assert_allclose(changed[key][:, 7:], scores[:, 7:], atol=1e-6)
        assert np.abs(changed[key][:, :7] - scores[:, :7]).max() > 0.01


def test_only_labels_of_drawn_images_are_used(blobs: dict) -> None:
    rest = np.setdiff1d(np.arange(90), blobs["support"])
    shuffled = blobs["labels"].copy()
    shuffled[rest] = np.random.default_rng(0).permutation(shuffled[rest])
    assert (shuffled != blobs["labels"]).sum() > 20
    before, after = propagate(**blobs), propagate(**{**blobs, "labels": shuffled})
    for key, scores in before.items():
        np.testing.assert_array_equal(scores, after[key])


def test_unlabelled_images_of_the_pool_do_matter(blobs: dict) -> None:
    other = blobs["pool"].copy()
    rest = np.setdiff1d(np.arange(90), blobs["support"])
    other[rest] = random_features(len(rest), 5, 6)
    assert np.abs(propagate(**{**blobs, "pool": other})[LP, 4] - propagate(**blobs)[LP, 4]).max() > 0.1


def test_a_draw_does_not_depend_on_the_others_or_on_the_scale(blobs: dict) -> None:
    both = propagate(**blobs)
    one = propagate(**{**blobs, "support": blobs["support"][1:]})
    scaled = propagate(**{**blobs, "pool": 7 * blobs["pool"]})
    for key, scores in both.items():
        np.testing.assert_allclose(one[key][0], scores[1], atol=1e-5)
        np.testing.assert_allclose(scaled[key], scores, atol=1e-5)


def test_bad_input(blobs: dict) -> None:
    nan = blobs["pool"].copy()
    nan[3, 4] = np.nan
    bad = [
        ({"pool": nan}, "pool features: row 3, column 4 is nan"),
        ({"test": blobs["test"][:, :5]}, r"test features \(25, 5\)"),
        ({"labels": np.zeros(90, int)}, r"none is of class \[1, 2\]"),
        ({"shots": (5,)}, r"shots \[5\] must lie in 1\.\.4"),
        ({"n_neighbors": 0}, "n_neighbors = 0; choose a whole number from 1 to 89"),
        ({"n_neighbors": 90}, "n_neighbors = 90"),
        ({"n_neighbors": 2.5}, r"n_neighbors = 2\.5"),
        ({"alpha": 0.0}, r"alpha = 0\.0"),
        ({"alpha": 1.0}, r"alpha = 1\.0; choose above 0"),
        ({"alpha": float("nan")}, "alpha = nan"),
    ]
    for change, message in bad:
        with pytest.raises(DataError, match=message):
            propagate(**{**blobs, **change})
    shares = {(LP, 1): np.full((1, 4, 2), 0.5, np.float32)}
    for pool, test in ((CHAIN, random_features(2, 0, 3)), (CHAIN[:3], CHAIN)):
        with pytest.raises(DataError, match="do not match"):
            carried(shares, pool, test, n_neighbors=1)
