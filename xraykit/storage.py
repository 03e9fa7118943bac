"""Writing files so that a kill, a full disk or a second run never leaves half of one."""

import os
from pathlib import Path

from xraykit.errors import StorageError


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a kill or a full disk leaves the old file or the new one, never half."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; free space or choose another folder"
        ) from error
