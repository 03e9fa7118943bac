"""Writing files so that a kill, a full disk or a second run never leaves half of one."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from xraykit.errors import StorageError

# What a write to a full disk or a folder without rights says, also from within a library.
DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST,
)  # fmt: skip
DATA_ADVICE = (
    "free some space or choose another data folder (--data-dir or XRAYKIT_DATA_DIR). What was finished is "
    "kept for the next run"
)


@contextmanager
def guarded(folder: Path, *, advice: str = DATA_ADVICE) -> Iterator[None]:
    """Turn an OSError of writing below `folder` into a StorageError that ends with `advice`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write to {folder} ({error.strerror or error}); {advice}") from error


@contextmanager
def locked(
    path: Path, *, waiting: str = "", timeout: float = -1, advice: str = DATA_ADVICE
) -> Iterator[None]:
    """Hold the lock file `path`; its folder is made if needed.

    Another holder is waited for, after `waiting` (if any) was printed to the standard error: without limit,
    or for `timeout` seconds.

    Raises:
        StorageError: the folder cannot be written, or the lock was not to be had in time.
    """
    lock = FileLock(path)
    with guarded(path.parent, advice=advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting:
                print(waiting, file=sys.stderr)
            try:
                lock.acquire(timeout=timeout)
            except Timeout:
                raise StorageError(
                    f"{path} was held for {timeout} s; end the other run, or {advice}"
                ) from None
    try:
        yield
    finally:
        lock.release()


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a kill or a full disk leaves the old file or the new one, never half."""
    with guarded(path.parent, advice="free space or choose another folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
