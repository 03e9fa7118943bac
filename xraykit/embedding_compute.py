"""The loop of an extraction: read a batch, run the network, collect chunks, store each as it is complete."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from xraykit import embedding_store
from xraykit.backbones.base import Backbone, network_input
from xraykit.devices import torch_threads
from xraykit.embedding_choice import Choice
from xraykit.embedding_engines import Run, openvino_run, torch_run
from xraykit.embedding_shards import Team
from xraykit.embedding_store import Place
from xraykit.errors import DataError
from xraykit.threads import cores

# On two cores 8 images a request were as fast in OpenVINO as 32, several requests running at once.
BATCH = {"openvino": 8, "cpu": 32, "cuda": 256, "mps": 64}


@dataclass(frozen=True)
class Work:
    """What to compute, how, and where it goes; `batch_size` and `threads` may be None for the defaults."""

    images: np.ndarray
    backbone: Backbone
    choice: Choice
    place: Place
    batch_size: int | None
    threads: int | None
    progress: bool


def compute(work: Work, team: Team) -> None:
    """Store the chunks of this process, every W-th of all, that are not there yet."""
    missing = set(embedding_store.missing(work.place))
    mine = work.place.chunks()[team.rank :: team.world]
    todo = [chunk for chunk in mine if chunk in missing]
    if not todo:
        return
    total, left = (sum(map(len, chunks)) for chunks in (mine, todo))
    on = work.choice.backend if work.choice.backend == "openvino" else work.choice.device
    size = work.batch_size or BATCH[on]
    with (
        torch_threads(work.threads or max(1, cores() // team.local)) as threads,
        tqdm(
            total=total,
            initial=total - left,
            desc=work.backbone.name,
            unit="image",
            disable=not work.progress or team.rank > 0,
        ) as bar,
    ):
        run = _engine(work, team, batch_size=size, threads=threads)
        batches = _batches(work.images, todo, network_size=work.backbone.size, batch_size=size)
        for chunk, features in _collected(run(batches), todo, work):
            embedding_store.write(work.place, chunk, features)
            bar.update(len(chunk))


def _engine(work: Work, team: Team, *, batch_size: int, threads: int) -> Run:
    if work.choice.backend == "torch":
        return torch_run(work.backbone, team.fabric)
    precision = work.choice.precision
    return openvino_run(work.backbone, precision=precision, batch_size=batch_size, threads=threads)


def _batches(
    images: np.ndarray, chunks: Sequence[range], *, network_size: int, batch_size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Batches with the row of their first image. None spans two chunks, so that sharing changes nothing."""
    for chunk in chunks:
        for start in chunk[::batch_size]:
            batch = images[start : min(start + batch_size, chunk.stop)]
            yield start, network_input(batch, network_size)
        embedding_store.release(images)


def _collected(
    found: Iterator[tuple[int, np.ndarray]], chunks: Sequence[range], work: Work
) -> Iterator[tuple[range, np.ndarray]]:
    """Whole chunks of features (len(chunk), D) from batches, which come in order."""
    for chunk in chunks:
        features = np.empty((len(chunk), work.place.dim), np.float32)
        done = 0
        while done < len(chunk):
            row, batch = next(found)
            _check(batch, row, work)
            features[done : done + len(batch)] = batch
            done += len(batch)
        yield chunk, features


def _check(features: np.ndarray, row: int, work: Work) -> None:
    """Raise DataError for features that are not (B, D) and finite."""
    if features.ndim != 2 or features.shape[1] != work.place.dim:
        raise DataError(
            f"{work.backbone.name} turns {len(features)} images into {features.shape}; D must be "
            f"{work.place.dim}, as its first pass was"
        )
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise DataError(
            f"{work.backbone.name} makes NaN or infinite features of image {row + bad[0]} ({work.choice}); "
            "check its weights, or try another precision or backend. They were not stored"
        )
