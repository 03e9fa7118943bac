"""Choosing on a development fold, evaluating what was frozen."""

import numpy as np
import pytest
from sklearn.svm import SVC

from xraykit import fewshot
from xraykit.errors import DataError
from xraykit.fewshot_study import choice_table, frozen_curves, reference_curves
from xraykit.metrics import per_draw


@pytest.fixture(scope="module")
def study() -> dict:
    rng = np.random.default_rng(0)
    labels, truth = rng.integers(2, size=120), rng.integers(2, size=50)
    ids = np.array([f"p{i}" for i in range(120)])
    features = {
        "good": tuple(rng.normal(size=(len(y), 6)) + 2 * y[:, None] for y in (labels, truth)),
        "bad": tuple(rng.normal(size=(len(y), 4)) for y in (labels, truth)),
    }
    support = fewshot.draws(labels, ids, shots=[3, 9], n_draws=4, seed=0)
    return {"labels": labels, "truth": truth, "features": features, "support": support}


def test_the_table_holds_the_median_of_every_pair(study: dict) -> None:
    features = study["features"]["good"]
    on = {"support": study["support"], "shots": 9}
    table = choice_table(features, study["labels"], study["truth"], **on)
    assert list(table.index) == list(fewshot.CLASSIFIERS)
    assert list(table.columns) == list(fewshot.NORMALISATIONS)
    pool, query = fewshot.normalise(*features, how="l2")
    found = fewshot.evaluate(pool, study["labels"], query, support=study["support"], shots=[9])
    assert table.loc["KNN", "l2"] == np.median(per_draw(study["truth"], found["KNN", 9], "macro_f1"))
    assert table.to_numpy().min() > 0.6


def test_curves_hold_what_was_frozen_and_nothing_else(study: dict) -> None:
    about = {"main": "good", "choice": ("KNN", "l2"), "together": ["good", "bad"], "shots": [3, 9]}
    on = {"support": study["support"], "afterwards": [9]}
    curves = frozen_curves(study["features"], study["labels"], **on, **about)
    expected = {(f"{c}, l2", "good", k, "inductive") for c in fewshot.CLASSIFIERS for k in (3, 9)}
    for how in ("raw", "standardised"):
        expected |= {(f"{c}, {how}", "good", 9, "inductive") for c in fewshot.CLASSIFIERS}
    others = [("bad", "inductive"), ("ensemble", "inductive"), ("good", "transductive")]
    expected |= {("KNN, l2", backbone, k, setting) for backbone, setting in others for k in (3, 9)}
    assert set(curves) == expected
    assert {p.shape for p in curves.values()} == {(4, 50, 2)}
    good, bad, both = (curves["KNN, l2", name, 9, "inductive"] for name in ("good", "bad", "ensemble"))
    np.testing.assert_allclose(both, (good + bad) / 2, atol=1e-6)
    raw = frozen_curves(study["features"], study["labels"], **on, **about | {"choice": ("KNN", "raw")})
    assert "transductive" not in {key[3] for key in raw}


def test_the_reference_is_the_svc_of_that_table(study: dict) -> None:
    on = {"support": study["support"], "shots": [9]}
    curves = reference_curves(study["features"], study["labels"], main="good", **on)
    plain, scaled = "SVC RBF with C=1, raw", "SVC RBF with C=10, l2"
    assert set(curves) == {
        (plain, "good", 9, "inductive"),
        (plain, "bad", 9, "inductive"),
        (scaled, "good", 9, "inductive"),
        (scaled, "good", 9, "transductive"),
    }
    pool, query = study["features"]["bad"]
    rows = study["support"][0, :, :9].ravel()
    expected = SVC(C=1).fit(pool[rows], study["labels"][rows]).predict(query)
    assert curves[plain, "bad", 9, "inductive"][0].argmax(axis=1).tolist() == expected.tolist()


def test_a_backbone_without_features_is_named(study: dict) -> None:
    about = {
        "main": "missing",
        "choice": ("KNN", "raw"),
        "together": ["good"],
        "shots": [3],
        "afterwards": [3],
    }
    with pytest.raises(DataError, match="no features from missing"):
        frozen_curves(study["features"], study["labels"], support=study["support"], **about)
