"""Every head on raw features: what each changes about the SVC, and that none looks at other test images."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from xraykit import fewshot, fewshot_heads
from xraykit.errors import DataError
from xraykit.fewshot_heads import HEADS, evaluate_heads
from xraykit.fewshot_line import moved, pool_line
from xraykit.fewshot_propagation import propagate
from xraykit.fewshot_transforms import averaged_support, powered

LINE, VIEWS = "SVC RBF, line from the pool", "SVC RBF, augmented support"


def case(n_classes: int) -> dict:
    """Arguments of evaluate_heads: pool (120, 8), test (40, 8), three draws of 6 a class, two views."""
    rng = np.random.default_rng(n_classes)
    labels, truth = rng.integers(n_classes, size=120), rng.integers(n_classes, size=40)
    centre = 2 * np.eye(n_classes, 8)

    def features(y: np.ndarray) -> np.ndarray:
        return (9 * np.exp(0.4 * (centre[y] + rng.normal(size=(len(y), 8))))).astype(np.float32)

    pool, test = features(labels), features(truth)
    support = fewshot.draws(labels, np.arange(120).astype(str), shots=(6,), n_draws=3, seed=0)
    rows = np.unique(support)
    noise = np.random.default_rng(9).normal(size=(2, len(rows), 8)).astype(np.float32)
    return {
        "pool": pool,
        "labels": labels,
        "test": test,
        "support": support,
        "shots": (2, 6),
        "view_features": (pool[rows] * np.exp(0.3 * noise), rows),
    }


@pytest.fixture(scope="module")
def two() -> dict:
    return case(2)


@pytest.fixture(scope="module")
def found(two: dict) -> fewshot.Scores:
    return evaluate_heads(**two)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("with_views", [True, False])
def test_all_heads_that_apply_in_order_with_rows_that_sum_to_one(n_classes: int, with_views: bool) -> None:
    arguments = case(n_classes)
    if not with_views:
        arguments["view_features"] = None
    names = [name for name in HEADS if (with_views or name != VIEWS) and (n_classes == 2 or name != LINE)]
    found = evaluate_heads(**arguments)
    assert list(found) == [(name, k) for name in names for k in (2, 6)]
    for scores in found.values():
        assert scores.shape == (3, 40, n_classes)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores.sum(axis=2), 1, atol=1e-6)


def test_the_plain_heads_are_those_of_fewshot(two: dict, found: fewshot.Scores) -> None:
    pool, test = fewshot.normalise(two["pool"], two["test"], how="l2")
    names = ["nearest class mean", "logistic regression", "SVC RBF"]
    about = {"support": two["support"], "shots": two["shots"], "classifiers": names}
    for key, scores in fewshot.evaluate(pool, two["labels"], test, **about).items():
        np.testing.assert_allclose(found[key], scores, atol=1e-6)
    assert list(HEADS)[:3] == names


def test_the_power_transform_and_the_views_change_only_the_features(two: dict, found: fewshot.Scores) -> None:
    features, rows = two["view_features"]
    pool, test = fewshot.normalise(two["pool"], two["test"], how="l2")
    unit = [fewshot.normalise(two["pool"], view, how="l2")[1] for view in features]
    expected = {
        "SVC RBF, power transform": powered(two["pool"], two["test"]),
        VIEWS: (averaged_support(pool, np.stack(unit), rows), test),
    }
    for name, (x, query) in expected.items():
        for draw, chosen in enumerate(two["support"]):
            machine = SVC().fit(x[chosen.ravel()].astype(float), two["labels"][chosen.ravel()])
            decision = machine.decision_function(query.astype(float))
            np.testing.assert_allclose(found[name, 6][draw, :, 1], 1 / (1 + np.exp(-decision)), atol=1e-4)
        assert np.abs(found[name, 6] - found["SVC RBF", 6]).max() > 0.01


def test_label_propagation_and_its_mean_with_the_svc(two: dict, found: fewshot.Scores) -> None:
    pool, test = fewshot.normalise(two["pool"], two["test"], how="l2")
    about = {"support": two["support"], "shots": two["shots"]}
    expected = propagate(pool, two["labels"], test, **about)
    for k in two["shots"]:
        ours = found["label propagation", k]
        np.testing.assert_array_equal(ours, expected["label propagation", k])
        mean = (ours.astype(float) + found["SVC RBF", k]) / 2
        np.testing.assert_allclose(found["SVC RBF + label propagation", k], mean, atol=1e-6)


def test_the_line_is_drawn_from_pool_images_outside_the_draw(two: dict, found: fewshot.Scores) -> None:
    pool, _ = fewshot.normalise(two["pool"], two["test"], how="l2")
    about = {"support": two["support"], "shots": (2,), "classifiers": ["SVC RBF"]}
    of_pool = fewshot.evaluate(pool, two["labels"], pool, **about)["SVC RBF", 2][:, :, 1]
    for draw, p in enumerate(found["SVC RBF", 2]):
        rest = np.setdiff1d(np.arange(120), two["support"][draw, :, :2])
        expected = moved(p, pool_line(of_pool[draw, rest]))
        np.testing.assert_allclose(found[LINE, 2][draw], expected, atol=1e-5)
    assert np.abs(found[LINE, 2] - found["SVC RBF", 2]).max() > 0.01


def test_the_line_keeps_the_auroc(two: dict, found: fewshot.Scores) -> None:
    y = np.arange(40) % 2
    for k in two["shots"]:
        for before, after in zip(found["SVC RBF", k], found[LINE, k], strict=True):
            assert roc_auc_score(y, after[:, 1]) == pytest.approx(roc_auc_score(y, before[:, 1]), abs=0.005)


def test_a_large_pool_is_sampled_by_the_seed(monkeypatch: pytest.MonkeyPatch, two: dict) -> None:
    about = two | {"heads": [LINE]}
    everything = evaluate_heads(**about, seed=0)
    np.testing.assert_array_equal(evaluate_heads(**about, seed=1)[LINE, 6], everything[LINE, 6])
    monkeypatch.setattr(fewshot_heads, "LINE_IMAGES", 30)
    few = evaluate_heads(**about, seed=0)[LINE, 6]
    np.testing.assert_array_equal(evaluate_heads(**about, seed=0)[LINE, 6], few)
    assert np.abs(evaluate_heads(**about, seed=1)[LINE, 6] - few).max() > 1e-3
    assert np.abs(everything[LINE, 6] - few).max() > 1e-3


def test_one_evaluation_serves_all_plain_heads_and_the_line(
    monkeypatch: pytest.MonkeyPatch, two: dict
) -> None:
    seen = []

    def counted(*args, **about) -> fewshot.Scores:
        seen.append(list(about["classifiers"]))
        return fewshot.evaluate(*args, **about)

    monkeypatch.setattr(fewshot_heads, "evaluate", counted)
    evaluate_heads(**two)
    assert sorted(seen, key=len) == [["SVC RBF"]] * 2 + [list(HEADS)[:3]]
    seen.clear()
    evaluate_heads(**two, heads=["SVC RBF + label propagation", LINE])
    assert seen == [["SVC RBF"]]
    seen.clear()
    evaluate_heads(**two, heads=["label propagation"])
    assert seen == []


@pytest.mark.parametrize("n_classes", [2, 3])
def test_each_test_image_is_judged_alone(n_classes: int) -> None:
    arguments = case(n_classes)
    together = evaluate_heads(**arguments)
    others = arguments["test"].copy()
    others[5:] *= -3
    for changed in (arguments["test"][:5], others):
        for key, scores in evaluate_heads(**arguments | {"test": changed}).items():
            np.testing.assert_allclose(scores[:, :5], together[key][:, :5], atol=1e-5, err_msg=str(key))


def test_only_labels_of_drawn_images_are_used(two: dict, found: fewshot.Scores) -> None:
    other = 1 - two["labels"]
    other[two["support"]] = two["labels"][two["support"]]
    for key, scores in evaluate_heads(**two | {"labels": other}).items():
        np.testing.assert_array_equal(scores, found[key])


def test_unlabelled_images_matter_where_the_table_says_so(two: dict, found: fewshot.Scores) -> None:
    """Other images of the same mean and spread: the normalisation stays, as it must for the rest to stay."""
    rest = np.setdiff1d(np.arange(120), two["support"])
    pool = two["pool"].copy()
    x = pool[rest].astype(np.float64)
    new = np.random.default_rng(5).normal(size=x.shape)
    new = (new - new.mean(axis=0)) / new.std(axis=0)
    pool[rest] = new * x.std(axis=0) + x.mean(axis=0)
    changed = evaluate_heads(**two | {"pool": pool})
    moved_by = {key: np.abs(scores - found[key]).max() for key, scores in changed.items()}
    for (name, k), size in moved_by.items():
        unlabelled = any(word in name for word in ("propagation", "line"))
        if "power" not in name:  # whose moments are those of the roots
            assert (size > 0.01) == unlabelled, (name, k, size)


def test_bad_input(two: dict) -> None:
    features, rows = two["view_features"]
    nan = two["pool"].copy()
    nan[3, 4] = np.nan
    bad = [
        ({"heads": ["SVC"]}, r"heads \['SVC'\]; choose from nearest class mean; "),
        ({"heads": []}, r"heads \[\]"),
        ({"heads": [VIEWS], "view_features": None}, "augmented support' needs features of augmented views"),
        ({"pool": nan}, "pool features: row 3, column 4 is nan"),
        ({"test": two["test"][:, :5]}, r"test features \(40, 5\)"),
        ({"labels": two["labels"][1:]}, "119 pool labels do not match"),
        ({"shots": (7,)}, r"shots \[7\] must lie in 1\.\.6"),
        (
            {"heads": [VIEWS], "view_features": (features[:, 1:], rows[1:])},
            f"row {rows[0]} first; make views",
        ),
        ({"heads": [VIEWS], "view_features": (features[:, 1:], rows)}, "view features"),
    ]
    for change, message in bad:
        with pytest.raises(DataError, match=message):
            evaluate_heads(**two | change)
    with pytest.raises(DataError, match="line from the pool' needs exactly two classes"):
        evaluate_heads(**case(3), heads=[LINE])
    tiny = {"pool": two["pool"][:5], "labels": np.array([0, 0, 1, 1, 0]), "view_features": None}
    tiny |= {"support": np.array([[[0, 1], [2, 3]]]), "shots": (2,)}
    with pytest.raises(DataError, match="at least 2 images"):
        evaluate_heads(**two | tiny, heads=[LINE])
