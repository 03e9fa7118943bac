"""SHA-256 of many files, remembered so that a second look only stats, and the lock that guards such caches.

What is remembered holds for a path, size, modification time and change time (``st_ctime_ns``). Programs can
set the modification time back (``cp -p``, rsync), but not the change time; on Windows, where it is the time
of creation, a file rewritten in place with its old size and modification time is not noticed.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from xraykit.storage import guarded, locked

_CHUNK = 256
_SETTLED_NS = 2 * 10**9  # a file changed less than this ago could change again within one tick of its clock

# size in bytes, modification and change time in ns
_Stamp = tuple[int, int, int]
_UNSETTLED: _Stamp = (0, 0, 0)


def file_hashes(
    root: Path, paths: Sequence[str], *, index: Path, workers: int = 2, progress: bool = True
) -> list[str]:
    """SHA-256 (64 hex digits) of each file `root`/path, in order; "" for one that cannot be read.

    `index` is a file of JSON lines that remembers hashes between calls; it belongs to this one root, is
    appended to as work goes on (so a killed call loses at most 256 files), and is locked while it grows.

    Raises:
        StorageError: the folder of `index` cannot be written.
    """
    found = _look_up(root, paths, _read_index(index))
    if all(found):
        return found
    waiting = "another run is hashing these images; waiting for it" if progress else ""
    with guarded(index.parent), locked(Path(f"{index}.lock"), waiting=waiting):
        found = _look_up(root, paths, _read_index(index))
        missing = [i for i, digest in enumerate(found) if not digest]
        bar = tqdm(total=len(missing), desc="hashing", unit="file", disable=not progress)
        with bar, ThreadPoolExecutor(workers) as pool, index.open("a", encoding="ascii") as out:
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                entries = list(pool.map(_hash_file, (os.path.join(root, paths[i]) for i in chunk)))
                _append(out, [paths[i] for i in chunk], entries)
                for i, (_, digest) in zip(chunk, entries, strict=True):
                    found[i] = digest
                bar.update(len(chunk))
    return found


def _look_up(root: Path, paths: Sequence[str], known: dict[str, tuple[_Stamp, str]]) -> list[str]:
    """Remembered hashes of files whose size and times are unchanged; "" for the others."""
    digests = []
    for path in paths:
        entry = known.get(path)
        digests.append(entry[1] if entry and _stamp(os.path.join(root, path)) == entry[0] else "")
    return digests


def _stamp(path: str) -> _Stamp | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _hash_file(path: str) -> tuple[_Stamp, str]:
    before = _stamp(path)
    try:
        if not os.path.isfile(path):  # opening a pipe would wait for ever
            return _UNSETTLED, ""
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # reading it again for its pixels reports why
        return _UNSETTLED, ""
    settled = before is not None and before == _stamp(path) and max(before[1:]) < time.time_ns() - _SETTLED_NS
    return before if settled else _UNSETTLED, digest


def _append(out: TextIO, paths: Sequence[str], entries: Sequence[tuple[_Stamp, str]]) -> None:
    found = zip(paths, entries, strict=True)
    lines = [json.dumps([path, *stamp, digest]) for path, (stamp, digest) in found if stamp != _UNSETTLED]
    out.write("".join(line + "\n" for line in lines))
    out.flush()


def _read_index(index: Path) -> dict[str, tuple[_Stamp, str]]:
    """Later lines win; a line cut short by a kill, or not ours, is skipped and its file hashed again."""
    known: dict[str, tuple[_Stamp, str]] = {}
    if not index.is_file():
        return known
    with index.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            try:
                path, size, modified, changed, digest = json.loads(line)
                known[path] = ((size, modified, changed), digest)
            except (ValueError, TypeError):
                continue
    return known
