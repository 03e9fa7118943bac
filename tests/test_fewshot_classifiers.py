"""The table of classifiers and its hyperparameters."""

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.svm import SVC

from xraykit.errors import DataError
from xraykit.fewshot_classifiers import CLASSIFIERS, candidates, classifier


def test_estimators_have_the_tables_hyperparameters() -> None:
    kinds = {name: type(classifier(name).estimator()) for name in CLASSIFIERS}
    assert kinds == {
        "SVC linear": SVC,
        "SVC RBF": SVC,
        "SVC poly": SVC,
        "KNN": KNeighborsClassifier,
        "logistic regression": LogisticRegression,
        "nearest class mean": NearestCentroid,
    }
    for name, fixed in CLASSIFIERS.items():
        assert fixed.items() <= classifier(name).estimator().get_params().items()
    kernels = [classifier(name).estimator().kernel for name in ("SVC linear", "SVC RBF", "SVC poly")]
    assert kernels == ["linear", "rbf", "poly"]


def test_a_replaced_hyperparameter_leaves_the_table_alone() -> None:
    before = dict(CLASSIFIERS["SVC RBF"])
    ours = classifier("SVC RBF", C=7, max_iter=113).estimator(class_weight="balanced")
    assert (ours.C, ours.max_iter, ours.class_weight) == (7, 113, "balanced")
    assert CLASSIFIERS["SVC RBF"] == before


def test_candidates_are_all_combinations() -> None:
    found = candidates("SVC RBF", {"gamma": ["scale", 0.5], "C": [1, 10]})
    assert list(found) == ["C=1, gamma=scale", "C=1, gamma=0.5", "C=10, gamma=scale", "C=10, gamma=0.5"]
    assert found["C=10, gamma=0.5"] == classifier("SVC RBF", C=10, gamma=0.5)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("SVM", {}, "'SVM' is unknown; choose from SVC linear"),
        ("KNN", {"C": 1}, "no hyperparameter 'C'; it has n_neighbors, weights"),
        ("nearest class mean", {"C": 1}, "it has none"),
        ("SVC RBF", {"C": 0}, "C = 0; give a number > 0"),
        ("SVC RBF", {"C": float("nan")}, "C = nan"),
        ("SVC RBF", {"C": "1"}, "C = '1'"),
        ("SVC RBF", {"gamma": "auto"}, "gamma = 'auto'; give a number > 0 or 'scale'"),
        ("SVC poly", {"degree": 2.5}, "degree = 2.5; give a whole number"),
        ("SVC poly", {"coef0": -1}, "coef0 = -1"),
        ("SVC linear", {"max_iter": 0}, "max_iter = 0"),
        ("KNN", {"n_neighbors": True}, "n_neighbors = True"),
        ("KNN", {"n_neighbors": 0}, "n_neighbors = 0; give a whole number >= 1"),
        ("KNN", {"weights": "rank"}, "weights = 'rank'"),
    ],
)
def test_bad_hyperparameters(name: str, parameters: dict, message: str) -> None:
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        classifier(name, **parameters)


def test_bad_grids() -> None:
    with pytest.raises(DataError, match=r"no values for \['C'\]"):
        candidates("SVC RBF", {"C": []})
    with pytest.raises(DataError, match="no values for any hyperparameter"):
        candidates("SVC RBF", {})


@pytest.mark.parametrize("name", ["KNN", "nearest class mean"])
def test_no_class_weight_without_a_loss(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} has no loss to weight"):
        classifier(name).estimator(class_weight="balanced")
