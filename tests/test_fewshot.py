"""Draws, evaluation over draws, ensembles."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from xraykit import fewshot, intervals
from xraykit.errors import DataError
from xraykit.fewshot import classifier, draws, ensemble, evaluate, normalise
from xraykit.shots import k_shot_draw


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pool (200, 20), labels of three classes, patients of two images, test (50, 20), test labels."""
    rng = np.random.default_rng(0)
    labels, test_labels = rng.integers(3, size=200), rng.integers(3, size=50)
    centre = rng.normal(size=(3, 20)) * 0.8
    pool = (centre[labels] + rng.normal(size=(200, 20))).astype(np.float32) * 7 + 3
    test = (centre[test_labels] + rng.normal(size=(50, 20))).astype(np.float32) * 7 + 3
    return pool, labels, np.array([f"p{i // 2}" for i in range(200)], object), test, test_labels


@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 20))
def test_draws_are_nested_draws(k: int, n_draws: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, patients = rng.integers(2, size=80), rng.integers(40, size=80).astype(str)
    support = draws(labels, patients, shots=(1, k), n_draws=n_draws, seed=seed)
    assert support.shape == (n_draws, 2, k)
    for draw in support:
        np.testing.assert_array_equal(labels[draw], np.repeat([[0], [1]], k, axis=1))
        assert len(set(patients[draw.ravel()])) == 2 * k
    # A draw does not depend on how many there are.
    np.testing.assert_array_equal(support[:1], draws(labels, patients, shots=(k,), n_draws=1, seed=seed))


def test_draws_are_k_shot_draws_and_differ(blobs) -> None:
    _, labels, patients, _, _ = blobs
    support = draws(labels, patients, shots=(10,), n_draws=5, seed=3)
    rng = np.random.default_rng(np.random.SeedSequence(3).spawn(5)[4])
    np.testing.assert_array_equal(support[4].ravel(), k_shot_draw(labels, patients, k=10, rng=rng))
    assert len({tuple(draw.ravel()) for draw in support}) == 5


def test_too_few_patients_name_the_feasible_k() -> None:
    labels, patients = np.array([0, 0, 0, 1, 1]), np.array(list("abcde"), object)
    with pytest.raises(DataError, match=r"viral: 2 patients.*largest feasible k is 2"):
        draws(labels, patients, shots=(1, 3), n_draws=1, seed=0, classes=["normal", "viral"])
    with pytest.raises(DataError, match="sick: 0 patients"):
        draws(labels, patients, shots=(1,), n_draws=1, seed=0, classes=["normal", "viral", "sick"])
    with pytest.raises(DataError, match=r"1 draws of \[0, 5\]"):
        draws(labels, patients, shots=(0, 5), n_draws=1, seed=0)
    with pytest.raises(DataError, match="0 draws"):
        draws(labels, patients, shots=(1,), n_draws=0, seed=0)


def test_equals_pipelines_over_the_features(blobs) -> None:
    pool, labels, patients, test, _ = blobs
    support = draws(labels, patients, shots=(1, 4, 9), n_draws=3, seed=0)
    ours = evaluate(*_l2(blobs), support=support, shots=(4, 9, 1), progress=False)
    assert set(ours) == {(name, k) for name in fewshot.CLASSIFIERS for k in (1, 4, 9)}
    scaler = FrozenEstimator(StandardScaler().fit(pool.astype(float)))
    for (name, k), found in ours.items():
        assert found.shape == (3, 50, 3)
        assert found.dtype == np.float32
        small = {"n_neighbors": 3} if name == "KNN" and k == 1 else {}
        for draw, said in zip(support, found.argmax(axis=2), strict=True):
            rows = draw[:, :k].ravel()
            pipeline = make_pipeline(scaler, Normalizer(), classifier(name, **small).estimator())
            with np.errstate(invalid="ignore"):  # NearestCentroid of one image
                pipeline.fit(pool[rows].astype(float), labels[rows])
            np.testing.assert_array_equal(said, pipeline.predict(test.astype(float)))


def _l2(blobs: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pool, labels, _, test, _ = blobs
    pool, test = normalise(pool, test, how="l2")
    return pool, labels, test


def test_scores_go_through_the_bootstrap_and_beat_chance(blobs) -> None:
    pool, labels, patients, test, test_labels = blobs
    support = draws(labels, patients, shots=(10,), n_draws=3, seed=0)
    found = evaluate(*_l2(blobs), support=support, shots=(10,))
    majority = DummyClassifier().fit(pool, labels).score(test, test_labels)
    for scores in found.values():
        result = intervals.bootstrap(
            test_labels, scores, np.arange(50).astype(str), names=["accuracy", "auroc"], seed=0, n_boot=50
        )
        assert result["accuracy"].value > majority + 0.1
        assert result["auroc"].n_draws == 3
    # Labels that mean nothing teach nothing.
    shuffled = np.random.default_rng(0).permutation(labels)
    support = draws(shuffled, patients, shots=(10,), n_draws=3, seed=0)
    lost = evaluate(_l2(blobs)[0], shuffled, _l2(blobs)[2], support=support, shots=(10,))
    accuracy = np.mean([(s.argmax(axis=2) == test_labels).mean() for s in lost.values()])
    assert abs(accuracy - 1 / 3) < 0.12


def test_nothing_of_the_rest_of_the_pool_is_used(blobs) -> None:
    pool, labels, test = _l2(blobs)
    support = draws(labels, blobs[2], shots=(3,), n_draws=2, seed=0)
    other, other_labels = pool.copy(), labels.copy()
    rest = np.setdiff1d(np.arange(len(pool)), support)
    other[rest], other_labels[rest] = 99, 0
    before = evaluate(pool, labels, test, support=support, shots=(3,))
    after = evaluate(other, other_labels, test, support=support, shots=(3,))
    for key, scores in before.items():
        np.testing.assert_array_equal(scores, after[key])


def test_each_test_image_is_judged_alone(blobs) -> None:
    pool, labels, test = _l2(blobs)
    support = draws(labels, blobs[2], shots=(5,), n_draws=2, seed=0)
    together = evaluate(pool, labels, test, support=support, shots=(5,))
    alone = evaluate(pool, labels, test[7:9], support=support, shots=(5,))
    for key, scores in alone.items():
        np.testing.assert_allclose(scores, together[key][:, 7:9], atol=1e-6)


DIGEST = """
import hashlib
import numpy as np
from xraykit.fewshot import draws, evaluate
rng = np.random.default_rng(0)
pool, test = rng.normal(size=(2, 300, 64)).astype(np.float32)
labels = rng.integers(2, size=300)
support = draws(labels, np.arange(300).astype(str), shots=(5, 50), n_draws=6, seed=0)
found = evaluate(pool, labels, test, support=support, shots=(5, 50))
print(hashlib.sha256(b"".join(f.tobytes() for f in found.values())).hexdigest())
"""


def test_the_same_whatever_the_number_of_threads() -> None:
    digests = set()
    for threads in "12":
        variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        command = [sys.executable, "-c", DIGEST]
        run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
        digests.add(run.stdout)
    assert len(digests) == 1


def test_named_classifiers_with_other_hyperparameters(blobs) -> None:
    pool, labels, test = _l2(blobs)
    support = draws(labels, blobs[2], shots=(5,), n_draws=1, seed=0)
    about = {"support": support, "shots": (5,)}
    named = {"strict": classifier("SVC RBF", C=0.1), "loose": classifier("SVC RBF", C=100)}
    found = evaluate(pool, labels, test, classifiers=named, **about)
    assert set(found) == {("strict", 5), ("loose", 5)}
    assert np.abs(found["strict", 5] - found["loose", 5]).max() > 0.01


def test_ensemble_is_the_mean(blobs) -> None:
    pool, labels, test = _l2(blobs)
    about = {"support": draws(labels, blobs[2], shots=(5,), n_draws=2, seed=0), "shots": (5,)}
    a = evaluate(pool, labels, test, **about)
    b = evaluate(pool[:, :10], labels, test[:, :10], **about)
    both = ensemble([a, b])
    for key, scores in both.items():
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, (a[key] + b[key]) / 2, atol=1e-7)
        np.testing.assert_allclose(scores.sum(axis=2), 1, atol=1e-6)
    fewer = evaluate(pool, labels, test, classifiers=["KNN"], **about)
    for members in ([a, fewer], [], [a, {key: s[:1] for key, s in a.items()}]):
        with pytest.raises(DataError, match="same classifiers, shots, draws and test images"):
            ensemble(members)


def test_bad_input(blobs) -> None:
    pool, labels, test = _l2(blobs)
    support = draws(labels, blobs[2], shots=(5,), n_draws=2, seed=0)
    good = {"pool": pool, "labels": labels, "test": test, "support": support, "shots": (5,)}
    nan = pool.copy()
    nan[3, 4] = np.nan
    bad = [
        ({"pool": nan}, "pool features: row 3, column 4 is nan"),
        ({"test": test[:, :5]}, r"test features \(50, 5\)"),
        ({"labels": labels[:-1]}, "199 pool labels do not match"),
        ({"labels": labels + 0.5}, "whole numbers"),
        ({"labels": np.eye(3)[labels]}, "take one finding at a time"),
        ({"labels": np.minimum(labels, 1)}, r"for class 2, but its label is 1, and none is of class \[2\]"),
        ({"labels": labels + 1}, r"for class 0, but its label is 1, and none is of class \[0\]"),
        ({"shots": (5, 6)}, r"shots \[5, 6\] must lie in 1\.\.5"),
        ({"shots": (0,)}, r"shots \[0\]"),
        ({"shots": ()}, r"shots \[\]"),
        ({"support": support[0]}, "it comes from fewshot.draws"),
        ({"support": support + 200}, "of a pool of 200"),
        ({"classifiers": ["SVM"]}, "'SVM' is unknown; choose from SVC linear"),
        ({"classifiers": []}, "no classifier"),
    ]
    for change, message in bad:
        with pytest.raises(DataError, match=message):
            evaluate(**{**good, **change})
