"""PatchCore and PaDiM."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.nn import functional
from toy_backbones import pictures, toy

from xraykit import anomaly_patch_maps
from xraykit.anomaly_patches import Padim, PatchCore
from xraykit.backbones import Backbone, Pooled, Pretraining, from_module, network_input
from xraykit.errors import DataError

LAYERS = ("1", "2")  # of the toy: 4 channels of 7 x 7, 6 of 5 x 5
IMAGES = pictures(75)
FIT, TEST = np.arange(70), np.arange(70, 75)


def patchcore(**changes: object) -> PatchCore:
    return PatchCore(toy(), LAYERS, **{"seed": 0, "device": "cpu"} | changes)


def padim(**changes: object) -> Padim:
    return Padim(toy(), LAYERS, **{"seed": 0, "device": "cpu"} | changes)


def toy_patches(rows: np.ndarray, *, around: bool) -> np.ndarray:
    """(n, 49, 10), computed by calling the layers of the toy one by one."""
    net = toy().module
    shallow = net.maps[:2]((network_input(IMAGES[rows], 16) - 0.5) / 0.25)
    deep = net.maps[2](shallow)
    if around:
        ones = [functional.avg_pool2d(torch.ones(1, 1, n, n), 3, 1, 1) for n in (7, 5)]
        shallow, deep = (
            functional.avg_pool2d(m, 3, 1, 1) / share for m, share in zip((shallow, deep), ones, strict=True)
        )
        deep = functional.interpolate(deep, (7, 7), mode="bilinear", align_corners=False)
    else:
        place = torch.arange(7) * 5 // 7
        deep = deep[:, :, place][:, :, :, place]
    return torch.cat([shallow, deep], dim=1).flatten(2).transpose(1, 2).numpy()


def grey() -> Backbone:
    """A network whose patches are the pixels."""
    net = Pooled(nn.Sequential(nn.AvgPool2d(1)), mean=[0.0], std=[1.0])
    return from_module(net, name="grey", size=4, pretraining=Pretraining())


def test_with_every_patch_in_the_bank_it_is_the_nearest_neighbour() -> None:
    detector = patchcore(bank=70 * 49).fit(IMAGES, FIT)
    assert detector.bank.shape == (70 * 49, 10)
    normal = toy_patches(FIT, around=True).reshape(-1, 10)
    searched = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(normal)
    expected = searched.kneighbors(toy_patches(TEST, around=True).reshape(-1, 10))[0].reshape(5, 49)
    (patches,) = detector._patches(IMAGES, TEST)
    np.testing.assert_allclose(detector.distances(patches), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(detector.score(IMAGES, TEST), expected.max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(detector.score(IMAGES, TEST, top=1), expected.mean(axis=1), rtol=1e-4)
    assert detector.score(IMAGES, FIT).max() < 1e-5


def test_the_bank_is_of_training_patches_as_many_as_asked_for() -> None:
    detector = patchcore(bank=25, pool=300).fit(IMAGES, FIT)
    normal = toy_patches(FIT, around=True).reshape(-1, 10)
    searched = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(normal)
    distance, row = searched.kneighbors(detector.bank.numpy())
    assert distance.max() < 1e-5
    assert len(np.unique(row)) == 25
    few = patchcore(bank=100).fit(IMAGES, FIT[:1])
    assert few.bank.shape == (49, 10)  # one image has no more


def test_the_bank_covers_the_pool_better_than_chance() -> None:
    pool = torch.from_numpy(toy_patches(FIT, around=True).reshape(-1, 10))

    def farthest(bank: torch.Tensor) -> float:
        return float(torch.cdist(pool, bank).min(dim=1).values.max())

    chosen = farthest(patchcore(bank=40).fit(IMAGES, FIT).bank)
    chance = [farthest(pool[np.random.default_rng(i).choice(len(pool), 40)]) for i in range(20)]
    assert chosen < 0.9 * min(chance)


def test_the_pool_is_drawn_from_all_images_alike() -> None:
    detector = patchcore(bank=2000, pool=2000).fit(IMAGES, FIT)
    normal = toy_patches(FIT, around=True).reshape(-1, 10)
    row = NearestNeighbors(n_neighbors=1).fit(normal).kneighbors(detector.bank.numpy())[1].ravel()
    image, place = np.divmod(row, 49)
    for counts in (np.bincount(image, minlength=70), np.bincount(place, minlength=49)):
        expected = 2000 / len(counts)
        assert counts.min() > 0.55 * expected
        assert counts.max() < 1.45 * expected


def test_images_of_which_no_patch_is_drawn_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = patchcore(bank=3, pool=3)
    read = []

    def counted(images: np.ndarray, size: int) -> torch.Tensor:
        read.append(len(images))
        return network_input(images, size)

    monkeypatch.setattr(anomaly_patch_maps, "network_input", counted)
    detector.fit(IMAGES, FIT)
    assert 1 <= sum(read) <= 3


@pytest.mark.parametrize("make", [patchcore, padim])
def test_the_seed_alone_decides(make: type) -> None:
    small = {"bank": 20} if make is patchcore else {"dims": 5}
    one, again, other = (make(**small, seed=seed).fit(IMAGES, FIT).score(IMAGES, TEST) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


@pytest.mark.parametrize("make", [patchcore, padim])
def test_fitting_again_forgets(make: type) -> None:
    new = make().fit(IMAGES, FIT[:40]).score(IMAGES, TEST)
    old = make().fit(IMAGES, FIT[30:]).fit(IMAGES, FIT[:40]).score(IMAGES, TEST)
    np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("make", [patchcore, padim])
def test_a_square_that_is_not_normal_is_found(make: type) -> None:
    images = np.clip(np.random.default_rng(0).normal(90, 12, (80, 32, 32)), 0, 255).astype(np.uint8)
    images[70:, 18:26, 4:12] += 70
    detector = make().fit(images, np.arange(60))
    scores, maps = detector.both(images, np.arange(60, 80))
    assert scores[10:].min() > scores[:10].max()
    for found in maps[10:]:
        y, x = np.unravel_index(found.argmax(), found.shape)
        assert 16 <= y < 28  # the toy's convolutions have no padding, so its maps are shifted a little
        assert x < 14


def test_equation_7_by_hand() -> None:
    detector = patchcore(neighbours=2)
    detector.bank = torch.tensor([[0.0], [1.0], [3.0]])
    patches = torch.tensor([[[5.0], [0.5]]])
    distances = detector.distances(patches)
    np.testing.assert_allclose(distances, [[2, 0.5]])
    # The farthest patch, 5, is matched with 3, whose two nearest are 3 (2 away from 5) and 1 (4 away).
    weight = 1 - math.exp(2) / (math.exp(2) + math.exp(4))
    np.testing.assert_allclose(detector.image_scores(patches, distances, top=0), [2 * weight], rtol=1e-6)
    with pytest.raises(DataError, match=r"top = 0.1 with neighbours = 2"):
        detector.image_scores(patches, distances, top=0.1)


def test_the_weight_of_large_distances_is_finite() -> None:
    detector = patchcore(neighbours=3)
    detector.bank = torch.tensor([[0.0], [1.0], [3000.0]])
    patches = torch.tensor([[[9000.0]]])
    np.testing.assert_allclose(detector.image_scores(patches, torch.tensor([[6000.0]]), top=0), [6000])


def test_weighted_scores_are_lower_and_maps_the_same() -> None:
    plain, weighted = (patchcore(bank=50, neighbours=b).fit(IMAGES, FIT) for b in (0, 9))
    (scores, maps), (lower, same) = (d.both(IMAGES, TEST) for d in (plain, weighted))
    np.testing.assert_array_equal(maps, same)
    assert (lower < scores).all()
    assert (lower > 0).all()


def test_padim_against_numpy_and_scipy() -> None:
    detector = padim().fit(IMAGES, FIT)  # three batches
    normal, test = (toy_patches(rows, around=False) for rows in (FIT, TEST))
    expected = np.empty((5, 49))
    for place in range(49):
        covariance = np.cov(normal[:, place].astype(np.float64), rowvar=False) + 0.01 * np.eye(10)
        inverse, mean = np.linalg.inv(covariance), normal[:, place].mean(axis=0)
        expected[:, place] = [mahalanobis(row, mean, inverse) for row in test[:, place]]
    (patches,) = detector._patches(IMAGES, TEST)
    np.testing.assert_allclose(detector.distances(patches), expected, rtol=2e-4)
    np.testing.assert_allclose(detector.score(IMAGES, TEST), expected.max(axis=1), rtol=2e-4)


def test_padim_of_equal_images_by_hand() -> None:
    detector = Padim(grey(), ["0"], seed=0, device="cpu").fit(np.full((9, 4, 4), 51, np.uint8))
    # No variance but 0.01: a patch 0.4 away from the mean 0.2 is 4 standard deviations away.
    assert detector.score(np.full((1, 4, 4), 153, np.uint8)) == pytest.approx([4], rel=1e-5)


def test_padim_keeps_some_dimensions() -> None:
    detector = padim(dims=3).fit(IMAGES, FIT)
    kept = detector.kept.numpy()
    assert len(set(kept)) == 3
    assert detector.whitening.shape == (49, 3, 3)
    (patches,) = detector._patches(IMAGES, TEST)
    changed = patches.clone()
    changed[:, :, np.setdiff1d(np.arange(10), kept)] += 5
    assert torch.equal(detector.distances(patches), detector.distances(changed))
    assert len(padim(dims=99).kept) == 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", [patchcore, padim])
def test_a_gpu_gives_about_the_same(make: type) -> None:
    cpu, gpu = (make(device=device).fit(IMAGES, FIT).both(IMAGES, TEST) for device in ("cpu", "cuda"))
    for ours, theirs in zip(cpu, gpu, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "counts", [{"bank": 0}, {"bank": 11, "pool": 10}, {"neighbours": 1}, {"bank": 5, "neighbours": 6}]
)
def test_counts_that_do_not_go_together(counts: dict) -> None:
    with pytest.raises(DataError, match=r"use a bank of 1 to \d+ patches \(pool\), and neighbours 0 or 2 to"):
        patchcore(**counts)


def test_bad_input() -> None:
    for make, missing in ((patchcore, "bank"), (padim, "Gaussians")):
        with pytest.raises(DataError, match=f"no {missing} yet; call fit with normal images first"):
            make().score(IMAGES, TEST)
        with pytest.raises(DataError, match="rows go from 0 to 75; the images are 0 to 74"):
            make().fit(IMAGES, np.array([0, 75]))
    with pytest.raises(DataError, match="one image has no covariance"):
        padim().fit(IMAGES, [3])
    with pytest.raises(DataError, match="dims = 0; at least 1 is needed"):
        padim(dims=0)
