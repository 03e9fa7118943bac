"""Running a frozen network over batches: PyTorch through Lightning Fabric, or OpenVINO on the CPU.

A `Run` takes batches (row of the first image, grey float32 (B, 1, S, S)) and yields (row, features) in the
same order. Neither reads ahead by more than the batches that it is computing.
"""

import copy
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xraykit.backbones.base import Backbone
from xraykit.embedding_choice import import_openvino
from xraykit.errors import DataError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Run = Callable[[Iterable[tuple[int, torch.Tensor]]], Iterator[tuple[int, np.ndarray]]]


def torch_run(backbone: Backbone, fabric: "Fabric") -> Run:
    """PyTorch, channels-last, on the device and in the precision of `fabric`. `backbone` stays as it is."""
    module = fabric.to_device(copy.deepcopy(backbone.module).to(memory_format=torch.channels_last))

    @torch.inference_mode()
    def compute(batch: torch.Tensor) -> torch.Tensor:
        batch = fabric.to_device(batch).contiguous(memory_format=torch.channels_last)
        try:
            # cuDNN's fp32 is TF32 unless told otherwise, and picks algorithms that differ from run to run.
            with fabric.autocast(), torch.backends.cudnn.flags(True, deterministic=True, allow_tf32=False):
                return module(batch)
        except torch.cuda.OutOfMemoryError as error:
            raise DataError(
                f"{len(batch)} images of {backbone.size} pixels at once do not fit into the memory of "
                f"{fabric.device}; choose a smaller batch_size (--batch-size)"
            ) from error

    def run(batches: Iterable[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, np.ndarray]]:
        before = None
        for row, batch in batches:
            now = row, compute(batch)  # a GPU goes on with it while the one before is fetched and stored
            if before:
                yield before[0], before[1].float().cpu().numpy()
            before = now
        if before:
            yield before[0], before[1].float().cpu().numpy()

    return run


def openvino_run(backbone: Backbone, *, precision: str, batch_size: int, threads: int) -> Run:
    """OpenVINO, several requests of `batch_size` images at once.

    Raises:
        DataError: OpenVINO cannot convert this network, or does not compute in `precision` here.
    """
    ov = import_openvino()
    compiled = _compiled(ov, backbone, precision=precision, batch_size=batch_size, threads=threads)

    n_requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def run(batches: Iterable[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, np.ndarray]]:
        # Requests in turn and not AsyncInferQueue: a callback in Python can still want the interpreter's lock
        # while the model's end waits for it with that lock held (seen in OpenVINO 2026.4).
        idle = [compiled.create_infer_request() for _ in range(n_requests)]
        running: deque[tuple[int, int, Any]] = deque()

        def oldest() -> tuple[int, np.ndarray]:
            row, n, request = running.popleft()
            request.wait()
            idle.append(request)
            return row, request.get_output_tensor().data[:n].copy()

        try:
            for row, batch in batches:
                if not idle:
                    yield oldest()
                request = idle.pop()
                request.start_async({0: _filled(batch, batch_size).numpy()})
                running.append((row, len(batch), request))
            while running:
                yield oldest()
        finally:
            for _, _, request in running:
                request.wait()

    return run


def _compiled(ov: Any, backbone: Backbone, *, precision: str, batch_size: int, threads: int) -> Any:
    hint = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}[precision]
    example = torch.zeros(2, 1, backbone.size, backbone.size)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns that it is deprecated, and OpenVINO needs it
            # Traced here and not by OpenVINO, which would run a large network twice more to check the trace.
            traced = torch.jit.trace(backbone.module, example, check_trace=False)
            model = ov.convert_model(traced, example_input=example)
        model.reshape([batch_size, *example.shape[1:]])
        found = tuple(model.output(0).shape)
    except Exception as error:  # OpenVINO and the tracer raise kinds of their own
        raise _unfit(backbone, str(error)) from error
    if found != (batch_size, backbone.dim):
        raise _unfit(backbone, f"{batch_size} images become {found}, not ({batch_size}, {backbone.dim})")
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "THROUGHPUT",
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)
    if compiled.get_property("INFERENCE_PRECISION_HINT") != hint:
        raise DataError(f"OpenVINO has no {precision} on this processor; use precision='fp32'")
    return compiled


def _unfit(backbone: Backbone, why: str) -> DataError:
    return DataError(f"OpenVINO cannot run {backbone.name} ({why.strip()[:300]}); use backend='torch'")


def _filled(batch: torch.Tensor, size: int) -> torch.Tensor:
    """`batch` with black images up to `size`: OpenVINO is fastest on a fixed shape."""
    black = batch.new_zeros(size - len(batch), *batch.shape[1:])
    return torch.cat([batch, black]) if len(black) else batch
