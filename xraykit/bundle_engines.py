"""What computes the features of a bundle: the engines of `embeddings`, or a plain one that starts at once."""

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from xraykit.backbones import Backbone, network_input
from xraykit.devices import launch
from xraykit.embedding_choice import Choice
from xraykit.embedding_engines import Run, openvino_run, torch_run
from xraykit.threads import cores

AT_ONCE = 32


def engine(backbone: Backbone, how: Choice, *, batch_size: int) -> Run:
    """The engine of `embedding_choice.choose`; PyTorch on the CPU in fp32 needs no Lightning Fabric, whose
    import takes a second."""
    if how.backend == "openvino":
        return openvino_run(backbone, precision=how.precision, batch_size=batch_size, threads=cores())
    if (how.device, how.precision) == ("cpu", "fp32"):
        return plain_run(backbone)
    return torch_run(backbone, launch(how.device, how.precision, devices=1, num_nodes=1))


def plain_run(backbone: Backbone) -> Run:
    """As `torch_run` on the CPU in fp32; a batch is computed when its features are asked for."""
    module = copy.deepcopy(backbone.module).to(memory_format=torch.channels_last)

    def run(batches: Iterable[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, np.ndarray]]:
        for row, batch in batches:
            with torch.inference_mode():
                found = module(batch.contiguous(memory_format=torch.channels_last))
            yield row, found.float().numpy()

    return run


def features_of(backbone: Backbone, images: np.ndarray) -> np.ndarray:
    """Features float32 (N, D) of uint8 (N, H, W), as a `bundle.Predictor` computes them by default."""
    rows = range(0, len(images), AT_ONCE)
    batches = ((row, network_input(images[row : row + AT_ONCE], backbone.size)) for row in rows)
    return np.concatenate([found for _, found in plain_run(backbone)(batches)])
