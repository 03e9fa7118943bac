"""What `xraykit predict` works on: image files, named or in folders, and a bundle, by its path or name."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from xraykit import bundle_files
from xraykit.bundle_manifest import JSON
from xraykit.datasets.files import IMAGE_SUFFIXES, scan
from xraykit.errors import DataError

OVERLAY_SUFFIX = ".gradcam.png"  # of what `predict_overlays` writes
_MAGIC_AT, _MAGIC = 128, b"DICM"


def image_paths(given: Sequence[str | Path]) -> list[Path]:
    """Every image file that is meant, each once, in the order given and within a folder sorted.

    A folder means the images in it and in those below it: files with one of `IMAGE_SUFFIXES`, and files
    without a suffix that begin as DICOM does. Left out are hidden files and overlays of an earlier run
    (``*.gradcam.png``, see `predict_overlays`); links to folders are not followed. A file that is named
    itself is taken whatever it is called.

    Raises:
        DataError: nothing given, a path that does not exist, a folder without images or not readable.
    """
    given = [Path(path).expanduser() for path in given]
    missing = [str(path) for path in given if not path.exists()]
    if missing or not given:
        raise DataError(
            f"{_named(missing) or 'no image'} does not exist; give image files or folders of them"
        )
    found: dict[Path, Path] = {}
    for path in given:
        inside = list(_below(path)) if path.is_dir() else [path]
        if not inside:
            raise DataError(
                f"{path} has no image in it or below; files ending with "
                f"{', '.join(IMAGE_SUFFIXES)} are read (but no *{OVERLAY_SUFFIX}), and DICOM files without "
                "a suffix"
            )
        for one in inside:
            found.setdefault(one.resolve(), one)
    return list(found.values())


def find_bundle(given: str, *, data_dir: str | Path | None = None) -> Path:
    """The folder or zip of a bundle, from its path or from its name in `bundle_files.bundles_dir`.

    A path comes first where it is a file, or a folder with a ``bundle.json``; any other folder of that name
    is passed over.

    Raises:
        DataError: neither; the message says where was looked and lists the names that are there, or says
            that one is there twice.
    """
    path = Path(given).expanduser()
    if os.path.isfile(path) or os.path.isfile(path / JSON):  # of a name that is too long `Path` would raise
        return path
    home = bundle_files.bundles_dir(data_dir)
    there = {
        found: found.relative_to(home).as_posix().removesuffix(".zip") for found in bundle_files.find(home)
    }
    named = [
        found for found, name in there.items() if given.removesuffix(".zip") in (name, name.split("/")[-1])
    ]
    if len(named) > 1:
        raise DataError(f"{given!r} is the name of {_named([str(p) for p in named])}; give the path of one")
    if not named:
        why = f"is a folder without {JSON}" if os.path.isdir(path) else "does not exist"
        names = f"none of that name, only {_named(sorted(there.values()))}" if there else "no bundles"
        raise DataError(f"no bundle {given!r}: {path.absolute()} {why}, and {home} has {names}")
    return named[0]


def _below(folder: Path) -> Iterator[Path]:
    try:
        listing = scan(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); check its permissions") from error
    images = [name for name in listing.images if not name.lower().endswith(OVERLAY_SUFFIX)]
    names = images + [name for name in listing.others if _is_dicom(folder / name)]
    yield from (folder / name for name in sorted(names))
    for name in listing.folders:
        if not (folder / name).is_symlink():
            yield from _below(folder / name)


def _is_dicom(path: Path) -> bool:
    """Whether a file without suffix begins with the preamble of DICOM; what cannot be read does not."""
    if path.suffix or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            file.seek(_MAGIC_AT, os.SEEK_SET)
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def _named(names: Sequence[str]) -> str:
    """The first five, and how many more."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
