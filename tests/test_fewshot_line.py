"""A decision line from unlabelled scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from xraykit.errors import DataError
from xraykit.fewshot_line import moved, pool_line


def test_the_line_of_two_groups_by_hand() -> None:
    """All 256 bins of log odds -3 to 1 part the two alike; the first one's middle is -3 + 4 / 512."""
    p = expit(np.repeat([-3.0, 1.0], [30, 70]))
    assert pool_line(p) == pytest.approx(expit(-3 + 4 / 512))


def brute_force(z: np.ndarray) -> float:
    """Smallest possible sum of squares within two groups that a threshold makes."""
    z = np.sort(z)
    return min(
        ((z[:i] - z[:i].mean()) ** 2).sum() + ((z[i:] - z[i:].mean()) ** 2).sum() for i in range(1, len(z))
    )


@given(st.floats(-3, 3), st.floats(0.2, 0.8), st.integers(0, 5))
def test_no_line_parts_the_log_odds_much_better(shift: float, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = shift + rng.normal(size=300) + 5 * (rng.random(300) < share)
    line = logit(pool_line(expit(z)))
    low, high = z[z <= line], z[z > line]
    within = ((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum()
    assert within <= 1.05 * brute_force(z)
    assert abs(line - (shift + 2.5)) < 1.5


def test_certain_scores_are_cut_and_equal_ones_are_the_line() -> None:
    assert pool_line(np.array([0.0, 0, 1, 1])) == pytest.approx(expit(-13.8 + 27.6 / 512), rel=0.02)
    assert pool_line(np.full(5, 0.3)) == pytest.approx(0.3)


def test_moved_by_hand() -> None:
    """Odds 4, 1 and 1/4 against a line at odds 1/4: sixteen, four and one to one."""
    p = np.array([[0.2, 0.8], [0.5, 0.5], [0.8, 0.2]])
    np.testing.assert_allclose(moved(p, 0.2), [[1 / 17, 16 / 17], [1 / 5, 4 / 5], [1 / 2, 1 / 2]])
    np.testing.assert_allclose(moved(p, 0.5), p)
    draws = np.stack([p, p[::-1]])
    np.testing.assert_allclose(moved(draws, 0.2), [moved(p, 0.2), moved(p[::-1], 0.2)])


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), min_size=2, max_size=40),
    st.floats(1e-6, 1 - 1e-6),
)
def test_moving_the_line_keeps_the_order_and_the_auroc(pairs: list, line: float) -> None:
    y, p = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]) / 1000  # with 0 and 1
    rows = np.stack([1 - p, p], axis=1)
    found = moved(rows, line)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    a, b = np.meshgrid(p, p)
    c, d = np.meshgrid(found[:, 1], found[:, 1])
    np.testing.assert_array_equal(np.sign(a - b), np.sign(c - d))
    if 0 < y.sum() < len(y):
        assert roc_auc_score(y, found[:, 1]) == roc_auc_score(y, p)
    np.testing.assert_array_equal((found[:, 1] > 0.5)[p > line + 1e-9], True)
    np.testing.assert_array_equal((found[:, 1] < 0.5)[p < line - 1e-9], True)
    inside = (p > 0) & (p < 1)
    shift = logit(found[inside, 1]) - logit(p[inside])
    np.testing.assert_allclose(shift, -logit(line), atol=1e-4)


def test_bad_input() -> None:
    for p in (np.zeros((3, 2)), np.array([0.5]), np.array([])):
        with pytest.raises(DataError, match="at least 2 images"):
            pool_line(p)
    for value in (-0.1, 1.1, np.nan):
        with pytest.raises(DataError, match=r"give probabilities in 0\.\.1"):
            pool_line(np.array([0.5, value]))
    good = np.array([[0.4, 0.6]])
    for line in (0.0, 1.0, np.nan):
        with pytest.raises(DataError, match=f"line = {line}; choose"):
            moved(good, line)
    for p in (np.full((2, 3), 1 / 3), np.zeros((0, 2)), np.array(0.5)):
        with pytest.raises(DataError, match=r"give \(\.\.\., 2\)"):
            moved(p, 0.5)
    with pytest.raises(DataError, match=r"must be probabilities in 0\.\.1"):
        moved(np.array([[0.4, 0.7]]), 0.5)
