"""The classifiers that can be chosen: those of the bundles folder, the embedded one, and this session's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xraykit import bundle_files
from xraykit.app.uploads import check_bytes, shown_name
from xraykit.bundle import Bundle
from xraykit.errors import BundleError, XraykitError


@dataclass(frozen=True)
class Source:
    """One classifier that can be chosen.

    Attributes:
        key: changes when what is behind it changes.
        label: for the list.
        path: of a bundle in the folder; None for one of this session.
    """

    key: str
    label: str
    path: Path | None = None


def on_disk(folder: Path) -> list[Source]:
    """The bundles below `folder`, also those that cannot be loaded."""
    found = bundle_files.find(folder)
    return [Source(_stamp(path), _label(path, folder), path) for path in found]


def _label(path: Path, folder: Path) -> str:
    return path.name if path == folder else str(path.relative_to(folder))


def of_session(given: Mapping[str, Bundle]) -> list[Source]:
    """Those that were uploaded or built in this session, by what they are called in the list."""
    return [Source(f"session {label}", label) for label in given]


def _stamp(path: Path) -> str:
    """Path, time and size: a bundle that was replaced is loaded again."""
    file = path / "bundle.json" if path.is_dir() else path
    try:
        about = file.stat()
    except OSError:  # removed since it was found
        return f"{path} gone"
    return f"{path} {about.st_mtime_ns} {about.st_size}"


def why_not(path: Path) -> str:
    """Why the bundle cannot be loaded; empty where it can."""
    try:
        bundle_files.load(path)
    except XraykitError as error:
        return str(error)
    return ""


def read_zip(name: str, data: bytes) -> Bundle:
    """A bundle from an uploaded ``.zip``, which is never written to the disk.

    Raises:
        DataError: empty or above `uploads.MAX_MB`.
        BundleError: anything wrong with it; the message calls it by `name`.
    """
    check_bytes(name, data)
    try:
        return bundle_files.from_zip(data)
    except BundleError as error:
        raise BundleError(f"{shown_name(name)}: {error}") from error
