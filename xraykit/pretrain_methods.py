"""What self-supervised methods ask of two views of the same images: a projection and a loss, lightly's."""

from collections.abc import Callable

import torch
from lightly.loss import NTXentLoss, VICRegLoss
from lightly.models.modules.heads import SimCLRProjectionHead, VICRegProjectionHead
from torch import nn

from xraykit.pretrain_files import Config

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def method(dim: int, config: Config) -> tuple[nn.Module, Loss]:
    """The projection that is thrown away after pretraining, and the loss of two batches (B, D) of them.

    ``simclr`` is contrastive (Chen et al., ICML 2020, equation 1): two views of one image shall be more alike
    than views of two images. ``vicreg`` is not (Bardes, Ponce and LeCun, ICLR 2022, equation 6): two views
    shall be equal, while every feature varies over the batch and no two say the same.

    Args:
        dim: features of the network, the input of the projection.
    """
    if config.method == "simclr":
        return SimCLRProjectionHead(dim, 512, 128), NTXentLoss(temperature=config.temperature)
    return VICRegProjectionHead(dim, 1024, 1024, num_layers=3), VICRegLoss()
