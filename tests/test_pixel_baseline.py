"""The fast classifier on raw pixels."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xraykit import pixel_baseline
from xraykit.balance import class_weights, smote
from xraykit.errors import DataError
from xraykit.pixel_baseline import fit_predict, pixel_features


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (300, 6) of three overlapping classes, their codes, and 0/1 labels of two rules."""
    draw = np.random.default_rng(0)
    labels = draw.choice(3, size=300, p=[0.6, 0.3, 0.1])
    features = draw.normal(size=(300, 6)) + np.eye(6)[labels]
    return features, labels, (features[:, :2] + draw.normal(size=(300, 2)) > 0.5).astype(int)


def test_pixel_features_are_block_means() -> None:
    image = np.zeros((2, 8, 8), np.uint8)
    image[0, :4, :4] = 255  # top left quarter white
    image[1, 0, 4:] = 204  # one of four rows of the top right quarter at .8
    features = pixel_features(image, size=2)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, [[1, 0, 0, 0], [0, 0.2, 0, 0]], atol=1e-6)


def test_pixel_features_stay_in_range_for_sides_that_do_not_divide(tmp_path) -> None:
    images = np.memmap(tmp_path / "images.u8", np.uint8, "w+", shape=(5, 37, 50))
    images[:] = 255
    np.testing.assert_allclose(pixel_features(images, size=16), np.ones((5, 256)), atol=1e-6)
    assert pixel_features(images, size=16).max() <= 1


def test_pixel_features_refuse_what_they_cannot_shrink() -> None:
    with pytest.raises(DataError, match="size = 16 pixels; choose 1 to 8"):
        pixel_features(np.zeros((1, 8, 9), np.uint8))
    with pytest.raises(DataError, match="uint8"):
        pixel_features(np.zeros((1, 32, 32)))


def test_class_codes_agree_with_scikit_learns_pipeline(blobs) -> None:
    features, labels, _ = blobs
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", tol=1e-6))
    expected = pipeline.fit(features[:200], labels[:200]).predict_proba(features[200:])
    weights = class_weights(labels[:200], split="train")
    ours = fit_predict(features[:200], labels[:200], features[200:], class_weight=weights)
    np.testing.assert_allclose(ours, expected, atol=2e-3)
    np.testing.assert_allclose(ours.sum(axis=1), 1)
    # The same weights by image.
    by_image = fit_predict(features[:200], labels[:200], features[200:], sample_weight=weights[labels[:200]])
    np.testing.assert_allclose(by_image, ours, atol=1e-9)


def test_multilabel_agrees_with_one_versus_rest(blobs) -> None:
    features, _, onehot = blobs
    model = OneVsRestClassifier(LogisticRegression(C=0.01, tol=1e-6))
    expected = (
        make_pipeline(StandardScaler(), model).fit(features[:200], onehot[:200]).predict_proba(features[200:])
    )
    np.testing.assert_allclose(fit_predict(features[:200], onehot[:200], features[200:]), expected, atol=2e-3)


def test_weight_two_equals_every_image_twice(blobs) -> None:
    features, labels, _ = blobs
    twice = fit_predict(np.r_[features, features], np.r_[labels, labels], features)
    weighted = fit_predict(features, labels, features, sample_weight=np.full(300, 2.0))
    np.testing.assert_allclose(weighted, twice, atol=2e-3)
    assert np.abs(weighted - fit_predict(features, labels, features)).max() > 0.01


def test_pos_weight_raises_the_positives_of_its_label_only(blobs) -> None:
    features, _, onehot = blobs
    plain = fit_predict(features, onehot, features)
    raised = fit_predict(features, onehot, features, pos_weight=np.array([5.0, 1.0]))
    assert (raised[:, 0] > plain[:, 0]).all()
    np.testing.assert_array_equal(raised[:, 1], plain[:, 1])


