"""k-shot draws with at most one image a patient."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraykit.datasets.kermany import find_root, list_files
from xraykit.errors import DataError
from xraykit.splits import feasible_shots, k_shot_draw


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def hall(labels: np.ndarray, patients: np.ndarray) -> int:
    """Feasible k by Hall's condition, written out over every set of classes."""
    classes = range(max(labels) + 1)
    of = [set(patients[labels == c]) for c in classes]
    sets = [s for size in range(1, len(of) + 1) for s in combinations(classes, size)]
    return min(len(set().union(*(of[c] for c in s))) // len(s) for s in sets)


cases = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n).map(np.array),
        st.lists(st.integers(0, 12), min_size=n, max_size=n).map(np.array),
        st.integers(0, 9),
    )
)


@given(cases)
def test_feasible_shots_is_halls_bound_and_the_draw_reaches_it(case: tuple) -> None:
    labels, patients, seed = case
    k = feasible_shots(labels, patients)
    assert k == hall(labels, patients)
    if k:
        index = k_shot_draw(labels, patients, k=k, rng=rng(seed))
        np.testing.assert_array_equal(labels[index], np.repeat(np.arange(max(labels) + 1), k))
        assert len(set(patients[index])) == len(index)
        np.testing.assert_array_equal(index, k_shot_draw(labels, patients, k=k, rng=rng(seed)))
    with pytest.raises(DataError, match=f"the largest feasible k is {k}"):
        k_shot_draw(labels, patients, k=k + 1, rng=rng(seed))


def test_a_class_with_only_shared_patients_is_served() -> None:
    # Patient a is the only one of class 1 but has ten images of class 0: a greedy draw nearly always fails.
    labels = np.array([0] * 10 + [1, 0])
    patients = np.array(["a"] * 11 + ["b"])
    for seed in range(30):
        assert k_shot_draw(labels, patients, k=1, rng=rng(seed)).tolist() == [11, 10]


def test_a_chain_of_classes_is_shifted() -> None:
    # Only a serves class 2, so b must serve class 1 and c class 0: one solution.
    labels = np.array([2, 1, 1, 0, 0])
    patients = np.array(["a", "a", "b", "b", "c"])
    for seed in range(30):
        assert k_shot_draw(labels, patients, k=1, rng=rng(seed)).tolist() == [4, 2, 0]


def test_every_image_is_drawn_equally_often_with_one_image_a_patient() -> None:
    labels = np.repeat([0, 1], [10, 20])
    seen = np.zeros(30)
    for seed in range(2000):
        seen[k_shot_draw(labels, np.arange(30), k=2, rng=rng(seed))] += 1
    # Expected 400 and 200 of 2000, binomial standard deviations 18 and 13; five of them either way.
    np.testing.assert_allclose(seen[:10], 400, atol=90)
    np.testing.assert_allclose(seen[10:], 200, atol=67)


def test_errors_name_the_class_and_what_is_feasible() -> None:
    labels, patients = np.array([0, 0, 1, 2]), np.array(["a", "b", "c", "c"])
    with pytest.raises(DataError, match=r"pox and flu: 1 patients, but k = 1 .* needs 2; .* feasible k is 0"):
        k_shot_draw(labels, patients, k=1, rng=rng(), classes=["none", "pox", "flu"])
    with pytest.raises(DataError, match=r"class 1: 1 patients, but k = 2 .* feasible k is 1"):
        k_shot_draw(labels[:3], patients[:3], k=2, rng=rng())
    with pytest.raises(DataError, match=r"flu: 0 patients, but k = 1 .* feasible k is 0"):
        k_shot_draw(labels[:3], patients[:3], k=1, rng=rng(), classes=["none", "pox", "flu"])
    with pytest.raises(DataError, match="k = 0 images a class"):
        k_shot_draw(labels, patients, k=0, rng=rng())
    with pytest.raises(DataError, match="one finding against the rest"):
        feasible_shots(np.eye(3, dtype=int), np.arange(3))


def test_class_names_may_be_an_array_and_must_be_enough() -> None:
    labels, patients = np.array([0, 0, 1]), np.array(["a", "b", "c"])
    index = k_shot_draw(labels, patients, k=1, rng=rng(), classes=np.array(["none", "flu"]))
    assert labels[index].tolist() == [0, 1]
    for names in (["none"], [], np.array(["none"])):
        with pytest.raises(DataError, match=rf"classes holds {len(names)} names, .* name all 2 classes"):
            k_shot_draw(labels, patients, k=1, rng=rng(), classes=names)


def test_real_kermany_names(kermany_dir) -> None:
    records = list_files(find_root(kermany_dir))[0].query("split == 'train'")
    labels = records["kind"].map({"bacterial": 1, "viral": 2}).fillna(0).to_numpy(int)
    patients = records["patient_id"].to_numpy()
    # Bacterial and viral share 1635 numbers, 808 of them occur as both: 1635 // 2 each, well below normal.
    numbers = [set(patients[labels == c]) for c in (1, 2)]
    assert (len(numbers[0] | numbers[1]), len(numbers[0] & numbers[1])) == (1635, 808)
    assert feasible_shots(labels, patients) == 817
    index = k_shot_draw(labels, patients, k=817, rng=rng())
    assert len(set(patients[index])) == 3 * 817
