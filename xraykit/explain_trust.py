"""Can a heat map be trusted? Tests that need no lesion masks; `explain_occlusion` is a third.

A map that explains a network changes when the network forgets what it has learned (`cascade`, after Adebayo
et al., Sanity checks for saliency maps, NeurIPS 2018), and moves with the picture (`shifted`). A map that
fails shows something else, such as the edges of the picture. One that passes speaks for what the network
does, not for what is right. Maps are compared by `similarity`.
"""

import copy
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from xraykit.classifiers import Classifier
from xraykit.errors import DataError
from xraykit.explain import explain
from xraykit.explain_cut import Explained
from xraykit.images import check_rows


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman rank correlation of the pixels of each pair of maps, float64 (M,) in -1..1.

    It does not depend on how either map is scaled. 0 where a map is constant, which says nothing.

    Args:
        a, b: (M, H, W), finite.

    Raises:
        DataError: other shapes, NaN or infinity.
    """
    a, b = (_checked(maps) for maps in (a, b))
    if a.shape != b.shape:
        raise DataError(f"the maps are {a.shape} and {b.shape}; compare maps of the same images and size")
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (a, b)]
    first, second = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    length = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    products = (first * second).sum(axis=1)
    return np.clip(np.divide(products, length, out=np.zeros(len(a)), where=length > 0), -1, 1)


def cascade(model: Classifier, *, stages: int, seed: int) -> dict[str, Classifier]:
    """Copies of a network that have forgotten more and more, from the head down to the first layer.

    The cascading randomisation of Adebayo et al. (figure 2), but for one thing: weights are not drawn anew.
    Each tensor of weights gets its own values in random order, so that their scale stays; the statistics of
    batch norm stay as they are. So a network in evaluation mode goes on making finite scores.

    Args:
        model: from `classifiers.build` or a training; it stays as it is.
        stages: how many copies, at least 2. The first has the head randomised and nothing else; the other
            modules with weights of their own, last first, are divided into as many groups as are left, as
            equal in number as can be, and copy i has the groups up to i randomised; the last copy is the
            same for any `stages`.
        seed: of the order, from 0.

    Returns:
        Each copy by the name of the deepest module that it has randomised, such as
        ``"body.maps.layers.10"``; the head is randomised in all.

    Raises:
        DataError: fewer than two stages or more than there are modules with weights.
    """
    names = [name for name, part in model.named_modules() if [*part.parameters(recurse=False)]][::-1]
    if not (isinstance(stages, Integral) and 2 <= stages <= len(names)):
        raise DataError(
            f"stages = {stages!r}; {model.name} has {len(names)} modules with weights: use 2 to {len(names)}"
        )
    rng = np.random.default_rng(seed)
    copies, current = {}, model
    for group in (names[:1], *np.array_split(names[1:], stages - 1)):
        current = copy.deepcopy(current)
        for name in group:
            _shuffle(current.get_submodule(name), rng)
        copies[str(group[-1])] = current
    return copies


def shifted(
    model: Explained,
    images: np.ndarray,
    *,
    target: str | Sequence[str],
    pixels: int,
    rows: np.ndarray | None = None,
    method: str = "Grad-CAM",
    **how: object,
) -> np.ndarray:
    """Does the map move with the picture? `similarity` of the maps before and after a shift, float64 (M,).

    The image moves right and down, and its first row and column fill the gap; the map of that moves back, and
    the two are compared where both exist. Near 1 is good.

    Args:
        images, target, rows, method, how: as `explain.explain` takes them.
        pixels: of the shift, 0 to half of the shorter side.

    Raises:
        DataError: as `explain.explain`, or a shift that is too far.
    """
    rows = check_rows(images, rows)
    height, width = images.shape[1:]
    if not (isinstance(pixels, Integral) and 0 <= pixels <= min(height, width) // 2):
        raise DataError(f"pixels = {pixels!r}; use 0 to {min(height, width) // 2}, half of the shorter side")
    before = explain(model, images, rows=rows, target=target, method=method, **how).maps
    moved = np.pad(images[rows], ((0, 0), (pixels, 0), (pixels, 0)), mode="edge")[:, :height, :width]
    after = explain(model, moved, target=target, method=method, **how).maps
    return similarity(before[:, : height - pixels, : width - pixels], after[:, pixels:, pixels:])


def standing_still(maps: np.ndarray, *, pixels: int) -> np.ndarray:
    """What `shifted` would say of maps (M, H, W) that stay where they are when the picture moves, (M,).

    A smooth map is like itself a few pixels further on; only what `shifted` has more than this says that the
    map moved along.
    """
    maps = _checked(maps)
    height, width = maps.shape[1:]
    return similarity(maps[:, : height - pixels, : width - pixels], maps[:, pixels:, pixels:])


def untrained(model: Classifier, *, seed: int) -> Classifier:
    """A copy with fresh weights, as PyTorch's layers draw them, and fresh statistics of batch norm.

    It is on the CPU: other devices draw other numbers.
    """
    fresh = copy.deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for part in fresh.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return fresh


def _checked(maps: np.ndarray) -> np.ndarray:
    maps = np.asarray(maps)
    if maps.ndim != 3 or 0 in maps.shape or not np.isfinite(maps).all():
        raise DataError(
            f"the maps are {maps.dtype} {maps.shape}; give (M, H, W), M >= 1, without NaN or infinity"
        )
    return maps


def _shuffle(part: nn.Module, rng: np.random.Generator) -> None:
    with torch.no_grad():
        for weights in part.parameters(recurse=False):
            order = torch.from_numpy(rng.permutation(weights.numel())).to(weights.device)
            weights.copy_(weights.flatten()[order].view_as(weights))
