"""One file or one Kaggle set from the network: progress, checksum, resume, atomic rename, free space first.

pooch checks the sum and renames; it does not resume, so `_stream` does, with an HTTP Range request (RFC 9110,
section 14). kagglehub resumes and checks by itself, in its own cache.
"""

import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from xraykit.errors import DownloadError, StorageError
from xraykit.storage import DISK_ERRORS, guarded

if TYPE_CHECKING:
    import requests

_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of the answer
_CHUNK = 2**16  # at most this much of what arrived is lost when the connection is cut


def check_space(folder: Path, needed: int) -> None:
    """Raise StorageError unless the disk of `folder` (which need not exist yet) has `needed` bytes free."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise StorageError(
            f"{folder} needs {needed:,} bytes ({needed / 1e9:.1f} GB) but only {free:,} bytes "
            f"({free / 1e9:.1f} GB) are free; free some space, or choose another data folder (--data-dir or "
            "XRAYKIT_DATA_DIR)"
        )


def download_file(
    url: str,
    target: Path,
    *,
    md5: str,
    manual: str = "",
    progress: bool = True,
    attempts: int = 3,
    pause: float = 2.0,
) -> Path:
    """Download `url` to `target`; a file that is there with the right checksum is left as it is.

    What has arrived lies in ``<folder>/.incoming/<name>.part``. A cut connection is taken up again `attempts`
    - 1 times after `pause` seconds, and by the next call, where the server answers Range requests; else it
    starts again. Only a complete file with the right checksum gets its name.

    Args:
        md5: hexadecimal MD5 of the whole file.
        manual: manual steps, for the error message.

    Raises:
        DownloadError: no connection, an HTTP error, or a wrong checksum (then the partial file is deleted).
        StorageError: the disk is full or the folder cannot be written.
    """
    import pooch

    incoming = target.parent / ".incoming"
    part = incoming / f"{target.name}.part"
    with guarded(target.parent):
        if target.is_file() and pooch.file_hash(str(target), alg="md5") == md5:
            return target
        incoming.mkdir(parents=True, exist_ok=True)
        for stale in incoming.glob("tmp*"):  # of pooch, if it was killed
            stale.unlink()
        with _explained(url, part, manual):
            pooch.retrieve(
                url,
                known_hash=f"md5:{md5}",
                fname=target.name,
                path=incoming,
                downloader=_resuming(part, progress=progress, attempts=attempts, pause=pause),
            )
        (incoming / target.name).replace(target)
        if not any(incoming.iterdir()):
            incoming.rmdir()
    return target


@contextmanager
def _explained(url: str, part: Path, manual: str) -> Iterator[None]:
    """Turn what requests and pooch raise into a DownloadError that says what to do."""
    import requests

    try:
        yield
    except requests.RequestException as error:
        kept = part.stat().st_size if part.exists() else 0
        raise DownloadError(
            f"cannot download {url}: {error}. {kept:,} bytes are kept in {part}; the same command goes on "
            f"from there.\n{manual}"
        ) from error
    except ValueError as error:  # pooch, of the checksum
        raise DownloadError(
            f"{url}: wrong checksum, so what arrived was deleted ({error}). Run the same command again; if "
            f"it stays wrong, the file at the source has changed.\n{manual}"
        ) from error


def _resuming(
    part: Path, *, progress: bool, attempts: int, pause: float
) -> Callable[[str, str, object], None]:
    """A pooch downloader that appends to `part` and hands it over when it is complete."""
    import requests

    cut = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

    def download(url: str, output_file: str, pooch: object) -> None:
        for attempt in range(1, attempts + 1):
            try:
                _stream(url, part, progress=progress)
                break
            except cut:
                if attempt == attempts:
                    raise
                time.sleep(pause)
        os.replace(part, output_file)

    return download


def _stream(url: str, part: Path, *, progress: bool) -> None:
    """Append to `part` what it lacks of `url`; starts again where the server does not answer Range
    requests."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # so that bytes on disk count as bytes on the server
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if have and answer.status_code == 416:  # nothing after `have`: complete, or not the same file
            if answer.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
            part.unlink()
            raise requests.ConnectionError(
                f"{part.name} does not belong to the file at {url}; starting again"
            )
        answer.raise_for_status()
        start = f"bytes {have}-"
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(start)
        _append(answer, part, have=have if resumed else 0, progress=progress)


def _append(answer: "requests.Response", part: Path, *, have: int, progress: bool) -> None:
    """Write the body of `answer` behind the first `have` bytes of `part`; a short one is a cut connection."""
    import requests

    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else None
    check_space(part.parent, (total or 0) - have)
    options = {"desc": part.stem, "unit": "B", "unit_scale": True, "disable": not progress}
    with tqdm(total=total, initial=have, **options) as bar, part.open("ab" if have else "wb") as out:
        for chunk in answer.iter_content(_CHUNK):
            out.write(chunk)
            bar.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise requests.ConnectionError(f"the connection ended at byte {part.stat().st_size:,} of {total:,}")


def from_kaggle(handle: str, target: Path, *, path: str | None = None, needed: int, manual: str) -> Path:
    """Download the public Kaggle data set `handle` (or its file `path`) as `target`; no account is needed.

    kagglehub downloads to its own cache (``KAGGLEHUB_CACHE``, else ``~/.cache/kagglehub``), resumes and
    checks there; what is complete is moved to `target`. On Kaggle and Colab, where the set is mounted,
    `target` is a link to it.

    Args:
        needed: bytes that the download takes, unpacked; twice as much must be free in kagglehub's cache.

    Raises:
        DownloadError: kagglehub failed; the message has its reason and `manual`.
        StorageError: not enough free space, or a folder cannot be written.
    """
    from kagglehub.config import get_cache_folder

    cache = Path(get_cache_folder())
    check_space(cache, 2 * needed)
    check_space(target.parent, needed)
    found = _kaggle_download(handle, path, cache=cache, manual=manual)
    with guarded(target.parent):
        _adopt(found, target, owned=found.resolve().is_relative_to(cache.resolve()))
    return target


def _kaggle_download(handle: str, path: str | None, *, cache: Path, manual: str) -> Path:
    import kagglehub
    import requests
    from kagglehub import exceptions as kaggle

    failures = (
        requests.RequestException,
        kaggle.BackendError,
        kaggle.CredentialError,
        kaggle.DataCorruptionError,
        kaggle.KaggleEnvironmentError,
        kaggle.NotFoundError,
        kaggle.UnauthenticatedError,
        zipfile.BadZipFile,
        OSError,
        ValueError,
    )
    try:
        return Path(kagglehub.dataset_download(handle, path=path))
    except failures as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise StorageError(
                f"cannot write to {cache} ({error.strerror}); free some space, or set KAGGLEHUB_CACHE to "
                "another folder"
            ) from error
        raise DownloadError(f"kagglehub could not download {handle}: {error}\n{manual}") from error


def _adopt(found: Path, target: Path, *, owned: bool) -> None:
    """Give what kagglehub downloaded its final name; a kill leaves it in the cache or complete at
    `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not owned:
        target.symlink_to(found, target_is_directory=found.is_dir())
        return
    partial = target.with_name(f".{target.name}.partial")
    if partial.is_dir():
        shutil.rmtree(partial)
    shutil.move(found, partial)
    partial.replace(target)
