"""Bundles as files: one folder of JSON, safetensors and skops, or a zip of it. Nothing in it is code.

``bundle.json`` names every other file with its size and SHA-256, so that a damaged copy is noticed. Whatever
is read is limited in size, and checked before it is used.
"""

import hashlib
import io
import os
import shutil
import zipfile
from pathlib import Path

from xraykit import bundle_sources, paths
from xraykit.bundle import Bundle
from xraykit.bundle_contents import contents, read_bundle
from xraykit.bundle_manifest import JSON, LARGEST, Entry, entries, parse
from xraykit.errors import BundleError
from xraykit.storage import guarded, locked

_ADVICE = "free space or choose another folder"


def bundles_dir(data_dir: str | Path | None = None) -> Path:
    """Where bundles are looked for: ``XRAYKIT_BUNDLES_DIR``, else ``<data folder>/bundles``."""
    return Path(os.environ.get("XRAYKIT_BUNDLES_DIR") or paths.data_dir(data_dir) / "bundles").expanduser()


def save(bundle: Bundle, folder: str | Path) -> Path:
    """Write a bundle as the folder `folder`; a bundle that is there is replaced as a whole.

    It is written beside its place and moved there at the end: a kill leaves the old bundle, the new one or
    none, never a mixture. Of two runs at once the second waits.

    Returns:
        The folder.

    Raises:
        BundleError: a bundle that does not fit together or needs code of yours; a folder that exists and is
            no bundle, or holds other files as well, which is never replaced.
        StorageError: the folder cannot be written.
    """
    folder = Path(folder).expanduser()
    folder = folder.parent.resolve() / folder.name
    files = contents(bundle)
    _check_place(folder)
    with (
        locked(folder.with_name(f".{folder.name}.lock"), advice=_ADVICE),
        guarded(folder.parent, advice=_ADVICE),
    ):
        _check_place(folder)
        new, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("partial", "old"))
        if old.exists() and not folder.exists():  # a run was killed between its two last steps
            old.rename(folder)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        new.mkdir()
        try:
            for name, data in files.items():
                _write(new / name, data)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
    return folder


def _check_place(folder: Path) -> None:
    if not (folder.exists() or folder.is_symlink()):
        return
    if folder.is_symlink() or not folder.is_dir() or not (folder / JSON).is_file():
        raise BundleError(
            f"{folder} exists and is no bundle, so it is not replaced; choose another name, or move it"
        )
    others = sorted({p.name for p in folder.iterdir()} - set(LARGEST))
    if others:
        raise BundleError(
            f"{folder} also holds {', '.join(others[:5])}, so it is not replaced; move that away first"
        )


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def load(path: str | Path) -> Bundle:
    """The bundle of a folder or a zip.

    Raises:
        BundleError: no bundle, or one that is damaged, incomplete, made by a newer version, or not to be
            trusted; the message says what is wrong with it and what to do.
    """
    path = Path(path).expanduser()
    try:
        if not path.exists():
            raise BundleError("it does not exist; give the folder or the zip of a bundle")
        if path.is_dir() and not (path / JSON).exists():
            raise BundleError(f"it has no {JSON}; give the folder of a bundle, which `save` wrote")
        return _loaded(bundle_sources.folder(path) if path.is_dir() else bundle_sources.zipped(path))
    except BundleError as error:
        raise BundleError(f"{path} is no usable bundle: {error}") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror or error}); check its rights") from error


def from_zip(data: bytes) -> Bundle:
    """The bundle of a zip that is in memory, such as an upload; nothing is written to the disk.

    Raises:
        BundleError: as `load`.
    """
    try:
        return _loaded(bundle_sources.zipped(data))
    except BundleError as error:
        raise BundleError(f"this zip is no usable bundle: {error}") from error


def _loaded(read: bundle_sources.Read) -> Bundle:
    manifest = parse(read(JSON))
    files = {name: _whole(name, read(name), entry) for name, entry in entries(manifest).items()}
    return read_bundle(manifest, files)


def _whole(name: str, data: bytes, entry: Entry) -> bytes:
    if len(data) != entry.size:
        raise BundleError(
            f"{name} is damaged: it has {len(data):,} bytes instead of {entry.size:,}; copy it again"
        )
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleError(f"{name} is damaged: its SHA-256 is not the one in {JSON}; copy it again")
    return data


def intact(folder: Path) -> dict[str, object] | None:
    """The manifest of a folder whose files are all whole, or None; nothing is loaded."""
    read = bundle_sources.folder(folder)
    try:
        manifest = parse(read(JSON))
        for name, entry in entries(manifest).items():
            _whole(name, read(name), entry)
    except (BundleError, OSError):
        return None
    return manifest


def to_zip(bundle: Bundle) -> bytes:
    """The same files as one zip; the same bundle has the same bytes, except for an estimator's head.

    Raises:
        BundleError: as `save`.
    """
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as opened:
        for name, data in contents(bundle).items():
            opened.writestr(zipfile.ZipInfo(name), data)
    return target.getvalue()


def find(folder: str | Path) -> list[Path]:
    """Bundles below `folder`, sorted: folders with a ``bundle.json``, and zips with one; hidden ones are not
    looked at. They may still turn out to be damaged; no folder, no bundles.
    """
    found = []
    for top, inside, files in os.walk(Path(folder).expanduser()):
        here = Path(top)
        if JSON in files:
            found.append(here)
            inside.clear()
            continue
        inside[:] = [name for name in inside if not name.startswith(".")]
        zips = [here / f for f in files if f.lower().endswith(".zip") and not f.startswith(".")]
        found += [path for path in zips if bundle_sources.is_zipped(path)]
    return sorted(found)
