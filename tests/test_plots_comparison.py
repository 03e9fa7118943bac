"""Figures on one page: what is drawn where, that no text overlaps, and what is said of bad input."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from xraykit import plots
from xraykit.comparison import METRICS
from xraykit.errors import DataError
from xraykit.plots.comparison import APART, FAMILIES
from xraykit.plots.style import COLOURS, GREY

NAN, INF = float("nan"), float("inf")


def lineup(values: dict[str, tuple[str, float, float]]) -> pd.DataFrame:
    """From name to family, AUROC and macro-F1, each plus or minus 0.05."""
    rows = []
    for name, (family, auroc, macro_f1) in values.items():
        row = {"name": name, "family": family}
        for metric, value in zip(METRICS[:2], (auroc, macro_f1), strict=True):
            row |= {f"{metric}_value": value, f"{metric}_low": value - 0.05, f"{metric}_high": value + 0.05}
        rows.append(row)
    return pd.DataFrame(rows)


EVERY = {
    "always": ("baseline", 0.5, 0.4),
    "pixels": ("baseline", 0.7, 0.6),
    "anomaly: x": ("anomaly detector", 0.65, NAN),
    "SVC, 10 a class": ("few-shot", 0.8, 0.5),
    "CNN, all": ("network", 0.9, 0.7),
}


def shots(**change: object) -> pd.DataFrame:
    rows = [("SVC", "line", n, 0.6 + n / 1000) for n in (5.0, 10.0, 100.0)]
    rows += [("KNN", "line", n, 0.55 + n / 1000) for n in (5.0, 10.0, 100.0)]
    rows += [("frozen", "point", 20.0, 0.7), ("frozen", "point", INF, 0.8)]
    rows += [("detector", "band", 0.0, 0.65), ("CNN", "band", INF, 0.75), ("always", "band", 0.0, 0.1)]
    table = pd.DataFrame(rows, columns=["method", "kind", "shots", "value"]).assign(metric="auroc")
    table = table.assign(ci_low=table["value"] - 0.05, ci_high=table["value"] + 0.05)
    return table.assign(**change)


def pairs(values: dict[str, tuple[float, bool]], second: str = "pixels") -> pd.DataFrame:
    rows = [
        {"first": n, "second": second, "difference": d, "ci_low": d - 0.1, "ci_high": d + 0.1,
         "verdict": "told apart" if apart else "not told apart"}
        for n, (d, apart) in values.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def groups() -> pd.DataFrame:
    rows = []
    for metric in ("auroc", "sensitivity"):
        for attribute, group, value in (("age", "0-1", 0.8), ("age", "60+", NAN), ("sex", "F", 0.7)):
            about = {
                "attribute": attribute,
                "group": group,
                "n_images": 1234,
                "n_positive": 1000,
                "metric": metric,
            }
            note = "too few" if np.isnan(value) else ""
            rows.append(
                {**about, "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "note": note}
            )
    return pd.DataFrame(rows)


def lies() -> pd.DataFrame:
    rows = [
        ("B", "a split by image", "auroc", "0.700 [0.6, 0.8]", "0.900", 0.2, 0.1, 0.3),
        ("A", "tuned on test", "macro_f1", "0.600", "0.650", 0.05, -0.01, 0.1),
        ("A", "best of many draws", "macro_f1", "0.600", "0.750", 0.15, 0.1, 0.2),
        ("B", "never told", "auroc", "", "", 0.1, NAN, NAN),
    ]
    columns = ["project", "mistake", "metric", "honest", "published", "difference", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def names(ax) -> list[str]:
    return [t.get_text() for t in ax.get_yticklabels()]


def dots(ax) -> list[tuple[float, float, str]]:
    """x, y and colour of each dot."""
    found = []
    for part in ax.collections:
        if isinstance(part, PathCollection):
            colours = part.get_edgecolors()
            offsets = part.get_offsets()
            found += [
                (round(float(x), 6), round(float(y), 6), to_hex(colours[min(i, len(colours) - 1)]))
                for i, (x, y) in enumerate(offsets)
                if np.isfinite(x)
            ]
    return sorted(found, key=lambda dot: dot[1])


def whiskers(ax) -> list[tuple[float, float]]:
    """Both ends of each, as drawn."""
    return [
        (round(float(a[0]), 6), round(float(b[0]), 6))
        for part in ax.collections
        if isinstance(part, LineCollection)
        for a, b in filter(len, part.get_segments())
        if np.isfinite(a[0])
    ]


def test_every_method_is_a_row_best_first() -> None:
    fig = plots.every_method(lineup(EVERY))
    left, right = fig.axes
    order = ["CNN, all", "SVC, 10 a class", "pixels", "anomaly: x", "always"]
    assert names(left) == order
    expected = [(EVERY[n][1], i, to_hex(FAMILIES[EVERY[n][0]][1])) for i, n in enumerate(order)]
    assert dots(left) == expected
    assert sorted(whiskers(left)) == sorted((round(v - 0.05, 6), round(v + 0.05, 6)) for v, *_ in expected)
    assert [dot[:2] for dot in dots(right)] == [
        (0.7, 0),
        (0.5, 1),
        (0.6, 2),
        (0.4, 4),
    ]  # the detector has none
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["AUROC", "macro-F1"]
    assert left.get_ylim()[0] > left.get_ylim()[1]
    assert [line.get_xdata()[0] for ax in fig.axes for line in ax.lines] == [0.7, 0.6]  # the best baseline
    said = [t.get_text() for t in fig.legends[0].get_texts()]
    assert said == ["baseline", "anomaly detector", "few-shot", "network", "best baseline"]


def test_families_differ_without_colour() -> None:
    assert len({marker for marker, _ in FAMILIES.values()}) == len(FAMILIES)
    assert len({colour for _, colour in FAMILIES.values()}) == len(FAMILIES)


def test_labels_have_places_of_their_own_for_none_and_all() -> None:
    (ax,) = plots.against_labels(shots()).axes
    ticks = dict(zip([t.get_text() for t in ax.get_xticklabels()], ax.get_xticks(), strict=True))
    assert list(ticks) == ["0", "all", "5", "10", "20", "100"]
    assert ticks["0"] < 5 < 100 < ticks["all"]
    low, high = ax.get_xlim()
    assert low < ticks["0"]
    assert ticks["all"] < high
    assert ax.get_xscale() == "log"
    found = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert set(found) == {"SVC", "KNN", "frozen", "detector", "CNN"}
    np.testing.assert_allclose(found["SVC"].get_xdata(), [5, 10, 100])
    np.testing.assert_allclose(found["SVC"].get_ydata(), [0.605, 0.61, 0.7])
    marks = {label: list(line.get_xdata()) for label, line in found.items() if len(line.get_xdata()) == 1}
    assert marks["detector"] == pytest.approx([ticks["0"]])
    assert marks["CNN"] != marks["frozen"]
    across = [line.get_ydata()[0] for line in ax.lines if list(line.get_xdata()) == [0, 1]]
    assert 0.65 in across
    assert 0.75 in across


def test_numbers_of_marks_are_written_where_there_is_room() -> None:
    table = shots()
    table["shots"] = table["shots"].replace(20.0, 13.0)
    more = table.query("method == 'frozen' and shots == 13").assign(shots=209.0)
    (ax,) = plots.against_labels(pd.concat([table, more])).axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "all", "5", "10", "100", "209"]


def test_a_line_far_below_is_written_and_one_nearby_is_drawn() -> None:
    (ax,) = plots.against_labels(shots()).axes
    assert ax.get_title(loc="left") == "AUROC\n(always: 0.10)"
    assert ax.get_ylim()[0] > 0.4
    table = shots()
    table["value"] = table["value"].replace(0.1, 0.5)
    (ax,) = plots.against_labels(table).axes
    assert ax.get_title(loc="left") == "AUROC"
    assert "always" in ax.get_legend_handles_labels()[1]


def test_a_panel_without_a_row_at_zero_has_no_place_for_it() -> None:
    both = pd.concat([shots(), shots(metric="macro_f1").query("method != 'detector'")])
    first, second = plots.against_labels(both).axes
    assert [t.get_text() for t in first.get_xticklabels()][:2] == ["0", "all"]
    assert [t.get_text() for t in second.get_xticklabels()] == ["all", "5", "10", "20", "100"]
    assert second.get_title(loc="left").startswith("macro-F1")


def test_marks_at_one_place_stand_side_by_side() -> None:
    table = pd.concat([shots(), shots().query("method == 'frozen'").assign(method="fine-tuned")])
    (ax,) = plots.against_labels(table).axes
    places = [
        line.get_xdata()[0]
        for line in ax.lines
        if line.get_label() in ("frozen", "fine-tuned") and 10 < line.get_xdata()[0] < 40
    ]
    assert len(set(places)) == len(places) == 2
    assert np.sqrt(np.prod(places)) == pytest.approx(20)


def test_differences_say_what_holm_says() -> None:
    fig = plots.pair_forest(pairs({"a": (-0.1, False), "b": (0.3, True), "c": (0.05, False)}))
    (ax,) = fig.axes
    assert names(ax) == ["b", "c", "a"]
    assert ax.get_title(loc="left") == "AUROC: each minus pixels"
    apart, not_apart = to_hex(APART[True]), to_hex(APART[False])
    assert dots(ax) == [(0.3, 0, apart), (0.05, 1, not_apart), (-0.1, 2, not_apart)]
    assert whiskers(ax) == [(0.2, 0.4), (-0.05, 0.15), (-0.2, 0.0)]
    assert [line.get_xdata()[0] for line in ax.lines] == [0]
    faces = [to_hex(part.get_facecolor()[0]) for part in ax.collections if isinstance(part, PathCollection)]
    assert faces == [apart, "#ffffff", "#ffffff"]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["told apart", "not told apart"]


def test_differences_of_several_references_name_both() -> None:
    table = pd.concat([pairs({"a": (0.1, True)}), pairs({"b": (0.2, True)}, second="CNN")])
    (ax,) = plots.pair_forest(table, metric="macro_f1").axes
    assert names(ax) == ["b minus CNN", "a minus pixels"]
    assert "difference in macro-F1" in ax.get_xlabel()


def test_subgroups_have_a_colour_an_attribute_and_say_too_few() -> None:
    fig = plots.group_forest(groups(), wanted={"auroc": 0.75})
    left, right = fig.axes
    expected = ["age: 0-1", "age: 60+", "sex: F"]
    assert names(left) == [f"{group}  (234 + 1,000 ill)" for group in expected]
    places = left.get_yticks()
    assert places[2] - places[1] > places[1] - places[0]
    assert dots(left) == [(0.8, 0, to_hex(COLOURS[0])), (0.7, round(places[2], 6), to_hex(COLOURS[1]))]
    assert [(t.get_text(), t.get_position()[1]) for t in left.texts] == [("too few", places[1])]
    assert [line.get_xdata()[0] for line in left.lines] == [0.75]
    assert list(right.lines) == []
    assert "dashed: what was wanted" in fig._supxlabel.get_text()


def test_mistakes_stand_by_project_and_size() -> None:
    fig = plots.mistake_forest(lies())
    (ax,) = fig.axes
    assert names(ax) == [
        "best of many draws  [macro-F1]",
        "tuned on test  [macro-F1]",
        "a split by image  [AUROC]",
        "never told  [AUROC]",
    ]
    a, b = to_hex(COLOURS[0]), to_hex(COLOURS[1])
    assert dots(ax) == [(0.15, 0, a), (0.05, 1, a), (0.2, 2, b), (0.1, 3, b)]
    assert whiskers(ax) == [(0.1, 0.2), (-0.01, 0.1), (0.1, 0.3)]
    said = [t.get_text() for t in ax.texts]
    assert said == ["0.600 → 0.750", "0.600 → 0.650", "0.700 → 0.900", "", "honest → as published"]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["project A", "project B"]


ALL = {
    "every": lambda: plots.every_method(lineup({f"{n} {i}": v for i in range(7) for n, v in EVERY.items()})),
    "labels": lambda: plots.against_labels(pd.concat([shots(), shots(metric="macro_f1")]), title="a title"),
    "differences": lambda: plots.pair_forest(
        pairs({f"method {i}, 10 a class": (i / 9, i > 5) for i in range(9)})
    ),
    "subgroups": lambda: plots.group_forest(groups(), title="a title"),
    "mistakes": lambda: plots.mistake_forest(pd.concat([lies()] * 6)),
}


def outside(axis: Axis) -> list[Text]:
    """Labels of ticks beyond the axis, which are not drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = axis.get_major_ticks() + axis.get_minor_ticks()
    return [t.label1 for t in ticks if not low <= t.get_loc() <= high] + [t.label2 for t in ticks]


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_text_is_readable_and_does_not_overlap(make: Callable[[], Figure]) -> None:
    fig = make()
    assert fig.get_size_inches()[0] == 11
    fig.draw_without_rendering()
    fig.draw_without_rendering()  # the layout settles in the second
    beyond = {id(t) for ax in fig.axes for axis in (ax.xaxis, ax.yaxis) for t in outside(axis)}
    shown = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in beyond]
    assert len(shown) > 8
    assert min(t.get_fontsize() for t in shown) >= 8
    boxes = [t.get_window_extent() for t in shown]
    canvas = fig.bbox
    for i, box in enumerate(boxes):
        assert box.x0 >= canvas.x0 - 1, shown[i].get_text()
        assert box.x1 <= canvas.x1 + 1, shown[i].get_text()
        over = [shown[j].get_text() for j in range(i) if boxes[j].shrunk(0.96, 0.8).overlaps(box)]
        assert over == [], shown[i].get_text()


@pytest.mark.parametrize(
    "draw",
    [plots.every_method, plots.against_labels, plots.pair_forest, plots.group_forest, plots.mistake_forest],
)
def test_what_cannot_be_drawn_is_said(draw: Callable) -> None:
    with pytest.raises(DataError, match=r"^1 rows without the columns \['"):
        draw(pd.DataFrame({"x": [1]}))


def test_no_rows_and_unknown_kinds() -> None:
    with pytest.raises(DataError, match=r"0 rows without the columns \[\]; give at least one row"):
        plots.mistake_forest(lies().iloc[:0])
    with pytest.raises(DataError, match=r"kinds \['curve'\] are none of line, point and band"):
        plots.against_labels(shots(kind="curve"))


def test_a_table_of_bands_alone_is_drawn() -> None:
    (ax,) = plots.against_labels(shots().query("method == 'CNN'")).axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["all"]
    assert {to_hex(line.get_color()) for line in ax.lines if line.get_label() == "CNN"} == {GREY}