def test_constant_features_are_harmless(blobs) -> None:
    features, labels, _ = blobs
    padded = np.c_[features, np.full(300, 0.3)]
    np.testing.assert_allclose(
        fit_predict(padded, labels, padded), fit_predict(features, labels, features), atol=1e-6
    )


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 0, 2, 2], {}, r"classes \[1\] have \[0\] of 4 images"),
        ([0, 0, 1, 1], {"n_classes": 3}, r"classes \[2\] have \[0\] of 4 images"),
        ([0, 0, 0, 0], {}, r"classes \[0\] have \[4\] of 4 images"),
        ([[0, 1], [0, 1], [0, 0], [0, 1]], {}, r"classes \[0\] have \[0\] of 4"),
        ([0, 1, 0], {}, "and 3 training labels differ"),
        ([0, 1, 0, 1], {"pos_weight": np.ones(2)}, "with class codes give class_weight"),
        ([[0, 1], [1, 0], [0, 0], [1, 1]], {"class_weight": np.ones(2)}, "with 0/1 labels give pos_weight"),
        ([0, 1, 0, 1], {"sample_weight": np.ones(3)}, "sample_weight has shape .* 4 positive finite"),
        ([0, 1, 0, 1], {"sample_weight": np.array([1, 1, 0, 1])}, "4 positive finite numbers"),
    ],
)
def test_what_cannot_be_fitted_is_an_error(labels: list, options: dict, message: str) -> None:
    features = np.arange(8.0).reshape(4, 2)
    with pytest.raises(DataError, match=message):
        fit_predict(features, np.array(labels), features, **options)


def test_importing_the_data_side_does_not_import_torch() -> None:
    modules = "audit, balance, duplicates, pixel_baseline, plots, projections, shots, splits"
    code = f"import sys; from xraykit import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_out_of_fold_never_trains_on_the_fold_it_predicts() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    features = rng.normal(size=(40, 3)) + labels[:, None]
    fold = np.tile([0, 1], 20)
    seen = []

    def choose(y: np.ndarray) -> tuple[np.ndarray, dict]:
        seen.append(len(y))
        return np.arange(len(y)), {"class_weight": np.array([1.0, 2.0])}

    scores = pixel_baseline.out_of_fold(features, labels, fold, choose=choose)
    assert seen == [20, 20]
    for f in (0, 1):
        expected = pixel_baseline.fit_predict(
            features[fold != f], labels[fold != f], features[fold == f], class_weight=np.array([1.0, 2.0])
        )
        np.testing.assert_array_equal(scores[fold == f], expected)
    plain = pixel_baseline.out_of_fold(features, labels, fold)
    assert (plain[:, 1] < scores[:, 1]).all()  # without the double weight, class 1 is always less likely


def test_out_of_fold_resamples_what_was_chosen_of_the_training_part_alone() -> None:
    labels = np.repeat([0, 1], [30, 10])
    features = np.column_stack([np.arange(40.0), np.random.default_rng(0).normal(size=40)])
    fold = np.tile([0, 1], 20)
    seen = []

    def resample(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(x[:, 0].astype(int).tolist())  # the first feature names the image
        return smote(x, y, split="train", rng=np.random.default_rng(0), k_neighbors=3)

    scores = pixel_baseline.out_of_fold(features, labels, fold, resample=resample)
    assert seen == [np.flatnonzero(fold == 1).tolist(), np.flatnonzero(fold == 0).tolist()]
    for f in (0, 1):
        train = resample(features[fold != f], labels[fold != f])
        assert np.bincount(train[1]).tolist() == [15, 15]
        expected = pixel_baseline.fit_predict(*train, features[fold == f])
        np.testing.assert_array_equal(scores[fold == f], expected)
    seen.clear()
    pixel_baseline.out_of_fold(
        features, labels, fold, choose=lambda y: (np.arange(3, len(y)), {}), resample=resample
    )
    assert seen == [np.flatnonzero(fold == 1)[3:].tolist(), np.flatnonzero(fold == 0)[3:].tolist()]
