"""Which images are shown: chosen by a rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraykit.errors import DataError
from xraykit.explain_gallery import KINDS, gallery

PAIR = ("normal", "pneumonia")


def binary(p: list[float]) -> np.ndarray:
    """Probabilities (N, 2) of normal and pneumonia from those of pneumonia."""
    return np.stack([1 - np.array(p), p], axis=1)


def test_two_classes_by_hand() -> None:
    y = np.array([0, 0, 0, 1, 1, 1, 1, 0, 0, 1])
    p = binary([0.1, 0.4, 0.3, 0.9, 0.6, 0.2, 0.45, 0.8, 0.55, 0.99])
    found = gallery(y, p, PAIR)
    assert list(found.items()) == [
        (("normal", "right, sure"), 0),
        (("normal", "right, unsure"), 1),
        (("normal", "wrong, unsure"), 8),
        (("normal", "wrong, sure"), 7),
        (("pneumonia", "right, sure"), 9),
        (("pneumonia", "right, unsure"), 4),
        (("pneumonia", "wrong, unsure"), 6),
        (("pneumonia", "wrong, sure"), 5),
    ]
    assert all(type(row) is int for row in found.values())


def test_of_three_classes_the_answer_is_the_most_probable() -> None:
    y = np.array([2, 2, 2, 0])
    p = np.array([[0.3, 0.3, 0.4], [0.1, 0.5, 0.4], [0.7, 0.1, 0.2], [0.2, 0.35, 0.45]])
    assert gallery(y, p, ("normal", "bacterial", "viral")) == {
        ("normal", "wrong, sure"): 3,  # the only one, so no unsure one
        ("viral", "right, sure"): 0,
        ("viral", "wrong, unsure"): 1,
        ("viral", "wrong, sure"): 2,
    }


def test_of_equals_the_first_is_the_surer_and_no_image_is_shown_twice() -> None:
    p = binary([0.75, 0.75, 0.75, 0.25, 0.25])
    assert gallery(np.ones(5, int), p, PAIR) == {
        ("pneumonia", "right, sure"): 0,
        ("pneumonia", "right, unsure"): 2,
        ("pneumonia", "wrong, unsure"): 4,
        ("pneumonia", "wrong, sure"): 3,
    }
    # As probable as another class, the first class is the answer.
    assert gallery(np.array([0, 1]), binary([0.5, 0.5]), PAIR) == {
        ("normal", "right, sure"): 0,
        ("pneumonia", "wrong, sure"): 1,
    }


def test_a_faultless_classifier_has_no_wrong_answers() -> None:
    y = np.array([0, 1, 1])
    found = gallery(y, np.eye(2)[y], PAIR)
    assert list(found) == [("normal", KINDS[0]), ("pneumonia", KINDS[0]), ("pneumonia", KINDS[1])]


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4), st.integers(1, 4)), min_size=1
    )
)
def test_what_is_shown_is_of_its_kind_and_nothing_is_more_extreme(drawn: list[tuple[int, ...]]) -> None:
    rows = np.array(drawn)
    y, p = rows[:, 0], rows[:, 1:] / rows[:, 1:].sum(axis=1, keepdims=True)  # with many ties
    names = ("a", "b", "c")
    found = gallery(y, p, names)
    groups = {}
    for i, (label, probabilities) in enumerate(zip(y, p, strict=True)):
        answer = "right" if list(probabilities).index(max(probabilities)) == label else "wrong"
        groups.setdefault((names[label], answer), {})[i] = max(probabilities)
    kinds = {(name, f"{answer}, sure") for name, answer in groups}
    kinds |= {(name, f"{answer}, unsure") for (name, answer), group in groups.items() if len(group) > 1}
    assert set(found) == kinds
    for (name, kind), row in found.items():
        answer, certainty = kind.split(", ")
        group = groups[name, answer]
        assert group[row] == (max if certainty == "sure" else min)(group.values())
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([0, 1], np.ones((2, 3)), r"labels \(2,\) and probabilities \(2, 3\) of 2 classes; .* and \(N, 2\)"),
        ([0, 1, 1], np.ones((2, 2)), r"labels \(3,\) and probabilities \(2, 2\)"),
        ([0, 1], np.ones(2), r"probabilities \(2,\) of 2 classes"),
        ([0, 2], np.ones((2, 2)), r"give \(N,\), 0 to 1"),
        ([-1, 1], np.ones((2, 2)), r"give \(N,\), 0 to 1"),
        ([], np.ones((0, 2)), r"labels \(0,\) and probabilities \(0, 2\)"),
    ],
)
def test_bad_input(y: list[int], p: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        gallery(np.array(y, int), p, PAIR)
