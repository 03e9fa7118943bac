"""Maps of embeddings, and the numbers that say how far to trust them."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraykit import projections
from xraykit.errors import DataError
from xraykit.projections import agreement, neighbours, project, quality


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Features (90, 60) of three well separated classes, and their codes."""
    labels = np.repeat([0, 1, 2], 30)
    return np.random.default_rng(0).normal(size=(90, 60)) + 20 * np.eye(60)[labels], labels


# On a line, by hand: six images, two classes; the map swaps the third with the fourth.
LINE = np.array([[0], [1], [2.2], [10], [11], [12.5]])
SWAPPED = np.array([[0], [1], [10], [2.5], [11], [12.3]])
HALVES = np.array([0, 0, 0, 1, 1, 1])


def test_quality_of_a_map_that_changes_nothing_by_hand() -> None:
    found = quality(LINE, 3 * LINE, HALVES, k=2)
    assert found["trustworthiness"] == 1
    assert found["purity"] == found["purity_in_features"] == 1
    assert found["purity_by_chance"] == pytest.approx(2 / 5)  # of the five others two are alike
    # Mean distances to the own class and to the other one, image by image.
    own = np.array([1.6, 1.1, 1.7, 1.75, 1.25, 2])
    other = np.array([33.5, 30.5, 26.9, 26.8, 29.8, 34.3]) / 3
    assert found["silhouette"] == pytest.approx(np.mean(1 - own / other))
    assert found["silhouette_in_features"] == pytest.approx(found["silhouette"])


def test_quality_of_a_map_that_swaps_two_by_hand() -> None:
    found = quality(LINE, SWAPPED, HALVES, k=1)
    # Nearest on the map: 0-1, 1-0, 2-4, 3-1, 4-2, 5-4. In the features these were the 1st, 1st, 4th, 4th, 3rd
    # and 1st nearest: 0 + 0 + 3 + 3 + 2 + 0 ranks too far, of at most N k (2N - 3k - 1) / 2 = 24.
    assert found["trustworthiness"] == pytest.approx(1 - 8 / 24)
    assert found["purity"] == pytest.approx(3 / 6)
    assert found["purity_in_features"] == 1
    assert found["silhouette"] < found["silhouette_in_features"]


def test_a_random_map_is_at_chance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=600, p=[0.6, 0.3, 0.1])
    found = quality(rng.normal(size=(600, 20)), rng.normal(size=(600, 2)), labels)
    assert found["trustworthiness"] == pytest.approx(0.5, abs=0.02)
    assert found["purity_by_chance"] == pytest.approx((np.bincount(labels) ** 2).sum() / 600**2, abs=0.002)
    assert found["purity"] == pytest.approx(found["purity_by_chance"], abs=0.02)
    assert abs(found["silhouette"]) < 0.1


@given(st.integers(0, 10_000), st.integers(1, 11))
def test_neighbours_equal_sorted_distances(seed: int, k: int) -> None:
    points = np.random.default_rng(seed).normal(size=(12, 3))
    far = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(12, np.inf))
    np.testing.assert_array_equal(neighbours(points, k), np.argsort(far, axis=1)[:, :k])


def test_neighbours_of_copies_leave_out_the_image_itself() -> None:
    near = neighbours(np.repeat([[0.0, 0.0], [5.0, 5.0]], 3, axis=0), 2)
    assert [sorted(row) for row in near.tolist()] == [[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]]


def test_agreement_by_hand() -> None:
    # Nearest two on the line: 0-12, 1-02, 2-10, 3-45, 4-35, 5-43; on the map: 0-13, 1-03, 2-45, 3-10, 4-25,
    # 5-42.
    assert agreement(LINE, SWAPPED, k=2) == pytest.approx((1 + 1 + 0 + 0 + 1 + 1) / 12)
    assert agreement(LINE, SWAPPED, k=5) == 1  # five others are all others


@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(0, 6.28))
def test_agreement_ignores_turning_mirroring_and_scale(seed: int, scale: float, angle: float) -> None:
    rng = np.random.default_rng(seed)
    placed, other = rng.normal(size=(30, 2)), rng.normal(size=(30, 2))
    turn = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
    assert agreement(placed, scale * placed @ turn + 7, k=5) == 1
    assert agreement(placed, other, k=5) == agreement(other, placed, k=5) < 1


