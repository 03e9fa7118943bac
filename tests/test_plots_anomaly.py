"""ROC curves with bands, and the evidence for each picture."""

import numpy as np
import pytest

from xraykit import plots
from xraykit.errors import DataError
from xraykit.results import PICTURES


def curve(n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y = np.arange(n) % 2
    return y, y + np.random.default_rng(0).normal(size=n), np.arange(n).astype(str)


def test_a_perfect_detector_draws_the_corner() -> None:
    y, _, who = curve()
    fig = plots.roc({"right": (y, y.astype(float), who)}, seed=0, n_boot=20)
    line = fig.axes[0].lines[0].get_xydata().tolist()
    assert line == [[0, 0], [0, 1], [1, 1]]


def test_the_band_holds_the_curve_and_narrows_with_more_patients() -> None:
    def area(n: int) -> float:
        fig = plots.roc({"a": curve(n)}, seed=0, n_boot=50)
        band = fig.axes[0].collections[0].get_paths()[0].vertices
        x, y = band[:, 0], band[:, 1]
        return abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2

    assert 0 < area(2000) < area(100)


def test_curves_that_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="at least one curve"):
        plots.roc({}, seed=0)
    with pytest.raises(DataError, match=r"ill: labels \[1\]; a ROC curve needs 0 and 1"):
        plots.roc({"ill": (np.ones(3, int), np.arange(3.0), np.arange(3))}, seed=0)


def evidence(**changed):
    about = {
        "columns": {"input": np.zeros((2, 8, 8), np.uint8), "error": np.arange(128.0).reshape(2, 8, 8)},
        "titles": ["a", "b"],
        "scores": np.array([1.0, 3.0]),
        "threshold": 2.0,
        "masks": np.arange(128).reshape(2, 8, 8) > 120,
    }
    about |= changed
    return plots.evidence(about.pop("columns"), **about)


def test_rows_columns_and_verdicts() -> None:
    fig = evidence()
    assert fig.get_label() == PICTURES
    assert len(fig.axes) == 2 * 3
    verdicts = [text.get_text() for ax in fig.axes for text in ax.texts]
    assert verdicts == ["called normal", "called anomalous"]
    heat = [
        ax.images[0].get_clim() for ax in fig.axes if ax.images and ax.images[0].get_cmap().name == "magma"
    ]
    assert heat[0] == heat[1] == (0, np.percentile(np.arange(128), 99.5))
    outlined = [len(ax.collections) for ax in fig.axes[:6] if ax.images]
    assert outlined == [0, 0, 1, 0]  # the second input alone


@pytest.mark.parametrize(
    "changed",
    [{"titles": ["a"]}, {"scores": np.zeros(3)}, {"columns": {}}],
    ids=["titles", "scores", "columns"],
)
def test_what_does_not_fit(changed: dict) -> None:
    with pytest.raises(DataError, match="give one of each an image"):
        evidence(**changed)
