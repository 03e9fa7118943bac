"""Greedy k-centre and the projection it works in."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances

from xraykit.anomaly_coreset import PROJECTED, k_centres, projected


def radius(points: np.ndarray, centres: np.ndarray) -> float:
    """The largest distance of a point to its nearest centre."""
    return float(pairwise_distances(points, points[list(centres)]).min(axis=1).max())


def test_by_hand_on_a_line() -> None:
    line = torch.tensor([[0.0], [1.0], [5.0], [10.0]])
    # From 1 the farthest is 10; of the others 0 is 1 away from a centre and 5 is 4 away.
    assert k_centres(line, 4, first=1).tolist() == [1, 3, 2, 0]
    assert k_centres(line, 2, first=3).tolist() == [3, 0]


def test_equals_the_definition_in_double_precision() -> None:
    points = np.random.default_rng(0).normal(size=(300, 20)) + 40
    between = pairwise_distances(points)
    expected = [7]
    while len(expected) < 60:
        expected.append(int(between[:, expected].min(axis=1).argmax()))
    found = k_centres(torch.from_numpy(points).float(), 60, first=7)
    assert found.tolist() == expected
    assert k_centres(torch.from_numpy(points).float(), 10, first=7).tolist() == expected[:10]


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=8),
    st.integers(1, 4),
    st.data(),
)
def test_at_most_twice_the_best_radius_and_no_point_twice(rows: list, k: int, data: st.DataObject) -> None:
    points, k = np.array(rows, np.float32), min(k, len(rows))
    first = data.draw(st.integers(0, len(rows) - 1))
    found = k_centres(torch.from_numpy(points), k, first=first).tolist()
    assert found[0] == first
    assert len(set(found)) == k
    best = min(radius(points, centres) for centres in combinations(range(len(points)), k))
    assert radius(points, found) <= 2 * best + 1e-5


def test_few_dimensions_stay_as_they_are() -> None:
    points = torch.rand(5, PROJECTED)
    assert projected(points, seed=0) is points


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_distances_survive_the_projection(seed: int) -> None:
    points = torch.from_numpy(np.random.default_rng(5).normal(size=(60, 600))).float()
    found = projected(points, seed=seed)
    assert found.shape == (60, PROJECTED)
    assert found.dtype == torch.float32
    assert torch.equal(found, projected(points, seed=seed))
    ratio = (torch.pdist(found) / torch.pdist(points)).numpy()
    # A squared distance is about chi-squared over its degrees of freedom: the ratio spreads by 1/sqrt(2k).
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    assert ratio.std() < 1.5 / np.sqrt(2 * PROJECTED)


def test_another_seed_is_another_projection() -> None:
    points = torch.rand(5, 200)
    assert not torch.equal(projected(points, seed=0), projected(points, seed=1))