@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
def test_pca_equals_the_singular_value_decomposition(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(0).normal(size=shape) * np.linspace(5, 1, shape[1])
    centred = features - features.mean(axis=0)
    u, s, axes = np.linalg.svd(centred, full_matrices=False)
    sign = np.sign(axes[np.arange(3), np.abs(axes[:3]).argmax(axis=1)])
    placed = project(features, "PCA", dims=3, seed=0)
    assert placed.dtype == np.float32
    np.testing.assert_allclose(placed, u[:, :3] * s[:3] * sign, atol=1e-4)
    np.testing.assert_array_equal(project(features, "PCA", dims=3, seed=1), placed)


def test_pca_keeps_its_direction_when_the_images_are_shuffled(blobs) -> None:
    order = np.random.default_rng(1).permutation(90)
    shuffled = project(blobs[0][order], "PCA", seed=0)
    np.testing.assert_allclose(shuffled, project(blobs[0], "PCA", seed=0)[order], atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_tsne_finds_the_classes_and_depends_on_the_seed_only_from_a_random_start(blobs, dims: int) -> None:
    features, labels = blobs
    how = {"dims": dims, "perplexity": 10, "max_iter": 300}
    placed = project(features, "t-SNE", seed=0, **how)
    assert placed.shape == (90, dims)
    assert placed.dtype == np.float32
    assert quality(features, placed, labels)["purity"] > 0.95
    np.testing.assert_array_equal(project(features, "t-SNE", seed=0, **how), placed)
    assert agreement(project(features, "t-SNE", seed=1, **how), placed) > 0.95
    random = [project(features, "t-SNE", seed=s, init="random", **how) for s in (0, 0, 1)]
    np.testing.assert_array_equal(random[0], random[1])
    assert agreement(random[0], random[2]) < 0.95


def test_umap_finds_the_classes_repeats_itself_and_is_quiet(blobs) -> None:
    features, labels = blobs
    import umap  # noqa: F401  (what the import says is not ours)

    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        placed = project(features, "UMAP", seed=0, n_neighbors=10)
    assert [str(w.message) for w in said if issubclass(w.category, UserWarning)] == []
    assert warnings.filters == filters
    assert placed.shape == (90, 2)
    assert placed.dtype == np.float32
    assert quality(features, placed, labels)["purity"] > 0.95
    np.testing.assert_array_equal(project(features, "UMAP", seed=0, n_neighbors=10), placed)
    assert agreement(project(features, "UMAP", seed=1, n_neighbors=10), placed) < 0.95
    assert project(features, "UMAP", seed=0, n_neighbors=10, dims=3).shape == (90, 3)


@pytest.mark.slow
def test_umap_sees_the_graph_of_its_own_neighbour_search(monkeypatch) -> None:
    import umap

    class Kept(umap.UMAP):
        def fit_transform(self, *args: object) -> np.ndarray:
            made.append(self)
            return super().fit_transform(*args)

    made = []
    features = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    theirs = umap.UMAP(random_state=0, n_jobs=1).fit(features)
    monkeypatch.setattr(umap, "UMAP", Kept)
    project(features, "UMAP", seed=0)
    assert made[0].graph_.nnz == theirs.graph_.nnz
    assert abs(made[0].graph_ - theirs.graph_).max() < 1e-4


@pytest.mark.parametrize(("shape", "left"), [((60, 80), 50), ((60, 50), 50), ((60, 9), 9), ((20, 80), 19)])
def test_tsne_and_umap_begin_with_fifty_components(monkeypatch, shape, left: int) -> None:
    seen = []
    for name in ("_tsne", "_umap"):
        monkeypatch.setattr(projections, name, lambda points, *_, **__: seen.append(points.shape))
    for method in ("t-SNE", "UMAP"):
        features = np.random.default_rng(0).normal(size=shape)
        project(features, method, seed=0, **({"perplexity": 5} if method == "t-SNE" else {}))
    assert seen == [(shape[0], left)] * 2


def test_constant_columns_and_copies_are_harmless() -> None:
    features = np.repeat(np.random.default_rng(0).normal(size=(3, 5)), 10, axis=0)
    features[:, 0] = 7
    for method, options in (("PCA", {}), ("t-SNE", {"perplexity": 5, "max_iter": 250})):
        assert np.isfinite(project(features, method, seed=0, **options)).all()


NAN = np.array([[0.0, 1.0], [2.0, np.nan], [4.0, 5.0], [1.0, 1.0]])
TEN = np.arange(20.0).reshape(10, 2)


@pytest.mark.parametrize(
    ("features", "method", "options", "message"),
    [
        (TEN, "TSNE", {}, "method 'TSNE' is unknown; choose from PCA, t-SNE, UMAP"),
        (TEN, "PCA", {"perplexity": 5}, "PCA has no option 'perplexity'; it has none"),
        (TEN, "UMAP", {"perplexity": 5}, r"no option 'perplexity'; it has \['n_neighbors', 'min_dist'\]"),
        (TEN, "PCA", {"dims": 1}, "dims = 1; a map has 2 or 3 dimensions"),
        (TEN, "PCA", {"dims": 3}, "10 images of 2 features; .* at least 5 images and 3 features"),
        (TEN[:3], "PCA", {}, "3 images of 2 features; .* at least 4 images and 2 features"),
        (NAN, "PCA", {}, "features: 1 values are NaN or infinite, row 1 column 1 first"),
        (np.full((10, 2), np.inf), "PCA", {}, "20 values are NaN or infinite, row 0 column 0"),
        (np.ones((10, 2)), "t-SNE", {}, "all 10 images have the same features"),
        (np.arange(10.0), "PCA", {}, r"float64 of shape \(10,\); they must be numbers, \(N, D\)"),
        (TEN.astype(str), "PCA", {}, "they must be numbers"),
        (TEN, "t-SNE", {}, "perplexity = 30 with 10 images; choose 1 to 3$"),
        (TEN, "t-SNE", {"perplexity": 0.5}, "perplexity = 0.5 with 10 images; choose 1 to 3$"),
        (TEN, "t-SNE", {"perplexity": 2, "init": "spectral"}, "init = 'spectral'; choose 'pca' or 'random'"),
        (TEN, "t-SNE", {"perplexity": 2, "max_iter": 9}, "max_iter = 9 with 10 images; choose 250 to inf"),
        (TEN, "UMAP", {}, "n_neighbors = 15 with 10 images; choose 2 to 9"),
        (TEN, "UMAP", {"n_neighbors": 5, "min_dist": 1.5}, "min_dist = 1.5 with 10 images; choose 0 to 1"),
    ],
)
def test_what_cannot_be_mapped_is_an_error(features, method: str, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        project(features, method, seed=0, **options)


@pytest.mark.parametrize(
    ("features", "placed", "labels", "k", "message"),
    [
        (LINE, LINE[:5], HALVES, 2, r"features \(6, 1\), map \(5, 1\) and labels \(6,\)"),
        (LINE, LINE, HALVES[:5], 2, r"labels \(5,\) must be"),
        (LINE, LINE, np.eye(6, dtype=int), 2, "of several labels take one column"),
        (LINE, LINE, HALVES, 3, "k = 3 neighbours among 6 images; choose 1 to 2"),
        (LINE, LINE, HALVES, 0, "k = 0 neighbours"),
        (LINE, LINE, np.zeros(6, int), 2, "6 labels are all equal or all different"),
        (LINE, LINE, np.arange(6), 2, "6 labels are all equal or all different"),
        (NAN, NAN, np.array([0, 0, 1, 1]), 1, "features: 1 values are NaN"),
        (LINE, LINE * np.nan, HALVES, 2, "the map: 6 values are NaN"),
        (np.zeros((10_001, 1)), np.zeros((10_001, 2)), np.arange(10_001) % 2, 5, "10001 images; .* 10000"),
    ],
)
def test_what_cannot_be_judged_is_an_error(features, placed, labels, k: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        quality(features, placed, labels, k=k)


def test_neighbours_and_agreement_refuse_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="k = 6 neighbours among 6 images; choose 1 to 5"):
        neighbours(LINE, 6)
    with pytest.raises(DataError, match="maps of 6 and 5 images"):
        agreement(LINE, LINE[:5])


def test_importing_projections_imports_neither_torch_nor_umap() -> None:
    code = "import sys; from xraykit import projections; sys.exit(bool({'torch', 'umap'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
