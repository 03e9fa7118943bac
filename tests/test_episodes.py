"""Episodes: who may be in one, who may not, and what is said when there are too few."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xraykit import episodes
from xraykit.datasets import XrayDataset
from xraykit.episodes import Tasks
from xraykit.errors import DataError

FINDINGS = ("Edema", "Mass", "Nodule")


def toy(rng: np.random.Generator, *, n: int = 200, n_patients: int = 60, p: float = 0.3) -> XrayDataset:
    """A multi-label set with random labels and small black images."""
    labels = (rng.random((n, 3)) < p).astype(np.uint8)
    records = pd.DataFrame(labels, columns=list(FINDINGS))
    records["No Finding"] = (labels.sum(axis=1) == 0).astype(np.uint8)
    records["image_id"] = [f"i{i:04d}" for i in range(n)]
    records["patient_id"] = [f"p{i:03d}" for i in rng.integers(n_patients, size=n)]
    records["split"] = "train"
    images = np.zeros((n, 16, 16), np.uint8)
    classes = (*FINDINGS, "No Finding")
    return XrayDataset("toy", images, records, classes, "multilabel", licence="", citation="")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.sampled_from([0, 2, 3]))
def test_support_and_query_share_no_image_and_no_patient(seed, shots, queries, way):
    ds = toy(np.random.default_rng(seed), n=400, n_patients=150)
    rows = np.flatnonzero(np.arange(400) % 3 > 0)
    tasks = Tasks(ds, rows, FINDINGS, shots=shots, queries=queries, seed=seed, way=way)
    episode = tasks.episode(seed % 7)
    n = way or 2
    assert episode.support.shape == (n, shots)
    assert episode.query.shape == (n, queries)
    both = np.r_[episode.support.ravel(), episode.query.ravel()]
    assert len(set(ds.patients[both])) == len(both)  # and so no image is there twice
    assert set(both) <= set(rows)
    shows = ds.records[list(FINDINGS)]
    for c, name in enumerate(episode.classes):
        of_class = np.r_[episode.support[c], episode.query[c]]
        if way:
            assert (shows.iloc[of_class][name] == 1).all()
            assert (shows.iloc[of_class][list(episode.classes)].sum(axis=1) == 1).all()
        else:
            assert (shows.iloc[of_class][episode.finding] == c).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_an_episode_is_a_function_of_seed_and_number(seed):
    ds = toy(np.random.default_rng(0), n=400, n_patients=150)
    first, again, other = (
        Tasks(ds, np.arange(400), FINDINGS, shots=3, queries=4, seed=s) for s in (seed, seed, seed + 1)
    )
    one, same = first.episode(5), again.episode(5)
    np.testing.assert_array_equal(one.support, same.support)
    np.testing.assert_array_equal(one.query, same.query)
    assert any((first.episode(i).support != other.episode(i).support).any() for i in range(3))
    assert [first.episode(i).finding for i in range(4)] == ["Edema", "Mass", "Nodule", "Edema"]


def test_smaller_shots_are_the_first_of_larger_ones():
    ds = toy(np.random.default_rng(0), n=400, n_patients=150)
    episode = Tasks(ds, np.arange(400), ["Mass"], shots=5, queries=4, seed=0).episode(0)
    small = episode.at(2)
    np.testing.assert_array_equal(small.support, episode.support[:, :2])
    np.testing.assert_array_equal(small.query, episode.query)
    assert small.support_labels.tolist() == [0, 0, 1, 1]
    assert small.query_labels.tolist() == [0] * 4 + [1] * 4
    assert small.finding == "Mass"
    with pytest.raises(DataError, match="6 shots of an episode drawn with 5"):
        episode.at(6)


def test_which_finding_is_which_code_changes_between_n_way_tasks():
    ds = toy(np.random.default_rng(0), n=600, n_patients=300)
    tasks = Tasks(ds, np.arange(600), FINDINGS, shots=1, queries=1, seed=0, way=3)
    first = {tasks.episode(i).classes[0] for i in range(20)}
    assert first == set(FINDINGS)


def test_a_draw_among_many_patients_takes_from_all_of_them():
    """Beyond `CANDIDATES` patients a class, each episode looks at some of them, and all come up."""
    n = 2 * episodes.CANDIDATES + 50
    labels = pd.DataFrame({"Mass": np.r_[np.ones(25, int), np.zeros(n - 25, int)]})
    labels["image_id"] = labels["patient_id"] = [f"p{i}" for i in range(n)]
    labels["split"] = "train"
    ds = XrayDataset("many", np.zeros((n, 2, 2), np.uint8), labels, ("Mass",), "multilabel", "", "")
    tasks = Tasks(ds, np.arange(n), ["Mass"], shots=10, queries=10, seed=0)
    drawn = np.concatenate([tasks.episode(i).support[0] for i in range(300)])
    assert drawn.min() >= 25
    low, high = (drawn < n // 2).mean(), (drawn >= n // 2).mean()
    assert abs(low - high) < 0.1


def test_too_few_patients_are_named_with_what_is_feasible():
    ds = toy(np.random.default_rng(0), n=200, n_patients=60)
    few = np.flatnonzero(ds.records["Mass"].to_numpy() == 1)[:6]
    rows = np.r_[np.flatnonzero(ds.records["Mass"].to_numpy() == 0), few]
    n = len(set(ds.patients[few]))
    with pytest.raises(DataError, match=rf"Mass: {n} patients with Mass .* allow {n - 2} shots beside 2 que"):
        Tasks(ds, rows, ["Mass"], shots=5, queries=2, seed=0)
    assert episodes.room(ds, rows, "Mass") == n
    assert episodes.with_room(ds, rows, FINDINGS, images=10) == (("Edema", "Nodule"), {"Mass": n})


def test_a_task_of_one_class_is_refused():
    ds = toy(np.random.default_rng(0))
    rows = np.flatnonzero(ds.records["Mass"].to_numpy() == 0)
    with pytest.raises(DataError, match="Mass: 0 patients with Mass among"):
        Tasks(ds, rows, ["Mass"], shots=1, queries=1, seed=0)
    everyone = np.flatnonzero(ds.records["Mass"].to_numpy() == 1)
    with pytest.raises(DataError, match="allow 0 shots"):
        Tasks(ds, everyone, ["Mass"], shots=1, queries=1, seed=0)
    assert episodes.room(ds, everyone, "Mass") == 0


def test_an_unknown_finding_is_named():
    ds = toy(np.random.default_rng(0))
    for findings in (["Tumour"], ["No Finding"], ["Mass", "Mass"], []):
        with pytest.raises(DataError, match="name each once, of Edema, Mass, Nodule"):
            Tasks(ds, np.arange(200), findings, shots=1, queries=1, seed=0)
    with pytest.raises(DataError, match="multi-label set"):
        episodes.check_findings(ds.binary(), ["Mass"])


@pytest.mark.parametrize("bad", [{"shots": 0}, {"queries": 0}, {"way": 1}, {"way": 4}, {"way": -2}])
def test_numbers_out_of_range_are_named(bad):
    ds = toy(np.random.default_rng(0))
    with pytest.raises(DataError, match="use at least 1 shot"):
        Tasks(ds, np.arange(200), FINDINGS, **{"shots": 1, "queries": 1, "seed": 0, **bad})


def test_images_with_a_held_out_finding_are_not_looked_at():
    ds = toy(np.random.default_rng(0))
    rows = np.arange(50, 200)
    kept = episodes.without(ds, rows, ["Mass", "Nodule"])
    assert set(kept) <= set(rows)
    shown = ds.records[["Mass", "Nodule"]].to_numpy().any(axis=1)
    assert not shown[kept].any()
    assert shown[np.setdiff1d(rows, kept)].all()


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 14), st.integers(0, 1000))
def test_each_finding_is_held_out_once_and_the_groups_are_disjoint(n, seed):
    rng = np.random.default_rng(seed)
    findings = [f"F{i:02d}" for i in range(14)]
    records = pd.DataFrame((rng.random((60, 14)) < rng.random(14)).astype(int), columns=findings)
    records["image_id"] = records["patient_id"] = [f"p{i}" for i in range(60)]
    records["split"] = "train"
    ds = XrayDataset("f", np.zeros((60, 2, 2), np.uint8), records, tuple(findings), "multilabel", "", "")
    found = episodes.rotations(ds, n)
    held = [f for groups in found for f in groups["held_out"]]
    assert sorted(held) == findings
    for groups in found:
        assert sorted(sum(groups.values(), ())) == findings
        assert all(groups.values())
    assert max(len(g["held_out"]) for g in found) - min(len(g["held_out"]) for g in found) <= 1


def test_common_and_rare_findings_are_dealt_back_and_forth():
    findings = ["A", "B", "C", "D", "E", "F"]
    labels = {f: (np.arange(60) < 60 - 10 * i).astype(int) for i, f in enumerate(findings)}
    records = pd.DataFrame(labels).assign(split="train")
    records["image_id"] = records["patient_id"] = [f"p{i}" for i in range(60)]
    ds = XrayDataset("f", np.zeros((60, 2, 2), np.uint8), records, tuple(findings), "multilabel", "", "")
    found = episodes.rotations(ds, 3)
    assert [g["held_out"] for g in found] == [("A", "F"), ("B", "E"), ("C", "D")]
    assert found[0]["validation"] == ("B", "E")
    assert found[0]["train"] == ("C", "D")
    with pytest.raises(DataError, match="2 rotations of 6 findings"):
        episodes.rotations(ds, 2)
