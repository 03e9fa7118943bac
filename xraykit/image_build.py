"""Decoding many files into one cache folder: resumable after a kill, complete once it has its final name.

The folder grows as ``<key>.partial``: pixels are written and synced first, the lines on them after.
A resumed build keeps every image whose line is whole and cuts off the rest; the last step is one rename.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from xraykit.errors import BadImageError, DataError, StorageError
from xraykit.image_files import decode, read_bytes
from xraykit.images import Preprocess
from xraykit.storage import guarded

PIXELS, FILES, META = "images.u8", "files.jsonl", "meta.json"
_CHUNK_BYTES = 2**23  # decoded pixels between two syncs, and held in memory
_LINE_BYTES = 300  # of files.jsonl for one image, about
_REASONS_SHOWN = 5


@dataclass(frozen=True)
class Job:
    """What to decode and where: `hashes` are the SHA-256 of `paths`, `partial` the folder to grow."""

    root: Path
    paths: Sequence[str]
    hashes: Sequence[str]
    preprocess: Preprocess
    partial: Path
    workers: int
    progress: bool

    @property
    def image_bytes(self) -> int:
        """Bytes of one decoded image."""
        return self.preprocess.size**2


def decode_all(job: Job) -> None:
    """Decode what ``job.partial`` does not hold yet, in order, appending after each chunk.

    Raises StorageError (not enough space, cannot write) and DataError (a file changed since it was hashed).
    """
    with guarded(job.partial):
        job.partial.mkdir(exist_ok=True)
        done = _resume(job)
        _check_space(job, len(job.paths) - done)
        bar = tqdm(
            total=len(job.paths), initial=done, desc="decoding", unit="image", disable=not job.progress
        )
        step = max(1, _CHUNK_BYTES // job.image_bytes)
        with (
            bar,
            ThreadPoolExecutor(job.workers) as pool,
            (job.partial / PIXELS).open("ab") as pixels,
            (job.partial / FILES).open("ab") as lines,
        ):
            for start in range(done, len(job.paths), step):
                chunk = range(start, min(start + step, len(job.paths)))
                decoded = list(pool.map(lambda i: _decode_one(job, i), chunk))
                _append(pixels, b"".join(image.tobytes() for image, _ in decoded if image is not None))
                _append(lines, b"".join(json.dumps(record).encode() + b"\n" for _, record in decoded))
                bar.update(len(chunk))


def finish(job: Job, final: Path) -> None:
    """Describe the complete ``job.partial`` in meta.json and rename it to `final`.

    Raises DataError, naming the first reasons, if no file was usable.
    """
    n = (job.partial / PIXELS).stat().st_size // job.image_bytes
    if n == 0:
        with (job.partial / FILES).open("rb") as lines:
            reasons = [json.loads(line) for line in islice(lines, _REASONS_SHOWN)]
        shutil.rmtree(job.partial)
        shown = "; ".join(f"{record['path']}: {record['reason']}" for record in reasons)
        raise DataError(f"none of the {len(job.paths)} images in {job.root} can be used. The first: {shown}")
    with (job.partial / FILES).open("rb") as table:
        table_hash = hashlib.file_digest(table, "sha256").hexdigest()
    meta = {
        "images": n,
        "size": job.preprocess.size,
        "preprocess": job.preprocess.key(),
        "files_sha256": table_hash,
    }
    with (job.partial / META).open("wb") as file:
        _append(file, json.dumps(meta, indent=1).encode())
    job.partial.rename(final)


def _resume(job: Job) -> int:
    """Cut ``job.partial`` back to its last whole image and line; the number of input files done."""
    pixels, lines = job.partial / PIXELS, job.partial / FILES
    pixels.touch()
    lines.touch()
    room = pixels.stat().st_size // job.image_bytes
    done = used = offset = 0
    for line in lines.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line) if line.endswith(b"\n") else {}
        except ValueError:
            break
        used_after = used + ("reason" not in record)
        if done == len(job.paths) or record.get("path") != job.paths[done] or used_after > room:
            break
        done, used, offset = done + 1, used_after, offset + len(line)
    os.truncate(pixels, used * job.image_bytes)
    os.truncate(lines, offset)
    return done


def _check_space(job: Job, remaining: int) -> None:
    needed = remaining * (job.image_bytes + _LINE_BYTES)
    free = shutil.disk_usage(job.partial).free
    if needed > free:
        raise StorageError(
            f"decoding {remaining:,} images needs {needed:,} bytes in {job.partial.parent}, but {free:,} are "
            "free; free some space, or choose another data folder (--data-dir or XRAYKIT_DATA_DIR) or size"
        )


def _decode_one(job: Job, i: int) -> tuple[np.ndarray | None, dict[str, str | int]]:
    path = job.paths[i]
    try:
        data = read_bytes(job.root / path)
        if hashlib.sha256(data).hexdigest() != job.hashes[i]:
            raise DataError(
                f"{job.root / path} changed while it was being read; run this again when it is complete"
            )
        grey, (height, width) = decode(data, name=path, target=job.preprocess.size)
    except BadImageError as error:
        reason = str(error).removeprefix(f"{job.root / path}: ").removeprefix(f"{path}: ")
        return None, {"path": path, "reason": reason}
    image = job.preprocess.apply(grey)
    return image, {"path": path, "sha256": job.hashes[i], "height": height, "width": width}


def _append(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())  # pixels must reach the disk before the line that vouches for them
