"""Features of every image from a frozen backbone, computed once and then read from a cache.

A cache lives in ``<cache_dir>/embeddings/<key>/``. The key hashes the pixels, the weights and code of the
network, its input size, backend, precision, kind of device and the versions of the libraries that compute, so
features of other weights are never taken for these. Any of these folders may be deleted. The size of a batch
and the number of threads are not in the key: they move features by rounding alone.
"""

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from xraykit import embedding_shards, embedding_store
from xraykit.backbones.base import Backbone
from xraykit.devices import team_size
from xraykit.embedding_choice import Choice, choose
from xraykit.embedding_compute import Work, compute
from xraykit.embedding_key import key_fields
from xraykit.embedding_store import Place
from xraykit.errors import DataError, StorageError
from xraykit.images import check_images
from xraykit.storage import locked


@dataclass(frozen=True)
class Embeddings:
    """Features of N images and how they were computed.

    Attributes:
        features: read-only float32 memmap (N, D), in the order of the images.
        name: of the backbone.
        backend: ``"openvino"`` or ``"torch"``.
        precision: ``"fp32"`` or ``"bf16"``, of the computation.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        key: digest of everything that decides the features.
        folder: where they are stored.
        cached: whether they were there already.
        rank: of this process; 0 unless several share the work.
    """

    features: np.ndarray
    name: str
    backend: str
    precision: str
    device: str
    key: str
    folder: Path
    cached: bool
    rank: int = 0

    def describe(self) -> str:
        """One line: ``phantom, 5,840 images, 256 numbers each, OpenVINO fp32 on CPU, from the cache``."""
        n, dim = self.features.shape
        how = Choice(self.backend, self.precision, self.device)
        origin = "from the cache" if self.cached else "computed now"
        return f"{self.name}, {n:,} images, {dim} numbers each, {how}, {origin}"

    def __str__(self) -> str:
        return self.describe()


def extract(
    images: np.ndarray,
    backbone: Backbone,
    *,
    cache_dir: str | Path,
    backend: str = "auto",
    precision: str = "fp32",
    device: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
    progress: bool = True,
) -> Embeddings:
    """Features (N, D) of grey images, uint8 (N, H, W), resized to what `backbone` takes.

    Streams: a few batches are in memory, whatever N, and the pages of a memmap are given back. A killed call
    loses at most the chunks under way, of 32 to 256 images each. Of two calls at once for the same features
    the second waits for the first; the processes of torchrun or ``fabric run`` share the work, and each gets
    the whole result.

    Args:
        images: array or memmap; a slice of a memmap streams as well.
        cache_dir: root of caches; features go to ``<cache_dir>/embeddings``.
        backend: ``"openvino"``, ``"torch"``, or ``"auto"`` by the rule of `xraykit.embedding_choice`.
        precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the hardware has it.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``: a CUDA GPU if there is one, else the CPU.
        batch_size: images at once, in each request where OpenVINO runs several; None for `BATCH` of
            `xraykit.embedding_compute`.
        threads: of the CPU; None is every core, at most ``XRAYKIT_THREADS``, shared among local processes.
        devices, num_nodes: GPUs or processes on each machine, and machines; None is 1, or what torchrun
            started. Above 1 without torchrun the running command is started again for each: in scripts only.

    Raises:
        DataError: images that are not uint8 (N, H, W), an option that this machine does not have, features
            that are not finite (their chunk is not stored).
        StorageError: the folder cannot be written or the disk is full; finished chunks are kept.
    """
    check_images(images)
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise DataError(f"{name} is {value}; at least 1 is needed, or None for the default")
    choice = choose(backbone, backend=backend, precision=precision, device=device)
    devices, num_nodes = team_size(devices, num_nodes)
    root = Path(cache_dir).expanduser() / "embeddings"
    place = Place(root, key_fields(images, backbone, choice), len(images), backbone.dim, backbone.name)
    about = {"name": backbone.name, "key": place.key, "folder": place.final, **asdict(choice)}
    if devices * num_nodes == 1 and (stored := embedding_store.load(place)) is not None:
        return Embeddings(stored, cached=True, **about)
    team = embedding_shards.join(choice, devices=devices, num_nodes=num_nodes)
    work = Work(images, backbone, choice, place, batch_size, threads, progress)
    cached = _fill(work, team)
    features = embedding_store.load(place)
    if features is None:
        raise StorageError(f"{place.final} was changed or removed by another program; run this again")
    return Embeddings(features, cached=cached, rank=team.rank, **about)


def _fill(work: Work, team: embedding_shards.Team) -> bool:
    """Compute and store the features, together with the others of `team`; whether they were there already."""
    place, first = work.place, team.rank == 0
    waiting = "another run is computing these features; waiting for it" if work.progress else ""
    with locked(place.lock, waiting=waiting) if first else contextlib.nullcontext():
        if first and embedding_store.load(place) is None:
            embedding_store.prepare(place)
        team.barrier()
        cached = embedding_store.load(place) is not None
        if not cached:
            compute(work, team)
        team.barrier()
        if first and not cached:
            embedding_store.merge(place)
        team.barrier()
    return cached
