"""Why more training data can score lower: fits on all images, class priors, thresholds.

A classifier trained on another mix of classes than it is tested on ranks well and draws its line in the wrong
place. Weighting the classes or correcting for the prior repairs what the mix did; what is left after that,
and after a threshold from held-out training patients, is a shift of the images themselves.
"""

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import euclidean_distances
from threadpoolctl import threadpool_limits

from xraykit.balance import undersample
from xraykit.errors import DataError
from xraykit.fewshot import evaluate
from xraykit.fewshot_classifiers import KERNELS, Classifier
from xraykit.fewshot_classifiers import classifier as classifier_of
from xraykit.fewshot_features import check_features
from xraykit.fewshot_products import mean_scores, pseudo_probabilities
from xraykit.labels import label_matrix
from xraykit.pixel_baseline import out_of_fold
from xraykit.splits import patient_folds


def fit_scores(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    classifier: Classifier,
    class_weight: str | dict[int, float] | None = None,
) -> np.ndarray:
    """Fit one classifier on all of `train` with scikit-learn; pseudo-probabilities of `test`, float32 (M, K).

    The numbers mean what those of `fewshot.evaluate` mean. An SVC takes time in proportion to the square of
    the number of images: seconds for five thousand, an hour for a hundred thousand.

    Args:
        train, test: (N, D) and (M, D) features, normalised alike.
        labels: class codes (N,).
        classifier: from `fewshot.classifier`.
        class_weight: None, ``"balanced"`` (as scikit-learn: every class counts the same) or code to weight;
            for SVC and logistic regression.

    Raises:
        DataError: NaN features, lengths that differ, fewer than two classes, a class without images, a class
            weight for a classifier without a loss.
    """
    train, codes, test = _checked(train, labels, test)
    machine = classifier.estimator(class_weight=class_weight)
    with threadpool_limits(1):
        if classifier.name in KERNELS:
            found = pseudo_probabilities(machine.fit(train, codes).decision_function(test))
        elif classifier.name == "nearest class mean":
            means = np.stack([train[codes == c].mean(axis=0) for c in range(codes.max() + 1)])
            squared = euclidean_distances(test, means, squared=True)
            found = mean_scores(squared, float(train.var(axis=0).sum()))
        else:
            found = machine.fit(train, codes).predict_proba(test)
    return found.astype(np.float32)


def prior_corrected(p: np.ndarray, *, train_prior: np.ndarray, target_prior: np.ndarray) -> np.ndarray:
    """Probabilities learned under one class mix, as they would be under another.

    Source: Saerens, Latinne and Decaestecker, Neural Computation 14, 2002, eq. 2.4. It is exact for posterior
    probabilities when the images of each class stay the same; for the pseudo-probabilities of an SVC it is a
    shift of the line without that guarantee.

    Args:
        p: (M, K), or (M,) of the second of two classes; in 0..1.
        train_prior, target_prior: (K,) shares of the classes, positive, in training and where `p` is used.

    Returns:
        The shape of `p`; rows of (M, K) sum to 1.

    Raises:
        DataError: priors that are not K positive numbers summing to 1, or `p` outside 0..1.
    """
    given = np.asarray(p, np.float64)
    rows = np.stack([1 - given, given], axis=1) if given.ndim == 1 else given
    # Negated, so that NaN is refused as well.
    if rows.ndim != 2 or not (rows.min() >= 0 and np.abs(rows.sum(axis=1) - 1).max() < 1e-3):
        raise DataError(f"p of shape {given.shape} must be probabilities in 0..1, (M,) or rows with sum 1")
    priors = [np.asarray(prior, np.float64) for prior in (train_prior, target_prior)]
    for prior in priors:
        if prior.shape != rows.shape[1:] or not (prior > 0).all() or abs(prior.sum() - 1) > 1e-6:
            raise DataError(f"prior {prior.tolist()} must be {rows.shape[1]} positive shares that sum to 1")
    weighted = rows * (priors[1] / priors[0])
    corrected = weighted / weighted.sum(axis=1, keepdims=True)
    return corrected[:, 1] if given.ndim == 1 else corrected


