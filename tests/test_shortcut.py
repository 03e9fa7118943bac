"""A side marker that follows the label, and then moves."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraykit.datasets import XrayDataset, synthetic
from xraykit.errors import DataError
from xraykit.shortcut import MARGIN, PLACES, habit_broken, near_marker, places

CONFOUNDER = 0.8
SIZES = {"size": 64, "n_patients": 90, "seed": 5}


@pytest.fixture(scope="module")
def planted() -> tuple[XrayDataset, dict[str, XrayDataset]]:
    return places("synthetic", confounder=CONFOUNDER, **SIZES)


def agreeing(ds: XrayDataset) -> np.ndarray:
    """Where the letter is what a follower of the label expects: L on pneumonia, R on normal."""
    return (ds.records["marker_side"] == "L").to_numpy() == (ds.labels == 1)


def marker_columns(ds: XrayDataset) -> list[str]:
    return [c for c in ds.records if c.startswith("marker_")]


# ---- places


def test_the_images_are_those_of_a_set_without_a_shortcut(planted) -> None:
    full, tests = planted
    plain = synthetic.load("synthetic", progress=False, **SIZES).binary()
    assert full.classes == ("normal", "pneumonia")
    assert list(tests) == list(PLACES)
    test = plain.split("test")
    for ds, same in ((full, plain), *((moved, test) for moved in tests.values())):
        moving = marker_columns(ds)
        assert ds.records["image_id"].tolist() == same.records["image_id"].tolist()
        pd.testing.assert_frame_equal(ds.records.drop(columns=moving), same.records.drop(columns=moving))
        np.testing.assert_array_equal(ds.masks, same.masks)
        np.testing.assert_array_equal(ds.labels, same.labels)
    assert set(full.records["split"]) == {"train", "val", "test"}
    np.testing.assert_array_equal(tests["by chance"].images, test.images)
    np.testing.assert_array_equal(tests["as in training"].images, full.split("test").images)


def test_the_sets_differ_at_the_markers_and_nowhere_else(planted) -> None:
    _, tests = planted
    for one in PLACES:
        for other in PLACES:
            a, b = tests[one], tests[other]
            different = a.images != b.images
            markers = near_marker(a.records, 64, margin=1 / 64) | near_marker(b.records, 64, margin=1 / 64)
            assert not (different & ~markers).any()
            # A letter that stays where it was leaves the picture as it was; one that goes changes it.
            moved = (a.records["marker_side"] != b.records["marker_side"]).to_numpy()
            np.testing.assert_array_equal(different.any(axis=(1, 2)), moved)
    turned = tests["as in training"].records["marker_x"] + tests["moved"].records["marker_x"]
    went = agreeing(tests["as in training"]) != agreeing(tests["moved"])
    np.testing.assert_allclose(turned[went], 1, atol=2e-4)  # to the other side of the picture
    assert went.sum() > 20


def test_how_often_the_marker_follows_the_label(planted) -> None:
    full, tests = planted
    shares = {name: agreeing(ds).mean() for name, ds in tests.items()}
    n = len(tests["moved"])
    assert n > 40
    error = 4 * np.sqrt(0.25 / n)
    assert shares["by chance"] == pytest.approx(0.5, abs=error)
    # With probability c the label decides, otherwise a coin: c + (1 - c) / 2.
    assert shares["as in training"] == pytest.approx(0.9, abs=error)
    assert shares["moved"] == pytest.approx(0.1, abs=error)
    train = full.split("train")
    assert agreeing(train).mean() == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / len(train)))
    # The coin of an exposure falls once: where it decided, the three sets agree.
    by_label = agreeing(tests["as in training"]) & ~agreeing(tests["moved"])
    assert by_label.mean() == pytest.approx(CONFOUNDER, abs=error)
    sides = [tests[name].records["marker_side"].to_numpy()[~by_label] for name in PLACES]
    assert (sides[0] == sides[1]).all()
    assert (sides[1] == sides[2]).all()


def test_a_whole_shortcut_of_the_findings() -> None:
    sizes = {"size": 32, "n_patients": 20, "seed": 1}
    full, tests = places("synthetic-nih", confounder=1.0, **sizes)
    assert full.classes == ("normal", "abnormal")
    assert agreeing(full).all()
    assert agreeing(tests["as in training"]).all()
    assert not agreeing(tests["moved"]).any()
    assert set(full.split("test").patients) == set(tests["by chance"].patients)


@pytest.mark.parametrize("confounder", [0.0, 1.5, -0.5, float("nan")])
def test_confounders_that_plant_nothing(confounder: float) -> None:
    with pytest.raises(DataError, match=f"confounder {confounder} plants no shortcut; use above 0 to 1"):
        places("synthetic", confounder=confounder, size=32, n_patients=3, seed=0)


def test_bad_sets() -> None:
    with pytest.raises(DataError, match="n_patients is 2; at least 3"):
        places("synthetic", confounder=1.0, size=32, n_patients=2, seed=0)
    with pytest.raises(DataError, match="kermany"):
        places("kermany", confounder=1.0, size=32, n_patients=3, seed=0)


# ---- near_marker


def records(*rows: tuple[float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["marker_x", "marker_y", "marker_size"])


def test_near_marker_by_hand() -> None:
    # Eight pixels a side, their centres at 1/16, 3/16, ... The letter is 1/4 high around x = 3/4, y = 1/4.
    found = near_marker(records((0.75, 0.25, 0.25)), 8, margin=0.0)
    expected = np.zeros((1, 8, 8), bool)
    expected[0, 1:3, 5:7] = True
    assert found.dtype == bool
    np.testing.assert_array_equal(found, expected)
    expected[0, 0:4, 4:8] = True  # a margin of one pixel
    np.testing.assert_array_equal(near_marker(records((0.75, 0.25, 0.25)), 8, margin=1 / 8), expected)
    # The default margin of half a pixel reaches up to the next centres.
    assert MARGIN == 1 / 16
    np.testing.assert_array_equal(near_marker(records((0.75, 0.25, 0.25)), 8), expected)


def test_near_marker_is_cut_at_the_edge() -> None:
    found = near_marker(records((0.0, 1.0, 0.5), (0.5, 0.5, 2.0), (2.0, 0.5, 0.1)), 4, margin=0.0)
    expected = np.zeros((3, 4, 4), bool)
    expected[0, 3, 0] = True  # a quarter to each side of the corner
    expected[1] = True
    np.testing.assert_array_equal(found, expected)


@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=3),
    st.integers(1, 20),
    st.floats(0, 0.5),
)
def test_near_marker_is_a_square_around_it(rows: list[tuple], side: int, margin: float) -> None:
    found = near_marker(records(*rows), side, margin=margin)
    assert found.shape == (len(rows), side, side)
    for (x, y, height), on in zip(rows, found, strict=True):
        for row, column in np.ndindex(side, side):
            away = max(abs((column + 0.5) / side - x), abs((row + 0.5) / side - y))
            assert on[row, column] == (away <= height / 2 + margin)


def test_the_letters_are_inside(planted) -> None:
    full, _ = planted
    on = near_marker(full.records, 64)
    plain = synthetic.load("synthetic", progress=False, **SIZES).binary()
    moved = (full.records["marker_side"] != plain.records["marker_side"]).to_numpy()
    assert moved.mean() > 0.2
    new = (full.images != plain.images) & ~near_marker(plain.records, 64)
    assert (new & on).any(axis=(1, 2))[moved].all()
    assert on.mean() < 0.06  # a few per cent of the picture


def test_records_without_markers() -> None:
    with pytest.raises(DataError, match="no marker_x, marker_y, marker_size; only synthetic sets say where"):
        near_marker(pd.DataFrame({"label": ["normal"]}), 8)
    with pytest.raises(DataError, match="the records have no marker_size; only"):
        near_marker(records((0, 0, 0)).drop(columns="marker_size"), 8)


def test_the_habit_is_broken_where_the_marker_contradicts_the_label() -> None:
    always = synthetic.load("synthetic", size=32, n_patients=12, confounder=1, progress=False).binary()
    never = synthetic.load("synthetic", size=32, n_patients=12, confounder=-1, progress=False).binary()
    assert not habit_broken(always).any()
    assert habit_broken(never).all()
