"""Which notebook runs when: several at once, after those they depend on; when one fails, the rest goes on."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xraykit.notebook_parameters import Notebook
from xraykit.notebook_process import NotebookProcess
from xraykit.run_report import Progress, Result

SAMPLE_SECONDS = 0.2

Planned = Sequence[tuple[Notebook, dict[str, object]]]


@dataclass(frozen=True)
class Place:
    """Where the copies go and how the children run.

    Attributes:
        folder: the output folder.
        env: environment of the children.
        cell_timeout: limit of each cell in seconds, or None.
        inplace: replace the notebook itself, executed with its declared parameters; no page is written.
    """

    folder: Path
    env: dict[str, str]
    cell_timeout: float | None = None
    inplace: bool = False


def execute(
    planned: Planned,
    place: Place,
    *,
    jobs: int,
    depends: Mapping[str, Sequence[str]],
    progress: Progress,
    finished: Callable[[Result], None],
) -> list[Result]:
    """Run every planned notebook, at most `jobs` at once, and call `finished` as each one ends.

    A dependency counts only when it is part of this run: a notebook also runs alone. Whatever exception ends
    this function, Ctrl-C among them, no child is left behind.
    """
    waiting, running, results = list(planned), [], {}
    here = {notebook.number for notebook, _ in planned}

    def end(result: Result) -> None:
        results[result.number] = result
        progress.finish(result)
        finished(result)

    try:
        while waiting or running:
            for entry in list(waiting):
                needs = [n for n in depends.get(entry[0].number, ()) if n in here]
                lost = [results[n].name for n in needs if n in results and results[n].status != "ok"]
                if lost:
                    waiting.remove(entry)
                    end(_skipped(entry[0], lost))
                elif len(running) < jobs and all(n in results for n in needs):
                    waiting.remove(entry)
                    running.append(_start(*entry, place))
            time.sleep(SAMPLE_SECONDS)
            for process in list(running):
                process.sample()
                if process.poll():
                    running.remove(process)
                    end(_result(process))
                else:
                    progress.update(process)
    finally:
        progress.close()
        for process in running:
            process.stop()
            _keep_partial(process)
    return sorted(results.values(), key=lambda result: result.number)


def _skipped(notebook: Notebook, lost: Sequence[str]) -> Result:
    error = f"it depends on {', '.join(lost)}, which did not finish"
    return Result(notebook.number, notebook.name, "skipped", cells=len(notebook.cells), error=error)


def _start(notebook: Notebook, values: dict[str, object], place: Place) -> NotebookProcess:
    base = place.folder / notebook.name
    job = {
        "notebook": str(notebook.path.absolute()),
        "running": f"{base}.running.ipynb",
        "failed": f"{base}.failed.ipynb",
        "output": str(notebook.path.absolute()) if place.inplace else f"{base}.ipynb",
        "html": "" if place.inplace else f"{base}.html",
        "parameters": {} if place.inplace else values,
        "cell_timeout": place.cell_timeout,
        "clean": place.inplace,
    }
    for stale in ("failed.ipynb", "failed.html", "running.ipynb"):
        Path(f"{base}.{stale}").unlink(missing_ok=True)
    return NotebookProcess(notebook, job, log=Path(f"{base}.log"), env=place.env)


def _keep_partial(process: NotebookProcess) -> Path | None:
    """What a child that did not finish has saved, as the failed copy; None where it saved nothing."""
    if process.running.exists():
        process.running.replace(process.failed)
    return process.failed if process.failed.exists() else None


def _result(process: NotebookProcess) -> Result:
    end = process.end or {"status": "failed", "seconds": process.seconds, "error": process.describe_death()}
    ok = end["status"] == "ok"
    return Result(
        number=process.notebook.number,
        name=process.notebook.name,
        status=end["status"],
        cell=end.get("cell", process.cell),
        cells=process.of,
        seconds=end["seconds"],
        peak_mib=process.peak_mib,
        output=process.output if ok else _keep_partial(process),
        source="" if ok else end.get("source", process.source),
        error=end.get("error", ""),
        traceback=tuple(end.get("traceback", ())),
    )
