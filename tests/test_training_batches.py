"""Batches: which images, in which order, and how they are read."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_backbones import pictures

from xraykit.training_batches import plan, read


def sizes(n: int, batch_size: int, *, at_least: int = 2) -> list[int]:
    return [len(batch) for batch in plan(n, batch_size, epoch=0, seed=0, at_least=at_least)]


def test_sizes_by_hand() -> None:
    assert sizes(8, 4) == [4, 4]
    assert sizes(10, 4) == [4, 4, 2]
    assert sizes(9, 4) == [4, 5]
    assert sizes(11, 4, at_least=4) == [4, 7]
    assert sizes(3, 4) == [3]
    assert sizes(1, 4) == [1]


@given(
    n=st.integers(1, 300),
    batch_size=st.integers(1, 50),
    epoch=st.integers(0, 50),
    seed=st.integers(0, 2**31),
    processes=st.integers(1, 8),
)
def test_every_image_once_an_epoch(n: int, batch_size: int, epoch: int, seed: int, processes: int) -> None:
    batch_size = max(batch_size, processes)
    at_least = max(2, processes)
    batches = plan(n, batch_size, epoch=epoch, seed=seed, at_least=at_least)
    assert sorted(np.concatenate(batches)) == list(range(n))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches[-1]) >= min(n, at_least)


def test_the_order_is_that_of_seed_and_epoch() -> None:
    def order(**which: int) -> list[int]:
        return np.concatenate(plan(50, 8, at_least=2, **which)).tolist()

    assert order(epoch=1, seed=2) == order(epoch=1, seed=2)
    orders = [order(epoch=epoch, seed=seed) for epoch in range(3) for seed in range(3)]
    assert len(set(map(tuple, orders))) == 9


def test_grey_levels_are_read_from_arrays_and_memmaps(tmp_path: Path) -> None:
    images = pictures(6, side=5)
    images[3] = np.linspace(0, 255, 25).round().reshape(5, 5)
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=images.shape)
    mapped[:] = images
    rows = np.array([3, 0, 3])
    found = read(mapped, rows, "cpu")
    assert (found.dtype, found.shape) == (torch.float32, (3, 1, 5, 5))
    np.testing.assert_array_equal(found[:, 0].numpy(), images[rows] / np.float32(255))
    assert torch.equal(found, read(images, rows, "cpu"))
    found.zero_()  # a copy: the images stay as they are
    np.testing.assert_array_equal(mapped, images)