def explanations(
    pool: np.ndarray, labels: np.ndarray, query: np.ndarray, *, support: np.ndarray, rng: np.random.Generator
) -> dict[str, list[np.ndarray]]:
    """Positive probabilities of `query` from logistic regressions that saw different class mixes.

    From each draw of `support`; from all images; from all of the rarer class and as many of the other; from
    all with class weights; and from all with the prior corrected to equal classes. If the mix alone explains
    a bad test score, the last three agree and repair it.

    Args:
        pool, query: (N, D) and (M, D) features, normalised alike.
        labels: 0/1 codes (N,).
        support: draws (n_draws, 2, k) from `fewshot.draws`.

    Returns:
        For each model a list of arrays (M,): one a draw for the first, else one.

    Raises:
        DataError: see `fit_scores`, `fewshot.evaluate` and `balance.undersample`.
    """
    name, labels, k = "logistic regression", np.asarray(labels), support.shape[2]
    drawn = evaluate(pool, labels, query, support=support, shots=[k], classifiers=[name])[name, k]
    equal = undersample(labels, split="train", rng=rng)

    def fitted(rows: np.ndarray | slice, **options: str) -> np.ndarray:
        about = {"classifier": classifier_of(name), **options}
        return fit_scores(pool[rows], labels[rows], query, **about)[:, 1].astype(np.float64)

    everything = fitted(slice(None))
    prior = np.bincount(labels) / len(labels)
    return {
        f"{k} a class": [*drawn[:, :, 1].astype(np.float64)],
        "all images": [everything],
        "all, equally many a class": [fitted(equal)],
        "all, class-weighted": [fitted(slice(None), class_weight="balanced")],
        "all, prior corrected": [prior_corrected(everything, train_prior=prior, target_prior=[0.5, 0.5])],
    }


def told_apart(
    a: np.ndarray,
    b: np.ndarray,
    patients_a: np.ndarray,
    patients_b: np.ndarray,
    *,
    rng: np.random.Generator,
    n_folds: int = 3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Can images of one class from two sources be told apart? A test for covariate shift.

    A linear classifier predicts the source of every image in patient-grouped folds (a classifier two-sample
    test; Lopez-Paz and Oquab, ICLR 2017). From one source its AUROC is about one half. Scores are ranks
    within each fold, from 0 to 1: the folds' models differ in their intercept, against the share of their
    held-out images, which would push the AUROC of pooled probabilities below one half.

    Args:
        a, b: features (N, D) and (M, D) of the two sources.
        patients_a, patients_b: patient ids (N,) and (M,). Ids in both count as one patient.

    Returns:
        The source 0 or 1, the score of source 1 and the patient id, each (N + M,).

    Raises:
        DataError: fewer patients than folds, or features that do not match.
    """
    features, source = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    patients = np.concatenate([patients_a, patients_b])
    fold = patient_folds(source, patients, fractions=[1 / n_folds] * n_folds, rng=rng)
    score = out_of_fold(features, source, fold)[:, 1]
    for f in np.unique(fold):
        score[fold == f] = (rankdata(score[fold == f]) - 0.5) / (fold == f).sum()
    return source, score, patients


def best_threshold(y: np.ndarray, p: np.ndarray) -> float:
    """Threshold of the positive probability with the largest macro-F1 on a development fold.

    All thresholds between neighbouring probabilities are tried; of equals the one nearest to .5 is taken.

    Args:
        y: 0/1 (N,), both present.
        p: (N,), or (N, 2) with the positive class second.

    Raises:
        DataError: labels other than 0 and 1, only one of them, or shapes that do not match.
    """
    y, p = np.asarray(y), np.asarray(p, np.float64)
    p = p[:, 1] if p.ndim == 2 and p.shape[1] == 2 else p
    if y.shape != p.shape or y.ndim != 1 or set(np.unique(y).tolist()) != {0, 1}:
        raise DataError(
            f"labels {y.shape} must be 0 and 1, both present, and probabilities {p.shape} one for each"
        )
    order = np.argsort(p, kind="stable")
    value, positive = p[order], y[order] == 1
    cut = np.flatnonzero(np.r_[True, np.diff(value) > 0, True])  # images below the threshold
    missed = np.r_[0, np.cumsum(positive)][cut]
    negative = cut - missed  # rightly below
    hit = positive.sum() - missed
    f1_positive = 2 * hit / (len(y) - cut + positive.sum())
    f1_negative = 2 * negative / (cut + (~positive).sum())
    inner = (value[cut[1:-1] - 1] + value[cut[1:-1]]) / 2
    thresholds = np.r_[value[0], inner, np.nextafter(value[-1], np.inf)]
    macro = f1_positive + f1_negative
    best = np.flatnonzero(macro >= macro.max() - 1e-12)
    return float(thresholds[best[np.abs(thresholds[best] - 0.5).argmin()]])


def _checked(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features as float64 and class codes, every class with an image."""
    train, test = check_features(train, "training"), check_features(test, "test")
    onehot = label_matrix(labels)
    empty = np.flatnonzero(~onehot.any(axis=0))
    if np.ndim(labels) != 1 or len(empty) or onehot.shape[1] < 2:
        raise DataError(
            f"labels {np.shape(labels)} with classes {empty.tolist()} of {onehot.shape[1]} empty; give codes "
            "(N,) of at least two classes, 0..K-1, each with an image"
        )
    if train.shape != (len(onehot), test.shape[1]):
        raise DataError(
            f"training features {train.shape}, test features {test.shape}, {len(onehot)} labels: give "
            "(N, D), (M, D) and (N,)"
        )
    return train.astype(np.float64), onehot.argmax(axis=1), test.astype(np.float64)
