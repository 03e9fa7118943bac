"""Losses of logits, one number an image, so that a batch can be divided over processes and average right."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from xraykit.errors import DataError

LOSSES = ("auto", "cross_entropy", "bce", "focal")
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def targets(labels: np.ndarray, kind: str) -> torch.Tensor:
    """What the losses compare logits with: int64 codes (N,) for multiclass, else float32 0/1 (N, O).

    For a reconstruction it is nothing, zeros (N, 1).
    """
    if kind == "reconstruction":
        return torch.zeros(len(labels), 1)
    if kind == "multiclass":
        return torch.from_numpy(np.asarray(labels, np.int64))
    return torch.from_numpy(np.asarray(labels, np.float32).reshape(len(labels), -1))


def make_loss(
    name: str = "auto", *, kind: str, weights: Sequence[float] | None = None, gamma: float = 2.0
) -> Loss:
    """A function of logits (B, O) and `targets` to the loss of each image (B,), a mean over its labels.

    ``"cross_entropy"`` is the softmax cross-entropy of classes; of two classes with one logit it is the
    same thing as ``"bce"``, the binary cross-entropy with logits. ``"focal"`` multiplies either by
    (1 - p)^gamma, p the probability given to the truth (Lin et al., ICCV 2017, eq. 4 and 5). ``"auto"``
    is cross-entropy for classes, bce for labels, and for a reconstruction the error that the network returns.

    Args:
        kind: ``"binary"``, ``"multiclass"``, ``"multilabel"`` or ``"reconstruction"``.
        weights: for classes one factor a class, such as `balance.class_weights`; for multi-label one factor a
            label for its positives, such as `balance.pos_weight`. The mean over a batch divides by the number
            of images, not by the sum of the weights.
        gamma: of the focal loss, at least 0; at 0 it is the plain one.

    Raises:
        DataError: a loss that does not fit the kind, weights that are not positive, a negative gamma.
    """
    if kind == "reconstruction":
        if name != "auto" or weights is not None:
            raise DataError(
                f"loss {name!r}, weights {weights}: an autoencoder returns its loss; use auto, no weights"
            )
        return lambda errors, truth: errors.mean(dim=1)
    softmax = kind == "multiclass"
    if name not in LOSSES or (name == ("bce" if softmax else "cross_entropy") and kind != "binary"):
        raise DataError(
            f"loss {name!r} does not fit a {kind} task; use auto, or one of {', '.join(LOSSES[1:])}"
        )
    if gamma < 0 or (weights is not None and not np.all(np.asarray(weights) > 0)):
        raise DataError(f"weights {weights} and gamma {gamma}: weights must be above 0, gamma at least 0")
    scale = None if weights is None else torch.tensor(np.asarray(weights), dtype=torch.float32)
    power = gamma if name == "focal" else 0.0

    def loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        factor = None if scale is None else scale.to(logits.device)
        if softmax:
            plain = F.cross_entropy(logits, truth, reduction="none")
            factor = 1.0 if factor is None else factor[truth]
            return factor * _focal(plain, power)
        plain = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        if factor is None:
            factor = torch.ones_like(plain)
        elif kind == "binary":
            factor = factor[truth.long()]
        else:
            factor = torch.where(truth > 0, factor, 1.0)
        return (factor * _focal(plain, power)).mean(dim=1)

    return loss


def hits(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Number of right answers; of several labels an image, the share of them."""
    if y.ndim == 1:
        return (logits.argmax(dim=1) == y).sum().float()
    return ((logits > 0) == (y > 0)).float().mean(dim=1).sum()


def _focal(plain: torch.Tensor, power: float) -> torch.Tensor:
    """`plain` is -log p of the truth."""
    return plain if power == 0 else (1 - torch.exp(-plain)).clamp(min=0) ** power * plain
