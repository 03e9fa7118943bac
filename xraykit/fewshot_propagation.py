"""Labels that spread over unlabelled training images: label propagation, inductive towards the test images.

The nodes of a graph are the images of the training pool, its edges join images with similar features. A draw
labels k nodes a class, and the labels spread along the edges. A test image is no node: it takes the weighted
mean of its nearest pool images, so that its scores depend on no other test image.
"""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from xraykit.errors import DataError
from xraykit.fewshot import Scores, check_task
from xraykit.fewshot_features import check_features

METHOD = "label propagation"
POWER = 3  # of the cosine, as Iscen et al. (CVPR 2019) weight their edges
TOLERANCE = 1e-6  # relative, of every entry


def neighbours(pool: np.ndarray, *, n_neighbors: int = 10) -> sparse.csr_array:
    """Graph of nearest neighbours: S = D^-1/2 W D^-1/2 of Zhou et al., NIPS 2004, sparse (N, N).

    Each image is joined to the `n_neighbors` others of largest cosine similarity, with the weight
    max(cos, 0)**3 (Iscen, Tolias, Avrithis and Chum, Label propagation for deep semi-supervised learning,
    CVPR 2019). w_ij is the larger of the two directions' weights and D its row sums. No image is its
    own neighbour, not even one of two equal images; one without any similar image has a row of zeros.

    Args:
        pool: (N, D) features, from `fewshot.normalise`.

    Returns:
        Symmetric float64, entries in 0..1, no eigenvalue above 1.

    Raises:
        DataError: NaN features, or n_neighbors outside 1..N-1.
    """
    pool = check_features(pool, "pool")
    one_way = _weights(pool, None, n_neighbors)
    both_ways = one_way.maximum(one_way.T)
    degree = both_ways.sum(axis=1)
    root = sparse.diags_array(1 / np.sqrt(np.where(degree > 0, degree, 1)))
    return (root @ both_ways @ root).tocsr()


def spread(graph: sparse.csr_array, labelled: np.ndarray, *, alpha: float = 0.8) -> np.ndarray:
    """F = (1 - alpha)(I - alpha S)^-1 Y: Zhou et al., NIPS 2004, before any row is normalised.

    Iterated, F <- alpha S F + (1 - alpha) Y, and not solved: the factors of a graph of neighbours fill up, to
    N^2 numbers and N^3 operations, while a step costs N * n_neighbors for each column, and all draws' columns
    take it together. From F = (1 - alpha) Y no entry ever falls, and each step's change shrinks at least by
    alpha once the labels have travelled as far as they can. The end is where no *entry* grows by more than
    1e-6 of itself, because it is the ratio of small entries that decides far from any label.

    Args:
        graph: S, sparse (N, N), from `neighbours`.
        labelled: Y, (N, C), 1 where an image has the label of a column, else 0.
        alpha: weight of the neighbours against an image's own label, above 0 and below 1.

    Returns:
        float64 (N, C), at least 0.

    Raises:
        DataError: alpha outside 0..1.
    """
    if not 0 < alpha < 1:
        raise DataError(f"alpha = {alpha}; choose above 0 (own labels only) and below 1 (neighbours only)")
    start = (1 - alpha) * labelled
    reached = start
    while True:
        further = graph @ reached
        further *= alpha
        further += start
        if (further - reached <= TOLERANCE * further).all():
            return further
        reached = further


def pool_shares(
    pool: np.ndarray,
    labels: np.ndarray,
    *,
    support: np.ndarray,
    shots: Sequence[int],
    n_neighbors: int = 10,
    alpha: float = 0.8,
) -> Scores:
    """Share of each class in each pool image, after the labels of a draw have spread.

    Each class's column of F is divided by its sum over the pool (class mass normalisation; Zhu, Ghahramani
    and Lafferty, ICML 2003, for equally frequent classes, since a draw holds equally many of
    each), then each row by its own. An image that no label reaches has 1 / K for each class.

    These are the scores to draw a decision line from. `propagate` with the pool as test images would take
    each image as its own nearest neighbour. Leave out the images of the draw: they know their own label. The
    others are somewhat surer than test images, whose shares are means of several.

    Args:
        pool, labels, support, shots, n_neighbors, alpha: as in `propagate`.

    Returns:
        float32 (n_draws, N, K) for each ("label propagation", k); rows sum to 1.

    Raises:
        DataError: as `propagate`.
    """
    pool = check_features(pool, "pool")
    check_task(pool, labels, pool[:1], support=support, shots=shots)
    graph = neighbours(pool, n_neighbors=n_neighbors)
    return {(METHOD, k): _shares(graph, support[:, :, :k], alpha) for k in shots}


