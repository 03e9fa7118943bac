"""Figures of explanations: what is drawn where, what can be read, what is said when nothing can be drawn."""

from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from xraykit import plots
from xraykit.datasets import synthetic
from xraykit.errors import DataError
from xraykit.intervals import Interval, patient_weights
from xraykit.plots.explain import BAR, HEAT, MARKER_COLOUR, OPACITY
from xraykit.plots.style import MASK_COLOUR
from xraykit.results import PICTURES

NAN = float("nan")


def pictures(n: int = 3, shape: tuple[int, int] = (8, 8)) -> tuple[np.ndarray, np.ndarray]:
    """Image i is of the grey level 10 * i, and its map rises from 0 to 1."""
    images = np.zeros((n, *shape), np.uint8) + 10 * np.arange(n, dtype=np.uint8)[:, None, None]
    maps = np.linspace(0, 1, images[0].size, dtype=np.float32).reshape(shape)
    return images, np.stack([maps ** (i + 1) for i in range(n)])


def spots(n: int = 3, at: int = 0) -> np.ndarray:
    """Masks (n, 8, 8), of which only number `at` is not empty."""
    masks = np.zeros((n, 8, 8), bool)
    masks[at, 2:5, 3:6] = True
    return masks


def drawn(ax) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in ax.images]


def outlines(ax) -> list[str]:
    return [to_hex(c.get_edgecolor()[0]) for c in ax.collections]


def interval(value: float, width: float = 0.1) -> Interval:
    return Interval(value, value - width, value + width)


def test_an_overlay_is_a_pair_under_one_title() -> None:
    images, maps = pictures()
    fig = plots.overlays(images, maps, ["said A\ntruth: B", "b", "c"], columns=2, bar="share of the heat")
    assert fig.get_label() == PICTURES
    *panels, bar = fig.axes
    assert len(panels) == 6  # the room of a fourth pair is empty
    for i in range(3):
        left, right = panels[2 * i : 2 * i + 2]
        assert [d.tolist() for d in drawn(left)] == [images[i].tolist()]
        assert [d.tolist() for d in drawn(right)] == [images[i].tolist(), maps[i].tolist()]
        assert right.images[0].get_clim() == (0, 255)
        assert right.images[1].get_clim() == (0, 1)
    titles = [ax.get_title(loc="left") for ax in panels]
    assert titles == ["said A\ntruth: B", "", "b", "", "c", ""]
    assert bar.get_ylabel() == "share of the heat"
    assert bar.get_ylim() == (0, 1)


def test_pairs_stand_together_and_rows_below_each_other() -> None:
    images, maps = pictures()
    fig = plots.overlays(images, maps, list("abc"), columns=2)
    boxes = [ax.get_position() for ax in fig.axes]
    within, between = boxes[1].x0 - boxes[0].x1, boxes[2].x0 - boxes[1].x1
    assert between > 3 * within > 0
    assert boxes[4].x0 == boxes[0].x0
    assert boxes[4].y1 < boxes[0].y0 == boxes[3].y0
    assert boxes[-1].x0 > boxes[3].x1
    assert len(plots.overlays(images, maps, list("abc"), columns=1).axes) == 7


def test_what_is_outlined_is_not_empty_and_said_below() -> None:
    images, maps = pictures()
    about = {"masks": spots(at=1), "markers": spots(at=2)}
    fig = plots.overlays(images, maps, list("abc"), **about)
    found = [outlines(ax) for ax in fig.axes[:6]]
    lesion, marker = MASK_COLOUR.lower(), MARKER_COLOUR.lower()
    assert found == [[], [], [lesion], [lesion], [marker], [marker]]
    xray, over = (fig.axes[k].collections[0].get_linewidth()[0] for k in (2, 3))
    assert xray > 1.5 * over > 0  # thin, so that the map shows
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["lesion", "side marker"]
    both = plots.overlays(images, maps, list("abc"), masks=spots(), markers=spots())
    assert outlines(both.axes[0]) == [lesion, marker]
    one = plots.overlays(images, maps, list("abc"), masks=spots(), markers=spots() & False)
    assert [t.get_text() for t in one.legends[0].get_texts()] == ["lesion"]
    assert plots.overlays(images, maps, list("abc"), masks=spots() & False).legends == []


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_xray_shows_more_where_the_map_is_lower(a: float, b: float) -> None:
    low, high = sorted([a, b])
    assert HEAT(low)[3] <= HEAT(high)[3] <= OPACITY < 1
    assert HEAT(0.0)[3] == 0
    assert HEAT(1.0)[3] == OPACITY


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_an_overlay_is_xray_and_heat_in_proportion(value: float) -> None:
    images, maps = np.full((1, 8, 8), 100, np.uint8), np.full((1, 8, 8), value, np.float32)
    fig = plots.overlays(images, maps, ["a"])
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    box = fig.axes[1].get_window_extent()
    pixels = np.asarray(canvas.buffer_rgba())[::-1]
    middle = pixels[int((box.y0 + box.y1) / 2), int((box.x0 + box.x1) / 2), :3]
    opacity, colour = OPACITY * value, 255 * np.array(HEAT(float(value))[:3])
    np.testing.assert_allclose(middle, (1 - opacity) * 100 + opacity * colour, atol=3)


