"""Maps of embeddings in two or three dimensions, and how far to trust them.

A map is for looking: distances between its groups, their sizes and their densities mean little in t-SNE and
UMAP (Wattenberg, Viegas and Johnson, How to use t-SNE effectively, Distill 2016), and no score of a
classifier should be read off it. `quality` says how much of the neighbourhoods survived, `agreement` how much
of the map comes back with another seed.
"""

import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from xraykit.errors import DataError
from xraykit.labels import label_matrix
from xraykit.progress import import_tqdm_quietly

FIRST_PCA = 50  # dimensions that t-SNE and UMAP start from, as van der Maaten and Hinton (JMLR 2008) advise
MAX_QUALITY = 10_000  # images; trustworthiness needs several N x N matrices, 2.4 GB for these
OPTIONS: Mapping[str, Mapping[str, object]] = {
    "PCA": {},
    "t-SNE": {"perplexity": 30.0, "init": "pca", "max_iter": 1000},
    "UMAP": {"n_neighbors": 15, "min_dist": 0.1},
}


def project(
    features: np.ndarray, method: str, *, dims: int = 2, seed: int, **options: float | str
) -> np.ndarray:
    """Coordinates of each image on a map, float32 (N, dims); the same seed gives the same map.

    ``"PCA"`` is exact and has no seed; of the two directions of an axis it takes the one in which the largest
    weight of a feature is positive. ``"t-SNE"`` (van der Maaten and Hinton, JMLR 2008) begins with the PCA
    map (Kobak and Berens, Nature Communications 2019) and then hardly depends on the seed either; with
    ``init="random"`` it does. ``"UMAP"`` (McInnes, Healy and Melville 2018) begins with a spectral map, on
    exact neighbours. These two run on the first 50 principal components where there are more features, and
    on one thread, since sums in another order end in another map.

    Args:
        features: (N, D), finite, as the classifier sees them (standardised, say): no scaling is done here.
        method: "PCA", "t-SNE" or "UMAP".
        dims: 2 or 3.
        seed: of t-SNE and UMAP.
        options: for t-SNE ``perplexity`` (1 to (N - 1) / 3, about how many neighbours an image looks at),
            ``init`` ("pca" or "random") and ``max_iter``; for UMAP ``n_neighbors`` (2 to N - 1) and
            ``min_dist`` (0 to 1).

    Raises:
        DataError: an unknown method or option, an option out of its range, features that are NaN, infinite
            or all equal, fewer than dims + 2 images.
    """
    if method not in OPTIONS:
        raise DataError(f"method {method!r} is unknown; choose from {', '.join(OPTIONS)}")
    if dims not in (2, 3):
        raise DataError(f"dims = {dims}; a map has 2 or 3 dimensions")
    unknown = sorted(set(options) - set(OPTIONS[method]))
    if unknown:
        raise DataError(f"{method} has no option {unknown[0]!r}; it has {list(OPTIONS[method]) or 'none'}")
    points = _finite(features, "features")
    if len(points) < dims + 2 or points.shape[1] < dims:
        raise DataError(
            f"{len(points)} images of {points.shape[1]} features; a map of {dims} dimensions needs at least "
            f"{dims + 2} images and {dims} features"
        )
    if (points == points[0]).all():
        raise DataError(f"all {len(points)} images have the same features; there is nothing to map")
    chosen = {**OPTIONS[method], **options}
    _check_options(chosen, len(points))
    with threadpool_limits(1):
        if method == "PCA":
            return _principal(points, dims)
        if points.shape[1] > FIRST_PCA:
            points = _principal(points, min(FIRST_PCA, len(points) - 1))
        return (_tsne if method == "t-SNE" else _umap)(points.astype(np.float32), dims, seed, **chosen)


def neighbours(points: np.ndarray, k: int) -> np.ndarray:
    """The k nearest images of each image, nearest first, without itself: int64 (N, k), by Euclidean distance.

    Raises:
        DataError: points that are not finite (N, D), or k outside 1 .. N - 1.
    """
    points = _finite(points, "points")
    if not 1 <= k < len(points):
        raise DataError(f"k = {k} neighbours among {len(points)} images; choose 1 to {len(points) - 1}")
    return _nearest(points, k)[1]


