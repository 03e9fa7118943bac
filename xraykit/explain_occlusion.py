"""Deletion and insertion: does the score depend on the pixels that a heat map marks?

After Petsiuk et al., RISE, BMVC 2018. What stands in place of a deleted pixel decides what is measured: a
blurred lung is hazy, and haze is what pneumonia looks like, so that blurring a lesion away may raise the
score of pneumonia. Dark pixels stand for air. Try both, and the true lesion as a control.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import cv2
import numpy as np
import torch

from xraykit.backbones import network_input
from xraykit.devices import choose_device
from xraykit.errors import DataError
from xraykit.explain_cut import Explained
from xraykit.images import check_rows

FILLS = ("dark", "blur")
_BLUR = 1 / 8  # of a side: what is left are the large masses of light and dark
_DARK = 0.2  # of the pixels: about the grey of the lungs


@dataclass(frozen=True)
class Occlusion:
    """What the classifier says while pixels go and come, in the order of a heat map.

    Attributes:
        shares: float64 (K,), 0..1: share of the pixels, those of the map's largest values first.
        deletion: float64 (M, K), score while they are replaced: from the image to all replaced. A good map
            makes it fall early, so that its area is small.
        insertion: float64 (M, K), score while they come back into the replaced picture, up to the
            image. A good map makes it rise early, so that its area is large.
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray


def occlusion(
    model: Explained,
    images: np.ndarray,
    *,
    maps: np.ndarray,
    target: str | Sequence[str],
    rows: np.ndarray | None = None,
    steps: int = 10,
    fill: str = "dark",
    seed: int = 0,
    batch_size: int = 64,
    device: str = "auto",
) -> Occlusion:
    """Scores of `target` while the pixels of the largest values of its map go, and while they come back.

    In deletion they are replaced, in insertion they come back to a picture in which all are replaced. No
    gradient is computed.

    Args:
        model: which the maps explain, or another one.
        images: uint8 (N, H, W), array or memmap, 0 black to 255 white.
        maps: (M, H, W), finite, any scale.
        target: one of ``model.targets`` for all images, or one for each.
        rows: (M,) positions in `images`; None for all.
        fill: one of `FILLS`: ``"dark"`` is the grey level that a fifth of the picture lies below, about that
            of air; ``"blur"`` a blurred copy of the image (Gaussian, sigma 1/8 of a side).
        steps: shares are 0, 1 / steps, ... 1.
        seed: of the order among equal values, from 0.
        batch_size: pictures that go through the network at once.

    Raises:
        DataError: maps of another size or with NaN, an unknown target or fill, fewer than one step; scores
            that are not finite.
    """
    rows = check_rows(images, rows)
    columns = model.columns(target, len(rows))
    maps = np.asarray(maps)
    if maps.shape != (len(rows), *images.shape[1:]) or not np.isfinite(maps).all():
        raise DataError(
            f"the maps are {maps.shape}; give one of {images.shape[1:]} for each of {len(rows)} images, all "
            "values finite"
        )
    if not (isinstance(steps, Integral) and steps >= 1 and batch_size >= 1):
        raise DataError(f"steps = {steps!r}, batch_size = {batch_size!r}; use whole numbers from 1")
    if fill not in FILLS:
        raise DataError(f"fill = {fill!r} is not one of {FILLS}")
    shares, device = np.linspace(0, 1, steps + 1), choose_device(device)
    curves = np.empty((len(rows), 2, len(shares)))
    for curve, map_, row, column in zip(curves, maps, rows, columns, strict=True):
        chance = np.random.default_rng([seed, row]).random(map_.size)
        order = np.lexsort((chance, map_.ravel()))[::-1]
        pictures = _occluded(np.asarray(images[row]), order, shares, fill=fill)
        scores = _scores(model, pictures, batch_size=batch_size, device=device)[:, column]
        if not np.isfinite(scores).all():
            raise DataError(
                f"{model.name} makes NaN or infinite scores of image {row}; its weights are damaged"
            )
        curve[:] = scores.reshape(2, -1)
    return Occlusion(shares, curves[:, 0], curves[:, 1])


def area(curves: np.ndarray) -> np.ndarray:
    """Area under each curve (M, K) of an `Occlusion` over shares 0..1, by the trapezoid rule: (M,).

    It is the mean score on the way, in the unit of the score.
    """
    return np.trapezoid(curves, np.linspace(0, 1, curves.shape[1]), axis=1)


def lesion_first(masks: np.ndarray) -> np.ndarray:
    """Maps float32 (M, H, W), 0..1, that are 1 in the lesion and fall with the distance from it.

    The control of `occlusion`: a map that knows the truth. An image without a lesion gets 0 everywhere.

    Args:
        masks: bool (M, H, W).
    """
    near = [
        1 / (1 + cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5))
        if mask.any()
        else np.zeros(mask.shape)
        for mask in np.asarray(masks, bool)
    ]
    return np.stack(near).astype(np.float32)


def gain(model: Explained, images: np.ndarray, **how: object) -> np.ndarray:
    """Insertion minus deletion (M,): the area between the curves of `occlusion`, which takes the rest.

    In the unit of the score; a random order has 0, and the larger, the more the score depends on what the map
    marks.
    """
    curves = occlusion(model, images, **how)
    return area(curves.insertion) - area(curves.deletion)


def _occluded(image: np.ndarray, order: np.ndarray, shares: np.ndarray, *, fill: str) -> np.ndarray:
    """Pictures of deletion, then of insertion, uint8 (2 K, H, W); `order` of flat pixels, the first to go."""
    height, width = image.shape
    if fill == "dark":
        instead = np.full_like(image, np.quantile(image, _DARK))
    else:
        instead = cv2.GaussianBlur(image, (0, 0), sigmaX=width * _BLUR, sigmaY=height * _BLUR)
    place = np.empty(order.size, int)
    place[order] = np.arange(order.size)
    gone = place.reshape(image.shape) < np.rint(shares * order.size)[:, None, None]
    return np.concatenate([np.where(gone, instead, image), np.where(gone, image, instead)])


def _scores(model: Explained, pictures: np.ndarray, *, batch_size: int, device: str) -> np.ndarray:
    """Scores (B, T) of uint8 pictures (B, H, W)."""
    first, rest, found = model.first.to(device), model.rest.to(device), []
    with torch.no_grad():
        for start in range(0, len(pictures), batch_size):
            x = network_input(pictures[start : start + batch_size], model.size).to(device)
            found.append(rest(first(x)[0]).double().cpu().numpy())
    return np.concatenate(found)
