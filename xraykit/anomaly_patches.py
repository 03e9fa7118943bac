"""Anomaly detectors that compare the patches of an image with those of normal images: PatchCore and PaDiM."""

from collections.abc import Sequence

import numpy as np
import torch

from xraykit.anomaly_coreset import k_centres, projected
from xraykit.anomaly_patch_maps import PatchDetector
from xraykit.backbones import Backbone
from xraykit.errors import DataError
from xraykit.images import check_rows

BLOCK = 1024  # patches at once against the bank: 16 MB of distances at 4000
REGULARISATION = 0.01  # of the covariance, in Defard et al.


class PatchCore(PatchDetector):
    """Distance of each patch to the nearest of a bank of normal patches (Roth et al., CVPR 2022).

    Maps are averaged over 3x3 places (fewer at the border), the smaller resized bilinearly to the largest.
    The bank is a greedy k-centre coreset of patches drawn from all images, chosen in a random projection; the
    distance is Euclidean, in all dimensions. Memory does not depend on the number of images, time grows
    linearly with it at most.

    Args:
        bank: patches that are kept, at most.
        pool: patches, drawn at random from all of the images, that the bank is chosen from, at most.
        neighbours: b of equation 7, which weighs the score of an image down where the bank is sparse: the
            nearest patches in the bank, itself among them, of the one that the image's farthest patch is
            matched with. 0 leaves the weight out. It takes the exponential of distances, so that it stays
            near 1 for networks whose features are in the hundreds, such as SqueezeNet's.
        backbone, layers, seed, device, precision: see `PatchDetector`.

    Attributes:
        bank: the patches float32 (n, D) that `fit` kept, on the device; None before.

    Raises:
        DataError: as `PatchDetector`, or counts that do not go together.
    """

    neighbourhood = 3
    resizing = "bilinear"

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[str],
        *,
        bank: int = 4000,
        pool: int = 40_000,
        neighbours: int = 0,
        seed: int,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        if not 1 <= bank <= pool or not (neighbours == 0 or 2 <= neighbours <= bank):
            raise DataError(
                f"bank = {bank}, pool = {pool}, neighbours = {neighbours}; use a bank of 1 to {pool} patches "
                f"(pool), and neighbours 0 or 2 to {bank} (bank)"
            )
        super().__init__(backbone, layers, seed=seed, device=device, precision=precision)
        self.bank_size, self.pool_size, self.neighbours = bank, pool, neighbours
        self.bank: torch.Tensor | None = None

    def fit(self, images: np.ndarray, rows: np.ndarray | None = None) -> "PatchCore":
        """See `PatchDetector.fit`."""
        rng = np.random.default_rng(self.seed)
        pool = self._pool(images, check_rows(images, rows), rng)
        flat = projected(pool, seed=int(rng.integers(2**32)))
        first = int(rng.integers(len(pool)))
        self.bank = pool[k_centres(flat, min(self.bank_size, len(pool)), first=first)]
        return self

    def _pool(self, images: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Patches (n, D), drawn without repeats from all images; an image without any is not read."""
        each = self.grid[0] * self.grid[1]
        total = len(rows) * each
        drawn = np.sort(rng.choice(total, min(total, self.pool_size), replace=False, shuffle=False))
        image, place = np.divmod(drawn, each)
        used, image = np.unique(image, return_inverse=True)
        pool = torch.empty(len(drawn), self.dim, device=self.device)
        done = 0
        for patches in self._patches(images, rows[used]):
            start, stop = np.searchsorted(image, [done, done + len(patches)])
            pool[start:stop] = patches[image[start:stop] - done, place[start:stop]]
            done += len(patches)
        return pool

    def distances(self, patches: torch.Tensor) -> torch.Tensor:
        """See `PatchDetector.distances`."""
        return self._nearest(patches.flatten(0, 1))[0].view(patches.shape[:2])

    def image_scores(self, patches: torch.Tensor, distances: torch.Tensor, *, top: float) -> torch.Tensor:
        """See `PatchDetector.image_scores`; with `neighbours` the largest distance times equation 7's weight.

        Raises:
            DataError: `top` above 0 together with `neighbours`.
        """
        scores = super().image_scores(patches, distances, top=top)
        if not self.neighbours:
            return scores
        if top:
            raise DataError(f"top = {top} with neighbours = {self.neighbours}: equation 7 is for top = 0")
        farthest = patches[torch.arange(len(patches)), distances.argmax(dim=1)]
        matched = self.bank[self._nearest(farthest)[1]]
        count = min(self.neighbours, len(self.bank))
        around = torch.cdist(matched, self.bank).topk(count, dim=1, largest=False).indices
        to_around = (farthest[:, None] - self.bank[around]).norm(dim=2)
        return (1 - torch.exp(scores - to_around.logsumexp(dim=1))) * scores

    def _nearest(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances (n,) of patches (n, D) to the nearest one of the bank, and where that one is."""
        if self.bank is None:
            raise DataError("this PatchCore has no bank yet; call fit with normal images first")
        found = []
        for block in flat.split(BLOCK):
            nearest = torch.cdist(block, self.bank).argmin(dim=1)  # rounded, so the distance is taken again
            found.append(((block - self.bank[nearest]).norm(dim=1), nearest))
        distances, positions = zip(*found, strict=True)
        return torch.cat(distances), torch.cat(positions)


class Padim(PatchDetector):
    """Mahalanobis distance of each patch from a Gaussian at its place (Defard et al., ICPR 2020).

    The smaller maps are resized to the largest by the nearest place; of the dimensions, a random few are
    kept. The images must be aligned, as chest X-rays are by and large. `REGULARISATION` is for features of
    about 1: of larger ones, such as SqueezeNet's, fit to many more images than `dims`. Memory is that of a
    few matrices (dims, dims) a place, whatever the number of images.

    Args:
        dims: dimensions that are kept, at most.
        backbone, layers, seed, device, precision: see `PatchDetector`.

    Raises:
        DataError: as `PatchDetector`, or `dims` below 1.
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[str],
        *,
        dims: int = 100,
        seed: int,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        if dims < 1:
            raise DataError(f"dims = {dims}; at least 1 is needed")
        super().__init__(backbone, layers, seed=seed, device=device, precision=precision)
        kept = np.random.default_rng(seed).choice(self.dim, min(dims, self.dim), replace=False)
        self.kept = torch.from_numpy(np.sort(kept)).to(self.device)
        self.mean: torch.Tensor | None = None
        self.whitening: torch.Tensor | None = None

    def fit(self, images: np.ndarray, rows: np.ndarray | None = None) -> "Padim":
        """See `PatchDetector.fit`; at least two images. The covariance is updated as in Chan et al. 1979."""
        rows = check_rows(images, rows)
        if len(rows) < 2:
            raise DataError("one image has no covariance; fit PaDiM to at least 2, better to some hundred")
        shape = (self.grid[0] * self.grid[1], len(self.kept))
        mean = torch.zeros(shape, device=self.device)
        scatter = torch.zeros(*shape, shape[1], device=self.device)
        seen = 0
        for patches in self._patches(images, rows):
            here = patches[:, :, self.kept].transpose(0, 1)
            share = here.shape[1] / (seen + here.shape[1])
            shift = here.mean(dim=1) - mean
            centred = here - here.mean(dim=1, keepdim=True)
            scatter.baddbmm_(centred.mT, centred)
            scatter.baddbmm_(shift[:, :, None] * (seen * share), shift[:, None])
            mean += share * shift
            seen += here.shape[1]
        unit = torch.eye(shape[1], device=self.device)
        root = torch.linalg.cholesky(scatter / (seen - 1) + REGULARISATION * unit)
        self.mean, self.whitening = mean, torch.linalg.solve_triangular(root, unit, upper=False)
        return self

    def distances(self, patches: torch.Tensor) -> torch.Tensor:
        """See `PatchDetector.distances`."""
        if self.mean is None:
            raise DataError("this Padim has no Gaussians yet; call fit with normal images first")
        away = (patches[:, :, self.kept] - self.mean).transpose(0, 1)
        return (away @ self.whitening.mT).norm(dim=2).T
