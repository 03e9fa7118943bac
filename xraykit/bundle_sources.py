"""Where the bytes of a bundle are read from: a folder, or a zip. Nothing is unpacked, no link is followed."""

import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from xraykit.bundle_manifest import JSON, LARGEST, check_total
from xraykit.errors import BundleError

Read = Callable[[str], bytes]
"""The bytes of one of the files in `bundle_manifest.LARGEST`, at most as many as that says."""

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
)
"""What zipfile raises on a file that is cut off, altered, encrypted, or no zip."""
_RATIO = 20  # X-rays and weights shrink to a half or a tenth; a bomb to less
_FREE = 2**20
_BY_MACOS = "__MACOSX/"


def folder(path: Path) -> Read:
    """Reads the files of a folder."""

    def read(name: str) -> bytes:
        file = path / name
        if file.is_symlink():
            raise BundleError(f"{name} is a link, which could lead anywhere; copy the file itself there")
        if not file.is_file():
            raise BundleError(f"{name} is missing; copy the whole folder again")
        with file.open("rb") as opened:
            return _limited(name, opened.read(LARGEST[name] + 1))

    return read


def zipped(data: bytes | Path) -> Read:
    """Reads the files of a zip, at its top or in one folder of it; nothing else may be in it."""

    def read(name: str) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
                members = _members(opened)
                if name not in members:
                    raise BundleError(f"{name} is missing in the zip; get it again")
                with opened.open(members[name]) as file:
                    return _limited(name, file.read(LARGEST[name] + 1))
        except BundleError:
            raise
        except (*DAMAGED, OSError) as error:
            raise BundleError(f"it is no zip file, or a damaged one ({error}); get it again") from error

    return read


def is_zipped(path: Path) -> bool:
    """Whether a file is a zip with a ``bundle.json`` where a bundle has it; whatever else it holds."""
    try:
        with zipfile.ZipFile(path) as opened:
            return any(PurePosixPath(n).name == JSON and n.count("/") <= 1 for n in opened.namelist())
    except (*DAMAGED, OSError):
        return False


def _members(opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by the name of their file, each of which must be one of a bundle."""
    items = [i for i in opened.infolist() if not (i.is_dir() or i.orig_filename.startswith(_BY_MACOS))]
    strays = [i.orig_filename for i in items if not _has_place(i.orig_filename)]
    first, found = items[0].orig_filename.rpartition("/")[0] if items else "", {}
    for item in items:
        top, _, name = item.orig_filename.rpartition("/")
        if strays or name in found or top != first:
            raise BundleError(
                f"the zip holds {(strays or [item.orig_filename])[0]!r:.100}, which is no file of a bundle, "
                "or not where one has it, or is there twice; nothing was unpacked, get it elsewhere"
            )
        _check_member(name, item)
        found[name] = item
    check_total(sum(item.file_size for item in found.values()))
    return found


def _has_place(path: str) -> bool:
    """Whether it names a file of a bundle, at the top or in one folder."""
    top, slash, name = path.rpartition("/")
    return name in LARGEST and not any(c in top for c in "/\\:") and bool(top.strip(".") or not slash)


def _check_member(name: str, item: zipfile.ZipInfo) -> None:
    if stat.S_IFMT(item.external_attr >> 16) not in (0, stat.S_IFREG):
        raise BundleError(f"{name} is a link or a device in the zip; nothing was unpacked, get it elsewhere")
    if item.flag_bits & 1:
        raise BundleError(f"{name} is encrypted in the zip; unpack it and give the folder")
    if item.file_size > min(LARGEST[name], _FREE + _RATIO * item.compress_size):
        raise BundleError(
            f"{name} would unpack from {item.compress_size:,} to {item.file_size:,} bytes, more than a "
            "bundle has; nothing was unpacked, get it elsewhere"
        )


def _limited(name: str, data: bytes) -> bytes:
    if len(data) > LARGEST[name]:
        raise BundleError(f"{name} is larger than {LARGEST[name]:,} bytes, the limit; get the bundle again")
    return data
