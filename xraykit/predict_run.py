"""One run of `xraykit predict`: answers to a file or standard output, all else to standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from xraykit.bundle import Bundle, Predictor, explained
from xraykit.predict import Answered, answered, columns, rows_of, shown
from xraykit.predict_output import (
    LEGEND,
    UNKNOWN,
    check_apart,
    check_out,
    partial,
    writer,
    written,
)

if TYPE_CHECKING:
    from xraykit.explain_cut import Explained

INTERRUPTED = 130  # as shells report a program ended by Ctrl-C
OPENVINO_FROM = 200  # images; its start takes up to half a second, which fewer hardly win back


@dataclass(frozen=True)
class Job:
    """What to answer, with what, and where it goes; see `cli_predict.predict`.

    `source` is the folder or zip that the bundle was loaded from, in which nothing may be written.
    """

    paths: list[Path]
    bundle: Bundle = field(repr=False)
    source: Path | None = None
    form: str = "table"
    out: Path | None = None
    overlays: Path | None = None
    batch_size: int = 32
    device: str = "auto"
    backend: str = "torch"


@dataclass
class _Seen:
    """What the run will report at its end."""

    answered: int = 0
    unknown: int = 0
    unreadable: list[str] = field(default_factory=list)
    without_overlay: list[str] = field(default_factory=list)


def run(job: Job) -> int:
    """Answer about every image; the exit status: 0, 1 where a file was unreadable, INTERRUPTED by Ctrl-C.

    Raises:
        XraykitError: options that do not fit, before anything is computed; see `bundle.Predictor`,
            `bundle.explained`, `predict_overlays.places`, `predict_output.check_out` and `written`.
    """
    if job.out:
        check_out(job.out, images=job.paths, bundle=job.source)
    if job.overlays:
        check_apart(job.overlays, job.source, option="--overlays")
    seen = _Seen()
    drawing = _Overlays(job) if job.overlays else None
    backend = "torch" if job.backend == "auto" and len(job.paths) < OPENVINO_FROM else job.backend
    predictor = Predictor(job.bundle, backend=backend, device=job.device, batch_size=job.batch_size)
    try:
        with _target(job) as to:
            _answer(job, predictor, to, seen=seen, drawing=drawing)
    except KeyboardInterrupt:
        kept = f"; they are in {partial(job.out)}" if job.out else ""
        _say(f"interrupted after {seen.answered} of {len(job.paths)} images{kept}")
        return INTERRUPTED
    _report(job, seen)
    return 1 if seen.unreadable else 0


class _Overlays:
    """Where the overlays go and what is explained; made before anything is computed, as it may refuse."""

    def __init__(self, job: Job) -> None:
        from xraykit import predict_overlays  # Matplotlib and the library of Grad-CAM, which take a second

        self._places = predict_overlays.places(job.paths, job.overlays)
        self._explained: Explained = explained(job.bundle)
        self._draw, self._bundle = predict_overlays.draw, job.bundle

    def __call__(self, batch: Answered) -> list[str]:
        return self._draw(self._explained, self._bundle, batch, to=self._places)


@contextmanager
def _target(job: Job) -> Iterator[TextIO]:
    if job.out is None:
        yield sys.stdout
        sys.stdout.flush()
    else:
        with written(job.out) as file:
            yield file


def _answer(job: Job, predictor: Predictor, to: TextIO, *, seen: _Seen, drawing: _Overlays | None) -> None:
    rows = writer(job.form, to, columns=columns(job.bundle), images=[shown(path) for path in job.paths])
    # A bar and rows on the same terminal would overwrite each other.
    hidden = not sys.stderr.isatty() or (job.out is None and sys.stdout.isatty())
    with tqdm(total=len(job.paths), unit="image", disable=hidden) as bar:

        def unreadable(path: Path, reason: str) -> None:
            seen.unreadable.append(reason)
            bar.update(1)

        rows.start()
        try:
            for batch in answered(predictor, job.paths, on_unreadable=unreadable):
                for row in rows_of(job.bundle, batch):
                    rows.row(row)
                to.flush()
                seen.answered += len(batch.paths)
                seen.unknown += int(batch.answers.unknown.sum())
                seen.without_overlay += drawing(batch) if drawing else []
                bar.update(len(batch.paths))
        finally:
            rows.end()


def _report(job: Job, seen: _Seen) -> None:
    if job.form != "table" or job.out:
        if seen.unknown:
            _say(f"{seen.unknown} of {seen.answered} images {UNKNOWN}")
        _say(LEGEND)
    for line in seen.without_overlay:
        _say(line)
    if seen.unreadable:
        _say(f"{len(seen.unreadable)} of {len(job.paths)} files could not be read:")
        for reason in seen.unreadable:
            _say(f"  {reason}")


def _say(line: str) -> None:
    print("".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