def table(**changed) -> Figure:
    images, maps = pictures()
    about = {
        "images": images,
        "columns": {"Grad-CAM": maps, "Eigen-CAM": maps[::-1]},
        "rows": ["a", "b", "c"],
        "masks": spots(at=1),
        "corners": {"Eigen-CAM": ["normal .9", "ill .8", "ill .7"]},
    }
    about |= changed
    return plots.overlay_table(about.pop("images"), about.pop("columns"), **about)


def test_a_table_has_a_row_an_image_and_a_column_a_method() -> None:
    fig, (images, maps) = table(), pictures()
    assert fig.get_label() == PICTURES
    *panels, bar = fig.axes
    assert len(panels) == 3 * 3
    assert bar.get_ylabel().replace("\n", " ") == BAR
    assert [ax.get_title() for ax in panels] == ["input", "Grad-CAM", "Eigen-CAM"] + [""] * 6
    assert [ax.get_ylabel() for ax in panels] == ["a", "", "", "b", "", "", "c", "", ""]
    assert [ax.get_xlabel() for ax in panels] == ["", "", "normal .9", "", "", "ill .8", "", "", "ill .7"]
    for i in range(3):
        row = panels[3 * i : 3 * i + 3]
        assert [len(ax.images) for ax in row] == [1, 2, 2]
        assert all((drawn(ax)[0] == images[i]).all() for ax in row)
        assert (drawn(row[1])[1] == maps[i]).all()
        assert (drawn(row[2])[1] == maps[2 - i]).all()
    assert [len(ax.collections) for ax in panels] == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert not any(ax.get_xlabel() for ax in table(corners=None).axes)


def test_an_empty_map_is_said_to_be_empty() -> None:
    images, maps = pictures()
    maps[1] = 0
    pairs = plots.overlays(images, maps, list("abc"))
    said = [[t.get_text() for t in ax.texts] for ax in pairs.axes[:6]]
    assert said == [[], [], [], ["empty map"], [], []]
    fig = table(columns={"Grad-CAM": maps, "ones": np.ones_like(maps)}, corners=None)
    said = [[t.get_text() for t in ax.texts] for ax in fig.axes[:9]]
    assert said == [[]] * 4 + [["empty map"]] + [[]] * 4


