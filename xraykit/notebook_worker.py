"""The child process that executes one notebook; `notebook_process` starts it.

It reads a job (one line of JSON) from standard input, reports each cell and the end as lines of JSON on
standard output, and saves the notebook atomically while it runs. Standard input stays open as a lifeline:
when the runner dies, however it dies, the child reads the end of it, kills its kernel and goes.
"""

import base64
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
import psutil
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError, strip_color

from xraykit import paths
from xraykit.notebook_process import describe_exit
from xraykit.storage import write_atomic

Emit = Callable[..., None]
SAVE_EVERY = 2.0  # seconds between saves of the running copy; saving after each cell costs seconds a notebook
TRACEBACK_LINES = 12


class _Manager(NotebookExecutionManager):
    """papermill's bookkeeping, saving atomically and reporting each cell that starts."""

    def __init__(self, nb: nbformat.NotebookNode, *, running: Path, emit: Emit) -> None:
        super().__init__(nb, progress_bar=False, autosave_cell_every=SAVE_EVERY)
        self.running, self.emit = running, emit
        self.saved = float("-inf")

    def save(self, **_: object) -> None:
        if self.end_time is not None or time.monotonic() - self.saved >= SAVE_EVERY:
            write_atomic(self.running, nbformat.writes(self.nb).encode())
            self.last_save_time, self.saved = self.now(), time.monotonic()

    def cell_start(
        self, cell: nbformat.NotebookNode, cell_index: int | None = None, **kwargs: object
    ) -> None:
        super().cell_start(cell, cell_index, **kwargs)
        self.emit(event="cell", cell=cell_index + 1, of=len(self.nb.cells), source=cell.source)


class _Client(PapermillNotebookClient):
    """papermill's client, saying how the kernel died while its exit status is still known."""

    def papermill_execute_cells(self) -> None:
        try:
            super().papermill_execute_cells()
        except DeadKernelError as error:
            process = getattr(self.km.provisioner, "process", None)
            raise DeadKernelError(f"the kernel died ({describe_exit(process and process.poll())})") from error


class _Engine(Engine):
    @classmethod
    def execute_notebook(  # papermill calls it with more than is needed here
        cls, nb: nbformat.NotebookNode, kernel_name: str, *, running: Path, emit: Emit,
        cell_timeout: float | None, **_: object,
    ) -> nbformat.NotebookNode:  # fmt: skip
        manager = _Manager(nb, running=running, emit=emit)
        manager.notebook_start()
        try:
            client = _Client(
                manager,
                kernel_name=kernel_name,
                timeout=cell_timeout,
                record_timing=False,
                coalesce_streams=True,
            )
            client.execute()
        finally:
            manager.notebook_complete()
        return manager.nb


def execute(job: dict[str, object], emit: Emit) -> None:
    """Execute the notebook of `job` and write its copies; the last event says how it ended.

    `job` has the keys ``notebook, running, failed, output, html`` (paths; `html` empty for none),
    ``parameters``, ``cell_timeout`` (seconds or None), and ``clean`` (strip what papermill adds).
    """
    started = time.monotonic()
    nb, failure = _run(job, emit)
    seconds = round(time.monotonic() - started, 2)
    running = Path(job["running"])
    output = Path(job["failed"] if failure else job["output"])
    if job["clean"] and not failure:
        clean(nb)
        write_atomic(output, nbformat.writes(nb).encode() + b"\n")  # perhaps on another disk than `running`
        running.unlink()
    else:
        running.replace(output)
    if job["html"]:
        write_page(output, output.with_suffix(".html"))
    emit(event="end", status="failed" if failure else "ok", seconds=seconds, **failure)


def _run(job: dict[str, object], emit: Emit) -> tuple[nbformat.NotebookNode | None, dict[str, object]]:
    """The executed notebook and, where it failed, what is known about it: cell, source, error, traceback."""
    papermill_engines.register("xraykit", _Engine)
    try:
        nb = papermill.execute_notebook(
            job["notebook"],
            None,
            parameters=job["parameters"],
            engine_name="xraykit",
            kernel_name="python3",
            cwd=Path(job["notebook"]).parent,
            running=Path(job["running"]),
            emit=emit,
            cell_timeout=job["cell_timeout"],
        )
        return nb, _stopped_early(nb)
    except PapermillExecutionError as error:
        return None, {
            "cell": error.cell_index + 1,
            "source": error.source,
            "error": f"{error.ename}: {error.evalue}",
            "traceback": strip_color("\n".join(error.traceback)).splitlines()[-TRACEBACK_LINES:],
        }
    except CellTimeoutError:
        return None, {"error": f"the cell ran longer than the limit of {job['cell_timeout']} seconds"}
    except DeadKernelError as error:
        return None, {"error": str(error)}


def _stopped_early(nb: nbformat.NotebookNode) -> dict[str, object]:
    """papermill takes ``exit()`` in a cell for success; here the cells after it were not run."""
    codes = [i for i, c in enumerate(nb.cells) if c.cell_type == "code" and c.source.strip()]
    unrun = [i for i in codes if nb.cells[i].execution_count is None]
    if not unrun:
        return {}
    last = max((i for i in codes if i < unrun[0]), default=unrun[0])
    return {
        "cell": last + 1,
        "source": nb.cells[last].source,
        "error": f"the notebook stopped here; {len(unrun)} code cells from {unrun[0] + 1} on did not run",
    }


def clean(nb: nbformat.NotebookNode) -> None:
    """Strip what differs from one execution to the next, so that a committed notebook's diff is small."""
    nb.metadata.pop("papermill", None)
    nb.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb.metadata["language_info"] = {"name": "python"}
    for cell in nb.cells:
        for key in ("papermill", "execution", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]


def write_page(notebook: Path, page: Path) -> None:
    """Write `notebook` as one HTML file with its figures in it; MathJax sets formulas, from the network."""
    from nbconvert import HTMLExporter

    nb = nbformat.read(notebook, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(?<=\]\()\.\./figures/[\w./-]+\.png(?=\))", _data_url, cell.source)
    body, _ = HTMLExporter().from_notebook_node(nb, resources={"metadata": {"name": notebook.stem}})
    write_atomic(page, body.encode())


def _data_url(link: re.Match[str]) -> str:
    """The linked picture itself; nbconvert embeds none from outside the notebook's folder."""
    path = paths.notebooks_dir() / link[0]
    if not path.is_file():
        return link[0]
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _die_with_runner() -> None:
    sys.stdin.buffer.read()
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)


def main() -> None:
    """Run the job on standard input; events go to the pipe, everything else that is printed to the log."""
    job = json.loads(sys.stdin.buffer.readline())
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    threading.Thread(target=_die_with_runner, daemon=True).start()
    execute(job, lambda **event: events.write(json.dumps(event) + "\n"))
    os._exit(0)  # the lifeline thread holds the lock of standard input
