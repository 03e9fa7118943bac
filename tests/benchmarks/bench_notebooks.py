"""Seconds and peak memory of notebooks 01 and 02 on the quick profile, one after the other and side by side.

    python tests/benchmarks/bench_notebooks.py [NN ...]

Each pass starts from a warm environment: one untimed pass fills the disk cache, and the data folder is kept.
Figures and copies go to a temporary folder. Target: both, side by side, in under 60 seconds.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

from xraykit import runner
from xraykit.errors import RunError

TARGET_SECONDS = 60


def measure(numbers: list[str], folder: Path, jobs: int) -> tuple[float, list[runner.Result]]:
    """Wall seconds of one run with `jobs` at once, and its results."""
    folders = {"figures_dir": str(folder / "figures"), "data_dir": str(folder / "data")}
    planned = runner.plan(numbers, parameters=folders)
    stream, started = io.StringIO(), time.perf_counter()
    results = runner.run(planned, output_dir=folder / "runs", jobs=jobs, stream=stream)
    seconds = time.perf_counter() - started
    if any(result.status != "ok" for result in results):
        raise RunError(stream.getvalue())
    return seconds, results


def main(numbers: list[str]) -> None:
    """Print one line a notebook and pass, and the wall time of each pass."""
    with tempfile.TemporaryDirectory(prefix="xraykit-bench-") as name:
        measure(numbers, Path(name), len(numbers))
        print(f"{'pass':<16}{'notebook':<16}{'seconds':>9}{'peak MiB':>10}")
        for label, jobs in (("one at a time", 1), ("side by side", len(numbers))):
            wall, results = measure(numbers, Path(name), jobs)
            for r in results:
                print(f"{label:<16}{r.name:<16}{r.seconds:>9.1f}{r.peak_mib:>10.0f}")
            peak = sum(r.peak_mib for r in results) if jobs > 1 else max(r.peak_mib for r in results)
            print(f"{label:<16}{'together':<16}{wall:>9.1f}{peak:>10.0f}   target {TARGET_SECONDS} s")


if __name__ == "__main__":
    main(sys.argv[1:] or ["01", "02"])
