"""A convolutional autoencoder, trained by the loop of `training` to give normal X-rays back."""

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from xraykit import training_batches
from xraykit.backbones import Pretraining
from xraykit.devices import choose_device
from xraykit.errors import DataError
from xraykit.images import check_rows

HALVINGS = 4
AT_ONCE = 64


class Autoencoder(nn.Module):
    """Grey images (B, 1, S, S) in 0..1, S a multiple of 16, to their mean squared error (B, 1).

    Four halvings by strided convolutions lead to a code of `latent` numbers for each 16 x 16 pixels; four
    doublings by interpolation and convolution lead back, as checkerboards come from transposed ones (Odena et
    al., Distill 2016). A code of 16 numbers a cell is a sixteenth of the picture: who must forget that much
    learns what is common to the training images (Hinton and Salakhutdinov, Science 2006).

    Its one output is its own loss, so that `training.fit` trains it as it trains a classifier, without
    looking at labels, and `training.predict` returns errors.

    Args:
        width: channels after the first halving; each further one doubles them.
        latent: channels of the code.
        seed: of the random weights.

    Attributes:
        name, size, n_outputs, pretraining: as of a `classifiers.Classifier`.
    """

    n_outputs = 1

    def __init__(self, *, width: int = 16, latent: int = 16, seed: int = 0) -> None:
        super().__init__()
        if width < 1 or latent < 1:
            raise DataError(f"width = {width}, latent = {latent}; both must be at least 1")
        self.name, self.size, self.pretraining = f"autoencoder-{width}-{latent}", 128, Pretraining()
        channels = [1, *(width * 2**i for i in range(HALVINGS))]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            down = [_down(a, b) for a, b in pairwise(channels)]
            self.encoder = nn.Sequential(*down, nn.Conv2d(channels[-1], latent, 1))
            up = [_up(a, b) for a, b in pairwise(channels[:0:-1])]
            last = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(width, 1, 3, padding=1)
            )
            self.decoder = nn.Sequential(nn.Conv2d(latent, channels[-1], 1), *up, last)

    def freeze(self, frozen: bool) -> None:
        """Nothing: there is no pretrained part.

        Raises:
            DataError: asked to train a head alone.
        """
        if frozen:
            raise DataError(f"{self.name} has no head to train alone; use trainable='all'")

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, S, S) in 0..1 as they come back, in 0..1."""
        return torch.sigmoid(self.decoder(self.encoder(x)).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] % 2**HALVINGS or x.shape[-2] % 2**HALVINGS:
            raise RuntimeError(f"{x.shape[-2]}x{x.shape[-1]} is not a multiple of {2**HALVINGS}")
        return ((self.reconstruct(x) - x.float()) ** 2).flatten(1).mean(dim=1, keepdim=True)


def _down(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )


def _up(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(channels, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


@torch.inference_mode()
def reconstructions(
    model: Autoencoder, images: np.ndarray, rows: np.ndarray, *, device: str = "auto"
) -> np.ndarray:
    """The images `rows` of uint8 (N, S, S) as `model` gives them back: float32 (M, S, S) in 0..1.

    Raises:
        DataError: images that are not uint8 (N, H, W), of a side that is no multiple of 16, or rows that are
            not positions of them.
    """
    rows = check_rows(images, rows)
    if images.shape[1] % 2**HALVINGS or images.shape[2] % 2**HALVINGS:
        size = f"{images.shape[1]}x{images.shape[2]}"
        raise DataError(f"images of {size} pixels; an autoencoder takes multiples of {2**HALVINGS}")
    device = choose_device(device)
    model = model.to(device).eval()
    parts = (rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE))
    back = [model.reconstruct(training_batches.read(images, part, device))[:, 0].cpu() for part in parts]
    return torch.cat(back).numpy()
