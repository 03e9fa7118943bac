"""Patches of feature maps, and scores and maps from their distances."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional
from toy_backbones import pictures, toy

from xraykit.anomaly_patch_maps import BATCH, BLUR, PatchDetector
from xraykit.backbones import Backbone, Pooled, Pretraining, from_module
from xraykit.errors import DataError


def halves(size: int = 16) -> Backbone:
    """Mean grey levels of 4 x 4 pixels, layer 0, and of 8 x 8 pixels, layer 1."""
    net = Pooled(nn.Sequential(nn.AvgPool2d(4), nn.AvgPool2d(2)), mean=[0.0], std=[1.0])
    return from_module(net, name="halves", size=size, pretraining=Pretraining())


class First(PatchDetector):
    """The first number of a patch as its distance."""

    def fit(self, images: np.ndarray, rows: np.ndarray | None = None) -> "First":
        return self

    def distances(self, patches: torch.Tensor) -> torch.Tensor:
        return patches[:, :, 0]


class Averaged(First):
    neighbourhood = 3
    resizing = "bilinear"


def first(layers: tuple[str, ...] = ("0",), *, size: int = 16) -> First:
    return First(halves(size), layers, seed=0, device="cpu")


def cells(levels: np.ndarray) -> np.ndarray:
    """One image (1, 16, 16) of the 4 x 4 grey levels."""
    return np.kron(levels, np.ones((4, 4))).astype(np.uint8)[None]


ANY = first()
LEVELS = np.arange(16).reshape(4, 4) * 17


def test_nearest_patches_by_hand() -> None:
    detector = first(("0", "1"))
    assert (detector.grid, detector.dim) == ((4, 4), 2)
    (patches,) = detector._patches(cells(LEVELS), np.array([0]))
    np.testing.assert_allclose(patches[0, :, 0], LEVELS.ravel() / 255, atol=1e-6)
    coarse = LEVELS.reshape(2, 2, 2, 2).mean(axis=(1, 3))  # of 2 x 2 cells each
    np.testing.assert_allclose(patches[0, :, 1], np.kron(coarse, np.ones((2, 2))).ravel() / 255, atol=1e-6)


def test_averaged_and_bilinear_patches_against_opencv() -> None:
    detector = Averaged(halves(), ("1", "0"), seed=0, device="cpu")
    (patches,) = detector._patches(cells(LEVELS), np.array([0]))
    fine = np.empty((4, 4), np.float32)
    for y in range(4):
        for x in range(4):
            fine[y, x] = LEVELS[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean() / 255
    coarse = np.full((2, 2), LEVELS.mean() / 255, np.float32)  # all four are neighbours of each other
    np.testing.assert_allclose(patches[0, :, 1], fine.ravel(), atol=1e-6)
    np.testing.assert_allclose(patches[0, :, 0], cv2.resize(coarse, (4, 4)).ravel(), atol=1e-6)


def test_bilinear_resizing_is_opencvs() -> None:
    class Plain(Averaged):
        neighbourhood = 1

    (patches,) = Plain(halves(), ("0", "1"), seed=0, device="cpu")._patches(cells(LEVELS), np.array([0]))
    coarse = (LEVELS.reshape(2, 2, 2, 2).mean(axis=(1, 3)) / 255).astype(np.float32)
    np.testing.assert_allclose(patches[0, :, 1], cv2.resize(coarse, (4, 4)).ravel(), atol=1e-6)


@pytest.mark.parametrize(
    ("top", "expected"), [(0, 15), (0.01, 15), (0.125, 14.5), (0.25, 13.5), (0.5, 11.5), (1, 7.5)]
)
def test_image_scores_by_hand(top: float, expected: float) -> None:
    assert first().score(cells(LEVELS), top=top) == pytest.approx([expected * 17 / 255], abs=1e-6)


@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_never_scores_higher(values: list[float], a: float, b: float) -> None:
    distances = torch.tensor([values])
    patches = distances[:, :, None]
    low, high = (ANY.image_scores(patches, distances, top=top) for top in (max(a, b), min(a, b)))
    assert distances.mean() - 1e-4 <= low <= high + 1e-4
    assert high <= distances.max()


def test_maps_against_scipy() -> None:
    image = pictures(1, 224)
    levels = cv2.resize(image[0], (16, 16), interpolation=cv2.INTER_AREA)
    detector = first(size=64)
    (patches,) = detector._patches(image, np.array([0]))
    grid = patches[0, :, 0].reshape(1, 1, 16, 16)
    large = functional.interpolate(grid, (224, 224), mode="bilinear", align_corners=False)[0, 0].numpy()
    found = detector.maps(image)
    np.testing.assert_allclose(found[0], gaussian_filter(large, 4, mode="mirror"), atol=1e-5)
    assert found.dtype == np.float32
    assert BLUR * 224 == 4
    assert np.corrcoef(levels.ravel(), cv2.resize(found[0], (16, 16)).ravel())[0, 1] > 0.5


def test_a_map_has_its_peak_where_the_patch_is() -> None:
    levels = np.zeros((4, 4))
    levels[1, 3] = 255
    image = np.kron(levels, np.ones((10, 20))).astype(np.uint8)[None]  # (1, 40, 80)
    scores, maps = first().both(image)
    assert maps.shape == (1, 40, 80)
    assert scores == pytest.approx([1])
    y, x = np.unravel_index(maps[0].argmax(), (40, 80))
    assert 10 <= y < 20
    assert 60 <= x < 80


def test_a_level_stays_a_level() -> None:
    np.testing.assert_allclose(first().maps(np.full((2, 50, 50), 51, np.uint8)), 0.2, atol=1e-6)


def test_rows_batches_and_memmaps_change_nothing(tmp_path: Path) -> None:
    images = pictures(2 * BATCH + 5)
    stored = np.memmap(tmp_path / "images", np.uint8, "w+", shape=images.shape)
    stored[:] = images
    detector = First(toy(), ("1", "2"), seed=0, device="cpu")
    scores, maps = detector.both(images, top=0.3)
    assert scores.shape == (len(images),)
    assert maps.shape == images.shape
    rows = np.array([BATCH + 1, 0, 2 * BATCH + 4, 0])
    for given_images in (images, stored):
        np.testing.assert_allclose(detector.score(given_images, rows, top=0.3), scores[rows], rtol=1e-5)
        np.testing.assert_allclose(detector.maps(given_images, rows), maps[rows], rtol=1e-4, atol=1e-6)


def test_the_backbone_stays_where_and_as_it_is() -> None:
    backbone = toy()
    before = backbone.module.maps[0].weight.clone()
    First(backbone, ("1",), seed=0, device="cpu").score(pictures())
    assert torch.equal(backbone.module.maps[0].weight, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same() -> None:
    images = pictures(40)
    cpu, gpu = (First(toy(), ("1", "2"), seed=0, device=device).both(images) for device in ("cpu", "cuda"))
    for ours, theirs in zip(cpu, gpu, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("top", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range(top: float) -> None:
    with pytest.raises(DataError, match=r"top = .*; use a share of the patches, 0 to 1"):
        first().score(pictures(), top=top)


def test_bad_input() -> None:
    detector = first()
    with pytest.raises(DataError, match="rows go from 0 to 30; the images are 0 to 29"):
        detector.both(pictures(), np.array([0, 30]))
    with pytest.raises(DataError, match="at least one image"):
        detector.score(pictures(), np.array([], int))
    with pytest.raises(DataError, match="store them as uint8"):
        detector.maps(np.zeros((1, 16, 16)))
    with pytest.raises(DataError, match=r"halves has no layer '2'; choose of 0, 1"):
        first(("0", "2"))
    with pytest.raises(DataError, match="is unknown"):
        First(halves(), ("0",), seed=0, device="gpu")
