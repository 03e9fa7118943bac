"""Roots of features, feature sets side by side, support images averaged with their augmented views."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

from xraykit.augment import Augment, augment
from xraykit.errors import DataError
from xraykit.fewshot import normalise
from xraykit.fewshot_transforms import BLOCK, averaged_support, powered, side_by_side, views


def features(n: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(0.5, size=(n, dim)).astype(np.float32) - 0.1


def test_powered_by_hand() -> None:
    pool, test = np.array([[0.0, 5], [4, 5]]), np.array([[9.0, 5], [-4, 5], [1, 5]])
    # Roots 0 and 2 have mean 1 and standard deviation 1; roots 3, -2 and 1 are 2, -3 and 0 from there.
    a, b = powered(pool, test)
    np.testing.assert_array_equal(a, [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(b, [[1, 0], [-1, 0], [0, 0]])


@given(st.floats(0.2, 2), st.integers(0, 5))
def test_powered_agrees_with_scikit_learns_pipeline(exponent: float, seed: int) -> None:
    pool, test = features(30, 4, seed), features(7, 4, seed + 1)
    root = FunctionTransformer(lambda x: np.where(x < 0, -1, 1) * np.abs(x) ** exponent)
    pipeline = make_pipeline(root, StandardScaler(), Normalizer()).fit(pool.astype(float))
    found = powered(pool, test, exponent=exponent)
    for ours, x in zip(found, (pool, test), strict=True):
        np.testing.assert_allclose(ours, pipeline.transform(x.astype(float)), atol=1e-5)
        assert ours.dtype == np.float32


def test_an_exponent_of_one_changes_nothing_and_a_root_does() -> None:
    pool, test = features(40, 3, 0), features(5, 3, 1)
    plain = normalise(pool, test, how="l2")[1]
    np.testing.assert_array_equal(powered(pool, test, exponent=1.0)[1], plain)
    assert np.abs(powered(pool, test)[1] - plain).max() > 0.1


def test_side_by_side_has_unit_rows_and_mean_products() -> None:
    pairs = [(features(20, dim, dim), features(6, dim, dim + 9)) for dim in (3, 50)]
    pool, test = side_by_side(pairs)
    assert pool.shape == (20, 53)
    assert test.shape == (6, 53)
    assert pool.dtype == test.dtype == np.float32
    for rows in (pool, test):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    unit = [normalise(*pair, how="l2") for pair in pairs]
    products = [b.astype(float) @ a.astype(float).T for a, b in unit]
    np.testing.assert_allclose(
        test.astype(float) @ pool.T.astype(float), np.mean(products, axis=0), atol=1e-6
    )
    # One set alone is only normalised, and the scale of a set does not matter.
    np.testing.assert_array_equal(side_by_side(pairs[:1])[1], unit[0][1])
    scaled = [pairs[0], (1000 * pairs[1][0], 1000 * pairs[1][1])]
    np.testing.assert_allclose(side_by_side(scaled)[1], test, atol=1e-5)


def test_side_by_side_keeps_test_images_apart() -> None:
    pairs = [(features(20, dim, dim), features(6, dim, dim + 9)) for dim in (3, 5)]
    one = [(pool, test[2:3]) for pool, test in pairs]
    np.testing.assert_array_equal(side_by_side(one)[1], side_by_side(pairs)[1][2:3])


def test_averaged_support_by_hand() -> None:
    pool = np.array([[1, 0], [0, 1], [0, 3], [0.6, 0.8]], np.float32)
    seen = np.array([[[0, 1], [3, 0]], [[0, 2], [0, 0]]], np.float32)  # two views of rows 0 and 2
    found = averaged_support(pool, seen, np.array([0, 2]))
    # Row 0 becomes (1, 3) / 3, of length 1 again: (1, 3) / sqrt(10). Row 2, of length 3, stays as it comes.
    expected = [np.array([1, 3]) / np.sqrt(10), [0, 1], [1, 1], [0.6, 0.8]]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
    assert pool[0].tolist() == [1, 0]  # the pool itself is left alone


@given(st.integers(1, 4), st.integers(1, 10), st.integers(0, 5))
def test_averaged_support_changes_only_its_rows(n_views: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = normalise(features(12, 4, seed), features(1, 4, 0), how="l2")[0]
    rows = rng.permutation(12)[:n]
    found = averaged_support(pool, rng.normal(size=(n_views, n, 4)).astype(np.float32), rows)
    rest = np.setdiff1d(np.arange(12), rows)
    np.testing.assert_array_equal(found[rest], pool[rest])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    # Views that are the image itself change nothing.
    same = averaged_support(pool, np.stack([pool[rows]] * n_views), rows)
    np.testing.assert_allclose(same, pool, atol=1e-6)


def test_averages_that_vanish_stay_zero() -> None:
    pool = np.array([[1, 0], [0, 1]], np.float32)
    found = averaged_support(pool, np.array([[[-1, 0]]], np.float32), np.array([0]))
    np.testing.assert_array_equal(found, [[0, 0], [0, 1]])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(5, 16, 16), dtype=np.uint8)


def test_views_are_those_of_augment(images: np.ndarray) -> None:
    found = views(images, n_views=3, seed=7)
    assert found.shape == (3, 5, 16, 16)
    assert found.dtype == np.uint8
    grey = torch.from_numpy(images[:, None].astype(np.float32) / 255)
    for v in range(3):
        expected = augment(grey, np.arange(5), epoch=v, seed=7, options=Augment())
        # Half a grey level either way is what rounding may do.
        assert np.abs(255 * expected[:, 0].numpy() - found[v]).max() <= 0.501
    assert (found[0] != found[1]).mean() > 0.5
    assert (found[0] != images).mean() > 0.5


def test_views_of_an_image_depend_on_its_id_and_the_seed_alone(images: np.ndarray) -> None:
    found = views(images, n_views=2, seed=7)
    np.testing.assert_array_equal(views(images, n_views=1, seed=7), found[:1])
    np.testing.assert_array_equal(views(images[3:], n_views=2, seed=7, ids=np.array([3, 4])), found[:, 3:])
    assert (views(images[3:], n_views=2, seed=7) != found[:, 3:]).mean() > 0.5
    assert (views(images, n_views=2, seed=8) != found).mean() > 0.5
    many = np.concatenate([images[:2]] * (BLOCK // 2 + 1))  # more than a block
    ids = np.tile([0, 1], BLOCK // 2 + 1)
    np.testing.assert_array_equal(views(many, n_views=1, seed=7, ids=ids)[:, -2:], found[:1, :2])


def test_bad_input(images: np.ndarray) -> None:
    pool, test = features(6, 3, 0), features(2, 3, 1)
    for exponent in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match=f"exponent = {exponent}; choose a number above 0"):
            powered(pool, test, exponent=exponent)
    nan = pool.copy()
    nan[1, 2] = np.nan
    with pytest.raises(DataError, match="pool features: row 1, column 2 is nan"):
        powered(nan, test)
    for pairs in ([], [(pool, test), (pool[:5], test)], [(pool, test), (pool, test[:1])]):
        with pytest.raises(DataError, match="give one pair or more, all alike"):
            side_by_side(pairs)
    seen, rows = np.ones((2, 2, 3), np.float32), np.array([0, 4])
    bad = [
        (pool, seen[0], rows, r"view features \(2, 3\)"),
        (pool, seen[:, :, :2], rows, r"view features \(2, 2, 2\)"),
        (pool, seen[:, :1], rows, r"rows \(2,\)"),
        (pool, seen[:0], rows, "give floats"),
        (pool, np.full_like(seen, np.nan), rows, "view features: row 0, column 0 is nan"),
        (pool, seen, np.array([0, 6]), "rows int64 0 to 6 of a pool of 6"),
        (pool, seen, np.array([-1, 0]), "rows int64 -1 to 0"),
        (pool, seen, np.array([0.0, 1.0]), "rows float64"),
        (pool, seen, np.array([4, 4]), "1 of 2 rows are there twice"),
    ]
    for pool_, seen_, rows_, message in bad:
        with pytest.raises(DataError, match=message):
            averaged_support(pool_, seen_, rows_)
    for wrong, n_views in ((images.astype(float), 1), (images[0], 1), (images, 0)):
        with pytest.raises(DataError, match="give uint8"):
            views(wrong, n_views=n_views, seed=0)
    with pytest.raises(DataError, match="grey square image"):
        views(images[:, :8], n_views=1, seed=0)
    with pytest.raises(DataError, match=r"ids of shape \(2,\) for 5 images"):
        views(images, n_views=1, seed=0, ids=np.array([0, 1]))
