"""Heat maps as published projects made them, to be measured beside the right ones."""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from xraykit.backbones import network_input
from xraykit.classifiers import Classifier
from xraykit.errors import DataError
from xraykit.explain_cut import Explained
from xraykit.images import check_rows


def side_branch(model: Explained, *, n_outputs: int = 1000, seed: int) -> Explained:
    """The same backbone and layer under a linear head that nobody has trained, instead of the classifier's.

    A published project explained such a branch. Its targets are ``"output 0"`` and so on.
    """
    generator = torch.Generator().manual_seed(seed)
    features, place = model.rest[0], next(model.first.buffers()).device
    with torch.no_grad():
        black = torch.zeros(1, 1, model.size, model.size, device=place)
        dim = features(model.first(black)[0]).shape[1]
    head = nn.utils.skip_init(nn.Linear, dim, n_outputs)
    for weight in head.parameters():
        nn.init.uniform_(weight, -(dim**-0.5), dim**-0.5, generator=generator)
    rest = nn.Sequential(features, head).eval().requires_grad_(False)
    return replace(model, rest=rest, targets=tuple(f"output {k}" for k in range(n_outputs)))


def weight_gradient_maps(model: Classifier, images: np.ndarray, *, size: int, rows: np.ndarray) -> np.ndarray:
    """Grad-CAM with the gradient of the wrong thing: of the last convolution's *weights*, not of its maps.

    The weight of map k is the mean of d z / d W_k over the filter that makes it: the gradient of the map,
    times how bright the filter's input is. Behind a relu that input is not negative, so that the result can
    be nearly right.

    Args:
        model: a network of one logit z.
        images, rows: as in `explain.explain`.
        size: side of the images that it was trained on.

    Returns:
        float32 (M, H, W), 0..1, as large as the images.

    Raises:
        DataError: more than one logit, or a last convolution that does not make the last maps.
    """
    rows = check_rows(images, rows)
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    convolutions = [part for part in model.body.modules() if isinstance(part, nn.Conv2d)]
    made = convolutions[-1].out_channels if convolutions else 0
    if model.n_outputs != 1 or made != model.head[-1].in_features:
        raise DataError(
            f"{model.name} has {model.n_outputs} outputs, and its last convolution makes {made} of its "
            f"{model.head[-1].in_features} maps; take a network of one output whose last convolution makes "
            "all of them, such as cnn-small"
        )
    weight, found = convolutions[-1].weight.requires_grad_(True), []
    for row in rows:
        maps = model.body.feature_maps(network_input(images[[row]], size))
        z = model.head(maps.mean(dim=(2, 3)))
        (gradient,) = torch.autograd.grad(z.sum(), weight)
        found.append((gradient.mean(dim=(1, 2, 3))[:, None, None] * maps[0]).sum(0).relu().detach())
    found = torch.stack(found)
    found -= found.amin(dim=(1, 2), keepdim=True)
    found /= found.amax(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    return nn.functional.interpolate(found[:, None], images.shape[1:], mode="bilinear")[:, 0].numpy()
