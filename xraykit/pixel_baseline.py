"""The fast classifier that everything has to beat: logistic regression on a few hundred raw pixels."""

from collections.abc import Callable

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from xraykit.errors import DataError
from xraykit.images import check_images
from xraykit.labels import label_matrix

# Neighbouring pixels are almost copies of each other, so the weights need much shrinking: on a
# patient-grouped fold of Kermany's training images .01 had the best three-class AUROC of .0001 to 1.
C = 0.01

Choose = Callable[[np.ndarray], tuple[np.ndarray, dict[str, np.ndarray]]]
Resample = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def pixel_features(images: np.ndarray, *, size: int = 16) -> np.ndarray:
    """Mean grey level of each cell of a size x size grid: float32 (N, size*size) in 0 .. 1, row by row.

    Reads one image at a time, so a memmap of any length will do.

    Raises:
        DataError: images that are not uint8 (N, H, W), or smaller than size x size.
    """
    check_images(images)
    if not 1 <= size <= min(images.shape[1:]):
        raise DataError(f"size = {size} pixels; choose 1 to {min(images.shape[1:])}, the images' own side")
    features = np.empty((len(images), size * size), np.float32)
    for row, image in zip(features, images, strict=True):
        row[:] = cv2.resize(image.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA).ravel()
    return np.clip(features / 255, 0, 1)


def fit_predict(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    sample_weight: np.ndarray | None = None,
    class_weight: np.ndarray | None = None,
    pos_weight: np.ndarray | None = None,
    n_classes: int | None = None,
    c: float = C,
) -> np.ndarray:
    """Standardise, fit logistic regression and return the test probabilities, float64 (M, K).

    Class codes (N,) get one softmax model, rows summing to 1; 0/1 labels (N, K) get K independent models.

    Args:
        train_features, test_features: (N, D) and (M, D); constant columns are harmless.
        sample_weight: (N,), multiplies each image's loss.
        class_weight: (K,), for class codes: multiplies the loss of each class.
        pos_weight: (K,), for 0/1 labels: multiplies the loss of the positives of each label.
        n_classes: K, when the training labels might lack the last classes.
        c: inverse strength of the L2 penalty (scikit-learn's C).

    Raises:
        DataError: a class without an image, a label with only one value, or shapes that do not match.
    """
    onehot = _labels(train_labels, n_classes)
    train, test = _features(train_features, test_features, len(onehot))
    weight = _weights(sample_weight, len(onehot), "sample_weight")
    per_class = _weights(class_weight, onehot.shape[1], "class_weight")
    positive = _weights(pos_weight, onehot.shape[1], "pos_weight")
    if np.ndim(train_labels) == 1:
        if pos_weight is not None:
            raise DataError("pos_weight is for 0/1 labels (N, K); with class codes give class_weight")
        return _probabilities(train, onehot.argmax(axis=1), test, weight=weight * (onehot @ per_class), c=c)
    if class_weight is not None:
        raise DataError("class_weight is for class codes (N,); with 0/1 labels give pos_weight")
    weights = weight[:, None] * np.where(onehot, positive, 1.0)
    columns = zip(onehot.T, weights.T, strict=True)
    return np.stack([_probabilities(train, y, test, weight=w, c=c)[:, 1] for y, w in columns], axis=1)


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    fold: np.ndarray,
    *,
    choose: Choose | None = None,
    resample: Resample | None = None,
) -> np.ndarray:
    """Probabilities (N, K) of every image, each from a model fitted on the other folds.

    Args:
        features, labels: (N, D), and class codes (N,) or 0/1 labels (N, K).
        fold: (N,) fold of each image.
        choose: takes the labels of a training part, returns the indices to train on and the weights for
            `fit_predict` (see `balance.ways`); None trains on all of it.
        resample: takes features and labels of what was chosen, returns those to fit on (see `balance.smote`).

    Raises:
        DataError: a training part without some class.
    """
    n_classes = labels.shape[1] if np.ndim(labels) == 2 else int(np.max(labels)) + 1
    scores = np.empty((len(labels), n_classes))
    for f in np.unique(fold):
        inside = np.flatnonzero(fold != f)
        index, weights = choose(labels[inside]) if choose else (np.arange(len(inside)), {})
        train, outside = (features[inside[index]], labels[inside[index]]), fold == f
        if resample:
            train = resample(*train)
        scores[outside] = fit_predict(*train, features[outside], n_classes=n_classes, **weights)
    return scores


def _probabilities(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, weight: np.ndarray, c: float
) -> np.ndarray:
    model = LogisticRegression(C=c, max_iter=1000, tol=1e-3)
    with threadpool_limits(1):  # products this small lose more to a second thread than they gain
        return model.fit(train, labels, sample_weight=weight).predict_proba(test)


def _features(train: np.ndarray, test: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Both, standardised by the training features, float64."""
    train, test = np.asarray(train, np.float64), np.asarray(test, np.float64)
    if train.ndim != 2 or test.ndim != 2 or len(train) != n or train.shape[1] != test.shape[1]:
        raise DataError(
            f"training features {train.shape}, test features {test.shape} and {n} training labels differ; "
            "features are (N, D) and (M, D) with one label for each of the N rows"
        )
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test)


def _labels(labels: np.ndarray, n_classes: int | None) -> np.ndarray:
    """Indicators (N, K) in which every class can be learned."""
    onehot = label_matrix(labels)
    onehot = np.pad(onehot, ((0, 0), (0, max(0, (n_classes or 0) - onehot.shape[1]))))
    positives = onehot.sum(axis=0)
    useless = np.flatnonzero((positives == 0) | (positives == len(onehot)))
    if len(useless):
        raise DataError(
            f"classes {useless.tolist()} have {positives[useless].tolist()} of {len(onehot)} images; "
            "each needs at least one image with it and one without: draw more images, or leave the class out"
        )
    return onehot


def _weights(weights: np.ndarray | None, n: int, name: str) -> np.ndarray:
    if weights is None:
        return np.ones(n)
    weights = np.asarray(weights, np.float64)
    if weights.shape != (n,) or not (weights > 0).all() or not np.isfinite(weights).all():
        raise DataError(f"{name} has shape {weights.shape}; it must be {n} positive finite numbers")
    return weights
