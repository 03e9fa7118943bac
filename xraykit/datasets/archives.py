"""Unpacking archives of strangers: everything is checked before anything is written.

A member that climbs out of the folder (``../``, an absolute path, a drive), a link or a device refuses the
whole archive. Unpacking goes to a hidden folder that gets its name at the end, so a kill leaves nothing half.
"""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from tqdm import tqdm

from xraykit.datasets.download import check_space
from xraykit.errors import DataError
from xraykit.storage import guarded


def extract(archive: Path, target: Path, *, progress: bool = True) -> Path:
    """Unpack a zip or tar archive as the new folder `target`.

    Raises:
        DataError: `target` exists, the archive is damaged, or a member is not safe.
        StorageError: not enough free space for what the archive declares, or the folder cannot be written.
    """
    if target.exists():
        raise DataError(f"{target} exists; move it away before {archive.name} is unpacked there")
    partial = target.with_name(f".{target.name}.partial")
    with guarded(target.parent):
        needed = _inspect(archive)
        target.parent.mkdir(parents=True, exist_ok=True)
        check_space(target.parent, needed)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        with (
            _damage(archive),
            tqdm(desc=f"unpacking {archive.name}", unit="file", disable=not progress) as bar,
        ):
            for _ in _unpack(archive, partial):
                bar.update()
        partial.replace(target)
    return target


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
    ) as error:
        raise DataError(
            f"{archive} is damaged or incomplete ({error}); delete it and get it again"
        ) from error


def _inspect(archive: Path) -> int:
    """Bytes that the members unpack to; raises DataError for a damaged archive or an unsafe member."""
    total = 0
    with _damage(archive):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for item in opened.infolist():
                    mode = item.external_attr >> 16
                    plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
                    # orig_filename: the name before zipfile itself makes it harmless
                    _check_member(archive, item.orig_filename, plain=plain)
                    total += item.file_size
            return total
        with tarfile.open(archive, "r:*") as opened:
            for member in opened:
                _check_member(archive, member.name, plain=member.isfile() or member.isdir())
                total += member.size
    return total


def _check_member(archive: Path, name: str, *, plain: bool) -> None:
    path = PureWindowsPath(name)  # splits at / and \, and knows drives
    if path.anchor or ".." in path.parts or "\0" in name:
        problem = "leads out of the folder it is unpacked to"
    elif not plain:
        problem = "is a link or a device"
    else:
        return
    raise DataError(
        f"{archive} is refused: its member {name!r} {problem}; nothing was unpacked, get it elsewhere"
    )


def _unpack(archive: Path, folder: Path) -> Iterator[None]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for item in opened.infolist():
                opened.extract(item, folder)
                yield
    else:
        # Python before 3.11.4 has no filters. `_inspect` has refused links and climbing paths already;
        # without attributes, no owner or mode is taken over from the archive either.
        how = {"filter": "data"} if hasattr(tarfile, "data_filter") else {"set_attrs": False}
        with tarfile.open(archive, "r:*") as opened:
            for member in opened:
                opened.extract(member, folder, **how)
                yield
