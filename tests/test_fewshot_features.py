"""Normalisation of features, and several backbones side by side."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from xraykit.errors import DataError
from xraykit.fewshot_features import BLOCK, check_features, normalise


def blobs(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dim)) * rng.uniform(0.1, 30, dim) + rng.normal(size=dim) * 10).astype("f4")


def test_standardised_by_hand() -> None:
    pool = np.array([[1, 5], [3, 5]], np.float32)  # mean 2 and 5, standard deviation 1 and 0
    test = np.array([[5, 5], [2, 9]], np.float32)
    a, b = normalise(pool, test, how="standardised")
    np.testing.assert_array_equal(a, [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(b, [[3, 0], [0, 4]])
    assert a.dtype == b.dtype == np.float32
    # By their own statistics the test features are at -1 and 1 as well.
    _, own = normalise(pool, test, how="standardised", setting="transductive")
    np.testing.assert_array_equal(own, [[1, -1], [-1, 1]])


def test_the_inductive_test_features_do_not_depend_on_one_another() -> None:
    pool, test = blobs(50, 4), blobs(20, 4, seed=1)
    together = normalise(pool, test, how="l2")[1]
    np.testing.assert_array_equal(together[:1], normalise(pool, test[:1], how="l2")[1])
    own = normalise(pool, test, how="l2", setting="transductive")[1]
    assert np.abs(own - together).max() > 0.01


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 5))
def test_agrees_with_scikit_learns_pipeline(n: int, dim: int, seed: int) -> None:
    pool, test = blobs(n + 1, dim, seed), blobs(7, dim, seed + 1)
    pipeline = make_pipeline(StandardScaler(), Normalizer()).fit(pool.astype(float))
    for ours, given_ in zip(normalise(pool, test, how="l2"), (pool, test), strict=True):
        np.testing.assert_allclose(ours, pipeline.transform(given_.astype(float)), atol=1e-4)


def test_blocks_change_nothing() -> None:
    pool, test = blobs(2 * BLOCK + 3, 3), blobs(BLOCK + 1, 3, seed=1)
    scaler = StandardScaler().fit(pool.astype(float))
    a, b = normalise(pool, test, how="standardised")
    np.testing.assert_allclose(a, scaler.transform(pool.astype(float)), atol=1e-5)
    np.testing.assert_allclose(b, scaler.transform(test.astype(float)), atol=1e-5)


def test_constant_features_are_harmless() -> None:
    pool, test = blobs(30, 3), blobs(5, 3, seed=1)
    constant = np.full((30, 1), 0.1, np.float32)
    for how in ("standardised", "l2"):
        a, b = normalise(np.hstack([pool, constant]), np.hstack([test, constant[:5]]), how=how)
        np.testing.assert_array_equal(a[:, 3], 0)
        np.testing.assert_array_equal(b[:, 3], 0)
        np.testing.assert_allclose(a[:, :3], normalise(pool, test, how=how)[0], atol=1e-6)
    same = np.ones((4, 2), np.float32)
    for part in normalise(same, same, how="l2"):  # no direction is left: zero, not NaN
        np.testing.assert_array_equal(part, 0)


def test_raw_is_untouched() -> None:
    pool, test = blobs(4, 2), blobs(3, 2, seed=1)
    for ours, given_ in zip(normalise(pool, test, how="raw"), (pool, test), strict=True):
        np.testing.assert_array_equal(ours, given_)


def test_a_memmap_will_do(tmp_path) -> None:
    pool = blobs(10, 2)
    stored = np.memmap(tmp_path / "features", np.float32, "w+", shape=pool.shape)
    stored[:] = pool
    np.testing.assert_array_equal(normalise(stored, pool, how="l2")[0], normalise(pool, pool, how="l2")[0])


def test_bad_input() -> None:
    good = blobs(5, 3)
    bad = good.copy()
    bad[2, 1] = np.nan
    with pytest.raises(DataError, match=r"pool features: row 2, column 1 is nan"):
        normalise(bad, good, how="raw")
    bad = blobs(BLOCK + 5, 3)
    bad[BLOCK + 4, 2] = np.inf
    with pytest.raises(DataError, match=rf"test features: row {BLOCK + 4}, column 2 is inf"):
        normalise(good, bad, how="l2")
    with pytest.raises(DataError, match="3 features a row but test has 4"):
        normalise(good, blobs(5, 4), how="l2")
    with pytest.raises(DataError, match="'zscore' is not one of"):
        normalise(good, good, how="zscore")
    with pytest.raises(DataError, match="'both' is not one of"):
        normalise(good, good, how="l2", setting="both")
    with pytest.raises(DataError, match="no transductive variant"):
        normalise(good, good, how="raw", setting="transductive")
    for shape in ((0, 3), (3, 0), (3,)):
        with pytest.raises(DataError, match="give floats"):
            check_features(np.zeros(shape), "pool")
    with pytest.raises(DataError, match="give floats"):
        check_features(np.zeros((3, 3), np.uint8), "pool")
