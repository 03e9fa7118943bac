"""One notebook's child process as the runner sees it: its events, its memory, its end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import psutil

from xraykit.errors import StorageError
from xraykit.notebook_parameters import Notebook

THREAD_VARIABLES = (
    *("XRAYKIT_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "OPENCV_FOR_THREADS_NUM"),
)

LOG_LINES = 12
# jsonschema, which nbformat imports, would compile a grammar of web addresses for one to two seconds; it does
# without where the package is missing, and no notebook needs that check.
CHILD = """
import sys
sys.modules["rfc3987_syntax"] = None
from xraykit.notebook_worker import main
main()
"""


def describe_exit(returncode: int | None) -> str:
    """A process's exit status in words: ``SIGKILL, often for lack of memory``, ``exit status 3``."""
    if returncode is None:
        return "exit status unknown"
    if returncode >= 0:
        return f"exit status {returncode}"
    name = signal.Signals(-returncode).name
    return f"{name}, often for lack of memory" if name == "SIGKILL" else name


@contextlib.contextmanager
def kernel_environment(threads: int) -> Iterator[dict[str, str]]:
    """Environment for children whose kernel is this interpreter, whatever kernels the user has installed.

    Jupyter's and IPython's folders point into a temporary one, so that no startup file, history or
    configuration of the user plays a part and none is written. `threads` limits each numeric library.
    """
    from ipykernel.kernelspec import get_kernel_dict

    with tempfile.TemporaryDirectory(prefix="xraykit-kernel-", ignore_cleanup_errors=True) as home:
        spec = Path(home, "kernels", "python3", "kernel.json")
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps(get_kernel_dict()))
        env = {
            **os.environ,
            "JUPYTER_PATH": os.pathsep.join(filter(None, (home, os.environ.get("JUPYTER_PATH")))),
            "JUPYTER_RUNTIME_DIR": str(Path(home, "runtime")),
            "JUPYTER_CONFIG_DIR": str(Path(home, "config")),
            "IPYTHONDIR": str(Path(home, "ipython")),
            **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        }
        env.pop("MPLBACKEND", None)  # Agg, say, would leave the executed copy without its figures
        yield env


class NotebookProcess:
    """A running child; use `poll` for its events and `stop` to end it with everything it started.

    Attributes:
        cell, of, source: the cell it is at (1-based), the number of cells, and that cell's source.
        peak_mib: largest sum of resident memory of the kernel and its own children seen by `sample`; the
            child itself is not counted.
        end: the last event, once the child has reported how it ended.
    """

    def __init__(self, notebook: Notebook, job: dict[str, object], *, log: Path, env: dict[str, str]) -> None:
        self.notebook, self.log = notebook, log
        self.running, self.failed = Path(job["running"]), Path(job["failed"])
        self.output = Path(job["output"])
        self.cell, self.of, self.source = 0, len(notebook.cells), ""
        self.peak_mib, self.end, self.started = 0.0, None, time.monotonic()
        self._family: dict[int, psutil.Process] = {}
        self._events: SimpleQueue[dict[str, object] | None] = SimpleQueue()
        try:
            with log.open("wb") as stderr:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", CHILD],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=env,
                    start_new_session=True,  # Ctrl-C reaches the runner alone, which then stops its children
                )
        except OSError as error:
            raise StorageError(f"cannot start a notebook with its log in {log}: {error}") from error
        with contextlib.suppress(BrokenPipeError):  # died at once; poll() says so
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    @property
    def seconds(self) -> float:
        """Wall time since the start, in seconds."""
        return time.monotonic() - self.started

    def poll(self) -> bool:
        """Take in the events so far; True once the child has ended."""
        while not self._events.empty():
            event = self._events.get()
            if event is None:
                self.returncode = self._process.wait()
                self._kill_family()
                return True
            if event["event"] == "cell":
                self.cell, self.of, self.source = event["cell"], event["of"], event["source"]
            else:
                self.end = event
        return False

    def sample(self) -> None:
        """Measure the memory of the kernel and its children now, and remember who they are."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._family |= {process.pid: process for process in family}
            total = 0
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += process.memory_info().rss
            self.peak_mib = max(self.peak_mib, total / 2**20)

    def describe_death(self) -> str:
        """How a child ended that never reported its end, with the last lines of its log."""
        lines = self.log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
        return "\n    ".join(
            [f"the notebook's process died ({describe_exit(self.returncode)}); see {self.log}", *lines]
        )

    def _kill_family(self) -> None:
        for process in self._family.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil checks the creation time, so a reused id is not hit

    def stop(self) -> None:
        """Kill the child and everything that it started, and wait for it; what it saved stays complete."""
        self.sample()
        self._process.kill()
        self._process.wait()
        self._kill_family()
