"""A classifier cut in two at a layer, so that it can be explained.

The first part turns an image into maps and needs no gradient, so that a frozen backbone is as good as a
trained one; the second turns the maps into scores. Both are copies: the classifier is never touched.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from sklearn.base import BaseEstimator
from torch import nn

from xraykit.backbones import Backbone, layer_names, split_at
from xraykit.classifiers import Classifier, as_backbone
from xraykit.errors import DataError
from xraykit.explain_heads import head_of


@dataclass(frozen=True)
class Explained:
    """A classifier cut in two at a layer; make it with `network` or `estimator`.

    Attributes:
        name: of the backbone.
        layer: the layer whose maps are weighted.
        size: side of the images that it takes, in pixels; others are resized.
        grid: (h, w) of the maps.
        first: grey images (B, 1, size, size) in 0..1 to a list of one (B, D, h, w).
        rest: these maps to scores (B, T).
        targets: what each of the T scores speaks for.
    """

    name: str
    layer: str
    size: int
    grid: tuple[int, int]
    first: nn.Module = field(repr=False)
    rest: nn.Module = field(repr=False)
    targets: tuple[str, ...]

    def columns(self, target: str | Sequence[str], n: int) -> list[int]:
        """Columns of the scores for n images: of one target for all, or of one for each.

        Raises:
            DataError: an unknown target, or other than n of them.
        """
        targets = [target] * n if isinstance(target, str) else list(target)
        if len(targets) != n:
            raise DataError(f"{len(targets)} targets for {n} images; give one for all, or one for each")
        unknown = sorted(set(targets) - set(self.targets))
        if unknown:
            raise DataError(f"{self.name} says nothing about {unknown}; its targets are {list(self.targets)}")
        return [self.targets.index(t) for t in targets]


@torch.inference_mode(False)  # whatever the mode of the caller, gradients are needed
def network(model: Classifier, classes: Sequence[str], *, size: int, layer: str = "") -> Explained:
    """A trained network, ready to be explained.

    Args:
        model: from `classifiers.build` or a training.
        classes: names of its classes or findings. Of two classes, for which there is one logit z, the targets
            are the second (z) and the first (-z); else there is one logit a class or finding.
        size: side of the images that it was trained on, in pixels.
        layer: of `backbones.layer_names`; empty for the last.

    Raises:
        DataError: as `backbones.split_at`; a number of classes that does not fit; maps of a single pixel.
    """
    body = as_backbone(model, name=model.name, size=size, pretraining=model.pretraining)
    if len(classes) != model.n_outputs and (len(classes), model.n_outputs) != (2, 1):
        raise DataError(
            f"{model.name} has {model.n_outputs} outputs, which do not fit the {len(classes)} "
            f"classes {', '.join(classes)}; give one name for each output, or two for one output"
        )
    if model.n_outputs == 1:
        targets = tuple(classes) if len(classes) == 1 else (classes[1], classes[0])
    else:
        targets = tuple(classes)
    head = _Logits(copy.deepcopy(model.head), both=len(targets) > model.n_outputs)
    return _cut(body, head, targets, layer)


@torch.inference_mode(False)
def estimator(
    backbone: Backbone, fitted: BaseEstimator, classes: Sequence[str], *, layer: str = ""
) -> Explained:
    """A scikit-learn classifier of a frozen backbone's features, ready to be explained.

    Args:
        backbone: whose features (B, D) `fitted` was fitted to, as `embeddings.extract` makes them.
        fitted: see `explain_heads.head_of`, which says what is supported, and how the margins are called.
        classes: names of its labels 0 to K - 1.
        layer: of `backbones.layer_names`; empty for the last.

    Raises:
        DataError: as `explain_heads.head_of` and `backbones.split_at`; features of another length; maps of a
            single pixel.
    """
    head = head_of(fitted, classes)
    if fitted.n_features_in_ != backbone.dim:
        raise DataError(
            f"the classifier was fitted to {fitted.n_features_in_} features an image and {backbone.name} "
            f"makes {backbone.dim}; give the backbone that made its features"
        )
    return _cut(backbone, head, head.names, layer)


class _Logits(nn.Module):
    """The head of a network; with `both` a single logit is followed by its negative."""

    def __init__(self, head: nn.Module, *, both: bool) -> None:
        super().__init__()
        self.head, self.both = head, both

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        z = self.head(features)
        return torch.cat([z, -z], dim=1) if self.both else z


def _cut(backbone: Backbone, head: nn.Module, targets: tuple[str, ...], layer: str) -> Explained:
    names = layer_names(backbone)
    layer = layer or names[-1]
    first, features = split_at(backbone, layer)
    rest = nn.Sequential(features, head).cpu().eval().requires_grad_(False)
    maps = first(torch.full((1, 1, backbone.size, backbone.size), 0.5))[0].requires_grad_()
    grid = tuple(maps.shape[2:])
    if max(grid) < 2:
        raise DataError(
            f"layer {layer!r} of {backbone.name} has one pixel at images of {backbone.size} pixels, which "
            f"shows no place; choose an earlier one of {', '.join(names)}, or larger images"
        )
    scores = rest(maps)
    if not scores.requires_grad:
        raise DataError(
            f"the scores of {backbone.name} have no gradient with respect to layer {layer!r}; give a head "
            "that computes in torch throughout, without detach or no_grad"
        )
    return Explained(backbone.name, layer, backbone.size, grid, first, rest, targets)
