"""Hyperparameters chosen inside the support set."""

import numpy as np
import optuna
import pytest
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from xraykit import fewshot, fewshot_tuning
from xraykit.errors import DataError
from xraykit.fewshot import classifier
from xraykit.fewshot_products import products

GRID = {"C": [0.01, 1.0, 100.0], "gamma": ["scale", 0.5]}


@pytest.fixture
def blobs() -> dict:
    """Arguments of a search: pool (120, 12), three classes, test (20, 12), three draws of 6 a class."""
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=120)
    pool = (rng.normal(size=(120, 12)) + 0.7 * np.eye(12)[labels]).astype(np.float32)
    test = rng.normal(size=(20, 12)).astype(np.float32)
    support = fewshot.draws(labels, np.arange(120).astype(str), shots=(6,), n_draws=3, seed=0)
    return {"pool": pool, "labels": labels, "test": test, "support": support, "shots": (6,)}


@pytest.mark.parametrize("name", ["SVC RBF", "KNN", "logistic regression"])
def test_the_grid_chooses_what_grid_search_cv_chooses(blobs: dict, name: str) -> None:
    values = {"SVC RBF": GRID, "KNN": {"n_neighbors": [1, 3, 7]}}.get(name, {"C": [0.01, 1.0]})
    scores, chosen = fewshot_tuning.grid(**blobs, searches={name: values}, n_folds=3, seed=4)
    for draw, fixed in enumerate(chosen[name, 6]):
        rows = blobs["support"][draw].ravel()
        folds = StratifiedKFold(3, shuffle=True, random_state=4)
        search = GridSearchCV(classifier(name).estimator(), values, cv=folds)
        x = blobs["pool"].astype(float)
        search.fit(x[rows], blobs["labels"][rows])
        assert {key: fixed.parameters[key] for key in values} == search.best_params_
        one = {**blobs, "support": blobs["support"][draw : draw + 1]}
        alone = fewshot.evaluate(**one, classifiers={"it": fixed})["it", 6]
        np.testing.assert_array_equal(scores[name, 6][draw], alone[0])


def test_cross_validated_accuracy_by_hand() -> None:
    x = np.array([[0.0], [1.0], [10.0], [11.0]])
    of = products(x, x)
    nearest = classifier("KNN", n_neighbors=1)
    folds = {"n_folds": 2, "seed": 0}
    assert fewshot_tuning.cross_validated(nearest, of, np.array([0, 0, 1, 1]), **folds) == 1.0
    # Each image's nearest remaining neighbour is of the other class unless both of a pair are held out.
    mixed = fewshot_tuning.cross_validated(nearest, of, np.array([0, 1, 0, 1]), **folds)
    assert mixed in (0.0, 0.5)


def test_optuna_is_quiet_seeded_and_inside_its_space(blobs: dict, capfd) -> None:
    space = {"SVC poly": {"C": (0.1, 10.0), "degree": (2, 3)}, "KNN": {"n_neighbors": [1, 5]}}
    before = optuna.logging.get_verbosity()
    about = {**blobs, "searches": space, "n_trials": 6, "n_folds": 3}
    scores, chosen = fewshot_tuning.optuna_search(**about, seed=0)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before
    assert len(chosen["SVC poly", 6]) == 3
    for fixed in chosen["SVC poly", 6]:
        assert 0.1 <= fixed.parameters["C"] <= 10
        assert fixed.parameters["degree"] in (2, 3)
    assert all(fixed.parameters["n_neighbors"] in (1, 5) for fixed in chosen["KNN", 6])
    again, same = fewshot_tuning.optuna_search(**about, seed=0)
    assert same == chosen
    np.testing.assert_array_equal(again["SVC poly", 6], scores["SVC poly", 6])
    assert fewshot_tuning.optuna_search(**about, seed=1)[1] != chosen


def test_optuna_finds_the_better_of_two(blobs: dict) -> None:
    _, chosen = fewshot_tuning.optuna_search(
        **blobs, searches={"SVC RBF": {"gamma": [1e6, 0.05]}}, n_trials=6, n_folds=3
    )
    accuracy = {
        gamma: [
            fewshot_tuning.cross_validated(
                classifier("SVC RBF", gamma=gamma),
                products(blobs["pool"][d.ravel()].astype(float), blobs["test"].astype(float)),
                blobs["labels"][d.ravel()],
                n_folds=3,
                seed=0,
            )
            for d in blobs["support"]
        ]
        for gamma in (1e6, 0.05)
    }
    for draw, fixed in enumerate(chosen["SVC RBF", 6]):
        worse = {1e6: 0.05, 0.05: 1e6}[fixed.parameters["gamma"]]
        assert accuracy[fixed.parameters["gamma"]][draw] >= accuracy[worse][draw]
    assert np.mean(accuracy[0.05]) > np.mean(accuracy[1e6])  # the test could fail


@pytest.mark.parametrize("search", [fewshot_tuning.grid, fewshot_tuning.optuna_search])
def test_no_test_image_and_no_unlabelled_image_takes_part(blobs: dict, search) -> None:
    trials = {} if search is fewshot_tuning.grid else {"n_trials": 4}
    searches = {"KNN": {"n_neighbors": [1, 3, 5]}}
    chosen = search(**blobs, searches=searches, n_folds=3, **trials)[1]
    other = {**blobs, "test": -5 * blobs["test"], "pool": blobs["pool"].copy()}
    other["pool"][np.setdiff1d(np.arange(120), blobs["support"])] = 0
    assert search(**other, searches=searches, n_folds=3, **trials)[1] == chosen


def test_the_usual_grids_and_spaces_are_accepted(blobs: dict) -> None:
    one = {**blobs, "support": blobs["support"][:1]}
    scores, _ = fewshot_tuning.grid(**one, n_folds=2)
    assert set(scores) == {(name, 6) for name in fewshot_tuning.GRIDS}
    scores, _ = fewshot_tuning.optuna_search(**one, n_folds=2, n_trials=2)
    assert set(scores) == {(name, 6) for name in fewshot_tuning.SPACES}


def test_bad_input(blobs: dict) -> None:
    with pytest.raises(DataError, match=r"7 folds.*6 images of a class.*choose 2 to 6 folds"):
        fewshot_tuning.grid(**blobs, n_folds=7)
    with pytest.raises(DataError, match=r"1 folds"):
        fewshot_tuning.grid(**blobs, n_folds=1)
    single = {**blobs, "shots": (1,)}
    with pytest.raises(DataError, match="at least 2 shots"):
        fewshot_tuning.optuna_search(**single, n_trials=1)
    with pytest.raises(DataError, match="n_trials = 0"):
        fewshot_tuning.optuna_search(**blobs, n_trials=0)
    for space, message in (
        ({"C": (10.0, 1.0)}, r"C = \(10.0, 1.0\); give \(low, high\)"),
        ({"C": []}, "give"),
        ({"C": (0.0, 1.0)}, "C = 0.0; give a number > 0"),
        ({"k": (1, 2)}, "no hyperparameter 'k'"),
        ({}, "empty space"),
    ):
        with pytest.raises(DataError, match=message):
            fewshot_tuning.optuna_search(**blobs, searches={"SVC RBF": space})
    with pytest.raises(DataError, match="'SVM' is unknown"):
        fewshot_tuning.grid(**blobs, searches={"SVM": {"C": [1]}})
