"""Batches straight from the uint8 images, array or memmap: no workers, no copies of the data set."""

import numpy as np
import torch


def plan(n: int, batch_size: int, *, epoch: int, seed: int, at_least: int) -> list[np.ndarray]:
    """Positions 0..n-1 of each batch of one epoch, in the random order of (seed, epoch).

    A last batch of fewer than `at_least` images joins the one before it.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n)
    cuts = list(range(batch_size, n, batch_size))
    if cuts and n - cuts[-1] < at_least:
        cuts.pop()
    return np.split(order, cuts)


def read(images: np.ndarray, rows: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """Rows of uint8 images (N, H, W) as grey float32 (B, 1, H, W) in 0..1 on `device`."""
    grey = torch.from_numpy(np.ascontiguousarray(images[rows])).to(device, non_blocking=True)
    return grey.unsqueeze(1).float().div_(255).contiguous(memory_format=torch.channels_last)
