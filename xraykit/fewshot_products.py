"""Every few-shot classifier from inner products alone.

A support set of n images has n*n inner products with itself and M*n with the test images. Kernels, distances,
class means and, by the representer theorem, logistic regression need nothing else, so that the D features are
touched once a draw and not once a classifier.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, log_expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from xraykit.fewshot_classifiers import KERNELS, Classifier

ROUNDING = 1e-12  # relative; sums of products below this are rounding errors of zero


@dataclass(frozen=True)
class Products:
    """Inner products of a support set.

    Attributes:
        gram: (n, n), of the support images with each other, float64.
        cross: (M, n), of the test images with the support images.
        norms: (M,), squared lengths of the test images.
        sums: (n,), sum over the features of each support image.
        dim: D, the number of features.
    """

    gram: np.ndarray
    cross: np.ndarray
    norms: np.ndarray
    sums: np.ndarray
    dim: int

    def take(self, index: np.ndarray) -> "Products":
        """Those of a part of the support set, with the same test images."""
        gram = self.gram[np.ix_(index, index)]
        return Products(gram, self.cross[:, index], self.norms, self.sums[index], self.dim)

    def fold(self, train: np.ndarray, held_out: np.ndarray) -> "Products":
        """Those of a part of the support set, with another part of it in the place of the test images."""
        gram, cross = self.gram[np.ix_(train, train)], self.gram[np.ix_(held_out, train)]
        return Products(gram, cross, self.gram.diagonal()[held_out], self.sums[train], self.dim)


def products(support: np.ndarray, test: np.ndarray) -> Products:
    """`Products` of support features (n, D) and test features (M, D), both float64."""
    norms = np.einsum("md,md->m", test, test)
    return Products(support @ support.T, test @ support.T, norms, support.sum(axis=1), support.shape[1])


def scores(classifier: Classifier, of: Products, labels: np.ndarray) -> np.ndarray:
    """Fit `classifier` on a support set and return pseudo-probabilities of the test images, float64 (M, K).

    Rows sum to 1, and their largest entry is the classifier's own answer (for two classes: above .5). Those
    of logistic regression are its probabilities and those of KNN the neighbours' shares. An SVC gives sigmoid
    or softmax of its decision values; the nearest class mean a softmax over squared distances, as
    prototypical networks do (Snell et al., NeurIPS 2017, eq. 2), in units of the support set's own mean
    squared distance from its mean. These two rank and classify, but are not calibrated.

    Args:
        of: inner products.
        labels: class codes (n,) of the support images, every class from 0 to K-1 among them.
    """
    if classifier.name in KERNELS:
        return _svc(of, labels, kernel=KERNELS[classifier.name], parameters=dict(classifier.parameters))
    if classifier.name == "KNN":
        return _knn(of, labels, **classifier.parameters)
    if classifier.name == "logistic regression":
        return _logistic(classifier, of, labels)
    return _nearest_mean(of, labels)


def pseudo_probabilities(decision: np.ndarray) -> np.ndarray:
    """Decision values (M,) of two classes or (M, K) of more, as numbers (M, K) in 0..1 that sum to 1."""
    if decision.ndim == 1:
        return np.stack([expit(-decision), expit(decision)], axis=1)
    return softmax(decision, axis=1)


def mean_scores(squared: np.ndarray, scatter: float) -> np.ndarray:
    """Softmax (M, K) over squared distances (M, K) to the class means, in units of `scatter`."""
    return softmax(-squared / scatter if scatter > 0 else np.zeros_like(squared), axis=1)


def _squared_distances(of: Products) -> np.ndarray:
    """(M, n), exactly 0 between equal images."""
    total = of.norms[:, None] + of.gram.diagonal()
    squared = total - 2 * of.cross
    return np.where(squared > ROUNDING * total, squared, 0.0)


def _kernel(of: Products, *, kernel: str, gamma: float, degree: int, coef0: float) -> np.ndarray:
    """(M, n), of the test images with the support images."""
    if kernel == "linear":
        return of.cross
    if kernel == "poly":
        return (gamma * of.cross + coef0) ** degree
    return np.exp(-gamma * _squared_distances(of))


def _scale(of: Products) -> float:
    """scikit-learn's gamma = "scale": 1 / (D * variance of all support features)."""
    square = of.gram.diagonal().mean() / of.dim
    variance = square - (of.sums.mean() / of.dim) ** 2
    return 1 / (of.dim * variance) if variance > ROUNDING * square else 1.0


