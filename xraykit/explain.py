"""Where a classifier looked: Grad-CAM and its variants, of the classifier that answers.

The classifier is cut in two at a layer (`explain_cut`), and the gradient of one score with respect to the
maps A (D, h, w) of that layer says which of them speak for it. Grad-CAM (Selvaraju et al., ICCV 2017,
equations 1 and 2) is relu(sum_k alpha_k A_k), alpha_k the mean of d score / d A_k over the map. The maps come
from the library grad-cam, whose hooks sit on a layer of our own that is gone after each call.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from xraykit.backbones import network_input
from xraykit.devices import choose_device
from xraykit.errors import DataError
from xraykit.explain_cut import Explained
from xraykit.images import check_rows

METHODS = ("Grad-CAM", "Grad-CAM++", "HiResCAM", "Eigen-CAM")


@dataclass(frozen=True)
class Explanation:
    """Heat maps of M images.

    Attributes:
        maps: float32 (M, H, W), 0..1, as large as the images: each has its least value at 0 and its largest
            at 1, so that heights compare inside an image and not between images. A map is 0 everywhere where
            nothing speaks for its target. Each cell is drawn in its place in the grid; a network whose
            strided convolutions pad on both sides looks a little further left and up, by up to half a cell.
        scores: float64 (M, T), what the classifier said about each of `Explained.targets`.
        targets: for each image what its map speaks for.
    """

    maps: np.ndarray
    scores: np.ndarray
    targets: tuple[str, ...]


def explain(
    model: Explained,
    images: np.ndarray,
    *,
    target: str | Sequence[str],
    rows: np.ndarray | None = None,
    method: str = "Grad-CAM",
    batch_size: int = 32,
    device: str = "auto",
    progress: bool = False,
) -> Explanation:
    """Heat maps of what speaks for `target`.

    Args:
        images: uint8 (N, H, W), array or memmap, 0 black to 255 white.
        target: one of ``model.targets`` for all images, or one for each.
        rows: (M,) positions in `images`; None for all.
        method: one of `METHODS`. Grad-CAM++ (Chattopadhay et al., WACV 2018), HiResCAM (Draelos and Carin,
            2020), Eigen-CAM (Muhammad and Yeasin, IJCNN 2020), which knows no target: its sign is set by
            Chung and Ying, Appl. Sci. 2025, equation 13.

    Raises:
        DataError: an unknown target or method; images of another type, constant, or none; NaN or infinity in
            maps or scores; a target that depends on the layer in none of the images.
    """
    rows = check_rows(images, rows)
    wanted = model.columns(target, len(rows))
    targets = tuple(model.targets[k] for k in wanted)
    if method not in METHODS or batch_size < 1:
        raise DataError(
            f"method {method!r}, batch_size {batch_size}; choose from {', '.join(METHODS)}, and at least 1"
        )
    device = choose_device(device)
    parts, reached = [], False
    for start in tqdm(range(0, len(rows), batch_size), desc=method, unit="batch", disable=not progress):
        batch = np.asarray(images[rows[start : start + batch_size]])
        _check_batch(batch, rows[start:])
        x = network_input(batch, model.size).to(device)
        maps, scores, some = _library(model, x, wanted[start : start + len(batch)], method)
        reached |= some
        parts.append((_at_size(maps, batch.shape[1:]), scores))
        _check_finite(model, *parts[-1], rows[start:])
    if not reached:
        raise DataError(
            f"{model.name}: the gradient of {' and '.join(sorted(set(targets)))} with respect to layer "
            f"{model.layer!r} is 0 in all {len(rows)} images, so that no map can be made; the score does not "
            "depend on the layer, or is saturated (an RBF kernel far from its support vectors)"
        )
    maps, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Explanation(maps, scores, targets)


class _Watched(nn.Module):
    """Both parts around a layer that does nothing, on which the library puts its hooks."""

    def __init__(self, model: Explained) -> None:
        super().__init__()
        self.first, self.layer, self.rest = model.first, nn.Identity(), model.rest
        self.place = nn.Parameter(torch.zeros(()))  # the library asks the first weight for the device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            maps = self.first(x)[0]
        return self.rest(self.layer(maps.requires_grad_()))


def _check_batch(batch: np.ndarray, rows: np.ndarray) -> None:
    flat = [i for i, image in enumerate(batch) if image.min() == image.max()]
    if flat:
        raise DataError(
            f"image {rows[flat[0]]} has the grey level {batch[flat[0]].flat[0]} everywhere; nothing in it "
            "can be explained: leave it out"
        )


@torch.inference_mode(False)
def _library(
    model: Explained, x: torch.Tensor, wanted: Sequence[int], method: str
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Maps (B, size, size), scores (B, T), and whether a gradient arrived, of one batch."""
    from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM

    class Eigen(EigenCAM):
        def get_cam_image(self, x, layer, targets, activations, gradients, smooth):
            return _first_component(activations)

    make = dict(zip(METHODS, (GradCAM, GradCAMPlusPlus, HiResCAM, Eigen), strict=True))[method]
    watched = _Watched(model).to(x.device)
    cam = make(model=watched, target_layers=[watched.layer])
    try:
        maps = cam(x, targets=[lambda scores, k=k: scores[k] for k in wanted])
        gradients = cam.activations_and_grads.gradients
        reached = method == "Eigen-CAM" or any(bool(g.any()) for g in gradients)
        return maps, cam.outputs.detach().double().cpu().numpy(), reached
    finally:
        cam.activations_and_grads.release()


def _first_component(maps: np.ndarray) -> np.ndarray:
    """Maps (B, D, h, w) along their first principal component, (B, h, w), the largest size positive.

    The library finds the same with a matrix of (h w)^2 numbers: 600 MB at 112 x 112.
    """
    pixels = maps.reshape(*maps.shape[:2], -1).swapaxes(1, 2)
    finite = np.isfinite(pixels).all(axis=(1, 2))[:, None]
    pixels = np.where(finite[..., None], pixels, 0)
    u, s, _ = np.linalg.svd(pixels - pixels.mean(axis=1, keepdims=True), full_matrices=False)
    line = u[..., 0] * s[:, :1]
    line = np.where(-line.min(axis=1, keepdims=True) > line.max(axis=1, keepdims=True), -line, line)
    return np.where(finite, line, np.nan).reshape(len(maps), *maps.shape[2:])


def _at_size(maps: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resized, and from 0 to 1 again: resizing moves the ends, and the library divides by 1e-7 more."""
    if maps.shape[1:] != shape:
        maps = np.stack([cv2.resize(m, shape[::-1], interpolation=cv2.INTER_LINEAR) for m in maps])
    maps = maps - maps.min(axis=(1, 2), keepdims=True)
    largest = maps.max(axis=(1, 2), keepdims=True)
    return maps / np.where(largest > 0, largest, 1)


def _check_finite(model: Explained, maps: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> None:
    for values, what in ((scores, "scores"), (maps, "maps")):
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(bad):
            raise DataError(
                f"{model.name} makes NaN or infinite {what} at layer {model.layer!r} of image "
                f"{rows[bad[0]]}; its weights are damaged, or were trained until they diverged"
            )
