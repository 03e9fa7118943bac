"""One data set's classifier on another's patients."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from xraykit import elsewhere, results
from xraykit.datasets import XrayDataset, synthetic
from xraykit.errors import DataError
from xraykit.results import Run

BOOT = {"n_boot": 50, "seed": 0}
FINDINGS = ("Effusion", "Infiltration", "Pneumonia", "No Finding")


@pytest.fixture(scope="module")
def home() -> XrayDataset:
    return synthetic.load("synthetic", size=32, n_patients=40, seed=0, progress=False).binary()


def adults(labels: list[tuple[int, ...]], **columns: object) -> XrayDataset:
    """A multi-label set of as many images of 32 pixels, one a patient."""
    n = len(labels)
    ids = [f"a{i}" for i in range(n)]
    records = pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "test", **columns})
    records[list(FINDINGS)] = labels
    images = np.random.default_rng(0).integers(0, 256, (n, 32, 32), dtype=np.uint8)
    return XrayDataset("adults", images, records, FINDINGS, "multilabel", "none", "none")


NONE, EFFUSION, INFILTRATION, BOTH = (0, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, 0), (1, 0, 1, 0)


def test_other_findings_are_left_out_of_the_question_about_opacities(home: XrayDataset) -> None:
    rows = np.arange(10)
    other = adults([NONE, EFFUSION, INFILTRATION, BOTH, NONE])
    found = elsewhere.places(home, rows, other)
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
    found = elsewhere.places(home, np.arange(4), adults([NONE, EFFUSION]))
    assert list(found) == ["home", "adults, any finding"]
    assert list(elsewhere.places(home, np.arange(4), adults([EFFUSION, EFFUSION]))) == ["home"]


def test_home_is_made_as_coarse_as_the_files_of_the_other_set(home: XrayDataset) -> None:
    other = adults([NONE, EFFUSION], height=[16, 16], width=[20, 16])
    found = elsewhere.places(home, np.array([3, 5]), other)
    assert list(found)[:2] == ["home", "home, 16 pixels"]
    coarse = found["home, 16 pixels"]
    assert coarse.images.shape == (2, 32, 32)
    assert coarse.ds.labels.tolist() == home.labels[[3, 5]].tolist()

    def roughness(images: np.ndarray) -> float:
        return float(np.abs(np.diff(images.astype(float), axis=1)).mean())

    assert roughness(coarse.images) < 0.9 * roughness(found["home"].images)
    same = adults([NONE, EFFUSION], height=[64, 64], width=[64, 64])
    assert "home, 64 pixels" not in elsewhere.places(home, np.array([3, 5]), same)


def test_sizes_must_agree(home: XrayDataset) -> None:
    small = synthetic.load("synthetic-nih", size=48, n_patients=4, seed=1, progress=False)
    with pytest.raises(DataError, match=r"\(32, 32\) and synthetic-nih of \(48, 48\) pixels; load both"):
        elsewhere.places(home, np.arange(4), small)


def test_scores_are_recorded_by_place_and_test_is_logged(home: XrayDataset, tmp_path: Path) -> None:
    rows = np.arange(20)
    tested = elsewhere.places(home, rows, adults([NONE, EFFUSION, INFILTRATION, NONE] * 5))
    rng = np.random.default_rng(1)
    p = {}
    for name, place in tested.items():
        q = rng.uniform(size=len(place.rows))
        p[name] = [np.stack([1 - q, q], axis=1)]
    run = Run(notebook="09", dataset="toy", profile="quick", seed=0, figures_dir=tmp_path)
    found = elsewhere.judge(run, tested, p, method="CNN", threshold=0.25, boot=BOOT, backbone="net")
    for name, place in tested.items():
        y, q = place.ds.labels[place.rows], p[name][0][:, 1]
        assert found[name]["auroc"].value == pytest.approx(roc_auc_score(y, q))
        assert found[name]["sensitivity"].value == pytest.approx((q[y == 1] >= 0.25).mean())
    ledger = results.numbers(run.folder).set_index(["method", "metric"])
    assert set(ledger.index.get_level_values(0)) == {f"CNN, at {name}" for name in tested}
    assert ledger["split"]["CNN, at home", "auroc"] == "development"
    assert ledger["split"]["CNN, at adults, opacity", "auroc"] == "test"
    rows = elsewhere.as_groups({"CNN": found}, tested)
    assert len(rows) == 3 * len(elsewhere.NAMES)
    first = rows.iloc[0]
    assert first[["attribute", "group", "n_images", "metric", "note"]].tolist() == [
        "CNN",
        "home",
        20,
        "auroc",
        "",
    ]
    assert first["value"] == found["home"]["auroc"].value
    log = pd.read_csv(run.folder / "test_log.csv")
    assert len(log) == 2  # the two questions about adults
    assert log["configuration"].str.contains('"threshold": 0.25').all()


def test_each_set_has_another_one() -> None:
    assert all(elsewhere.OTHER[elsewhere.OTHER[name]] == name for name in elsewhere.OTHER)
