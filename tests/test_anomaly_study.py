"""Parts, choice, contamination and verdict of the anomaly study."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xraykit import anomaly_study, results
from xraykit.anomaly import Deviation, brightness, threshold_for_false_alarms
from xraykit.anomaly_detectors import OnFeatures
from xraykit.anomaly_study import (
    POST_HOC,
    choose,
    contaminated,
    fit_all,
    ill_parts,
    normal_parts,
    verdict,
)
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.results import Run


def dataset(n: int = 120) -> XrayDataset:
    """Two images a patient; a third pneumonia, whose images are brighter; the last third is test."""
    i = np.arange(n)
    codes = (i // 2 % 3 == 2).astype(int)
    images = np.random.default_rng(0).integers(60, 90, (n, 8, 8)) + 20 * codes[:, None, None]
    records = pd.DataFrame({"image_id": [f"i{k}" for k in i], "patient_id": [f"p{k // 2}" for k in i]})
    records["split"] = np.where(i < 2 * n // 3, "train", "test")
    records["label"] = np.array(["normal", "pneumonia"])[codes]
    classes = ("normal", "pneumonia")
    return XrayDataset("toy", images.astype(np.uint8), records, classes, "multiclass", "none", "none")


def test_the_parts_are_normal_training_images_of_different_patients() -> None:
    ds = dataset()
    parts = normal_parts(ds, rng=np.random.default_rng(0))
    everything = np.sort(np.concatenate(list(parts.values())))
    train = (ds.records["split"] == "train").to_numpy()
    np.testing.assert_array_equal(everything, np.flatnonzero(train & (ds.labels == 0)))
    patients = [set(ds.patients[rows]) for rows in parts.values()]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert [len(rows) / len(everything) for rows in parts.values()] == pytest.approx(
        [0.6, 0.1, 0.15, 0.15], abs=0.08
    )


def test_too_few_normals_for_the_parts() -> None:
    ds = dataset().take(np.arange(4))
    with pytest.raises(DataError, match="has 4 normal training images of 2 patients; at least 4"):
        normal_parts(ds, rng=np.random.default_rng(0))


def mixed() -> XrayDataset:
    """As `dataset`, but the second image of the patients p2, p5, ... with an ill one is normal."""
    ds = dataset()
    label = ds.records["label"].to_numpy(object)
    label[5::6] = "normal"
    return replace(ds, records=ds.records.assign(label=label))


def test_the_ill_parts_have_no_patient_of_the_normal_ones() -> None:
    ds, rng = dataset(), np.random.default_rng(0)
    normals = normal_parts(ds, rng=rng)
    ill = ill_parts(ds, normals, rng=rng)
    patients = [set(ds.patients[rows]) for rows in (*normals.values(), *ill.values())]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert all((ds.labels[rows] == 1).all() and len(rows) for rows in ill.values())
    ds = mixed()
    with pytest.raises(DataError, match="0 ill training images of patients without normal ones"):
        ill_parts(ds, normal_parts(ds, rng=rng), rng=rng)


def test_detectors_are_fitted_to_checked_images() -> None:
    ds = dataset()
    normals, ill = np.flatnonzero(ds.labels == 0)[:19], np.flatnonzero(ds.labels == 1)[:1]
    made = {"brightness": OnFeatures(of_brightness, Deviation())}
    fitted = fit_all(made, ds, normals)["brightness"]
    assert fitted.rule.mean == pytest.approx(ds.images[normals].mean())
    both = np.concatenate([normals, ill])
    with pytest.raises(DataError, match="1 of 20 training images are labelled pneumonia"):
        fit_all(made, ds, both)
    assert fit_all(made, ds, both, allowed=0.05)["brightness"].rule.mean > ds.images[normals].mean()


def of_brightness(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return brightness(images[rows])


def test_the_choice_needs_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lesions of this test brighten every pixel, so that brightness finds them all, and darkness none."""

    def brighter(images, rows, *, kind, seed):
        return images[rows] + np.uint8(30), None

    monkeypatch.setattr(anomaly_study, "paste", brighter)
    ds, rows = dataset(), np.arange(10)
    detectors = {side: OnFeatures(of_brightness, Deviation(side)) for side in ("low", "high")}
    fitted = fit_all(detectors, ds, rows[:4])
    found = choose(fitted, ds, rows, seed=0, boot={"n_boot": 20, "seed": 0})
    assert list(found) == ["high", "low"]
    assert {name: {v.value for v in kinds.values()} for name, kinds in found.items()} == {
        "high": {1.0},
        "low": {0.0},
    }
    assert set(found["high"]) == set(anomaly_study.KINDS)


@pytest.mark.parametrize(("share", "ill"), [(0.0, 0), (0.1, 4), (0.5, 20)])
def test_contamination_by_hand(share: float, ill: int) -> None:
    normals, contaminants = np.arange(40), np.arange(100, 130)
    rows = contaminated(normals, contaminants, share=share, rng=np.random.default_rng(0))
    assert len(rows) == len(set(rows)) == 40
    assert np.isin(rows, contaminants).sum() == ill
    assert np.isin(rows, normals).sum() == 40 - ill


def test_contamination_that_cannot_be() -> None:
    with pytest.raises(DataError, match="are 36 contaminants; there are 26"):
        contaminated(np.arange(40), np.arange(26), share=0.9, rng=np.random.default_rng(0))


def test_the_verdict_by_hand(tmp_path: Path) -> None:
    ds = dataset()
    rows = np.flatnonzero(ds.records["split"] == "test")
    y = ds.labels[rows]
    scores = np.where(y == 1, 2.0, 0.0)
    scores[np.flatnonzero(y == 1)[:3]] = 0.5  # missed, but above every normal
    run = Run(notebook="06", dataset="toy", profile="quick", seed=0, figures_dir=tmp_path)
    held_out = np.arange(19) / 18  # the threshold for one in twenty is the largest, 1
    assert threshold_for_false_alarms(held_out, rate=0.05) == 1
    about = {"method": "toy", "rate": 0.05, "boot": {"n_boot": 50, "seed": 0}}
    found = verdict(run, ds, rows, [scores], [held_out], **about)
    assert found["auroc"].value == 1
    assert found["specificity"].value == 1
    assert found["sensitivity"].value == pytest.approx(1 - 3 / y.sum())
    written = results.numbers(run.folder)
    assert set(written["task"]) == {"anomaly"}
    assert set(written["split"]) == {"test"}
    assert len(pd.read_csv(run.folder / "test_log.csv")) == 1
    kept = pd.read_parquet(run.folder / "predictions.parquet")
    assert len(kept) == 2 * len(rows)
    verdict(run, ds, rows, [scores, -scores], [held_out, held_out], **about | {"method": f"two{POST_HOC}"})
    assert len(pd.read_parquet(run.folder / "predictions.parquet")) == len(kept)
    table = results.numbers(run.folder).set_index(["method", "metric"])["value"].astype(float)
    assert table[f"two{POST_HOC}", "auroc"] == 0.5  # the median of 1 and 0
