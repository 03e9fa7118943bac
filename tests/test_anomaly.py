"""Rules fitted to normal images, and the threshold of held-out normals."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.covariance import ledoit_wolf

from xraykit.anomaly import (
    Deviation,
    Mahalanobis,
    NearestNormal,
    PcaReconstruction,
    brightness,
    check_normals,
    laplacian_variance,
    ranks,
    threshold_for_false_alarms,
)
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError

RULES = [Deviation(), PcaReconstruction(1), NearestNormal(1), Mahalanobis()]


def normals(n: int = 40, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, (n, d))


@pytest.mark.parametrize(("side", "expected"), [("both", [2, 2]), ("low", [2, -2]), ("high", [-2, 2])])
def test_deviation_by_hand(side: str, expected: list[float]) -> None:
    rule = Deviation(side).fit(np.array([[1.0], [3.0]]))  # mean 2, standard deviation 1
    np.testing.assert_allclose(rule.score(np.array([[0.0], [4.0]])), expected)


def test_pca_by_hand() -> None:
    """The normals lie on a line; what leaves it is an error, a mean over the two numbers."""
    line = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    rule = PcaReconstruction(1).fit(line)
    np.testing.assert_allclose(rule.score(np.array([[5.0, 5.0], [2.0, 0.0]])), [0, 1], atol=1e-12)


def test_pca_keeps_the_share_of_the_variance() -> None:
    x = normals() * [10, 1, 0.1, 0.01, 0.001]
    assert PcaReconstruction(0.95).fit(x).pca.n_components_ == 1


@pytest.mark.parametrize("normalised", [True, False])
def test_nearest_normal_is_the_mean_of_the_smallest_distances(normalised: bool) -> None:
    a, b = normals(), normals(7, seed=1)
    found = NearestNormal(3, normalised=normalised).fit(a).score(b)
    if normalised:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(found, np.sort(cdist(b, a), axis=1)[:, :3].mean(axis=1))


def test_mahalanobis_as_scipy_with_the_shrunk_covariance() -> None:
    a, b = normals(), normals(6, seed=1)
    inverse = np.linalg.inv(ledoit_wolf(a)[0])
    expected = [mahalanobis(row, a.mean(axis=0), inverse) for row in b]
    np.testing.assert_allclose(Mahalanobis().fit(a).score(b), expected)


def test_mahalanobis_with_fewer_images_than_features() -> None:
    a = normals(10, 50)
    assert np.isfinite(Mahalanobis().fit(a).score(normals(3, 50, seed=1))).all()


def test_pixel_statistics_by_hand() -> None:
    images = np.zeros((2, 3, 3), np.uint8)
    images[1, 1, 1] = 9
    np.testing.assert_allclose(brightness(images), [[0], [1]])
    # The Laplacian of a point with mirrored borders is -36 in the middle, 18 beside it, 0 in the corners.
    values = np.array([-36, 18, 18, 18, 18, 0, 0, 0, 0])
    np.testing.assert_allclose(laplacian_variance(images), [[0], [values.var()]])


def test_the_threshold_by_hand() -> None:
    scores = np.arange(1.0, 20.0)  # 19 held-out normals
    assert threshold_for_false_alarms(scores, rate=0.05) == 19  # the 19th of 19: .95 * 20
    assert threshold_for_false_alarms(scores[::-1], rate=0.1) == 18
    with pytest.raises(DataError, match="hold out at least 19, or allow more"):
        threshold_for_false_alarms(scores[:-1], rate=0.05)


@given(st.integers(20, 300), st.sampled_from([0.05, 0.1, 0.2, 0.5]))
def test_of_the_held_out_normals_no_more_than_the_rate_lie_above(n: int, rate: float) -> None:
    scores = np.random.default_rng(n).normal(size=n)
    above = (scores > threshold_for_false_alarms(scores, rate=rate)).sum()
    assert above <= rate * n
    assert above >= math.floor(rate * (n + 1)) - 1  # and not far fewer


def test_new_normals_raise_the_wanted_share_of_false_alarms() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(400):
        line = threshold_for_false_alarms(rng.normal(size=99), rate=0.1)
        shares.append((rng.normal(size=200) > line).mean())
    assert abs(np.mean(shares) - 0.1) < 0.006  # exactly .1 on average for n = 99


def dataset(codes: list[int]) -> XrayDataset:
    ids = [f"i{i}" for i in range(len(codes))]
    records = pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "train"})
    records["label"] = [("normal", "pneumonia")[c] for c in codes]
    images = np.zeros((len(codes), 8, 8), np.uint8)
    images[:, 0, 0] = 255
    return XrayDataset("toy", images, records, ("normal", "pneumonia"), "multiclass", "none", "none")


def test_labelled_anomalies_are_refused_unless_allowed() -> None:
    ds, rows = dataset([0] * 19 + [1]), np.arange(20)
    check_normals(ds, rows[:19])
    with pytest.raises(DataError, match=r"1 of 20 training images are labelled pneumonia.*allowed=0.05"):
        check_normals(ds, rows)
    check_normals(ds, rows, allowed=0.05)
    with pytest.raises(DataError, match="no normal image among the 1"):
        check_normals(ds, rows[19:], allowed=1)
    with pytest.raises(DataError, match="no normal image among the 0"):
        check_normals(ds, rows[:0])


def test_constant_training_images_are_refused() -> None:
    ds = dataset([0] * 4)
    ds.images[2] = 7
    check_normals(ds, np.array([0, 1, 3]))
    with pytest.raises(DataError, match="1 of 4 training images have a single grey level, such as i2"):
        check_normals(ds, np.arange(4))


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_features_that_no_rule_can_use(rule: object) -> None:
    good = normals(d=1)
    for bad in (good[:0], good[:, 0], np.full((4, 1), np.nan)):
        with pytest.raises(DataError, match="give finite ones"):
            rule.fit(bad)
    rule.fit(good)
    with pytest.raises(DataError, match="give finite ones"):
        rule.score(np.full((4, 1), np.inf))


@pytest.mark.parametrize("rule", [Deviation(), Mahalanobis()], ids=lambda r: type(r).__name__)
def test_constant_images(rule: object) -> None:
    with pytest.raises(DataError, match="are they constant"):
        rule.fit(np.ones((5, 1)))


def test_numbers_out_of_range() -> None:
    with pytest.raises(DataError, match="side 'left'; choose from both, low, high"):
        Deviation("left")
    with pytest.raises(DataError, match="5 numbers an image"):
        Deviation().fit(normals())
    with pytest.raises(DataError, match="k = 41 neighbours among 40 normal images; use 1 to 40"):
        NearestNormal(41).fit(normals())
    with pytest.raises(DataError, match="6 components of 40 images with 5 numbers; use at most 5"):
        PcaReconstruction(6).fit(normals())
    with pytest.raises(DataError, match=r"rate = 1\.5"):
        threshold_for_false_alarms(np.arange(30.0), rate=1.5)


def test_ranks_keep_the_order_and_share_ties() -> None:
    np.testing.assert_array_equal(ranks(np.array([7.0, -2.0, 7.0, 30.0])), [0.625, 0.25, 0.625, 1.0])


def test_ranks_of_scores_that_are_not_finite() -> None:
    with pytest.raises(DataError, match="1 of 2 scores are not finite"):
        ranks(np.array([1.0, np.nan]))
