"""One finding at a time."""

import numpy as np
import pandas as pd
import pytest

from xraykit import datasets
from xraykit.errors import DataError
from xraykit.fewshot_findings import per_finding
from xraykit.metrics import score_all


@pytest.fixture(scope="module")
def parts() -> tuple[datasets.XrayDataset, datasets.XrayDataset]:
    """Sixty patients a split with one image each: Mass in half of them, Hernia in four, Edema in none."""
    rng = np.random.default_rng(0)

    def part(split: str) -> datasets.XrayDataset:
        columns = {f: np.zeros(60, int) for f in ("Mass", "Hernia", "Edema", "No Finding")}
        columns["Mass"][::2], columns["Hernia"][:4] = 1, 1
        records = pd.DataFrame({"image_id": [f"{split}{i}" for i in range(60)], "split": split} | columns)
        return datasets.XrayDataset(
            name="toy",
            images=rng.integers(0, 255, (60, 8, 8)).astype(np.uint8),
            records=records.assign(patient_id=records["image_id"]),
            classes=tuple(columns),
            task="multilabel",
            licence="none",
            citation="none",
        )

    return part("train"), part("test")


def test_a_finding_that_the_features_hold_is_ranked_and_rare_ones_are_named(parts):
    features = tuple(p.records[["Mass", "Edema"]].to_numpy(np.float32) for p in parts)
    found, left_out = per_finding(*parts, features, shots=10, n_draws=3, seed=0)
    assert left_out == ["Hernia", "Edema"]
    assert list(found) == ["Mass"]
    assert found["Mass"].shots == 10
    assert found["Mass"].scores.shape == (3, 60)
    for scores in found["Mass"].scores:
        assert score_all(found["Mass"].labels, scores, names=["auroc"])["auroc"][0] == 1


def test_shots_shrink_to_what_the_patients_allow(parts):
    features = tuple(p.records[["Mass"]].to_numpy(np.float32) for p in parts)
    assert per_finding(*parts, features, shots=50, n_draws=1, seed=0)[0]["Mass"].shots == 30


def test_a_multiclass_set_is_refused():
    ds = datasets.load("synthetic", size=32, n_patients=6)
    with pytest.raises(DataError, match="one class an image"):
        per_finding(ds, ds, (np.zeros((1, 1)),) * 2, shots=1, n_draws=1, seed=0)
