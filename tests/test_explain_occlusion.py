"""Occlusion: the score while the pixels that a map marks go, and while they come back."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, gaussian_filter
from toy_explained import PAIR, cnn, pictures, plain

from xraykit.errors import DataError
from xraykit.explain import explain
from xraykit.explain_cut import network
from xraykit.explain_occlusion import FILLS, area, gain, lesion_first, occlusion

RNG = np.random.default_rng(0)


def test_occlusion_by_hand() -> None:
    weights = np.zeros((4, 4))
    weights[0, 0] = 1  # the score is the first pixel
    image = np.zeros((1, 4, 4), np.uint8)
    image[0, 0, 0] = 255
    first = -np.arange(16.0).reshape(1, 4, 4)  # which this map names first
    about = {"target": "yes", "steps": 4, "fill": "blur"}
    found, late = (occlusion(plain(weights), image, maps=maps, **about) for maps in (first, -first))
    blurred = found.deletion[0, -1]
    assert 0.2 < blurred < 0.8
    assert found.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.deletion.tolist() == [[1] + 4 * [blurred]]
    assert found.insertion.tolist() == [[blurred] + 4 * [1]]
    assert late.deletion.tolist() == [4 * [1] + [blurred]]
    np.testing.assert_allclose(area(found.deletion), blurred + (1 - blurred) / 8)
    np.testing.assert_allclose(area(late.deletion), 1 - (1 - blurred) / 8)
    np.testing.assert_allclose(area(np.array([[0, 1, 1], [3, 3, 3.0]])), [0.75, 3])


def test_dark_pixels_and_the_gain_by_hand() -> None:
    weights = np.zeros((3, 3))
    weights[0, 0] = 1  # the score is the first pixel
    image = np.array([[[200, 10, 0], [21, 90, 100], [110, 120, 130]]], np.uint8)
    # A fifth of the way from the first to the last of 9: 0.6 of that from 10 to 21, 16.6, which is cut to 16.
    first = -np.arange(9.0).reshape(1, 3, 3)
    found, late = (
        occlusion(plain(weights), image, maps=maps, target="yes", steps=3) for maps in (first, -first)
    )
    np.testing.assert_allclose(255 * found.deletion, [[200, 16, 16, 16]], atol=1e-4)
    np.testing.assert_allclose(255 * found.insertion, [[16, 200, 200, 200]], atol=1e-4)
    np.testing.assert_allclose(255 * late.deletion, [[200, 200, 200, 16]], atol=1e-4)
    np.testing.assert_allclose(255 * late.insertion, [[16, 16, 16, 200]], atol=1e-4)
    # Areas (108 + 200 + 200) / 3 and (108 + 16 + 16) / 3, the other way round with the other map.
    images, maps = np.repeat(image, 2, axis=0), np.concatenate([first, -first])
    gained = gain(plain(weights), images, maps=maps, target="yes", steps=3)
    np.testing.assert_allclose(255 * gained, [368 / 3, -368 / 3], atol=1e-4)
    # For the other target the falling and the rising curve change places.
    gained = gain(plain(weights), images, rows=np.array([1]), maps=-first, target=["no"], steps=3)
    np.testing.assert_allclose(255 * gained, [368 / 3], atol=1e-4)


@pytest.mark.parametrize(("fill", "atol"), [("dark", 1e-5), ("blur", 0.03)])  # half a grey level a pixel
def test_occlusion_is_that_of_a_loop(fill: str, atol: float) -> None:
    images = RNG.integers(0, 256, (3, 16, 16), np.uint8)
    maps, weights = RNG.random((3, 16, 16)), RNG.standard_normal((16, 16)) / 16
    found = occlusion(plain(weights), images, maps=maps, target="no", steps=5, fill=fill)
    for i, image in enumerate(images):
        blurred = gaussian_filter(image.astype(float), 2, mode="mirror", truncate=3)
        dark = np.full((16, 16), np.floor(np.percentile(image, 20)))
        instead = {"dark": dark, "blur": blurred}[fill].ravel()
        for k, share in enumerate(found.shares):
            gone = np.argsort(-maps[i].ravel())[: round(share * 256)]
            without, alone = image.ravel().astype(float), instead.copy()
            without[gone], alone[gone] = instead[gone], image.ravel()[gone]
            expected = [-(weights.ravel() @ x) / 255 for x in (without, alone)]
            np.testing.assert_allclose([found.deletion[i, k], found.insertion[i, k]], expected, atol=atol)


@given(seed=st.integers(0, 2**32 - 1), fill=st.sampled_from(FILLS))
def test_what_deletion_takes_insertion_gives(seed: int, fill: str) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 8, 8), np.uint8)
    maps = rng.integers(0, 3, (2, 8, 8)) / 2  # many ties
    model = plain(rng.standard_normal((8, 8)))
    found = occlusion(model, images, maps=maps, target="yes", steps=7, fill=fill)
    total = found.deletion + found.insertion  # a linear score has one sum on the way
    np.testing.assert_allclose(total, np.repeat(total[:, :1], 8, axis=1), atol=1e-4)


def test_ties_are_broken_by_chance_and_as_many_pixels_go_as_the_share_says() -> None:
    board = np.where(np.add.outer(np.arange(32), np.arange(32)) % 2, 255, 0).astype(np.uint8)
    images, maps = np.stack([board, board]), np.zeros((2, 32, 32), np.float32)
    # Blurred it is grey, so that the mean distance from grey is the share that is left.
    model = plain(np.full((32, 32), 2 / 1024), fold=True)
    found = occlusion(model, images, maps=maps, target="yes", fill="blur")
    np.testing.assert_allclose(found.deletion, np.tile(1 - found.shares, (2, 1)), atol=0.01)
    np.testing.assert_allclose(found.insertion, np.tile(found.shares, (2, 1)), atol=0.01)
    model, images = plain(RNG.random((32, 32))), np.repeat(pictures(1, 32), 2, axis=0)
    found, same, other = (occlusion(model, images, maps=maps, target="yes", seed=s) for s in (0, 0, 1))
    assert (found.deletion == same.deletion).all()
    assert (found.deletion[:, 1:-1] != other.deletion[:, 1:-1]).all()
    assert (found.deletion[0, 1:-1] != found.deletion[1, 1:-1]).all()


@pytest.mark.parametrize("fill", FILLS)
def test_a_map_of_what_the_score_looks_at_beats_one_of_the_rest(fill: str) -> None:
    weights = np.zeros((32, 32))
    weights[4:10, 20:26] = 1 / 36
    images = np.zeros((22, 32, 32), np.uint8)
    images[:, 4:10, 20:26] = 255
    maps = np.concatenate([[weights], RNG.random((20, 32, 32)), [-weights]])
    gained = gain(plain(weights), images, maps=maps, target="yes", steps=20, fill=fill)
    assert gained[0] > 0.6
    assert abs(gained[1:-1].mean()) < 0.1
    assert gained[-1] < -0.6


def test_occlusion_of_a_network(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", pictures(6, 96))
    images, rows = np.load(tmp_path / "images.npy", mmap_mode="r"), np.array([4, 0, 5])
    model = network(cnn(), PAIR, size=64)
    targets = ["pneumonia", "normal", "pneumonia"]
    maps = explain(model, images, rows=rows, target=targets)
    about = {"rows": rows, "maps": maps.maps, "target": targets, "steps": 3}
    found, one_by_one = (occlusion(model, images, batch_size=b, **about) for b in (64, 1))
    assert found.deletion.shape == found.insertion.shape == (3, 4)
    np.testing.assert_allclose(found.deletion, one_by_one.deletion, atol=1e-5)
    own = maps.scores[np.arange(3), [0, 1, 0]]
    np.testing.assert_allclose(found.deletion[:, 0], own, atol=1e-5)
    np.testing.assert_allclose(found.insertion[:, -1], own, atol=1e-5)
    np.testing.assert_allclose(found.deletion[:, -1], found.insertion[:, 0], atol=1e-5)
    alone = occlusion(model, images, rows=rows[:1], maps=maps.maps[:1], target="pneumonia", steps=3)
    np.testing.assert_allclose(alone.insertion[0], found.insertion[0], atol=1e-5)


def test_the_lesion_first_by_hand() -> None:
    masks = np.zeros((2, 5, 5), bool)
    masks[0, 2, 1:3] = True
    found = lesion_first(masks)
    assert (found.shape, found.dtype) == ((2, 5, 5), np.float32)
    assert (found[0][masks[0]] == 1).all()
    np.testing.assert_allclose(found[0, 2], [1 / 2, 1, 1, 1 / 2, 1 / 3], rtol=1e-5)  # 1 / (1 + distance)
    np.testing.assert_allclose(found[0, :, 1], [1 / 3, 1 / 2, 1, 1 / 2, 1 / 3], rtol=1e-5)
    assert not found[1].any()  # without a lesion


@given(st.integers(0, 2**32 - 1))
def test_what_is_further_from_the_lesion_comes_later(seed: int) -> None:
    masks = np.random.default_rng(seed).random((3, 12, 9)) < 0.05
    masks[:, 4, 4] = True
    for near, mask in zip(lesion_first(masks), masks, strict=True):
        away = distance_transform_edt(~mask)  # the distances of the other are right to two parts in a hundred
        np.testing.assert_allclose(1 / near - 1, away, rtol=0.02, atol=1e-5)
        assert ((near == 1) == mask).all()


def test_the_true_lesion_is_a_good_order() -> None:
    masks = np.zeros((3, 32, 32), bool)
    masks[:, 6:14, 18:26] = True
    images = np.where(masks, 200, 50).astype(np.uint8)
    model = plain(masks[0] / masks[0].sum())
    maps = lesion_first(masks)
    found = occlusion(model, images, maps=maps, target="yes", steps=16)  # the lesion is a sixteenth
    np.testing.assert_allclose(255 * found.deletion[:, :2], [[200, 50]] * 3, atol=1e-3)
    gained, lost = (gain(model, images, maps=m, target="yes") for m in (maps, -maps))
    assert (gained > 0.4).all()
    assert (lost < -0.4).all()


IMAGES = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
MAPS = np.ones((2, 4, 4))
NOTHING = plain(np.full((4, 4), np.nan))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": MAPS[:1]}, r"\(1, 4, 4\); give one of \(4, 4\) for each of 2"),
        ({"maps": MAPS[:, :3]}, r"\(2, 3, 4\); give one of \(4, 4\)"),
        ({"maps": MAPS * np.nan}, "2 images, all values finite"),
        ({"target": "maybe"}, r"plain says nothing about \['maybe'\]; its targets are \['yes', 'no'\]"),
        ({"target": ["yes"]}, "1 targets for 2 images; give one for all, or one for each"),
        ({"steps": 0}, "steps = 0, batch_size = 64; use whole numbers from 1"),
        ({"batch_size": 0}, "steps = 10, batch_size = 0"),
        ({"fill": "grey"}, r"fill = 'grey' is not one of \('dark', 'blur'\)"),
        ({"images": IMAGES.astype(float)}, "store them as uint8"),
        ({"rows": np.array([0, 2])}, "rows go from 0 to 2"),
        ({"model": NOTHING}, "plain makes NaN or infinite scores of image 0; its weights are damaged"),
    ],
)
def test_occlusion_bad_input(change: dict, message: str) -> None:
    about = {"model": plain(np.ones((4, 4))), "images": IMAGES, "maps": MAPS, "target": "yes"} | change
    with pytest.raises(DataError, match=message):
        occlusion(about.pop("model"), about.pop("images"), **about)