def _svc(of: Products, labels: np.ndarray, *, kernel: str, parameters: dict) -> np.ndarray:
    shape = {key: parameters.pop(key, default) for key, default in (("degree", 3), ("coef0", 0.0))}
    gamma = parameters.pop("gamma", "scale")
    shape |= {"kernel": kernel, "gamma": _scale(of) if gamma == "scale" else gamma}
    everyone = np.arange(len(labels))
    machine = SVC(kernel="precomputed", break_ties=True, **parameters)
    machine.fit(_kernel(of.fold(everyone, everyone), **shape), labels)
    cross = _kernel(of, **shape)
    if len(machine.classes_) > 2:
        return pseudo_probabilities(machine.decision_function(cross))
    return pseudo_probabilities(cross[:, machine.support_] @ machine.dual_coef_[0] + machine.intercept_)


def _knn(of: Products, labels: np.ndarray, *, n_neighbors: int, weights: str) -> np.ndarray:
    """Of a support set smaller than `n_neighbors`, all images vote."""
    squared = _squared_distances(of)
    n = min(int(n_neighbors), len(labels))
    near = np.argpartition(squared, n - 1, axis=1)[:, :n]
    distance = np.sqrt(np.take_along_axis(squared, near, axis=1))
    weight = np.ones_like(distance)
    if weights == "distance":  # where some distance is 0, those images alone vote
        zero = distance == 0
        weight = np.where(zero.any(axis=1, keepdims=True), zero, 1 / np.where(zero, 1, distance))
    vote = np.stack([(weight * (labels[near] == c)).sum(axis=1) for c in range(labels.max() + 1)], axis=1)
    return vote / vote.sum(axis=1, keepdims=True)


def _logistic(classifier: Classifier, of: Products, labels: np.ndarray) -> np.ndarray:
    """The weights lie in the span of the support images, so n coordinates in it stand for all D features."""
    if labels.max() == 1:
        weight, intercept = _kernel_logistic(of.gram, labels, c=float(classifier.parameters["C"]))
        return pseudo_probabilities(of.cross @ weight + intercept)
    value, vector = np.linalg.eigh(of.gram)
    keep = value > max(ROUNDING * value[-1], 0.0)
    keep[-1] = True  # of equal images nothing is left; scikit-learn wants a column all the same
    root = np.sqrt(np.maximum(value[keep], np.finfo(float).tiny))
    machine: LogisticRegression = classifier.estimator()
    machine.fit(vector[:, keep] * root, labels)
    return machine.predict_proba(of.cross @ (vector[:, keep] / root))


def _kernel_logistic(gram: np.ndarray, labels: np.ndarray, *, c: float) -> tuple[np.ndarray, float]:
    """Weights (n,) of the support images and the intercept of two-class logistic regression.

    Newton's method as in Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, algorithm
    3.1, with an intercept that is not penalised. At the optimum each weight is C (y - p).
    """
    weight, intercept, loss = np.zeros(len(labels)), 0.0, np.inf
    decision, sign = np.zeros(len(labels)), 2 * labels - 1
    for _ in range(100):
        p = expit(decision)
        residual = c * (labels - p)
        if np.abs(weight - residual).max() < 1e-9 * c and abs(residual.sum()) < 1e-9 * c:
            break
        root = np.sqrt(c * np.maximum(p * (1 - p), 1e-12))
        factor = cho_factor(np.eye(len(labels)) + root[:, None] * gram * root, check_finite=False)
        right = np.stack([root * decision + residual / root, root], axis=1)
        u, v = (root[:, None] * cho_solve(factor, right, check_finite=False)).T
        new_intercept = u.sum() / v.sum()
        step, to = 1.0, u - new_intercept * v
        while True:  # halve the step until the loss does not grow
            tried = weight + step * (to - weight), intercept + step * (new_intercept - intercept)
            reached = gram @ tried[0] + tried[1]
            new_loss = c * -log_expit(sign * reached).sum() + tried[0] @ (reached - tried[1]) / 2
            if new_loss <= loss or step < 1e-6:
                break
            step /= 2
        (weight, intercept), decision, loss = tried, reached, new_loss
    return weight, intercept


def _nearest_mean(of: Products, labels: np.ndarray) -> np.ndarray:
    member = np.eye(labels.max() + 1)[labels]
    member /= member.sum(axis=0)
    lengths = np.einsum("nk,nm,mk->k", member, of.gram, member, optimize=True)
    squared = of.norms[:, None] + lengths - 2 * of.cross @ member
    scatter = of.gram.diagonal().mean() - of.gram.mean()
    return mean_scores(squared, scatter if scatter > ROUNDING * of.gram.diagonal().mean() else 0.0)
