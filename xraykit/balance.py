"""Balancing the training part: resampling on index arrays, synthetic rows, weights, and a weighted sampler.

Every function takes the name of the split that its labels come from and refuses any but ``"train"``: a
balanced validation or test split has another class mix than the one reported, and copies made before a split
end up on both sides of it. Audit first, then split by patient, and only then balance.
"""

from collections.abc import Callable

import numpy as np
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from sklearn.utils.class_weight import compute_class_weight

from xraykit.errors import DataError
from xraykit.labels import label_matrix

Chosen = tuple[np.ndarray, dict[str, np.ndarray]]  # indices to train on, weights for the loss


def undersample(labels: np.ndarray, *, split: str, rng: np.random.Generator) -> np.ndarray:
    """Indices of a random subset with as many images of every class as the smallest class has.

    Args:
        labels: class codes (N,).
        split: the split they come from; must be ``"train"``.

    Returns:
        int64 indices into `labels`, none twice.

    Raises:
        DataError: another split, 0/1 labels (N, K), or a class without images.
    """
    return _resample(RandomUnderSampler, labels, split=split, rng=rng)


def oversample(labels: np.ndarray, *, split: str, rng: np.random.Generator) -> np.ndarray:
    """Indices that repeat random images until every class has as many as the largest; every image is kept.

    Arguments, return value and errors as for `undersample`, except that indices repeat.
    """
    return _resample(RandomOverSampler, labels, split=split, rng=rng)


