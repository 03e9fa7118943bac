"""One data set's classifier on another's patients."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from xraykit import elsewhere, results
from xraykit.datasets import XrayDataset, synthetic
from xraykit.errors import DataError
from xraykit.intervals import Interval
from xraykit.results import Run

BOOT = {"n_boot": 50, "seed": 0}
FINDINGS = ("Effusion", "Infiltration", "Pneumonia", "No Finding")
NONE, EFFUSION, INFILTRATION, BOTH = (0, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, 0), (1, 0, 1, 0)


@pytest.fixture(scope="module")
def home() -> XrayDataset:
    ds = synthetic.load("synthetic", size=32, n_patients=40, seed=0, progress=False).binary()
    return ds.take(ds.records["split"].to_numpy() == "train")


def adults(labels: list[tuple[int, ...]], **columns: object) -> XrayDataset:
    """A multi-label set of as many images of 32 pixels, one a patient."""
    n = len(labels)
    ids = [f"a{i}" for i in range(n)]
    records = pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "test", **columns})
    records[list(FINDINGS)] = labels
    images = np.random.default_rng(0).integers(0, 256, (n, 32, 32), dtype=np.uint8)
    return XrayDataset("adults", images, records, FINDINGS, "multilabel", "none", "none")


def roughness(images: np.ndarray) -> float:
    return float(np.abs(np.diff(images.astype(float), axis=1)).mean())


def test_other_findings_are_left_out_of_the_question_about_opacities(home: XrayDataset) -> None:
    rows = np.arange(10)
    other = adults([NONE, EFFUSION, INFILTRATION, BOTH, NONE])
    found = elsewhere.places(home, {"home": rows}, other)
    assert list(found) == ["home", "adults, any finding", "adults, opacity"]
    assert found["home"].rows is rows
    assert found["home"].split == "development"
    any_finding, opacity = found["adults, any finding"], found["adults, opacity"]
    assert any_finding.rows.tolist() == [0, 1, 2, 3, 4]
    assert any_finding.ds.labels.tolist() == [0, 1, 1, 1, 0]
    assert opacity.rows.tolist() == [0, 2, 3, 4]  # an effusion alone is neither normal nor an opacity
    assert opacity.ds.labels[opacity.rows].tolist() == [0, 1, 1, 0]
    assert opacity.split == "test"
    assert np.array_equal(opacity.images, other.images[[0, 2, 3, 4]])


def test_a_question_with_one_answer_is_not_asked(home: XrayDataset) -> None:
    rows = {"home": np.arange(4)}
    assert list(elsewhere.places(home, rows, adults([NONE, EFFUSION]))) == ["home", "adults, any finding"]
    assert list(elsewhere.places(home, rows, adults([EFFUSION, EFFUSION]))) == ["home"]
    of_classes = elsewhere.places(adults([NONE, EFFUSION]).binary(), {"home": np.arange(2)}, home)
    assert list(of_classes) == ["home", "synthetic, pneumonia"]


def test_the_finer_set_is_made_as_coarse_as_the_files_of_the_other(home: XrayDataset) -> None:
    other = adults([NONE, EFFUSION], height=[16, 16], width=[20, 16])
    found = elsewhere.places(home, {"home": np.array([3, 5])}, other)
    assert list(found) == ["home", "adults, any finding", "home, 16 pixels"]
    coarse = found["home, 16 pixels"]
    assert coarse.images.shape == (2, 32, 32)
    assert coarse.ds.labels.tolist() == home.labels[[3, 5]].tolist()
    assert coarse.split == "development"
    assert roughness(coarse.images) < 0.9 * roughness(found["home"].images)
    back = elsewhere.places(other.binary(), {"test": np.arange(2)}, home)
    assert list(back) == ["test", "synthetic, pneumonia", "synthetic, pneumonia, 16 pixels"]
    assert roughness(back["synthetic, pneumonia, 16 pixels"].images) < 0.9 * roughness(home.images)
    assert back["synthetic, pneumonia, 16 pixels"].split == "test"
    fine = adults([NONE, EFFUSION], height=[64, 64], width=[64, 64])
    assert list(elsewhere.places(home, {"home": np.array([3])}, fine)) == ["home", "adults, any finding"]


def test_sizes_must_agree(home: XrayDataset) -> None:
    small = synthetic.load("synthetic-nih", size=48, n_patients=4, seed=1, progress=False)
    with pytest.raises(DataError, match=r"\(32, 32\) and synthetic-nih of \(48, 48\) pixels; load both"):
        elsewhere.places(home, {"home": np.arange(4)}, small)


@given(st.floats(0.001, 0.999), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_threshold_becomes_one_half_and_the_order_stays(threshold: float, values: list[float]) -> None:
    q = np.array(values)
    moved = elsewhere.at_half(np.stack([1 - q, q], axis=1), threshold)
    np.testing.assert_allclose(moved.sum(axis=1), 1)
    clear = np.abs(q - threshold) > 1e-9
    np.testing.assert_array_equal((moved[:, 1] > 0.5)[clear], (q > threshold)[clear])
    assert (np.diff(moved[np.argsort(q, kind="stable"), 1]) >= 0).all()


def test_a_threshold_at_half_by_hand() -> None:
    # .2 is odds of 1 to 4; a probability of .5, odds of 1, has four times as much: 4 to 1, .8.
    np.testing.assert_allclose(elsewhere.at_half(np.array([[0.5, 0.5], [0.8, 0.2]]), 0.2)[:, 1], [0.8, 0.5])
    all_said = elsewhere.at_half(np.array([[1.0, 0.0], [0.5, 0.5]]), 0.0)[:, 1]
    assert all_said[0] == 0.5 < all_said[1]
    with pytest.raises(DataError, match=r"threshold 1\.5; give a probability"):
        elsewhere.at_half(np.array([[0.5, 0.5]]), 1.5)


def test_scores_are_recorded_by_place_and_test_is_logged(home: XrayDataset, tmp_path: Path) -> None:
    others = adults([NONE, EFFUSION, INFILTRATION, NONE] * 5)
    tested = elsewhere.places(home, {"home": np.arange(20)}, others)
    rng = np.random.default_rng(1)
    p = {}
    for name, place in tested.items():
        q = rng.uniform(size=len(place.rows))
        p[name] = [np.stack([1 - q, q], axis=1)]
    run = Run(notebook="09", dataset="toy", profile="quick", seed=0, figures_dir=tmp_path)
    found = elsewhere.judge(run, tested, p, method="CNN", boot=BOOT, backbone="net")
    for name, place in tested.items():
        y, q = place.ds.labels[place.rows], p[name][0][:, 1]
        assert found[name]["auroc"].value == pytest.approx(roc_auc_score(y, q))
        assert found[name]["sensitivity"].value == pytest.approx((q[y == 1] >= 0.5).mean())
    ledger = results.numbers(run.folder).set_index(["method", "metric"])
    assert set(ledger.index.get_level_values(0)) == {f"CNN, at {name}" for name in tested}
    assert ledger["split"]["CNN, at home", "auroc"] == "development"
    assert ledger["split"]["CNN, at adults, opacity", "auroc"] == "test"
    rows = elsewhere.as_groups({"CNN": found}, tested)
    assert len(rows) == 3 * len(elsewhere.NAMES)
    ill = int(home.labels[:20].sum())
    expected = {"attribute": "CNN", "group": "home", "n_images": 20, "n_positive": ill, "metric": "auroc"}
    assert rows.iloc[0][list(expected)].to_dict() == expected
    assert rows.iloc[0]["value"] == found["home"]["auroc"].value
    assert len(pd.read_csv(run.folder / "test_log.csv")) == 2  # the two questions about adults


def scores(value: float, half: float) -> dict[str, Interval]:
    return {"auroc": Interval(value, value - half, value + half)}


def test_independent_differences_by_hand() -> None:
    # Standard errors of .03 and .04 add to .05 by Pythagoras; .2 is four of them, .04 is .8 of one.
    z = 1.96
    found = {
        "a": {"test": scores(0.9, 0.03 * z), "there": scores(0.7, 0.04 * z), "blurred": scores(0.1, 0.01)},
        "b": {"test": scores(0.9, 0.03 * z), "there": scores(0.86, 0.04 * z)},
    }
    table = elsewhere.gaps(found, "test", there=["there"], names=["auroc"]).set_index("method")
    far, near = table.loc["a"], table.loc["b"]
    limits = far[["difference", "ci_low", "ci_high"]].astype(float)
    np.testing.assert_allclose(limits, [-0.2, -0.2 - 0.05 * z, -0.2 + 0.05 * z])
    assert far["p"] == pytest.approx(2 * norm.sf(4))
    assert far["p_holm"] == pytest.approx(2 * 2 * norm.sf(4))  # the smaller of two
    assert near["p_holm"] == pytest.approx(2 * norm.sf(0.8))
    assert (far["verdict"], near["verdict"]) == ("told apart", "not told apart")
    assert elsewhere.gaps(found, "test", there=[]).empty


def test_each_set_has_another_one() -> None:
    assert all(elsewhere.OTHER[elsewhere.OTHER[name]] == name for name in elsewhere.OTHER)
