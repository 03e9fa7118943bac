"""Random views of a radiograph that leave its findings where they are and as they are.

Every function takes grey float images (B, 1, S, S) in 0..1 and a generator on their device. Images are never
mirrored, since the heart is on the left, nor turned far, nor inverted, nor cut to small crops, which would
drop what is to be seen.
"""

import torch
import torch.nn.functional as F

from xraykit.augment import warp

ANGLE, SHIFT, ZOOM = 0.225, 0.15, (0.84, 1.21)  # radians, halves of the side, source side over view side
GAMMA, CONTRAST, BRIGHTNESS, SHARPNESS, NOISE = 0.35, 0.3, 0.12, (-0.6, 0.8), 0.04


def view(images: torch.Tensor, *, size: int, generator: torch.Generator) -> torch.Tensor:
    """One random view (B, 1, size, size) of each image: another position, then another exposure."""
    return expose(place(images, size=size, generator=generator), generator=generator)


def place(images: torch.Tensor, *, size: int, generator: torch.Generator) -> torch.Tensor:
    """Turn, shift and zoom each image at random, sampled at size x size pixels; edges are continued."""
    n = len(images)
    angle, right, down = (_uniform(n, -1, 1, generator)[:, 0, 0, 0] * a for a in (ANGLE, SHIFT, SHIFT))
    zoom = _uniform(n, *ZOOM, generator)[:, 0, 0, 0]
    return warp(images, size=size, angle=angle, zoom=zoom, right=right, down=down)


def expose(images: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """Change tone curve, contrast, brightness, sharpness and noise of each image at random; stays in 0..1."""
    n = len(images)
    x = images.clamp(0.001, 1) ** _uniform(n, -GAMMA, GAMMA, generator).exp()
    x = (x - 0.5) * _uniform(n, 1 - CONTRAST, 1 + CONTRAST, generator) + 0.5
    x = x + _uniform(n, -BRIGHTNESS, BRIGHTNESS, generator)
    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = x + _uniform(n, *SHARPNESS, generator) * (blurred - x)
    grain = torch.randn(x.shape, generator=generator, device=x.device)
    return (x + grain * _uniform(n, 0, NOISE, generator)).clamp(0, 1)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator, device=generator.device)