def smote(
    features: np.ndarray, labels: np.ndarray, *, split: str, rng: np.random.Generator, k_neighbors: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """The given rows, then synthetic ones until every class has as many as the largest.

    A synthetic row lies at a random place between a random row of its class and one of that row's
    `k_neighbors` nearest (Euclidean) in the class (SMOTE; Chawla et al., JAIR 2002). Between two embeddings
    lies a plausible embedding; between two X-rays lies a double exposure, so smote embeddings, not images.

    Args:
        features: (N, D), finite, scaled so that distances between rows mean something.
        labels: class codes (N,).
        split: the split they come from; must be ``"train"``.

    Returns:
        features (M, D) and class codes int64 (M,), the first N as given; M is K times the largest class.

    Raises:
        DataError: another split, 0/1 labels (N, K), features that do not match or are not finite, or a class
            with too few images to have `k_neighbors`.
    """
    codes = _classes(labels, split)
    features = np.asarray(features)
    if features.ndim != 2 or len(features) != len(codes) or not np.isfinite(features).all():
        raise DataError(
            f"features of shape {features.shape} with {len(codes)} labels; they must be finite numbers "
            "(N, D), one row for each label"
        )
    n = np.bincount(codes).min()
    if not 1 <= k_neighbors < n:
        advice = f"choose 1 to {n - 1}" if n > 1 else "one image has no neighbour, use oversample"
        raise DataError(f"k_neighbors = {k_neighbors} with {n} images in the smallest class; {advice}")
    made = SMOTE(k_neighbors=k_neighbors, random_state=int(rng.integers(2**32)))
    return made.fit_resample(features, codes)


def class_weights(labels: np.ndarray, *, split: str) -> np.ndarray:
    """Loss weight of each class, float64 (K,): N / (K * images of the class), scikit-learn's "balanced".

    The weights of all N images then add up to N, as without weights.

    Raises:
        DataError: a split other than train, 0/1 labels (N, K) (use `pos_weight`), or a class without images.
    """
    codes = _codes(labels, split)
    return compute_class_weight("balanced", classes=np.unique(codes), y=codes)


def pos_weight(labels: np.ndarray, *, split: str) -> np.ndarray:
    """Loss weight of the positives of each label, float64 (K,): negatives / positives.

    As ``torch.nn.BCEWithLogitsLoss`` takes it: a label's positives then weigh as much as its negatives.

    Raises:
        DataError: a split other than train, labels that are not 0/1 (N, K), or a label without a positive or
            without a negative image.
    """
    _check_train(split)
    if np.ndim(labels) != 2:
        raise DataError(
            f"pos_weight needs 0/1 labels (N, K), not shape {np.shape(labels)}; use class_weights"
        )
    onehot = label_matrix(labels)
    positives = onehot.sum(axis=0)
    negatives = len(onehot) - positives
    bad = np.flatnonzero((positives == 0) | (negatives == 0))
    if len(bad):
        raise DataError(
            f"labels {bad.tolist()} have {positives[bad].tolist()} positives among {len(onehot)} images; "
            "a weight needs at least one image with the label and one without: leave these labels out"
        )
    return negatives / positives


def sample_weights(labels: np.ndarray, *, split: str) -> np.ndarray:
    """Sampling weight of each image, float64 (N,), with mean 1.

    Class codes: inversely proportional to the images of the class, so that classes are drawn equally often.
    0/1 labels (N, K): inversely proportional to the frequency of the rarest label that the image has; images
    without any label are one more group. This is the image-level rule of repeat-factor sampling, the maximum
    over the image's labels (Gupta, Dollar and Girshick, LVIS, CVPR 2019), without its square root and
    threshold. Rare labels are drawn more often, but not all equally often, since labels share images.

    Raises:
        DataError: a split other than train, or bad labels.
    """
    _check_train(split)
    onehot = label_matrix(labels)
    onehot = np.column_stack([onehot, ~onehot.any(axis=1)])
    images = np.maximum(onehot.sum(axis=0), 1)
    weights = (onehot / images).max(axis=1)
    return weights / weights.mean()


def weighted_sample(labels: np.ndarray, *, split: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` indices drawn with replacement in proportion to `sample_weights`, int64 (size,).

    The same distribution as ``torch.utils.data.WeightedRandomSampler(sample_weights(...), size)``.

    Raises:
        DataError: a split other than train, bad labels, or size < 1.
    """
    if size < 1:
        raise DataError(f"size = {size} draws; ask for at least 1")
    weights = sample_weights(labels, split=split)
    return rng.choice(len(weights), size=size, replace=True, p=weights / weights.sum())


def ways(labels: np.ndarray, *, rng: np.random.Generator) -> dict[str, Callable[[np.ndarray], Chosen]]:
    """Every way of balancing that fits `labels`, by name, ``"none"`` first.

    Each takes the labels of a training part and returns the indices to train on and the weights for
    `pixel_baseline.fit_predict`; draws come from `rng`. Class codes (N,) have all of undersampling,
    oversampling, class weights and a weighted sampler; 0/1 labels (N, K) have `pos_weight` and the sampler.
    """

    def everything(y: np.ndarray) -> np.ndarray:
        return np.arange(len(y))

    def sampled(y: np.ndarray) -> Chosen:
        return weighted_sample(y, split="train", size=len(y), rng=rng), {}

    none = {"none": lambda y: (everything(y), {})}
    if np.ndim(labels) == 2:
        weighted = {"pos_weight": lambda y: (everything(y), {"pos_weight": pos_weight(y, split="train")})}
        return {**none, **weighted, "weighted sampler": sampled}
    return {
        **none,
        "undersampling": lambda y: (undersample(y, split="train", rng=rng), {}),
        "oversampling": lambda y: (oversample(y, split="train", rng=rng), {}),
        "class weights": lambda y: (everything(y), {"class_weight": class_weights(y, split="train")}),
        "weighted sampler": sampled,
    }


def _resample(sampler: type, labels: np.ndarray, *, split: str, rng: np.random.Generator) -> np.ndarray:
    codes = _classes(labels, split)
    fitted = sampler(random_state=int(rng.integers(2**32)))
    fitted.fit_resample(np.arange(len(codes))[:, None], codes)
    return np.asarray(fitted.sample_indices_, dtype=np.int64)


def _classes(labels: np.ndarray, split: str) -> np.ndarray:
    """As `_codes`, of two classes at least."""
    codes = _codes(labels, split)
    if codes.max() == 0:
        raise DataError(f"all {len(codes)} images are of one class; there is nothing to balance")
    return codes


def _codes(labels: np.ndarray, split: str) -> np.ndarray:
    """Class codes (N,) in which every class from 0 to the largest has an image."""
    _check_train(split)
    if np.ndim(labels) != 1:
        raise DataError(
            f"labels of shape {np.shape(labels)} are multilabel: images share labels, so no choice of images "
            "balances them all; use weighted_sample, or pos_weight in the loss"
        )
    onehot = label_matrix(labels)
    empty = np.flatnonzero(~onehot.any(axis=0))
    if len(empty):
        raise DataError(
            f"classes {empty.tolist()} have no training image, the largest code is {onehot.shape[1] - 1}; "
            "a class without images cannot be balanced: renumber the classes or leave it out"
        )
    return onehot.argmax(axis=1)


def _check_train(split: str) -> None:
    if split != "train":
        raise DataError(
            f"refusing to balance split {split!r}, only 'train' may be balanced: scores on a balanced split "
            "describe a class mix that does not exist, and copies made before a split leak across it; "
            "split by patient first, then balance the training part"
        )
