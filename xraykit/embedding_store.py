"""Features on disk: chunks while they are computed, one float32 file with a description when complete.

``<root>/<key>.partial/`` grows by files of a fixed number of rows, each written atomically with its own
digest, so that a kill costs one chunk and several processes can write side by side. `merge` joins them; its
last step is one rename to ``<root>/<key>/`` with ``features.f32`` (N x D, row by row) and ``meta.json``.
"""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xraykit.errors import StorageError
from xraykit.storage import guarded, write_atomic

FORMAT = 1  # raise it when the same key would hold other numbers
FEATURES, META = "features.f32", "meta.json"
_KEY_DIGITS = 32
_CHUNK_BYTES = 2**24
_CHUNK_ROWS = (32, 256)  # at least and at most; a plain network on two cores takes a minute for 256
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Place:
    """Where one extraction is stored.

    Attributes:
        root: folder of all of them.
        fields: everything that decides the features, as JSON values; its digest is the key.
        n: N, number of images.
        dim: D, numbers of each.
        name: of the backbone, for those who read meta.json.
    """

    root: Path
    fields: Mapping[str, object]
    n: int
    dim: int
    name: str

    @property
    def key(self) -> str:
        """Digest of `fields`, N and D."""
        text = json.dumps([FORMAT, self.n, self.dim, self.fields], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]

    @property
    def final(self) -> Path:
        """Folder of the complete features."""
        return self.root / self.key

    @property
    def partial(self) -> Path:
        """Folder that the chunks go to."""
        return self.root / f"{self.key}.partial"

    @property
    def lock(self) -> Path:
        """Held by the run that computes."""
        return self.root / f"{self.key}.lock"

    @property
    def chunk_rows(self) -> int:
        """Rows of each chunk but the last: 256, fewer where a row is long."""
        low, high = _CHUNK_ROWS
        return max(low, min(high, _CHUNK_BYTES // (4 * self.dim)))

    def chunks(self) -> list[range]:
        """Rows of every chunk."""
        step = self.chunk_rows
        return [range(start, min(start + step, self.n)) for start in range(0, self.n, step)]

    def file(self, chunk: range) -> Path:
        """File of one chunk."""
        return self.partial / f"{chunk.start:09d}.chunk"


def load(place: Place) -> np.ndarray | None:
    """The complete features as a read-only memmap (N, D), or None if missing or not what was written."""
    return _read(place, place.final)


def missing(place: Place) -> list[range]:
    """Chunks that have yet to be computed; those already merged after a kill count as there."""
    if _read(place, place.partial) is not None:
        return []
    return [chunk for chunk in place.chunks() if _payload(place, chunk) is None]


def prepare(place: Place) -> None:
    """Make the folder, put damaged remains away with a warning, and check that there is enough space.

    Raises:
        StorageError: the folder cannot be written, or the disk is too full.
    """
    with guarded(place.root):
        if place.final.exists():
            text = f"the stored features {place.final} are damaged or incomplete; they are computed again"
            warnings.warn(text, stacklevel=3)
            shutil.rmtree(place.final) if place.final.is_dir() else place.final.unlink()
        place.partial.mkdir(parents=True, exist_ok=True)
    rows = sum(map(len, missing(place)))
    needed = (rows + place.n) * 4 * place.dim  # the chunks, and the file that they are merged into
    free = shutil.disk_usage(place.partial).free
    if rows and needed > free:
        raise StorageError(
            f"features of {rows:,} images need {needed:,} bytes in {place.root}, but {free:,} are free; "
            "free some space, or choose another data folder (--data-dir or XRAYKIT_DATA_DIR)"
        )


def write(place: Place, chunk: range, features: np.ndarray) -> None:
    """Store float32 `features` (len(chunk), D)."""
    payload = np.ascontiguousarray(features, np.float32).tobytes()
    write_atomic(place.file(chunk), payload + hashlib.sha256(payload).digest())


def merge(place: Place) -> None:
    """Join the chunks into the complete features. A kill at any moment leaves something to go on from.

    Raises:
        StorageError: a chunk was removed or damaged meanwhile, or the disk is full.
    """
    with guarded(place.root):
        if _read(place, place.partial) is None:
            digest = _join(place)
            meta = {
                "sha256": digest,
                "n": place.n,
                "dim": place.dim,
                "key": place.key,
                "backbone": place.name,
            }
            text = json.dumps({**meta, "fields": place.fields}, indent=1)
            write_atomic(place.partial / META, text.encode())
        for path in place.partial.iterdir():
            if path.name not in (FEATURES, META):
                path.unlink()
        place.partial.rename(place.final)


def blocks(images: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """`images` in pieces of at most `rows`, with their first row; memory does not grow with their number."""
    for start in range(0, len(images), rows):
        yield start, images[start : start + rows]
        release(images)


def release(images: np.ndarray) -> None:
    """Give the pages of a read-only memmap back; they are still in the file.

    Pages that were read count as memory of this process, all of them after a pass over a data set.
    """
    if isinstance(images, np.memmap) and images.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError, ValueError):  # it is a courtesy, not a need
            images._mmap.madvise(mmap.MADV_DONTNEED)


def _join(place: Place) -> str:
    """Write ``features.f32`` from the chunks; its SHA-256."""
    digest = hashlib.sha256()
    temporary = place.partial / f".{FEATURES}"
    with temporary.open("wb") as file:
        for chunk in place.chunks():
            payload = _payload(place, chunk)
            if payload is None:
                raise StorageError(
                    f"{place.file(chunk)} was removed or damaged while it was needed; run this again"
                )
            file.write(payload)
            digest.update(payload)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(place.partial / FEATURES)
    return digest.hexdigest()


def _payload(place: Place, chunk: range) -> bytes | None:
    """Bytes of one chunk, or None unless it is there, whole and unchanged."""
    try:
        data = place.file(chunk).read_bytes()
    except FileNotFoundError:
        return None
    payload, digest = data[:-_DIGEST], data[-_DIGEST:]
    whole = len(payload) == 4 * place.dim * len(chunk) and hashlib.sha256(payload).digest() == digest
    return payload if whole else None


def _read(place: Place, folder: Path) -> np.ndarray | None:
    """The features in `folder`, or None if they are missing or do not match their meta.json."""
    path, size = folder / FEATURES, 4 * place.n * place.dim
    try:
        meta = json.loads((folder / META).read_text("utf-8"))
        described = (meta["n"], meta["dim"], meta["key"]) == (place.n, place.dim, place.key)
        if not described or meta["fields"] != place.fields or path.stat().st_size != size:
            return None
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != meta["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return np.memmap(path, np.float32, "r", shape=(place.n, place.dim))
