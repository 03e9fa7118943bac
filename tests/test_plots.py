"""Figures show the numbers that they were given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from xraykit import plots
from xraykit.errors import DataError
from xraykit.plots.style import COLOURS
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


def test_intervals_of_a_method_without_a_metric_draw_nothing_for_it():
    table = pd.concat(
        [scores(), scores().iloc[[0]].assign(metric="f1"), scores().iloc[[0]].assign(method="x")]
    )
    fig = plots.intervals(table.reset_index(drop=True), metrics=["auroc", "f1"])
    auroc, f1 = fig.axes
    assert auroc.collections[1].get_offsets().tolist() == [[0.8, 0], [0.85, 1], [0.8, 2]]
    assert f1.collections[1].get_offsets().tolist() == [[0.8, 0]]
    assert len(f1.collections[0].get_segments()) == 1
    assert [t.get_text() for t in auroc.get_yticklabels()] == ["plain", "balanced", "x"]
    last = plots.intervals(table[::-1].reset_index(drop=True), metrics=["f1"])
    assert last.axes[0].get_ylim()[0] >= 2  # the methods without it have their line nevertheless


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


def points_of(ax, colour):
    """Offsets of all points of one colour, sorted."""
    rgba = to_rgba(colour, 0.85)
    mine = [c.get_offsets() for c in ax.collections if np.allclose(c.get_facecolor()[:1], rgba)]
    return sorted(np.concatenate(mine).tolist())


def test_maps_show_every_point_in_the_colour_of_its_class():
    placed = np.arange(40.0).reshape(20, 2)
    labels = np.tile([0, 1, 1, 0], 5)
    turned = {"as they are": labels, "shuffled": 1 - labels}
    said = {"trustworthiness": 0.91, "purity": 0.8, "purity_in_features": 0.7, "purity_by_chance": 0.5}
    quality = {"as they are": {**said, "silhouette": 0.25}}
    panels = {"as they are": placed, "shuffled": placed}
    fig = plots.maps(panels, turned, ["normal", "viral"], quality=quality, title="two maps")
    for ax, codes in zip(fig.axes, turned.values(), strict=True):
        for c in (0, 1):
            assert points_of(ax, COLOURS[c]) == placed[codes == c].tolist()
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["as they are", "shuffled"]
    text = "trustworthiness 0.91, silhouette 0.25\npurity 0.80 (features 0.70, chance 0.50)"
    assert [ax.get_xlabel() for ax in fig.axes] == [text, ""]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["normal", "viral"]
    markers = {c.get_paths()[0].vertices.shape for c in fig.axes[0].collections}
    assert len(markers) == 2  # told apart without colour too
    four = plots.maps(dict.fromkeys("abcd", placed), labels, ["normal", "viral"])
    assert [ax.axison for ax in four.axes] == [True] * 4 + [False] * 2


def test_maps_refuse_what_does_not_fit():
    placed = np.zeros((4, 2))
    with pytest.raises(DataError, match="at least one panel"):
        plots.maps({}, np.zeros(4, int), ["a"])
    with pytest.raises(DataError, match=r"\(N, 2\) with N labels; got \(4, 2\) and \(3,\)"):
        plots.maps({"m": placed}, np.zeros(3, int), ["a"])
    with pytest.raises(DataError, match=r"\(N, 2\) with N labels; got \(4, 3\)"):
        plots.maps({"m": np.zeros((4, 3))}, np.zeros(4, int), ["a"])
    with pytest.raises(DataError, match="labels span 0 to 1, but classes names 1"):
        plots.maps({"m": placed}, np.array([0, 0, 0, 1]), ["a"])
    with pytest.raises(DataError, match=r"\(N, 3\) with N labels; got \(4, 2\)"):
        plots.map3d(placed, np.zeros(4, int), ["a"])


def test_map3d_shows_one_map_from_each_side():
    placed = np.random.default_rng(0).normal(size=(16, 3))
    fig = plots.map3d(placed, np.tile([0, 1], 8), ["a", "b"], views=[(10, -60), (20, 30)])
    assert [(ax.elev, ax.azim) for ax in fig.axes] == [(10, -60), (20, 30)]
    assert [ax.get_title() for ax in fig.axes] == ["seen from -60°", "seen from 30°"]
    for ax in fig.axes:
        assert sum(len(c._offsets3d[0]) for c in ax.collections) == 16


def shot_table():
    rows = [
        (method, shots, "auroc", value, value - 0.1, value + 0.05, value - 0.2, value + 0.08)
        for method, values in {"SVC": [0.9, 0.7], "KNN": [0.8, 0.6]}.items()
        for shots, value in zip(["100", "5"], values, strict=True)
    ]
    columns = ["method", "shots", "metric", "value", "ci_low", "ci_high", "spread_low", "spread_high"]
    return pd.DataFrame(rows, columns=columns)


def test_shot_curves_draw_median_band_and_spread_against_shots():
    baselines = {"always pneumonia": {"auroc": 0.55, "accuracy": 0.6}, "coin": {"auroc": 0.05}}
    fig = plots.shot_curves(shot_table(), metrics=["auroc"], baselines=baselines, title="shots")
    ax = fig.axes[0]
    svc, knn, trivial = ax.lines
    assert svc.get_ydata().tolist() == [0.7, 0.9]
    assert knn.get_ydata().tolist() == [0.6, 0.8]
    np.testing.assert_allclose(svc.get_xdata(), [5, 100], rtol=0.05)
    assert (svc.get_xdata() < knn.get_xdata()).all()  # whiskers stand side by side
    bands, whiskers = ax.collections[::2], ax.collections[1::2]
    assert {(round(x), round(y, 2)) for x, y in bands[0].get_paths()[0].vertices.tolist()} == {
        (5, 0.6),
        (5, 0.75),
        (100, 0.8),
        (100, 0.95),
    }
    np.testing.assert_allclose([s[:, 1] for s in whiskers[0].get_segments()], [[0.5, 0.78], [0.7, 0.98]])
    assert ax.get_xscale() == "log"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["5", "100"]
    assert list(trivial.get_ydata()) == [0.55, 0.55]
    assert ax.get_title(loc="left") == "AUROC\n(coin: 0.05)"  # too far below to be drawn
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["SVC", "KNN", "always pneumonia"]
    assert len({line.get_marker() for line in (svc, knn)}) == 2


def test_shots_next_to_each_other_share_a_number():
    table = pd.concat([shot_table(), shot_table().replace({"shots": {"5": "99", "100": "60"}})])
    ticks = plots.shot_curves(table, metrics=["auroc"]).axes[0].get_xticklabels()
    assert [t.get_text() for t in ticks] == ["5", "60", "99", ""]


def test_ladder_has_the_lowest_rung_first_and_a_panel_for_each_metric_and_shots():
    rows = [
        {"rung": rung, "shots": k, "metric": metric, "value": v, "ci_low": v - 0.1, "ci_high": v + 0.1}
        for rung, base in (("middle", 0.6), ("low", 0.5), ("high", 0.7))
        for k in (10, 100)
        for metric, v in (("macro_f1", base), ("auroc", 1 - base))
    ]
    fig = plots.ladder(pd.DataFrame(rows), title="rungs")
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in fig.axes]
    assert titles == [
        "macro-F1\n10 a class",
        "AUROC\n10 a class",
        "macro-F1\n100 a class",
        "AUROC\n100 a class",
    ]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["low", "middle", "high"]
    assert fig.axes[1].collections[-1].get_offsets()[:, 0].tolist() == pytest.approx([0.5, 0.4, 0.3])
    with pytest.raises(DataError, match="at least one rung"):
        plots.ladder(pd.DataFrame(rows[:0]))


def test_shot_curves_of_another_column_without_spread():
    table = shot_table().rename(columns={"method": "backbone"}).drop(columns=["spread_low", "spread_high"])
    ax = plots.shot_curves(table, metrics=["auroc"], by="backbone").axes[0]
    assert [line.get_label() for line in ax.lines] == ["SVC", "KNN"]
    assert len(ax.collections) == 2


def test_shot_curves_refuse_what_has_no_place():
    with pytest.raises(DataError, match=r"no rows for metrics \['f1'\]; choose from \['auroc'\]"):
        plots.shot_curves(shot_table(), metrics=["f1"])
    with pytest.raises(DataError, match=r"shots \[''\] are no positive numbers.*as a baseline"):
        plots.shot_curves(shot_table().replace({"shots": {"5": ""}}), metrics=["auroc"])
    with pytest.raises(DataError, match="SVC has several rows for auroc at 100 shots"):
        plots.shot_curves(shot_table().replace({"method": {"KNN": "SVC"}}), metrics=["auroc"])


def test_draw_distribution_marks_median_and_best():
    draws = {"k=10": [0.5, 0.9, 0.7], "k=50": [0.8, 0.8, 0.8, 0.82]}
    fig = plots.draw_distribution(draws, published={"project A": 0.905}, title="draws")
    ax = fig.axes[0]
    assert sorted(ax.collections[0].get_offsets()[:, 0].tolist()) == [0.5, 0.7, 0.9]
    medians = [s[0, 0] for c in ax.collections if isinstance(c, LineCollection) for s in c.get_segments()]
    assert medians == [0.7, 0.8]
    dots = [c for c in ax.collections if isinstance(c, PathCollection)]
    stars = [c.get_offsets()[:, 0].tolist() for c in dots if list(c.get_sizes()) == [130]]
    assert stars == [[0.9], [0.82], []]  # the last one is the legend's
    assert [t.get_text() for t in ax.texts] == ["0.700", "0.900", "0.800", "0.820"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["k=10", "k=50"]
    assert list(ax.lines[0].get_xdata()) == [0.905, 0.905]
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == ["project A, 0.905", "one draw", "median", "best draw"]
    equal = np.asarray(ax.collections[3].get_offsets())
    assert len(np.unique(equal, axis=0)) == 4  # draws with one value do not hide each other
    assert np.abs(equal[:, 1] - 1).max() < 0.4
    assert plots.draw_distribution({"one": [0.5]}).axes[0].texts[0].get_text() == "0.500"
    with pytest.raises(DataError, match="at least one method"):
        plots.draw_distribution({})
    with pytest.raises(DataError, match="empty has 0 draws"):
        plots.draw_distribution({"empty": []})
    with pytest.raises(DataError, match="bad has 2 draws, 1 of them finite"):
        plots.draw_distribution({"bad": [0.5, np.nan]})


def test_confusions_write_counts_and_colour_recall():
    matrices = {"ours": np.array([[8, 2], [0, 1000]]), "median": np.array([[7.5, 2.5], [0, 0]])}
    fig = plots.confusions(matrices, ("normal", "pneumonia"), columns=1)
    ours, median = fig.axes
    assert [t.get_text() for t in ours.texts] == ["8\n80%", "2\n20%", "0\n0%", "1,000\n100%"]
    assert [t.get_text() for t in median.texts] == ["7.5\n75%", "2.5\n25%", "0\n0%", "0\n0%"]
    np.testing.assert_allclose(ours.collections[0].get_array().ravel(), [0.8, 0.2, 0, 1])
    assert [t.get_text() for t in ours.get_yticklabels()] == ["normal", "pneumonia"]
    assert (ours.get_xlabel(), ours.get_ylabel(), ours.get_title(loc="left")) == ("predicted", "true", "ours")
    assert ours.get_ylim() == median.get_ylim() == (2, 0)  # the first class on top
    with pytest.raises(DataError, match=r"needs \(2, 2\) for classes .*'m': \(3, 3\)"):
        plots.confusions({"m": np.eye(3)}, ["a", "b"])
    with pytest.raises(DataError, match="got none"):
        plots.confusions({}, ["a", "b"])


def test_score_histograms_are_densities_over_one_axis():
    y, scores = np.array([0, 0, 0, 1]), np.array([0.0, 0.0, 1.0, 2.0])
    groups = {"development": (y, scores), "test": (y[:3], scores[:3] + 1)}
    fig = plots.score_histograms(groups, ["normal", "viral"], thresholds={"middle": 1.5}, bins=2)
    first, second = fig.axes
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["development", "test"]
    normal = first.patches[0].get_xy()
    assert set(normal[:, 0].tolist()) == {0, 1, 2}
    assert normal[:, 1].max() == pytest.approx(2 / 3)  # two of three in a bin of width 1
    assert len(second.patches) == 1  # no image of the other class
    assert [list(ax.lines[0].get_xdata()) for ax in fig.axes] == [[1.5, 1.5]] * 2
    assert first.get_xlim() == second.get_xlim()
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["normal", "viral", "middle"]
    with pytest.raises(DataError, match=r"groups \['test'\]: give class codes"):
        plots.score_histograms({"test": (y, scores[:3])}, ["a", "b"])
    with pytest.raises(DataError, match="finite scores"):
        plots.score_histograms({"test": (y, scores * np.nan)}, ["a", "b"])
    with pytest.raises(DataError, match="groups none"):
        plots.score_histograms({}, ["a", "b"])


def test_heatmap_writes_the_numbers_or_the_text_given():
    table = pd.DataFrame([[0.5, 0.75], [0.8, 0.9]], index=["SVC", "KNN"], columns=["raw", "l2"])
    ax = plots.heatmap(table, label="accuracy", title="50 a class").axes[0]
    assert [t.get_text() for t in ax.texts] == ["0.500", "0.750", "0.800", "0.900"]
    assert ax.collections[0].get_array().ravel().tolist() == [0.5, 0.75, 0.8, 0.9]
    texts = plots.heatmap(table, text=table.map(lambda v: f"{v:.0%}")).axes[0].texts
    assert [t.get_text() for t in texts] == ["50%", "75%", "80%", "90%"]
    with pytest.raises(DataError, match=r"\(2, 2\) and \(1, 2\)"):
        plots.heatmap(table, text=table.iloc[:1].astype(str))
    with pytest.raises(DataError, match=r"got \(0, 0\)"):
        plots.heatmap(pd.DataFrame())