def quality(features: np.ndarray, placed: np.ndarray, labels: np.ndarray, *, k: int = 15) -> dict[str, float]:
    """How far to trust a map, and what it shows of the classes.

    Args:
        features: (N, D), what the map was made from.
        placed: (N, dims), the map.
        labels: class codes (N,), two classes at least.
        k: neighbours looked at.

    Returns:
        ``trustworthiness``, 0 to 1, about .5 for a random map: 1 if no neighbour on the map was far away
        before, less by the ranks of those that were (Venna and Kaski, ICANN 2001); ``purity``, the share of
        the k nearest on the map with the same label, ``purity_in_features`` the same before mapping, and
        ``purity_by_chance`` of neighbours drawn at random; ``silhouette`` on the map and
        ``silhouette_in_features``, -1 to 1 (Rousseeuw 1987): how much nearer the images of the own class are
        than those of the nearest other.

    Raises:
        DataError: lengths that differ, values that are not finite, one class only, k not below N / 2, or more
            than 10,000 images: draw some of them at random.
    """
    points, placed = _finite(features, "features"), _finite(placed, "the map")
    codes = label_matrix(labels).argmax(axis=1)
    n, sizes = len(points), np.bincount(codes)
    if np.ndim(labels) != 1 or not n == len(placed) == len(codes):
        raise DataError(
            f"features {points.shape}, map {placed.shape} and labels {np.shape(labels)} must be (N, D), "
            "(N, dims) and (N,) of the same images; of several labels take one column"
        )
    if n > MAX_QUALITY:
        raise DataError(f"{n} images; judge a map by {MAX_QUALITY} at most, drawn at random")
    if not 1 <= k < n / 2:
        raise DataError(f"k = {k} neighbours among {n} images; choose 1 to {(n - 1) // 2}")
    if (sizes > 0).sum() in (1, n):
        raise DataError(f"the {n} labels are all equal or all different; a map of classes needs two or more")

    def purity(where: np.ndarray) -> float:
        return float((codes[neighbours(where, k)] == codes[:, None]).mean())

    return {
        "trustworthiness": float(trustworthiness(points, placed, n_neighbors=k)),
        "purity": purity(placed),
        "purity_in_features": purity(points),
        "purity_by_chance": float((sizes * (sizes - 1.0)).sum() / (n * (n - 1.0))),
        "silhouette": float(silhouette_score(placed, codes)),
        "silhouette_in_features": float(silhouette_score(points, codes)),
    }


def agreement(a: np.ndarray, b: np.ndarray, *, k: int = 15) -> float:
    """Share of the k nearest neighbours that two maps of the same N images have in common, 0 to 1.

    Turning, mirroring and scaling a map change nothing. Random maps share k / (N - 1).

    Raises:
        DataError: maps of different lengths, values that are not finite, or k outside 1 .. N - 1.
    """
    if len(a) != len(b):
        raise DataError(f"maps of {len(a)} and {len(b)} images; both must be of the same images")
    pairs = zip(neighbours(a, k), neighbours(b, k), strict=True)
    return float(np.mean([len(np.intersect1d(x, y)) for x, y in pairs]) / k)


def _principal(points: np.ndarray, dims: int) -> np.ndarray:
    solver = "covariance_eigh" if len(points) >= points.shape[1] else "full"  # both exact
    return PCA(dims, svd_solver=solver).fit_transform(points).astype(np.float32)


def _tsne(points: np.ndarray, dims: int, seed: int, **options: float | str) -> np.ndarray:
    # The rate of Belkina et al. (Nature Communications 2019), N / early exaggeration, a quarter of it in the
    # units of scikit-learn, whose "auto" has a floor of 50: small maps in 3 dimensions explode at it.
    rate = len(points) / 48
    return TSNE(dims, learning_rate=rate, random_state=seed, **options).fit_transform(points)


def _umap(points: np.ndarray, dims: int, seed: int, *, n_neighbors: int, min_dist: float) -> np.ndarray:
    import_tqdm_quietly()
    import umap  # takes seconds: it compiles

    distance, index = _nearest(points, n_neighbors - 1)  # umap counts the image itself as its first neighbour
    index = np.column_stack([np.arange(len(points)), index]).astype(np.int32)
    distance = np.column_stack([np.zeros(len(points)), distance]).astype(np.float32)
    with warnings.catch_warnings():  # it misses an index for mapping further images, which nobody does here
        warnings.filterwarnings("ignore", message="precomputed_knn.*NNDescent")
        return umap.UMAP(
            n_neighbors=n_neighbors,
            min_dist=min_dist,
            n_components=dims,
            precomputed_knn=(index, distance, None),
            random_state=seed,
            n_jobs=1,
        ).fit_transform(points)


def _nearest(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices (N, k) of the nearest others, exact."""
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors()


def _finite(points: np.ndarray, what: str) -> np.ndarray:
    points = np.asarray(points)
    if points.ndim != 2 or 0 in points.shape or points.dtype.kind not in "biuf":
        raise DataError(f"{what}: {points.dtype} of shape {points.shape}; they must be numbers, (N, D)")
    bad = np.argwhere(~np.isfinite(points))
    if len(bad):
        raise DataError(
            f"{what}: {len(bad)} values are NaN or infinite, row {bad[0][0]} column {bad[0][1]} first; "
            "find out why, or drop these images"
        )
    return points.astype(np.float64)


def _check_options(chosen: Mapping[str, float | str], n: int) -> None:
    limits = {
        "perplexity": (1, (n - 1) / 3),
        "max_iter": (250, np.inf),
        "n_neighbors": (2, n - 1),
        "min_dist": (0, 1),
    }
    for name, value in chosen.items():
        if name == "init" and value not in ("pca", "random"):
            raise DataError(f"init = {value!r}; choose 'pca' or 'random'")
        low, high = limits.get(name, (-np.inf, np.inf))
        if name != "init" and not low <= value <= high:
            raise DataError(f"{name} = {value:g} with {n} images; choose {low:g} to {high:g}")