IMAGES, MAPS = pictures()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"images": IMAGES[:0], "maps": MAPS[:0], "titles": []},
            "0 images, but one is needed; give one of each",
        ),
        ({"maps": MAPS[:2]}, r"3 images, but \{'maps': 2\}; give one of each an image"),
        ({"titles": ["a"]}, r"3 images, but \{'titles': 1\}"),
        ({"masks": spots(2)}, r"3 images, but \{'lesion': 2\}"),
        ({"maps": 2 * MAPS}, r"maps 0 has values from 0 to 2; give finite ones in 0\.\.1"),
        ({"maps": MAPS - 1}, "maps 0 has values from -1 to 0"),
        ({"maps": np.where(MAPS > 0.9, np.nan, MAPS)}, "maps 0 has values from nan to nan"),
        ({"maps": np.where(MAPS > 0.9, np.inf, MAPS)}, "maps 0 has values from 0 to inf"),
        ({"maps": MAPS[:, :4]}, r"maps 0 is \(4, 8\), its image \(8, 8\); resize it to that"),
        ({"markers": spots()[:, 1:]}, r"side marker 0 is \(7, 8\), its image \(8, 8\)"),
        ({"images": IMAGES / 255}, r"image 0 is float64 \(8, 8\); give uint8 \(H, W\), 0 black"),
        ({"images": IMAGES[..., None]}, r"image 0 is uint8 \(8, 8, 1\)"),
        ({"columns": 0}, "columns = 0; give 1 pair a row or more"),
    ],
)
def test_overlays_that_cannot_be_drawn(changed: dict, message: str) -> None:
    about = {"images": IMAGES, "maps": MAPS, "titles": list("abc")} | changed
    with pytest.raises(DataError, match=message):
        plots.overlays(about.pop("images"), about.pop("maps"), about.pop("titles"), **about)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"columns": {}, "corners": None}, r"columns \[\], corners of \[\]; give a column"),
        ({"corners": {"CAM": list("abc")}}, r"\['Grad-CAM', 'Eigen-CAM'\], corners of \['CAM'\]"),
        ({"corners": {"Eigen-CAM": ["a"]}}, r"3 images, but \{'corners of Eigen-CAM': 1\}"),
        ({"rows": ["a"]}, r"3 images, but \{'rows': 1\}"),
        ({"columns": {"Grad-CAM": MAPS, "Eigen-CAM": MAPS[:2]}}, r"3 images, but \{'Eigen-CAM': 2\}"),
        ({"columns": {"Eigen-CAM": MAPS + 1}}, "Eigen-CAM 0 has values from 1 to 2"),
    ],
)
def test_tables_that_cannot_be_drawn(changed: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(**changed)


STAGES = ("trained", "head", "layers.10")


def likeness(*values: float) -> list[tuple[str, Interval]]:
    return [(stage, interval(value)) for stage, value in zip(STAGES, values, strict=True)]


def bars(ax) -> list[list[list[float]]]:
    """Ends of the vertical bars of each set of points."""
    return [[s[:, 1].tolist() for s in c.get_segments()] for c in ax.collections]


def test_randomisation_by_stage() -> None:
    fig = plots.randomisation({"Grad-CAM": likeness(1, 0.5, 0.0), "edges": likeness(1, 0.9, -0.5)})
    (ax,) = fig.axes
    zero, first, second = ax.lines
    assert list(zero.get_ydata()) == [0, 0]
    assert list(first.get_ydata()) == [1, 0.5, 0]
    assert list(second.get_ydata()) == [1, 0.9, -0.5]
    assert first.get_linestyle() == second.get_linestyle() == "None"  # not every stage is one step further
    assert ax.get_xlabel().replace("\n", " ") == (
        "network compared with the trained one (bars: 95% interval over patients)"
    )
    np.testing.assert_allclose(first.get_xdata() + second.get_xdata(), 2 * np.arange(3), atol=1e-12)
    assert (second.get_xdata() > first.get_xdata()).all()
    np.testing.assert_allclose(bars(ax)[1], [[0.9, 1.1], [0.8, 1.0], [-0.6, -0.4]])
    assert [t.get_text() for t in ax.get_xticklabels()] == list(STAGES)
    assert ax.get_xticklabels()[0].get_rotation() > 0
    assert ax.get_ylim() == (-0.63, 1.04)  # below the lowest bar
    assert first.get_color() != second.get_color()
    names = [t.get_text() for t in fig.legends[0].get_texts()]
    assert names == ["unrelated maps", "Grad-CAM", "edges"]
    assert plots.randomisation({"a": likeness(1, 0.5, 0.3)}).axes[0].get_ylim() == (-0.2, 1.04)


def test_a_likeness_of_one_may_be_rounded_up() -> None:
    fig = plots.randomisation({"a": [("trained", Interval(1 + 2e-16, 1 - 1e-16, 1 + 2e-16))]})
    assert fig.axes[0].lines[1].get_ydata()[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, r"stages by method \{\}; give at least one stage"),
        ({"a": []}, r"stages by method \{'a': \(\)\}"),
        ({"a": likeness(1, 1, 1), "b": likeness(1, 1, 1)[:2]}, "the same ones for each method"),
        ({"a": likeness(1, NAN, 0)}, r"3 scores, of which \{'a, head': 'nan \[nan, nan\]'\} are not finite"),
        (
            {"a": likeness(1, 0, 1.5)},
            r"'a, layers.10': '1.500 \[1.400, 1.600\]'\} are not finite or not in -1",
        ),
        ({"a": [("head", Interval(0.5, NAN, NAN))]}, r"'a, head': '0.500 \[nan, nan\]'"),
    ],
)
def test_randomisation_that_cannot_be_drawn(curves: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plots.randomisation(curves)


SHARES = np.linspace(0, 1, 5)
WHO = np.arange(12) // 2


def scores(slope: float) -> dict[str, np.ndarray]:
    own = np.random.default_rng(0).normal(size=(12, 1))
    return {"deletion": own - slope * SHARES, "insertion": own + slope * SHARES}


def occlusion(curves: dict | None = None, **changed) -> Figure:
    about = {"shares": SHARES, "score": "logit of ill", "patients": WHO, "seed": 3, "n_boot": 40} | changed
    curves = {"Grad-CAM": scores(2), "random": scores(1)} if curves is None else curves
    return plots.occlusion(curves, about.pop("shares"), **about)


def test_occlusion_draws_means_and_their_resamplings() -> None:
    fig = occlusion()
    weights = patient_weights(WHO, n_boot=40, rng=np.random.default_rng(3)).astype(int)
    for ax, kind in zip(fig.axes, ("deletion", "insertion"), strict=True):
        assert ax.get_title(loc="left").startswith(kind)
        for line, band, slope in zip(ax.lines, ax.collections, (2, 1), strict=True):
            values = scores(slope)[kind]
            np.testing.assert_allclose(line.get_xdata(), [0, 25, 50, 75, 100])
            np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
            repeated = [values[np.repeat(np.arange(12), w)].mean(axis=0) for w in weights]
            low, high = np.percentile(repeated, [2.5, 97.5], axis=0)
            corners = band.get_paths()[0].vertices
            for share, a, b in zip(SHARES, low, high, strict=True):
                there = corners[np.isclose(corners[:, 0], 100 * share), 1]
                assert (there.min(), there.max()) == pytest.approx((a, b), rel=1e-5)
    assert fig.axes[0].get_ylabel() == "logit of ill"
    assert fig.axes[0].get_ylim() == fig.axes[1].get_ylim()
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["Grad-CAM", "random"]


def test_images_of_one_patient_do_not_narrow_the_band() -> None:
    def widths(patients: np.ndarray, times: int) -> float:
        many = {kind: np.repeat(values, times, axis=0) for kind, values in scores(1).items()}
        corners = occlusion({"a": many}, patients=patients).axes[0].collections[0].get_paths()[0].vertices
        return np.ptp(corners[corners[:, 0] == 0, 1])

    assert widths(np.repeat(WHO, 5), 5) == pytest.approx(widths(WHO, 1))
    assert widths(np.arange(60), 5) < widths(WHO, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"curves": {}}, "curves of at least one method; got none"),
        ({"shares": SHARES[::-1]}, r"shares \[1.0, 0.75, 0.5, 0.25, 0.0\]; give two or more"),
        ({"shares": 100 * SHARES}, r"rise in 0\.\.1"),
        ({"shares": SHARES - 0.1}, r"shares \[-0.1"),
        ({"shares": [NAN, 1]}, r"shares \[nan, 1.0\]"),
        ({"shares": [0.5]}, r"shares \[0.5\]"),
        ({"shares": SHARES[None]}, "give two or more that rise"),
        (
            {"shares": SHARES[:4]},
            r"Grad-CAM: deletion has shape \(12, 5\) .*; give \(12, 4\), a row a patient id",
        ),
        ({"patients": WHO[:9]}, r"has shape \(12, 5\) and 0 scores that are not finite; give \(9, 5\)"),
        ({"curves": {"a": {"deletion": scores(1)["deletion"]}}}, r"a: insertion has shape \(0,\)"),
        (
            {"curves": {"a": scores(NAN)}},
            r"a: deletion has shape \(12, 5\) and 60 scores that are not finite",
        ),
    ],
)
def test_occlusion_that_cannot_be_drawn(changed: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        occlusion(**changed)


PLACES = ("as in training", "by chance", "moved")


def shortcuts(**changed: Interval) -> dict[tuple[str, str], Interval]:
    values = {"marker follows the label": (0.9, 0.5, 0.1), "marker by chance": (0.8, 0.8, 0.7)}
    return {(n, p): interval(v) for n, of in values.items() for p, v in zip(PLACES, of, strict=True)}


def test_shortcuts_by_network_and_place() -> None:
    fig = plots.shortcut(shortcuts(), metric="AUROC")
    (ax,) = fig.axes
    guess, first, second = ax.lines
    assert list(guess.get_ydata()) == [0.5, 0.5]
    assert list(first.get_ydata()) == [0.9, 0.5, 0.1]
    assert list(second.get_ydata()) == [0.8, 0.8, 0.7]
    assert first.get_linestyle() == second.get_linestyle() == "None"  # places are in no order
    assert np.abs(first.get_xdata() - np.arange(3)).max() < 0.3
    assert (first.get_xdata() < second.get_xdata()).all()
    np.testing.assert_allclose(bars(ax)[0], [[0.8, 1.0], [0.4, 0.6], [0.0, 0.2]], atol=1e-12)
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylabel() == "AUROC"
    assert [t.get_text().replace("\n", " ") for t in ax.get_xticklabels()] == list(PLACES)


def test_a_network_without_a_place_keeps_the_others() -> None:
    some = shortcuts()
    del some["marker by chance", "by chance"]
    _, first, second = plots.shortcut(some).axes[0].lines
    assert len(first.get_xdata()) == 3
    assert np.round(second.get_xdata()).tolist() == [0, 2]
    assert list(second.get_ydata()) == [0.8, 0.7]


def test_shortcuts_that_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="0 scores, of which"):
        plots.shortcut({})
    with pytest.raises(
        DataError, match=r"'a, moved': '-0.100 .* are not finite or not in 0\.\.1; leave these"
    ):
        plots.shortcut({("a", "moved"): interval(-0.1)})


