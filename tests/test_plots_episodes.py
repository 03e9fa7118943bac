"""Figures of episodes: what is drawn where, and what is said when it cannot be drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgba

from xraykit import plots
from xraykit.datasets import XrayDataset
from xraykit.episodes import Episode
from xraykit.errors import DataError
from xraykit.intervals import Interval
from xraykit.plots.style import COLOURS
from xraykit.results import PICTURES

NAN = float("nan")


def toy(n: int = 30) -> XrayDataset:
    """Image i is of one grey level, i, and of patient p<i>."""
    images = np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    records = pd.DataFrame(
        {"image_id": [f"i{i}" for i in range(n)], "patient_id": [f"p{i}" for i in range(n)]}
    )
    records = records.assign(split="train", Mass=np.arange(n) % 2, Edema=0)
    return XrayDataset("toy", images, records, ("Mass", "Edema"), "multilabel", licence="", citation="")


def episode(shots: int = 3, queries: int = 6) -> Episode:
    of_class = np.arange(2 * (shots + queries)).reshape(2, -1)
    return Episode(("without Mass", "Mass"), of_class[:, :shots], of_class[:, shots:])


def grey_levels(fig) -> list[int]:
    return [int(ax.images[0].get_array()[0, 0]) for ax in fig.axes]


def test_an_episode_shows_all_its_support_and_some_queries() -> None:
    fig = plots.episode_picture(toy(), episode(), n_queries=2)
    assert fig.get_label() == PICTURES
    shown = [0, 1, 2, 9, 10, 11, 3, 4, 12, 13]
    assert grey_levels(fig) == shown
    assert [ax.get_xlabel() for ax in fig.axes] == [f"p{i}" for i in shown]
    assert {ax.images[0].get_clim() for ax in fig.axes} == {(0, 255)}
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert [(i, t) for i, t in enumerate(titles) if t] == [
        (0, "support: the labelled images"),
        (6, "queries: to be answered"),
    ]
    labels = [ax.get_ylabel() for ax in fig.axes]
    assert [(i, t) for i, t in enumerate(labels) if t] == [(0, "without\nMass"), (3, "Mass")]


def test_support_and_queries_stand_apart_and_in_rows() -> None:
    fig = plots.episode_picture(toy(), episode(), n_queries=2)
    fig.draw_without_rendering()
    boxes = [ax.get_position() for ax in fig.axes]
    within, between = boxes[1].x0 - boxes[0].x1, boxes[6].x0 - boxes[2].x1
    assert between > 3 * within > 0
    assert len({round(b.y0, 3) for b in boxes}) == 2
    assert len({round(b.width, 3) for b in boxes}) == 1


def test_one_image_a_part_and_fewer_queries_than_wanted() -> None:
    fig = plots.episode_picture(toy(), episode(shots=1, queries=2))
    assert grey_levels(fig) == [0, 3, 1, 2, 4, 5]
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles[0] == "support:\nthe labelled images"  # in one line it would run into the other
    many = Episode(tuple("abc"), np.arange(3)[:, None], np.arange(3, 6)[:, None])
    assert [ax.get_ylabel() for ax in plots.episode_picture(toy(), many).axes[:3]] == ["a", "b", "c"]


def test_an_episode_that_cannot_be_shown() -> None:
    with pytest.raises(DataError, match="n_queries = 0"):
        plots.episode_picture(toy(), episode(), n_queries=0)
    with pytest.raises(DataError, match="image 17 of toy with 10 images"):
        plots.episode_picture(toy(10), episode())


def steps(n: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = np.linspace(0.5, 0.7, n)
    return mean, mean - 0.02, mean + 0.05


def test_step_curves_and_bands_lie_where_the_data_are() -> None:
    fig = plots.step_curves({"MAML": steps(), "ANIL": steps(6)}, trained_steps=3)
    ax = fig.axes[0]
    maml, anil, chance, trained = ax.lines
    assert maml.get_xdata().tolist() == [0, 1, 2, 3]
    assert maml.get_ydata().tolist() == steps()[0].tolist()
    assert len(anil.get_xdata()) == 6
    assert chance.get_ydata() == [0.5, 0.5]
    assert trained.get_xdata() == [3, 3]
    band = ax.collections[0].get_paths()[0].vertices
    for x, low, high in zip(range(4), *steps()[1:], strict=True):
        assert {*band[band[:, 0] == x, 1]} == {low, high}
    assert maml.get_marker() != anil.get_marker()
    assert maml.get_linestyle() != anil.get_linestyle()
    said = [t.get_text() for t in fig.legends[0].get_texts()]
    assert said == ["MAML", "ANIL", "chance", "meta-training: 3 steps"]


def test_step_curves_without_meta_training_and_with_another_chance() -> None:
    ax = plots.step_curves({"MAML": steps()}, chance=0.33).axes[0]
    assert len(ax.lines) == 2
    assert ax.lines[1].get_ydata() == [0.33, 0.33]


@pytest.mark.parametrize(
    ("curves", "trained", "said"),
    [
        ({}, None, "0 curves"),
        ({"a": steps()}, -1, "trained_steps = -1"),
        ({"a": steps(1)}, None, r"a: shapes \[\(1,\)"),
        ({"a": (*steps()[:2], np.zeros(3))}, None, r"a: shapes \[\(4,\), \(4,\), \(3,\)\]"),
        ({"a": steps()[:2]}, None, r"a: shapes \[\(4,\), \(4,\)\]"),
        ({"a": (*steps()[:2], np.full(4, NAN))}, None, "a: 4 values are not finite"),
    ],
    ids=["none", "trained", "one step", "lengths", "no band", "nan"],
)
def test_step_curves_that_cannot_be_drawn(curves: dict, trained: int | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        plots.step_curves(curves, trained_steps=trained)


def about(value: float) -> Interval:
    return Interval(value, value - 0.03, value + 0.02, 0.1, 1.0)


def test_shots_are_evenly_spaced_with_bars_and_the_best_first() -> None:
    scores = {("a", 1): about(0.6), ("a", 5): about(0.7), ("b", 5): about(0.8), ("b", 20): about(0.65)}
    fig = plots.episode_shots(scores, metric="macro-F1")
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "5", "20"]
    assert ax.get_ylabel() == "macro-F1"
    a, b = ax.lines[:2]
    assert a.get_xdata().round().tolist() == [0, 1]
    assert b.get_xdata().round().tolist() == [1, 2]
    assert 0 < b.get_xdata()[0] - a.get_xdata()[1] < 0.2  # both at 5 shots, but not in one place
    bars = [bar.round(3).tolist() for bar in ax.collections[0].get_segments()]
    assert [[y for _, y in bar] for bar in bars] == [[0.57, 0.62], [0.67, 0.72]]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["a", "b"]  # 0.7 and 0.65 at their last


def test_twelve_methods_are_told_apart_without_colour_and_stay_with_their_shots() -> None:
    scores = {(f"m{i}", k): about(0.5 + i / 100 + k / 100) for i in range(12) for k in (1, 5, 10)}
    fig = plots.episode_shots(scores)
    lines = fig.axes[0].lines[:12]
    assert len({(x.get_marker(), to_hex(x.get_markerfacecolor()) == "#ffffff") for x in lines}) == 12
    assert len({(x.get_marker(), x.get_linestyle(), x.get_color()) for x in lines}) == 12
    assert all((abs(x.get_xdata() - [0, 1, 2]) < 0.35).all() for x in lines)
    assert len({x.get_xdata()[0] for x in lines}) == 12
    assert [t.get_text() for t in fig.legends[0].get_texts()] == [f"m{i}" for i in reversed(range(12))]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({}, "at least one score"),
        ({("a", 0): about(0.5)}, "a at 0 shots"),
        ({("a", "all"): about(0.5)}, "a at 'all' shots"),
        ({("a", 1): about(NAN)}, "a at 1 shots: nan"),
    ],
    ids=["none", "no shots", "words", "nan"],
)
def test_scores_that_cannot_be_drawn(scores: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        plots.episode_shots(scores)


def test_a_difference_is_filled_where_its_interval_excludes_zero() -> None:
    found = {
        "A minus B": Interval(0.05, 0.01, 0.09),
        "A minus C": Interval(0.02, -0.01, 0.05),
        "A minus D": Interval(-0.0001, -0.03, 0.0),
        "A minus E": Interval(-0.04, -0.07, -0.01),
    }
    fig = plots.difference_forest(found, unit="macro-F1")
    ax = fig.axes[0]
    assert ax.lines[0].get_xdata() == [0, 0]
    bars, dots = ax.collections[::2], ax.collections[1::2]
    assert [b.get_segments()[0].tolist() for b in bars] == [
        [[d.ci_low, row], [d.ci_high, row]] for row, d in enumerate(found.values())
    ]
    assert [d.get_offsets().tolist() for d in dots] == [[[d.value, i]] for i, d in enumerate(found.values())]
    faces = [to_hex(d.get_facecolor()[0]) for d in dots]
    assert faces == [COLOURS[0], "#ffffff", "#ffffff", COLOURS[0]]  # an end at 0 does not exclude it
    assert [t.get_text() for t in ax.texts] == [
        "+0.050 [+0.010, +0.090]",
        "+0.020 [-0.010, +0.050]",
        "+0.000 [-0.030, +0.000]",
        "-0.040 [-0.070, -0.010]",
    ]
    assert [t.get_text() for t in ax.get_yticklabels()] == list(found)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    assert ax.get_xlabel() == "difference in macro-F1"


def test_numbers_beside_a_difference_are_right_of_the_panel_and_within_the_figure() -> None:
    fig = plots.difference_forest({"a method with a long name minus " * 3: Interval(0.05, 0.01, 0.09)})
    fig.draw_without_rendering()
    ax = fig.axes[0]
    box = ax.texts[0].get_window_extent()
    assert ax.get_window_extent().x1 < box.x0 < box.x1 <= fig.bbox.x1
    assert "\n" in ax.get_yticklabels()[0].get_text()


def test_differences_that_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="0 differences"):
        plots.difference_forest({})
    with pytest.raises(DataError, match=r"not finite: \{'A minus B': '0.100 \[nan, 0.200\]'\}"):
        plots.difference_forest({"A minus B": Interval(0.1, NAN, 0.2)})


def heights(bars) -> list[float]:
    return [bar.get_height() for bar in bars]


@pytest.mark.parametrize("sign", [1, -1])
def test_few_tasks_counts_the_choices_with_the_opposite_sign(sign: int) -> None:
    d = sign * np.array([-0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.03, 0.04])
    fig = plots.few_tasks(d, observed=sign * 0.015, n=5)
    ax = fig.axes[0]
    assert ax.get_title(loc="left") == "25.0% of 8 choices of 5 episodes have the opposite sign"
    same, opposite = ax.containers
    assert (sum(heights(same)), sum(heights(opposite))) == (6, 2)
    middle = np.array([bar.get_x() + bar.get_width() / 2 for bar in opposite])
    assert (sign * middle[np.array(heights(opposite)) > 0] < 0).all()  # no bar is astride 0
    assert [line.get_xdata()[0] for line in ax.lines] == [0, sign * 0.015]
    said = [t.get_text() for t in fig.legends[0].get_texts()]
    assert said[-2:] == ["no difference", f"all episodes: {sign * 0.015:+.3f}"]
    assert {bar.get_hatch() for bar in opposite} != {bar.get_hatch() for bar in same}


@pytest.mark.parametrize("d", [[-0.03, -0.02], [0.03, 0.02], [0.0, 0.0], [0.1], [-0.1]])
def test_every_choice_is_in_the_histogram(d: list) -> None:
    same, opposite = plots.few_tasks(np.array(d), observed=0.02).axes[0].containers
    assert sum(heights(same)) + sum(heights(opposite)) == len(d)


@pytest.mark.parametrize(
    ("d", "changed", "said"),
    [
        ([], {}, r"shape \(0,\)"),
        ([0.1, NAN], {}, r"shape \(2,\), 1 of them finite"),
        ([[0.1]], {}, r"shape \(1, 1\)"),
        ([0.1], {"observed": NAN}, "observed = nan"),
        ([0.1], {"n": 0}, "n = 0"),
    ],
    ids=["none", "nan", "two axes", "observed nan", "no episodes"],
)
def test_choices_that_cannot_be_drawn(d: list, changed: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        plots.few_tasks(np.array(d), **({"observed": 0.1} | changed))


def test_planned_differences_stand_above_a_line_and_others_are_grey():
    found = {"a": Interval(0.2, 0.1, 0.3), "b": Interval(0.2, 0.1, 0.3)}
    ax = plots.difference_forest(found, planned=1).axes[0]
    assert [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [0.5]
    planned, other = (bar.get_color() for bar in ax.collections if isinstance(bar, LineCollection))
    assert to_rgba(planned[0]) != to_rgba(other[0])


def test_without_a_difference_nothing_is_the_opposite():
    title = plots.few_tasks(np.array([0.1, -0.1]), observed=0.0).axes[0].get_title(loc="left")
    assert title.startswith("0.0% of 2 choices")
