"""Networks of our own: the small encoder behind ``phantom``, and a plain CNN to train from scratch."""

import math

import torch
from torch import nn

from xraykit.errors import DataError


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a 1x1 shortcut; halves H and W.

    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, figure 2.

    Args:
        channels, out: of the input and the output, (B, channels, H, W) to (B, out, H/2, W/2); H and W even.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, out, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class SmallEncoder(nn.Module):
    """Grey images (B, 1, S, S), S a multiple of 16, to feature maps (B, 8*width, S/16, S/16).

    About 1.2 million weights at width 32.

    Args:
        width: channels of the first layer; each of the three blocks doubles them.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(ResidualBlock(width * 2**i, width * 2 ** (i + 1)) for i in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(x))


class BaselineCnn(nn.Module):
    """A plain stack of 3x3 convolutions: grey images (B, 1, S, S), S at least 16, to (B, 8*width, h, w).

    Four blocks of ``width``, 2, 4 and 8 times ``width`` channels, of one, two, two and two convolutions, each
    with a norm and a ReLU, and max pooling between the blocks: h = w = S/8, and about 1.2 million weights at
    width 32. The light one has a 5x5 convolution of stride 2 first and one convolution a block (S/16).

    Args:
        width: channels of the first block.
        norm: ``"batch"``, or ``"group"`` (Wu and He, ECCV 2018; groups of 8 channels or fewer), which
            computes every image on its own, so that it does not matter how a batch is divided.
        light: a tenth of the operations of the full one, and a third of its weights.

    Raises:
        DataError: a width below 1, or another norm.
    """

    def __init__(self, width: int = 32, *, norm: str = "batch", light: bool = False) -> None:
        super().__init__()
        if width < 1 or norm not in ("batch", "group"):
            raise DataError(f"width = {width} and norm = {norm!r}; use at least 1, and batch or group")
        layers, channels = [], 1
        for block, convolutions in enumerate((1, 1, 1, 1) if light else (1, 2, 2, 2)):
            out = width * 2**block
            layers += [nn.MaxPool2d(2)] if block else []
            for _ in range(convolutions):
                stem = {"kernel_size": 5, "stride": 2, "padding": 2} if light and not block else {}
                convolution = nn.Conv2d(channels, out, **{"kernel_size": 3, "padding": 1} | stem, bias=False)
                normed = nn.BatchNorm2d(out) if norm == "batch" else nn.GroupNorm(math.gcd(out, 8), out)
                layers += [convolution, normed, nn.ReLU()]
                channels = out
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
