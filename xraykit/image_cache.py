"""Images decoded once into a uint8 file that every later run maps into memory.

A cache lives in ``<cache_dir>/images/<key>/``: ``images.u8`` (raw pixels), ``files.jsonl`` (one line for each
input file, used or excluded) and ``meta.json``. The key hashes the files' contents, paths and order, the
preprocessing and the decoders' versions, and any of these folders may be deleted. A file is hashed again when
its size, modification time or change time is another; `xraykit.file_hashes` says what that cannot notice.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pandas as pd

from xraykit.errors import DataError
from xraykit.file_hashes import file_hashes
from xraykit.image_build import FILES, META, PIXELS, Job, decode_all, finish
from xraykit.images import Preprocess
from xraykit.storage import guarded, locked

DECODER = 2  # raise it when image_files.py or images.py changes what a file decodes to
_KEY_DIGITS = 32
_CHUNK_LINES = 1024
_USED = {"path": str, "sha256": str, "height": np.int64, "width": np.int64}
_EXCLUDED = {"path": str, "reason": str}


@dataclass(frozen=True)
class CachedImages:
    """Decoded images and where they came from.

    Attributes:
        images: read-only uint8 memmap (M, size, size).
        files: M rows in the order of `images`: ``path`` (relative), ``sha256`` (of the file), ``height`` and
            ``width`` (of the original, in pixels).
        excluded: ``path`` and ``reason`` of the files that could not be used.
    """

    images: np.ndarray
    files: pd.DataFrame
    excluded: pd.DataFrame


def build(
    root: Path,
    paths: Sequence[str],
    preprocess: Preprocess,
    *,
    cache_dir: Path,
    workers: int = 2,
    progress: bool = True,
) -> CachedImages:
    """Images of `paths` (relative to `root`, in that order) after `preprocess`, decoded once and then mapped.

    Files that cannot be used are left out and listed in `excluded`. Pixels in memory do not grow with the
    number of images. Two calls at once are safe: the second waits for the first and reads its result. A
    damaged cache is built again, with a warning.

    Args:
        workers: threads that read and decode (Pillow and OpenCV release the interpreter lock).

    Raises:
        DataError: `paths` is empty, repeats or leads out of `root`; no file is usable; one changed meanwhile.
        StorageError: `cache_dir` cannot be written or the disk is full; what was decoded is kept.
    """
    root, paths, store = Path(root), list(paths), Path(cache_dir) / "images"
    _check_paths(root, paths)
    if workers < 1:
        raise DataError(f"workers is {workers}; at least 1 thread is needed")
    with guarded(store):
        store.mkdir(parents=True, exist_ok=True)
        root_key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:_KEY_DIGITS]
        index = store / f"hashes-{root_key}.jsonl"
        hashes = file_hashes(root, paths, index=index, workers=workers, progress=progress)
    key = _key(paths, hashes, preprocess)
    cached = _load(store / key, preprocess.size)
    if cached is not None:
        return cached
    job = Job(root, paths, hashes, preprocess, store / f"{key}.partial", workers, progress)
    waiting = "another run is decoding these images; waiting for it" if progress else ""
    with guarded(store), locked(store / f"{key}.lock", waiting=waiting):
        return _load(store / key, preprocess.size) or _rebuild(job, store / key)


def _rebuild(job: Job, final: Path) -> CachedImages:
    if final.exists():
        warnings.warn(f"the image cache {final} is damaged or incomplete; it is built again", stacklevel=3)
        shutil.rmtree(final) if final.is_dir() else final.unlink()
    decode_all(job)
    finish(job, final)
    cached = _load(final, job.preprocess.size)
    if cached is None:
        raise RuntimeError(f"the image cache {final} does not match what was just written to it")
    return cached


def _check_paths(root: Path, paths: Sequence[str]) -> None:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder that the image paths are relative to")
    if len(paths) == 0:
        raise DataError(f"no image paths were given for {root}; check the folder and the filters")
    seen: set[str] = set()
    for path in paths:
        if Path(path).anchor or PurePosixPath(path).is_absolute() or ".." in Path(path).parts:
            raise DataError(f"image path {path!r} leads out of {root}; paths must be relative, without '..'")
        if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
            raise DataError(f"image path {path!r} is not valid UTF-8; rename the file")
        normal = str(PurePosixPath(path))
        if normal in seen:
            raise DataError(f"image path {path!r} is listed twice; list each file once")
        seen.add(normal)


def _key(paths: Sequence[str], hashes: Sequence[str], preprocess: Preprocess) -> str:
    versions = [version("pillow"), cv2.__version__, version("pydicom")]
    digest = hashlib.sha256(json.dumps([DECODER, *versions, preprocess.key()]).encode())
    for entry in zip(paths, hashes, strict=True):
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()[:_KEY_DIGITS]


def _load(folder: Path, size: int) -> CachedImages | None:
    """The cache in `folder`, or None if it is missing or does not match its own meta.json."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        n = int(meta["images"])
        with (folder / FILES).open("rb") as table:
            table_hash = hashlib.file_digest(table, "sha256").hexdigest()
        complete = (
            meta["size"] == size
            and (folder / PIXELS).stat().st_size == n * size * size
            and table_hash == meta["files_sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not complete:
        return None
    files, excluded = _tables(folder / FILES)
    images = np.memmap(folder / PIXELS, np.uint8, "r", shape=(n, size, size))
    return CachedImages(images, files, excluded)


def _tables(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`files` and `excluded` of a cache, in chunks because Python strings take more memory than columns."""
    used, excluded = [], []
    with path.open("rb") as lines:
        while chunk := [json.loads(line) for line in islice(lines, _CHUNK_LINES)]:
            for table, types in ((used, _USED), (excluded, _EXCLUDED)):
                rows = [record for record in chunk if record.keys() == types.keys()]
                table.append(pd.DataFrame(rows, columns=list(types)).astype(types))
    return pd.concat(used, ignore_index=True), pd.concat(excluded, ignore_index=True)