def real() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ds = synthetic.load("synthetic", size=64, n_patients=20, progress=False)
    rows = np.flatnonzero(ds.masks.any(axis=(1, 2)))[:4]
    return ds.images[rows], ds.images[rows] / np.float32(255), ds.masks[rows] > 0


def overlays_of(columns: int) -> Figure:
    images, maps, masks = real()
    titles = ["said pneumonia .93\ntruth: normal"] * 3 + ["a line that is longer than both pictures " * 2]
    return plots.overlays(images, maps, titles, columns=columns, masks=masks, markers=masks)


def table_of(n: int) -> Figure:
    images, maps, masks = real()
    names = ("Grad-CAM", "body.maps.layers.10", "trained where the marker follows the label")[:n]
    corners = {name: ["pneumonia .98"] * 4 for name in names}
    rows = ["bacterial", "bacterial pneumonia", "two\nlines", "WWWWWW"]
    return plots.overlay_table(images, dict.fromkeys(names, maps), rows=rows, masks=masks, corners=corners)


@pytest.mark.parametrize(
    "make",
    [
        lambda: overlays_of(3),
        lambda: overlays_of(1),
        lambda: table_of(1),
        lambda: table_of(3),
        lambda: plots.overlays(*(part[:1, :, :40] for part in real()[:2]), ["tall"]),
        lambda: plots.overlays(*(part[:1, :40] for part in real()[:2]), ["wide"]),
        lambda: plots.randomisation(
            {"Grad-CAM": [(f"body.maps.layers.{i} and all above", interval(0.1 * i)) for i in range(7)]}
        ),
        lambda: plots.randomisation({"edges (no network)": likeness(1, 1, 1)}),
        occlusion,
        lambda: plots.shortcut(shortcuts()),
    ],
    ids=["overlays", "narrow", "one map", "table", "tall", "wide", "layers", "few", "occlusion", "shortcut"],
)
def test_all_words_can_be_read(make: Callable[[], Figure]) -> None:
    fig = make()
    fig.draw_without_rendering()
    around, size = fig.get_tightbbox(), fig.get_size_inches()
    assert (around.min >= 0).all()
    assert (around.max <= size).all()
    ticks = [t for ax in fig.axes for t in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    words = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
    assert min(t.get_fontsize() for t in words) >= 7
    words = [t for t in words if t not in ticks]
    assert len(words) >= 2
    for text, ax in product(words, fig.axes):
        box, picture = text.get_window_extent(), ax.get_window_extent()
        across = min(box.x1, picture.x1) - max(box.x0, picture.x0)
        upright = min(box.y1, picture.y1) - max(box.y0, picture.y0)
        assert min(across, upright) < 1, f"{text.get_text()} lies over a picture"
    for one, other in combinations(words, 2):
        assert not one.get_window_extent().overlaps(other.get_window_extent())
