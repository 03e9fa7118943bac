"""What a run says while it goes on and at its end: progress, the table, the failing cell, timings.csv."""

import csv
import datetime
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from xraykit.notebook_process import NotebookProcess

BAR = "{desc}: cell {n_fmt}/{total_fmt} |{bar:30}| {elapsed}"
LINE_EVERY = 15.0  # seconds between progress lines of one notebook where there is no terminal
TIMINGS = ("finished", "notebook", "status", "cells", "seconds", "peak_mib", "jobs", "threads")


@dataclass(frozen=True)
class Result:
    """How one notebook ended.

    Attributes:
        number, name: ``"02"``, ``"02_balancing"``.
        status: ``ok``, ``failed`` or ``skipped`` (a notebook it depends on failed).
        cell, cells: the last cell that was started (1-based), and the number of cells.
        seconds: wall time of the execution, from starting the kernel to the last cell.
        peak_mib: peak resident memory in MiB, summed over the kernel and its children, sampled 5 times a
            second; a shorter peak is missed, and memory shared by several processes counts in each.
        output: the executed copy, complete or partial; None where there is none.
        source, error, traceback: of the cell that failed.
    """

    number: str
    name: str
    status: str
    cell: int = 0
    cells: int = 0
    seconds: float = 0.0
    peak_mib: float = 0.0
    output: Path | None = None
    source: str = ""
    error: str = ""
    traceback: tuple[str, ...] = ()


class Progress:
    """One bar for each running notebook on a terminal, else a line now and then."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.bars, self.printed = stream, {}, {}

    def update(self, process: NotebookProcess) -> None:
        """Show where `process` is."""
        name = process.notebook.name
        if not self.stream.isatty():
            if process.seconds >= self.printed.get(name, 0.0):
                self.printed[name] = process.seconds + LINE_EVERY
                self._line(f"{name}: cell {process.cell}/{process.of}, {process.seconds:.0f} s")
            return
        bar = self.bars.get(name)
        if bar is None:
            bar = tqdm(total=process.of, desc=name, bar_format=BAR, file=self.stream, leave=False)
            self.bars[name] = bar
        bar.total, bar.n = process.of, process.cell
        bar.refresh()

    def finish(self, result: Result) -> None:
        """Say how a notebook ended, in one line."""
        bar = self.bars.pop(result.name, None)
        if bar is not None:
            bar.close()
        reason = f": {result.error}" if result.status == "skipped" else ""
        self._line(f"{result.name}: {result.status}, {result.seconds:.0f} s{reason}")

    def close(self) -> None:
        """Take the bars off the terminal."""
        for bar in self.bars.values():
            bar.close()

    def _line(self, text: str) -> None:
        tqdm.write(text, file=self.stream)
        self.stream.flush()


def table(results: Sequence[Result]) -> str:
    """Notebook, status, cells, seconds, peak memory and executed copy, as aligned text."""
    rows = [("notebook", "status", "cells", "seconds", "peak MiB", "executed copy")]
    for r in results:
        numbers = (f"{r.cell}/{r.cells}", f"{r.seconds:.1f}", f"{r.peak_mib:.0f}")
        rows.append((r.name, r.status, *numbers, str(r.output or "-")))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    right = (False, False, True, True, True)
    lines = []
    for row in rows:
        cells = [
            text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row[:5], widths, right, strict=True)
        ]
        lines.append("  ".join((*cells, row[5])))
    return "\n".join(lines)


def failure_text(result: Result) -> str:
    """The failing cell with its source and message, and where the partial copy is."""
    source = "\n".join("    " + line for line in result.source.splitlines())
    parts = [
        f"\n{result.name} failed in cell {result.cell} of {result.cells}:",
        source,
        result.error,
        *("    " + line for line in result.traceback),
        f"Executed as far as it came: {result.output or 'nothing was saved'}",
    ]
    return "\n".join(part for part in parts if part)


def append_timings(path: Path, result: Result, *, jobs: int, threads: int) -> None:
    """Append one line to timings.csv in one write, so that a kill leaves no half line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not path.exists():
        writer.writerow(TIMINGS)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    numbers = (f"{result.seconds:.1f}", f"{result.peak_mib:.0f}", jobs, threads)
    writer.writerow((now, result.name, result.status, result.cell, *numbers))
    with path.open("ab", buffering=0) as file:
        file.write(text.getvalue().encode())
