"""Images that are no chest X-rays."""

import numpy as np
import pytest

from xraykit.errors import DataError
from xraykit.not_xrays import altered, not_xrays

KINDS = [
    "photograph", "page of text", "handwritten digit", "noise", "clouds", "gradient", "chequerboard",
    "shapes", "blank",
]  # fmt: skip


@pytest.mark.parametrize("size", [16, 64, 224])
def test_kinds(size: int) -> None:
    made = not_xrays(size, seed=0, n=3)
    assert list(made) == KINDS
    for kind, images in made.items():
        assert (images.dtype, images.shape) == (np.uint8, (3, size, size)), kind
        assert len(np.unique(images, axis=0)) == 3, kind
        flat = images.reshape(3, -1).std(axis=1)
        assert (flat == 0).all() if kind == "blank" else (flat > 5).all(), kind


def test_the_seed_decides() -> None:
    one, same, other = (not_xrays(32, seed=s, n=2) for s in (0, 0, 1))
    assert all((one[k] == same[k]).all() and (one[k] != other[k]).any() for k in KINDS)
    more = not_xrays(32, seed=0, n=4)
    assert all((more[k][:2] == one[k]).all() for k in KINDS)  # more images do not change the first


def test_what_is_drawn() -> None:
    made = not_xrays(64, seed=3, n=6)
    assert all(np.unique(image).size == 2 for image in made["chequerboard"])
    assert all(image.min() == 0 and image.max() == 255 for image in made["gradient"])
    steps = np.diff(made["gradient"].astype(int), axis=1)
    assert np.ptp(steps, axis=(1, 2)).max() <= 1  # the same slope everywhere, to the rounding
    assert np.median(made["page of text"]) > 200  # paper


def test_altered_by_hand() -> None:
    image = np.uint8([[[0, 1], [2, 255]]])
    found = altered(image)
    expected = {
        "negative": [[255, 254], [253, 0]],
        "upside down": [[2, 255], [0, 1]],
        "turned by a quarter": [[1, 255], [0, 2]],
        "mirrored": [[1, 0], [255, 2]],
    }
    assert {k: v[0].tolist() for k, v in found.items()} == expected
    assert image.tolist() == [[[0, 1], [2, 255]]]
    assert all(not np.shares_memory(v, image) for v in found.values())


def test_bad_input() -> None:
    for size, n in ((15, 1), (16, 0)):
        with pytest.raises(DataError, match=f"size {size}, n {n}; give at least 16 pixels and 1 image"):
            not_xrays(size, seed=0, n=n)
    with pytest.raises(DataError, match=r"images are \(16, 17\); give square ones"):
        altered(np.zeros((1, 16, 17), np.uint8))
    with pytest.raises(DataError, match="uint8"):
        altered(np.zeros((1, 16, 16)))
