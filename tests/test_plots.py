"""Figures show the numbers that they were given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from xraykit import plots
from xraykit.errors import DataError
from xraykit.results import PICTURES


def heights(ax):
    return [patch.get_height() for patch in ax.patches]


def test_class_counts_draws_each_count_and_the_training_shares():
    counts = pd.DataFrame({"normal": [30, 5], "viral": [10, 2]}, index=["train", "test"])
    fig = plots.class_counts(counts)
    assert heights(fig.axes[0]) == [30, 10, 5, 2]
    assert sorted(t.get_text() for t in fig.axes[1].texts) == ["25%", "75%", "normal", "viral"]


def test_bars_in_both_directions():
    upright = plots.bars({"a": 1, "b": 3}, title="t", y="images")
    assert heights(upright.axes[0]) == [1, 3]
    lying = plots.bars({"a": 0.25, "b": 0.5}, title="t", y="share", horizontal=True)
    assert [p.get_width() for p in lying.axes[0].patches] == [0.25, 0.5]
    assert [t.get_text() for t in lying.axes[0].texts] == ["0.25", "0.5"]


def test_images_per_patient_gathers_the_long_tail():
    fig = plots.images_per_patient(pd.Series([2, 1, 1], index=[1, 2, 40]))
    bars = heights(fig.axes[0])
    assert (bars[0], bars[1], bars[14]) == (2, 1, 1)
    assert fig.axes[0].get_xticklabels()[-1].get_text() == "15+"
    assert fig.axes[0].get_title(loc="left") == "4 patients, 44 images; 95% of images share a patient"


def test_cooccurrence_annotates_counts_and_colours_shares():
    table = pd.DataFrame([[4, 1], [1, 2]], index=["Edema", "Mass"], columns=["Edema", "Mass"])
    ax = plots.cooccurrence(table).axes[0]
    assert [t.get_text() for t in ax.texts] == ["4", "1", "1", "2"]
    assert ax.collections[0].get_array().ravel().tolist() == [1, 0.25, 0.5, 1]


def test_grey_histograms_are_percentages():
    one_level = np.zeros(256, int)
    one_level[[10, 20]] = [30, 10]
    line = plots.grey_histograms({"train": one_level}).axes[0].lines[0]
    assert line.get_ydata()[[10, 20]].tolist() == [75, 25]


def test_pictures_are_marked_and_drawn_unscaled():
    image = np.full((8, 8), 100, np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    fig = plots.sample_grid([image, image], ["a", "b"], masks=[mask, ~mask & mask], columns=2)
    assert fig.get_label() == PICTURES
    assert fig.axes[0].images[0].get_clim() == (0, 255)
    assert [len(ax.collections) for ax in fig.axes] == [1, 0]
    stages = plots.before_after([("raw", image), ("brighter", image + 5)])
    assert stages.get_label() == PICTURES
    assert [ax.get_title() for ax in stages.axes[:2]] == ["raw", "brighter"]
    with pytest.raises(DataError, match="got 2 and 1"):
        plots.sample_grid([image, image], ["a"])
    with pytest.raises(DataError, match="at least one"):
        plots.before_after([])


def scores():
    rows = [("plain", "auroc", 0.8, 0.7, 0.9), ("balanced", "auroc", 0.85, 0.75, 0.95)]
    return pd.DataFrame(rows, columns=["method", "metric", "value", "ci_low", "ci_high"])


def test_intervals_draw_value_and_limits_in_the_order_given():
    ax = plots.intervals(scores(), metrics=["auroc"], baseline={"auroc": 0.5}).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["plain", "balanced"]
    segments = [s[:, 0].tolist() for s in ax.collections[0].get_segments()]
    assert segments == [[0.7, 0.9], [0.75, 0.95]]
    assert ax.collections[1].get_offsets()[:, 0].tolist() == [0.8, 0.85]
    assert ax.get_title(loc="left") == "AUROC\n(baseline 0.50)"
    assert len({tuple(c) for c in ax.collections[1].get_facecolors()}) == 1
    grouped = plots.intervals(scores(), metrics=["auroc"], group=pd.Series(["x", "y"])).axes[0]
    assert len({tuple(c) for c in grouped.collections[1].get_facecolors()}) == 2
    assert len(ax.lines) == 0  # .5 lies far below these intervals
    near = plots.intervals(scores(), metrics=["auroc"], baseline={"auroc": 0.72}).axes[0]
    assert near.lines[0].get_xdata() == [0.72, 0.72]
    with pytest.raises(DataError, match=r"\['f1'\].*auroc"):
        plots.intervals(scores(), metrics=["f1"])


def test_recall_bars_have_their_intervals():
    table = scores().rename(columns={"metric": "class"})
    ax = plots.recall_bars(table, title="binary").axes[0]
    assert heights(ax) == [0.8, 0.85]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["auroc"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["plain", "balanced"]
    assert ax.containers[0].has_yerr


def test_reliability_points_are_bin_means():
    y, p = np.array([0, 1, 1, 1]), np.array([0.1, 0.1, 0.9, 0.9])
    fig = plots.reliability({"m": (y, p)}, bins=2)
    points = fig.axes[0].collections[0].get_offsets()
    assert points.tolist() == [[0.1, 0.5], [0.9, 1.0]]
    assert isinstance(fig, Figure)
