"""Rows of `predict` as a table for people, as CSV or as JSON, written as they come."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from xraykit.bundle_cards import USE
from xraykit.datasets.files import IMAGE_SUFFIXES
from xraykit.errors import DataError
from xraykit.storage import guarded

FORMATS = ("table", "csv", "json")
REPLACED = (".csv", ".json", ".txt")  # what the answers of an earlier run are called
LEGEND = f"F{USE[1:]}."
MARK, P = "!", "p_"
UNKNOWN = (
    "did not look like the X-rays that this classifier knows (distance above 1); the answer means nothing"
)
WIDEST_NAME, MOST_CLASSES = 60, 4
_ADVICE = "free space or choose another file (--out)"


class Writer(Protocol):
    """Writes the head once, then rows, then what closes the text."""

    def start(self) -> None: ...

    def row(self, row: Mapping[str, object]) -> None: ...

    def end(self) -> None: ...


def writer(name: str, to: TextIO, *, columns: Sequence[str], images: Sequence[str]) -> Writer:
    """The writer of one of `FORMATS`.

    Args:
        columns: of `predict.columns`.
        images: what the rows will call their images, for the width of the table's first column.
    """
    if name == "table":
        return _Table(to, columns=columns, images=images)
    return _Csv(to, columns) if name == "csv" else _Json(to)


def format_of(given: str | None, out: Path | None) -> str:
    """One of `FORMATS`: as given, else by the suffix of the file, else the table.

    Raises:
        DataError: another format.
    """
    by_suffix = out.suffix.lower().removeprefix(".") if out else ""
    name = given or (by_suffix if by_suffix in FORMATS else "table")
    if name not in FORMATS:
        raise DataError(f"format {name!r}; choose of {', '.join(FORMATS)}")
    return name


def check_out(out: Path, *, images: Sequence[Path], bundle: Path | None = None) -> None:
    """Refuse to write over what is read, or over anything that does not look like an earlier answer.

    Args:
        out: the file to write; one of `REPLACED` that exists is replaced.
        images: that are answered.
        bundle: its folder or zip, if it came from the disk.

    Raises:
        DataError: `out` is one of the images, or the bundle, or lies in it; ends as an image does; is a
            folder; or exists and is no ordinary file of `REPLACED`.
    """
    exists = os.path.exists(out)  # of a name that is too long `Path.exists` would raise
    if os.path.isdir(out):
        raise DataError(f"{out} is a folder; give the name of a file (--out)")
    if exists and any(image.exists() and out.samefile(image) for image in images):
        raise DataError(f"{out} is one of the images; give another file for the answers (--out)")
    check_apart(out, bundle, option="--out")
    kinds = ", ".join(REPLACED)
    if out.suffix.lower() in IMAGE_SUFFIXES:
        raise DataError(
            f"{out} would be taken for an image; give a name that ends with one of {kinds} (--out)"
        )
    if exists and not (out.is_file() and out.suffix.lower() in REPLACED):
        raise DataError(
            f"{out} exists; only files that end with {kinds} are replaced: move it, or choose "
            "another name (--out)"
        )


def check_apart(place: Path, bundle: Path | None, *, option: str) -> None:
    """Raise DataError where `place` is the folder or zip of the bundle, or lies in it."""
    if bundle and bundle.resolve() in (place.resolve(), *place.resolve().parents):
        raise DataError(
            f"{place} lies in the bundle {bundle}, which has to stay as it is; choose another "
            f"place ({option})"
        )


@contextmanager
def written(out: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `out` when the block ends without an exception.

    After Ctrl-C what was written is kept as ``<out>.partial``; after an error nothing is.

    Raises:
        StorageError: it cannot be written.
    """
    with guarded(out.parent, advice=_ADVICE):
        out.parent.mkdir(parents=True, exist_ok=True)
        new = out.with_name(f".{out.name}.{os.getpid()}.partial")
        try:
            with new.open("w", encoding="utf-8", newline="") as file:
                try:
                    yield file
                finally:
                    file.flush()
                    os.fsync(file.fileno())
            new.replace(out)
        except KeyboardInterrupt:
            new.replace(partial(out))
            raise
        finally:
            new.unlink(missing_ok=True)


def partial(out: Path) -> Path:
    """Where `written` keeps what an interrupted run had written."""
    return out.with_name(f"{out.name}.partial")


class _Csv:
    def __init__(self, to: TextIO, columns: Sequence[str]) -> None:
        self._to, self._columns = csv.DictWriter(to, columns, lineterminator="\n"), columns

    def start(self) -> None:
        self._to.writeheader()

    def row(self, row: Mapping[str, object]) -> None:
        self._to.writerow({**row, "unknown": _yes_or_no(row["unknown"])})

    def end(self) -> None:
        pass


class _Json:
    def __init__(self, to: TextIO) -> None:
        self._to, self._n = to, 0

    def start(self) -> None:
        self._to.write("[")

    def row(self, row: Mapping[str, object]) -> None:
        self._to.write(("," if self._n else "") + "\n" + json.dumps(row, ensure_ascii=False))
        self._n += 1

    def end(self) -> None:
        self._to.write("\n]\n" if self._n else "]\n")


class _Table:
    """Fixed columns, so that rows can be shown as they come; of many classes the most probable are named."""

    def __init__(self, to: TextIO, *, columns: Sequence[str], images: Sequence[str]) -> None:
        self._to, self._marked, self._n = to, 0, 0
        self._p = [name for name in columns if name.startswith(P)]
        self._each = len(self._p) <= MOST_CLASSES
        numbers = [*self._p, "threshold"] if self._each else []
        self._numbers = [name for name in numbers if name in columns] + ["distance"]
        width = max(5, *(len(_short(name)) for name in images))
        self._widths = [width, max(4, *(len(name) - len(P) for name in self._p))]

    def start(self) -> None:
        names = [name.removeprefix(P).rjust(5) for name in self._numbers]
        self._line("", "image", "said", [*names, *([] if self._each else ["most probable"])])

    def row(self, row: Mapping[str, object]) -> None:
        self._n, self._marked = self._n + 1, self._marked + bool(row["unknown"])
        cells = [_number(row[name]).rjust(max(5, len(name.removeprefix(P)))) for name in self._numbers]
        if not self._each:
            ranked = sorted(self._p, key=lambda name: -row[name])[:MOST_CLASSES]
            cells.append(", ".join(f"{name.removeprefix(P)} {row[name]:.2f}" for name in ranked))
        self._line(MARK if row["unknown"] else "", str(row["image"]), str(row["said"]), cells)

    def end(self) -> None:
        if self._marked:
            self._to.write(f"{MARK} {self._marked} of {self._n} {UNKNOWN}\n")
        self._to.write(f"{LEGEND}\n")

    def _line(self, mark: str, image: str, said: str, cells: Sequence[str]) -> None:
        names = [name.ljust(width) for name, width in zip((_short(image), said), self._widths, strict=True)]
        self._to.write("  ".join([mark.ljust(1), *names, *cells]).rstrip() + "\n")


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.3f}"


def _yes_or_no(value: object) -> str:
    return "yes" if value else "no"


def _short(name: str) -> str:
    """A name for the terminal: no control characters, and of a long one the end."""
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= WIDEST_NAME else "…" + name[1 - WIDEST_NAME :]
