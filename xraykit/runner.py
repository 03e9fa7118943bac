"""Executes notebooks of the series with papermill, each in a process of its own, and reports on them.

An output folder (``runs/<dataset>-<profile>/``) holds for each notebook ``NN_name.ipynb`` (the executed copy)
and ``NN_name.html``, both replaced only by a complete execution; after a failure ``NN_name.failed.ipynb`` and
its page; ``NN_name.log`` (what was printed outside the cells); and one ``timings.csv``.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import psutil
from filelock import FileLock, Timeout

from xraykit import notebook_parameters as nbp
from xraykit.errors import RunError, StorageError
from xraykit.notebook_parameters import Notebook
from xraykit.notebook_process import kernel_environment
from xraykit.run_report import Progress, Result, append_timings, failure_text, table
from xraykit.run_schedule import Place, Planned, execute
from xraykit.threads import cores

# Notebook -> the notebooks whose results or checkpoints it reads; it also runs alone.
DEPENDS: dict[str, tuple[str, ...]] = {
    "01": (),
    "02": (),
    "03": (),
    "04": (),
    "05": ("04",),
    "06": (),
    "07": (),
    "08": ("05",),
    "09": ("02", "04", "05", "06"),
}
PROFILES = ("quick", "full")
MAX_AUTO_JOBS = 4
GIB_PER_JOB = 3  # free memory that one more notebook at the same time should find


def auto_jobs(n_notebooks: int) -> int:
    """Notebooks to run at once: one a core, `GIB_PER_JOB` of free memory each, at most `MAX_AUTO_JOBS`."""
    memory = int(psutil.virtual_memory().available // (GIB_PER_JOB * 2**30))
    return max(1, min(n_notebooks, cores(), memory, MAX_AUTO_JOBS))


def plan(
    numbers: Sequence[str] = (),
    *,
    dataset: str = "synthetic",
    profile: str = "quick",
    parameters: Mapping[str, str] | None = None,
    notebooks_dir: str | Path | None = None,
) -> list[tuple[Notebook, dict[str, object]]]:
    """The notebooks to run with the values of their parameters, everything checked before anything starts.

    Without `numbers` it is every notebook that runs on `dataset`.

    Raises:
        RunError: an unknown number, profile or parameter, a value of the wrong type, a parameter that the
            notebook does not read, a data set that a notebook named in `numbers` does not run on.
    """
    if profile not in PROFILES:
        raise RunError(f"no profile {profile!r}; the profiles are {', '.join(PROFILES)}")
    available = nbp.find(notebooks_dir)
    notebooks = [nbp.read(available[number]) for number in nbp.select(available, numbers)]
    unfit = [n for n in notebooks if n.datasets and dataset not in n.datasets]
    if unfit and (numbers or len(unfit) == len(notebooks)):
        runs_on = "; ".join(f"{n.name} runs on {', '.join(n.datasets)}" for n in unfit)
        raise RunError(f"data set {dataset!r} does not fit: {runs_on}")
    given = {"dataset": dataset, "profile": profile, **(parameters or {})}
    return [(n, nbp.bind(n, given)) for n in notebooks if n not in unfit]


def run(
    planned: Planned,
    *,
    output_dir: str | Path,
    jobs: int | None = None,
    depends: Mapping[str, Sequence[str]] = DEPENDS,
    cell_timeout: float | None = None,
    inplace: bool = False,
    stream: TextIO | None = None,
) -> list[Result]:
    """Execute what `plan` returned, `jobs` at once (None: `auto_jobs`), and print progress and a table.

    A notebook waits for those it depends on, and is skipped when one of them failed; the others go on.
    With `inplace` a successful execution replaces the notebook itself, with its declared parameters.
    `cell_timeout` limits each cell, in seconds. Progress and table go to `stream` (None: standard error).

    Raises:
        RunError: `jobs` below 1, or another run is writing to `output_dir`.
        StorageError: `output_dir` cannot be written.
    """
    stream = stream or sys.stderr
    if jobs is not None and jobs < 1:
        raise RunError(f"--jobs must be at least 1, not {jobs}")
    jobs = min(jobs or auto_jobs(len(planned)), max(1, len(planned)))
    threads = max(1, cores() // jobs)
    folder = Path(output_dir).expanduser().absolute()
    with _locked(folder), kernel_environment(threads) as env:
        results = execute(
            planned,
            Place(folder, env, cell_timeout, inplace),
            jobs=jobs,
            depends=depends,
            progress=Progress(stream),
            finished=lambda r: append_timings(folder / "timings.csv", r, jobs=jobs, threads=threads),
        )
    print(table(results), file=stream)
    for result in results:
        if result.status == "failed":
            print(failure_text(result), file=stream)
    return results


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"another run is writing to {folder}; wait for it, or pass another --output-dir"
        ) from None
    except OSError as error:
        raise StorageError(
            f"cannot write to {folder}: {error.strerror}; pass another --output-dir"
        ) from error
    try:
        for partial in folder.glob(".*.partial"):  # a killed run's; under the lock nobody else writes here
            partial.unlink()
        yield
    finally:
        lock.release()
