"""From the feature maps of a frozen network to patches, and from distances of patches to scores and maps.

A patch is one place of the feature maps; its vector holds all the layers that were chosen. What a normal
patch is, `xraykit.anomaly_patches` says.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.nn import functional

from xraykit.backbones import Backbone, at_layers, network_input
from xraykit.devices import choose_device, choose_precision
from xraykit.errors import DataError
from xraykit.images import check_rows

BATCH = 32
BLUR = 1 / 56  # of the side: 4 pixels at 224, in both papers


class PatchDetector(ABC):
    """What PatchCore and PaDiM share: the patches, the batches, and what is made of a patch's distance.

    Args:
        backbone: any with feature maps.
        layers: of `backbones.layer_names`; their maps are resized to the largest of them.
        seed: of every choice that is random.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``: a CUDA GPU if there is one, else the CPU.
        precision: of the network, ``"fp32"``, ``"bf16"`` or ``"auto"``; distances are always fp32.

    Attributes:
        grid: (h, w), patches of an image.
        dim: D, length of a patch's vector.

    Raises:
        DataError: an unknown layer, or a device or precision that is not there.
    """

    neighbourhood = 1  # side of the square over which maps are averaged
    resizing = "nearest"

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[str],
        *,
        seed: int,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.size, self.seed = backbone.size, seed
        net = at_layers(backbone, layers)
        with torch.inference_mode():
            shapes = [found.shape for found in net(torch.zeros(1, 1, self.size, self.size))]
        self.grid = tuple(max(shapes, key=lambda shape: shape[2])[2:])
        self.dim = sum(shape[1] for shape in shapes)
        self.net = net.to(self.device, memory_format=torch.channels_last)

    @abstractmethod
    def fit(self, images: np.ndarray, rows: np.ndarray | None = None) -> "PatchDetector":
        """Learn from normal training images, uint8 (N, H, W), those at `rows` or all; returns itself.

        Fitting again forgets what was before.

        Raises:
            DataError: images that are not uint8 (N, H, W), rows that are not positions of them, or too few.
        """

    @abstractmethod
    def distances(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches (B, P, D) to their distances (B, P) from the normal ones."""

    def image_scores(self, patches: torch.Tensor, distances: torch.Tensor, *, top: float) -> torch.Tensor:
        """(B,): the mean over the largest share `top` of an image's distances (B, P), of one at least."""
        largest = max(1, round(top * distances.shape[1]))
        return distances.topk(largest, dim=1).values.mean(dim=1)

    def score(self, images: np.ndarray, rows: np.ndarray | None = None, *, top: float = 0.0) -> np.ndarray:
        """Anomaly scores float32 (M,) of images uint8 (N, H, W), those at `rows` or all.

        Args:
            top: share of the patches, 0 to 1, over whose distances is averaged; 0 takes the largest alone.

        Raises:
            DataError: `fit` was not called, bad images or rows, or `top` out of range.
        """
        return np.concatenate([scores for scores, _ in self._scored(images, rows, top=top)])

    def maps(self, images: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Anomaly maps float32 (M, H, W) of images uint8 (N, H, W), in the images' own size.

        Distances of the patches, resized bilinearly and smoothed by a Gaussian of `BLUR` times the side.

        Raises:
            DataError: as `score`.
        """
        return self.both(images, rows)[1]

    def both(
        self, images: np.ndarray, rows: np.ndarray | None = None, *, top: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `score` and `maps` return, from one pass through the network."""
        count = len(check_rows(images, rows))
        scores, maps = np.empty(count, np.float32), np.empty((count, *images.shape[1:]), np.float32)
        done = 0
        for batch, distances in self._scored(images, rows, top=top):
            scores[done : done + len(batch)] = batch
            for i, patches in enumerate(distances, start=done):
                maps[i] = _picture(patches.reshape(self.grid), images.shape[1:])
            done += len(batch)
        return scores, maps

    @torch.inference_mode()
    def _scored(
        self, images: np.ndarray, rows: np.ndarray | None, *, top: float
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Scores (B,) and distances (B, P) of batch after batch."""
        if not 0 <= top <= 1:
            raise DataError(f"top = {top}; use a share of the patches, 0 to 1")
        for patches in self._patches(images, check_rows(images, rows)):
            distances = self.distances(patches)
            scores = self.image_scores(patches, distances, top=top)
            yield scores.cpu().numpy(), distances.cpu().numpy()

    @torch.inference_mode()
    def _patches(self, images: np.ndarray, rows: np.ndarray) -> Iterator[torch.Tensor]:
        """Patches float32 (B, P, D) of the images at `rows`, batch after batch."""
        how = {"mode": self.resizing} | ({"align_corners": False} if self.resizing == "bilinear" else {})
        pad = self.neighbourhood // 2
        for start in range(0, len(rows), BATCH):
            batch = network_input(images[rows[start : start + BATCH]], self.size).to(self.device)
            # cuDNN's fp32 is TF32 unless told otherwise, and picks algorithms that differ from run to run.
            with (
                torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"),
                torch.backends.cudnn.flags(True, deterministic=True, allow_tf32=False),
            ):
                found = self.net(batch.contiguous(memory_format=torch.channels_last))
            around = [
                functional.avg_pool2d(m.float(), self.neighbourhood, 1, pad, count_include_pad=False)
                for m in found
            ]
            sized = [
                m if m.shape[2:] == self.grid else functional.interpolate(m, self.grid, **how) for m in around
            ]
            yield torch.cat(sized, dim=1).flatten(2).mT


def _picture(distances: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Distances (h, w) of patches as a smooth map (H, W)."""
    height, width = shape
    resized = cv2.resize(distances, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.GaussianBlur(resized, (0, 0), sigmaX=width * BLUR, sigmaY=height * BLUR)
