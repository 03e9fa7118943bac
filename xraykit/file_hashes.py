"""SHA-256 of many files, remembered by path, size and modification time, so that a second look only stats."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from filelock import FileLock
from tqdm import tqdm

_CHUNK = 256
_SETTLED_NS = 2 * 10**9  # a file changed less than this ago could change again within one tick of its clock

# size in bytes, modification time in ns, SHA-256 in hex
_Entry = tuple[int, int, str]


def file_hashes(
    root: Path, paths: Sequence[str], *, index: Path, workers: int = 2, progress: bool = True
) -> list[str]:
    """SHA-256 (64 hex digits) of each file `root`/path, in order; "" for one that cannot be read.

    `index` is a file of JSON lines that remembers hashes between calls; it belongs to this one root, is
    appended to as work goes on (so a killed call loses at most 256 files), and is locked while it grows.

    Raises:
        OSError: `index` cannot be written.
    """
    found = _look_up(root, paths, _read_index(index))
    if all(found):
        return found
    with FileLock(f"{index}.lock"):
        found = _look_up(root, paths, _read_index(index))
        missing = [i for i, digest in enumerate(found) if not digest]
        bar = tqdm(total=len(missing), desc="hashing", unit="file", disable=not progress)
        with bar, ThreadPoolExecutor(workers) as pool, index.open("a", encoding="ascii") as out:
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                entries = list(pool.map(_hash_file, (os.path.join(root, paths[i]) for i in chunk)))
                _append(out, [paths[i] for i in chunk], entries)
                for i, (_, _, digest) in zip(chunk, entries, strict=True):
                    found[i] = digest
                bar.update(len(chunk))
    return found


def _look_up(root: Path, paths: Sequence[str], known: dict[str, _Entry]) -> list[str]:
    """Remembered hashes of files whose size and time are unchanged; "" for the others."""
    digests = []
    for path in paths:
        entry = known.get(path)
        digests.append(entry[2] if entry and _size_and_time(os.path.join(root, path)) == entry[:2] else "")
    return digests


def _size_and_time(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_size, info.st_mtime_ns


def _hash_file(path: str) -> _Entry:
    before = _size_and_time(path)
    try:
        if not os.path.isfile(path):  # opening a pipe would wait for ever
            return 0, 0, ""
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # reading it again for its pixels reports why
        return 0, 0, ""
    settled = (
        before is not None and before == _size_and_time(path) and before[1] < time.time_ns() - _SETTLED_NS
    )
    return (*before, digest) if settled else (0, 0, digest)


def _append(out: TextIO, paths: Sequence[str], entries: Sequence[_Entry]) -> None:
    lines = [json.dumps([path, *entry]) for path, entry in zip(paths, entries, strict=True) if entry[1]]
    out.write("".join(line + "\n" for line in lines))
    out.flush()


def _read_index(index: Path) -> dict[str, _Entry]:
    """Later lines win; a line cut short by a kill, or not ours, is skipped and its file hashed again."""
    known: dict[str, _Entry] = {}
    if not index.is_file():
        return known
    with index.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            try:
                path, size, time_ns, digest = json.loads(line)
                known[path] = (size, time_ns, digest)
            except (ValueError, TypeError):
                continue
    return known
