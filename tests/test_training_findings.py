"""Which findings are trained, and No Finding from the others."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraykit import datasets
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.training_findings import findings_only, with_no_finding


@pytest.fixture
def ds() -> XrayDataset:
    """40 images: Mass in every second, Hernia in two images of one patient, Edema in all but one."""
    i = np.arange(40)
    columns = {"Mass": i % 2, "Hernia": i < 2, "Edema": i > 0, "No Finding": i < 0}
    records = pd.DataFrame({"image_id": [f"i{n}" for n in i], "patient_id": [f"p{n // 2}" for n in i]})
    return XrayDataset(
        name="toy",
        images=np.zeros((40, 8, 8), np.uint8),
        records=records.assign(split="train", **{k: np.asarray(v, int) for k, v in columns.items()}),
        classes=tuple(columns),
        task="multilabel",
        licence="none",
        citation="none",
        masks=np.zeros((40, 8, 8), np.uint16),
    )


def test_rare_findings_are_left_out_with_the_reason(ds: XrayDataset) -> None:
    parts = {"train": np.arange(20), "val": np.arange(20, 40)}
    less, left_out = findings_only(ds, parts=parts, least=2)
    assert less.classes == ("Mass",)
    assert left_out == {
        "Hernia": "1 patients with it in train",  # two images
        "Edema": "1 patients without it in train",
    }
    assert less.labels[:, 0].tolist() == [0, 1] * 20
    assert less.masks is None
    assert len(less) == 40
    assert findings_only(ds, parts={"train": np.arange(20)}, least=1)[0].classes == (
        "Mass",
        "Hernia",
        "Edema",
    )


def test_nothing_left_and_one_class_an_image(ds: XrayDataset) -> None:
    with pytest.raises(DataError, match="no finding has 21 patients in each of train; load more images"):
        findings_only(ds, parts={"train": np.arange(40)}, least=21)
    with pytest.raises(DataError, match="one class an image"):
        findings_only(ds.binary(), parts={"train": np.arange(40)})


def test_no_finding_by_hand() -> None:
    p, classes = with_no_finding(np.array([[0.5, 0.2], [0, 0], [1, 0.3]]), ("Mass", "Edema"))
    assert classes == ("Mass", "Edema", "No Finding")
    np.testing.assert_allclose(p, [[0.5, 0.2, 0.4], [0, 0, 1], [1, 0.3, 0]], rtol=1e-15)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_no_finding_is_what_the_other_outcomes_leave(row: list[float]) -> None:
    some = sum(
        np.prod([q if present else 1 - q for q, present in zip(row, outcome, strict=True)])
        for outcome in itertools.product((0, 1), repeat=len(row))
        if any(outcome)
    )
    p, _ = with_no_finding(np.array([row]), [str(i) for i in range(len(row))])
    assert p[0, -1] == pytest.approx(1 - some, abs=1e-12)


def test_of_sure_findings_it_is_the_label_of_the_set() -> None:
    ds = datasets.load("synthetic-nih", size=32, n_patients=30)
    findings = [c for c in ds.classes if c != "No Finding"]
    p, _ = with_no_finding(ds.records[findings].to_numpy(), findings)
    assert 0 < p[:, -1].mean() < 1
    np.testing.assert_array_equal(p[:, -1], ds.records["No Finding"])


@pytest.mark.parametrize(
    ("p", "classes", "message"),
    [
        ([[0.5, 1.5]], ("a", "b"), "must be probabilities"),
        ([[0.5, np.nan]], ("a", "b"), "must be probabilities"),
        ([[0.5]], ("a", "b"), r"p \(1, 1\) must be probabilities in 0..1, \(M, 2\)"),
        ([0.5], ("a",), "must be probabilities"),
        ([[0.5]], ("No Finding",), "train on findings_only"),
    ],
)
def test_bad_probabilities(p: list, classes: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_no_finding(np.array(p), classes)
