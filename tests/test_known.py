"""How far an image is from the X-rays that a classifier knows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.covariance import LedoitWolf

from xraykit import backbones, known
from xraykit.backbones import network_input
from xraykit.datasets import synthetic
from xraykit.errors import DataError
from xraykit.known import Known
from xraykit.not_xrays import altered, not_xrays


def normal(n: int, dim: int = 8, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def test_distance_by_hand() -> None:
    # The roots are +-1 on one axis: variance 1 there, 1/2 on average. No noise at all, since every image is
    # equally far from the mean: the shrinkage is the least, .001.
    features = np.float32([[1, 0], [-1, 0]] * 3)
    along, across = 0.999 * 1 + 0.001 / 2, 0.001 / 2
    expected = np.sqrt([0, 1 / along, 4 / along, 9 / across, 1 / along + 1 / across])
    found = Known(features, 2.0).distance(np.float32([[0, 0], [1, 0], [-4, 0], [0, 9], [1, -1]]))
    np.testing.assert_allclose(found, expected / 2, rtol=1e-12)


@pytest.mark.parametrize(("n", "dim"), [(6, 40), (40, 6), (12, 12)])
def test_distance_as_scikit_learn(n: int, dim: int) -> None:
    features, new = abs(normal(n, dim)) * np.arange(1, dim + 1), abs(normal(5, dim, seed=1)) * 3
    fitted = LedoitWolf().fit(np.sqrt(features.astype(np.float64)))
    found = Known(features, 1.0).distance(new)
    np.testing.assert_allclose(found**2, fitted.mahalanobis(np.sqrt(new.astype(np.float64))), rtol=1e-6)


@given(st.floats(1e-3, 1e3), st.permutations(range(10)))
def test_neither_scale_nor_order_matter(scale: float, order: list[int]) -> None:
    features, new = normal(10), normal(4, seed=1)
    again = Known(features[order] * np.float32(scale), 1.0).distance(new * np.float32(scale))
    np.testing.assert_allclose(again, Known(features, 1.0).distance(new), rtol=1e-4)


def left_out(features: np.ndarray) -> np.ndarray:
    """Distance of each row from all the others."""
    rows = range(len(features))
    return np.array(
        [Known(np.delete(features, i, axis=0), 1.0).distance(features[i : i + 1])[0] for i in rows]
    )


def test_limit_is_the_conformal_quantile_of_images_left_out() -> None:
    features = normal(19)  # no more than FOLDS: each is left out alone
    distances = np.sort(left_out(features))
    assert known.fit(features, rate=0.1).limit == pytest.approx(distances[17], rel=1e-9)  # ceil(20 * .9) = 18
    assert known.fit(features, rate=0.05).limit == pytest.approx(
        distances[18], rel=1e-9
    )  # ceil(19) = 19, all


def test_limit_of_few_is_a_prediction_limit() -> None:
    distances = left_out(normal(9))
    logs = np.log(distances)
    expected = math.exp(logs.mean() + stats.t.ppf(0.99, 8) * logs.std(ddof=1) * math.sqrt(1 + 1 / 9))
    assert known.fit(normal(9)).limit == pytest.approx(expected, rel=1e-9)
    assert expected > distances.max()
    flat = np.concatenate([np.repeat(normal(1), 60, axis=0) + 1e-4 * normal(60), 1e4 + normal(1)])
    largest = left_out_in_folds(flat)
    assert known.fit(flat).limit == pytest.approx(largest, rel=1e-9)  # the formula ends below it


def left_out_in_folds(features: np.ndarray) -> float:
    """The largest distance of an image from those of the other FOLDS - 1 folds."""
    fold = np.arange(len(features)) % known.FOLDS
    each = [Known(features[fold != k], 1.0).distance(features[fold == k]).max() for k in range(known.FOLDS)]
    return max(each)


def test_left_out_distances_by_hand() -> None:
    features = normal(8)
    each = left_out(features)
    logs = np.log(each)
    expected = math.exp(logs.mean() + stats.t.ppf(0.9, 7) * logs.std(ddof=1) * math.sqrt(1 + 1 / 8))
    assert known.fit(features, rate=0.1).limit == pytest.approx(max(expected, *each), rel=1e-9)


def test_a_patient_is_left_out_as_a_whole() -> None:
    features = np.repeat(normal(12), 2, axis=0)  # of each patient two equal images
    patients = np.repeat(np.arange(12), 2)
    apart, together = (known.fit(features, patients=p).limit for p in (patients, None))
    assert apart > together
    # Fewer patients than LEAST cannot be left out in turn: every image counts as a patient.
    assert known.fit(features, patients=np.arange(24) % 5).limit == together


@pytest.mark.parametrize(("n", "least"), [(6, 0), (20, 0.02), (150, 0.03)])
def test_false_alarms_are_as_many_as_asked_for(n: int, least: float) -> None:
    new = normal(4000, 32, seed=9)
    alarms = [(known.fit(normal(n, 32, seed=s), rate=0.05).distance(new) > 1).mean() for s in range(20)]
    assert least <= np.mean(alarms) < 0.08


def test_at_most_500_are_kept() -> None:
    features = normal(1501)
    found = known.fit(features, patients=np.arange(1501) // 3)
    np.testing.assert_array_equal(found.features, features[np.linspace(0, 1500, 500).astype(int)])
    assert known.chosen(3).tolist() == [0, 1, 2]
    assert known.chosen(1000)[[0, 1, 2, -1]].tolist() == [0, 2, 4, 999]
    assert 0.9 < np.median(found.distance(features)) * found.limit / math.sqrt(8) < 1.1


def test_it_tells_synthetic_xrays_from_other_images() -> None:
    ds = synthetic.load("synthetic", size=128, n_patients=70, progress=False)
    phantom = backbones.load("phantom")

    def features(images: np.ndarray) -> np.ndarray:
        return phantom.module(network_input(images, phantom.size)).numpy()

    first = np.unique(ds.patients, return_index=True)[1]
    found = known.fit(features(ds.images[first[:50]]))
    others = ds.images[first[50:]]
    assert (found.distance(features(others)) > 1).mean() <= 0.1
    noticed = {k: (found.distance(features(x)) > 1).mean() for k, x in not_xrays(128, seed=0, n=8).items()}
    assert min(noticed.values()) >= 0.75, noticed
    turned = {k: (found.distance(features(x)) > 1).mean() for k, x in altered(others).items()}
    assert min(turned[k] for k in ("negative", "upside down", "turned by a quarter")) >= 0.9, turned
    assert turned["mirrored"] <= 0.3  # this is what it does not notice


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (normal(5), {}, r"features \(5, 8\); give at least 6 rows"),
        (normal(8)[0], {}, r"features \(8,\); give at least 6 rows"),
        (normal(8)[:, :0], {}, r"features \(8, 0\)"),
        (np.where(np.eye(8) > 0, np.nan, 1), {}, "8 of 8 rows of features are not finite, the first is 0"),
        (np.ones((9, 4)), {}, "the known images have the same features"),
        (normal(8), {"rate": 0.0}, r"rate 0.0; give the share of false alarms, above 0 and below .5"),
        (normal(8), {"rate": 0.5}, "rate 0.5"),
        (normal(8), {"patients": np.arange(7)}, r"patients \(7,\) of features \(8, 8\)"),
    ],
)
def test_bad_input(features: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        known.fit(features, **options)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_bad_limits(limit: float) -> None:
    with pytest.raises(DataError, match="give a finite distance above 0"):
        Known(normal(6), limit)


def test_bad_known_images() -> None:
    with pytest.raises(DataError, match="501 known images, at most 500 are kept"):
        Known(normal(501), 1.0)
    with pytest.raises(DataError, match=r"features \(2, 3\) of images, but \(6, 8\)"):
        Known(normal(6), 1.0).distance(normal(2, 3))