def carried(shares: Scores, pool: np.ndarray, test: np.ndarray, *, n_neighbors: int = 10) -> Scores:
    """What test images take from the pool: the weighted mean of the shares of their nearest pool images.

    The weights are those of `neighbours`. A test image unlike every pool image has 1 / K for each class.

    Args:
        shares: from `pool_shares`.
        pool, test: (N, D) and (M, D) features, normalised alike.

    Returns:
        float32 (n_draws, M, K) for each key of `shares`; rows sum to 1.

    Raises:
        DataError: NaN features, shapes that do not match, or n_neighbors outside 1..N-1.
    """
    pool, test = check_features(pool, "pool"), check_features(test, "test")
    if pool.shape[1] != test.shape[1] or any(of_pool.shape[1] != len(pool) for of_pool in shares.values()):
        raise DataError(
            f"pool features {pool.shape}, test features {test.shape} and shares of "
            f"{[of_pool.shape[1] for of_pool in shares.values()]} pool images do not match; they are (N, D), "
            "(M, D) and (n_draws, N, K)"
        )
    weights = _weights(pool, test, n_neighbors)
    total = weights.sum(axis=1)[:, None]
    found = {}
    for key, of_pool in shares.items():
        n_draws, _, n_classes = of_pool.shape
        columns = of_pool.transpose(1, 0, 2).reshape(len(pool), -1).astype(np.float64)
        means = np.where(total > 0, weights @ columns / np.where(total > 0, total, 1), 1 / n_classes)
        found[key] = _by_draw(means.reshape(-1, n_draws, n_classes))
    return found


def propagate(
    pool: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    support: np.ndarray,
    shots: Sequence[int],
    n_neighbors: int = 10,
    alpha: float = 0.8,
) -> Scores:
    """Class shares of the test images from labels that spread over the pool, for every draw.

    Source: Zhou, Bousquet, Lal, Weston and Schölkopf, Learning with local and global consistency, NIPS 2004;
    graph and weights as in `neighbours`, class mass normalisation as in `pool_shares`.

    Args:
        pool, test: (N, D) and (M, D) features, normalised alike; `fewshot.normalise` with ``"l2"``.
        labels: class codes (N,) of the pool; only those of drawn images matter.
        support: from `fewshot.draws`.
        shots: images a class, each at most as many as `support` holds.
        n_neighbors: of a pool image among the others, and of a test image in the pool.
        alpha: weight of the neighbours against an image's own label, above 0 and below 1.

    Returns:
        float32 (n_draws, M, K) for each ("label propagation", k), as `fewshot.evaluate`; rows sum to 1.

    Raises:
        DataError: as `fewshot.evaluate`, n_neighbors outside 1..N-1, or alpha outside 0..1.
    """
    check_task(pool, labels, test, support=support, shots=shots)
    about = {"support": support, "shots": shots, "n_neighbors": n_neighbors, "alpha": alpha}
    return carried(pool_shares(pool, labels, **about), pool, test, n_neighbors=n_neighbors)


def _weights(pool: np.ndarray, query: np.ndarray | None, n_neighbors: int) -> sparse.csr_array:
    """max(cos, 0)**3, sparse (M, N), from each query image to its nearest pool images; None: of the pool."""
    if not (isinstance(n_neighbors, Integral) and 1 <= n_neighbors < len(pool)):
        raise DataError(
            f"n_neighbors = {n_neighbors!r}; choose a whole number from 1 to {len(pool) - 1}, the images of "
            "the pool less one"
        )
    search = NearestNeighbors(n_neighbors=n_neighbors, metric="cosine", algorithm="brute")
    with threadpool_limits(1):  # the last digits must not depend on the number of cores
        search.fit(pool.astype(np.float64))
        graph = search.kneighbors_graph(None if query is None else query.astype(np.float64), mode="distance")
    graph = sparse.csr_array(graph)
    graph.data = np.maximum(1 - graph.data, 0) ** POWER
    graph.eliminate_zeros()
    return graph


def _shares(graph: sparse.csr_array, support: np.ndarray, alpha: float) -> np.ndarray:
    """float32 (n_draws, N, K) from the drawn rows (n_draws, K, k)."""
    n_draws, n_classes, _ = support.shape
    draw, c, _ = np.indices(support.shape, sparse=True)
    labelled = np.zeros((graph.shape[0], n_draws, n_classes))
    labelled[support, draw, c] = 1
    mass = spread(graph, labelled.reshape(len(labelled), -1), alpha=alpha)
    mass = (mass / mass.sum(axis=0)).reshape(labelled.shape)
    total = mass.sum(axis=2, keepdims=True)
    return _by_draw(np.where(total > 0, mass / np.where(total > 0, total, 1), 1 / n_classes))


def _by_draw(shares: np.ndarray) -> np.ndarray:
    """(N, n_draws, K) as `fewshot.evaluate` returns it: float32 (n_draws, N, K)."""
    return np.ascontiguousarray(shares.transpose(1, 0, 2), np.float32)
