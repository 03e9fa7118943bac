"""The runner: what it reports, what it leaves behind, and what it survives."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
import toy_notebooks as toys
from filelock import FileLock

from xraykit import notebook_worker, paths, runner, threads
from xraykit.errors import RunError, StorageError
from xraykit.run_report import Progress

SLEEPS = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(100)"
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")


class Zoo:
    """One run of notebooks that end in every way, and what it printed."""

    def __init__(self, folder: Path) -> None:
        plot = "import matplotlib.pyplot as plt; plt.plot([1, 2]);"
        threads = "import os; print(os.environ['OMP_NUM_THREADS'])"
        toys.write(folder, "01_ok", "import sys; print(sys.executable)", threads, plot)
        toys.write(
            folder, "02_fails", "x = b'x' * 2**28\nimport time; time.sleep(1)", "1 / seed", "print('after')"
        )
        toys.write(
            folder, "03_kernel", "print('alive')", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
        )
        toys.write(folder, "04_child", SLEEPS.replace("time.sleep", "os.kill(os.getppid(), 9); time.sleep"))
        toys.write(folder, "05_exits", "import sys; sys.exit()", "print('after')")
        toys.write(folder, "06_waits")
        toys.write(folder, "07_goes_on")
        self.folder, self.output, stream = folder, folder / "runs", io.StringIO()
        planned = runner.plan(notebooks_dir=folder, parameters={"figures_dir": "a 'b' \\c"})
        depends = {"06": ("05",), "07": ("01",), "01": ("99",)}
        results = runner.run(planned, output_dir=self.output, jobs=2, depends=depends, stream=stream)
        self.results, self.text = {r.number: r for r in results}, stream.getvalue()

    def copy(self, number: str) -> nbformat.NotebookNode:
        return nbformat.read(self.results[number].output, as_version=4)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    folder = tmp_path_factory.mktemp("zoo")
    spec = folder / "jupyter" / "kernels" / "python3" / "kernel.json"  # the user's, of some other environment
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "elsewhere", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("MPLBACKEND", "Agg")
        yield Zoo(folder)


def test_each_notebook_ends_as_it_should(zoo: Zoo) -> None:
    statuses = [zoo.results[f"0{i}"].status for i in range(1, 8)]
    assert statuses == ["ok", "failed", "failed", "failed", "failed", "skipped", "ok"]
    assert "it depends on 05_exits" in zoo.results["06"].error


def test_kernel_is_this_interpreter_with_its_share_of_threads(zoo: Zoo) -> None:
    cells = zoo.copy("01").cells
    assert cells[-3].outputs[0].text.strip() == sys.executable
    assert cells[-2].outputs[0].text.strip() == str(max(1, threads.cores() // 2))
    assert "image/png" in cells[-1].outputs[0].data


def test_parameters_arrive_unchanged(zoo: Zoo) -> None:
    cells = zoo.copy("01").cells
    assert cells[2].metadata.tags == ["injected-parameters"]
    assert cells[3].outputs[0].text == "synthetic quick 0  a 'b' \\c\n"


def test_page_is_written_beside_each_copy(zoo: Zoo) -> None:
    assert "<h1" in (zoo.output / "01_ok.html").read_text()
    assert "ZeroDivisionError" in (zoo.output / "02_fails.failed.html").read_text()


def test_failure_says_cell_source_message_and_copy(zoo: Zoo) -> None:
    result = zoo.results["02"]
    assert (result.cell, result.cells) == (6, 7)  # the injected cell counts
    assert result.source == "1 / seed"
    assert result.error == "ZeroDivisionError: division by zero"
    for text in ("02_fails failed in cell 6 of 7", "    1 / seed", result.error, str(result.output)):
        assert text in zoo.text
    cells = zoo.copy("02").cells
    assert cells[3].outputs  # what came before is kept
    assert not cells[6].outputs


def test_a_killed_kernel_is_reported_with_its_cell(zoo: Zoo) -> None:
    result = zoo.results["03"]
    assert result.error.startswith("the kernel died (SIGKILL")
    assert result.cell == 6
    assert zoo.copy("03").cells[4].outputs[0].text == "alive\n"


def test_a_killed_child_is_reported_and_its_kernel_goes_too(zoo: Zoo) -> None:
    result = zoo.results["04"]
    assert result.error.startswith("the notebook's process died (SIGKILL")
    assert "os.getppid()" in result.source
    assert zoo.copy("04").cells
    assert _gone(int((zoo.folder / "pid").read_text()))


def test_exit_in_a_cell_is_no_success(zoo: Zoo) -> None:
    assert "1 code cells from 6 on did not run" in zoo.results["05"].error


def test_peak_memory_is_that_of_the_kernel(zoo: Zoo) -> None:
    assert 256 < zoo.results["02"].peak_mib < 256 + 200
    assert 20 < zoo.results["07"].peak_mib < 256


def test_timings_and_table(zoo: Zoo) -> None:
    with (zoo.output / "timings.csv").open() as file:
        rows = {row["notebook"]: row for row in csv.DictReader(file)}
    assert len(rows) == 7
    assert (rows["01_ok"]["status"], rows["01_ok"]["jobs"]) == ("ok", "2")
    assert float(rows["02_fails"]["peak_mib"]) > 256
    assert "notebook    status   cells  seconds  peak MiB  executed copy" in zoo.text


def test_nothing_half_written_is_left(zoo: Zoo) -> None:
    left = [p.name for p in zoo.output.iterdir() if p.name.endswith((".partial", ".running.ipynb"))]
    assert left == []


def _gone(pid: int, seconds: float = 15) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_ending_the_runner_ends_its_kernels(number: signal.Signals, tmp_path: Path) -> None:
    toys.write(tmp_path, "01_sleeps", "print('before')", SLEEPS)
    code = (
        "import signal\n"  # a test run started in the background inherits that Ctrl-C is ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from xraykit import runner\n"
        f"runner.run(runner.plan(notebooks_dir={str(tmp_path)!r}), output_dir={str(tmp_path / 'runs')!r})"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed runner leaves its folder of kernel files
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path, env=env) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(0.3)
        process.send_signal(number)
        stderr = process.communicate()[1].decode()
    assert process.returncode in (-number, 130), stderr
    assert _gone(int((tmp_path / "pid").read_text()))
    kept = "01_sleeps.failed.ipynb" if number == signal.SIGINT else "01_sleeps.running.ipynb"
    nbformat.validate(nbformat.read(tmp_path / "runs" / kept, as_version=4))
    assert not (tmp_path / "runs" / "01_sleeps.ipynb").exists()


def test_a_failed_run_leaves_the_last_good_copy(tmp_path: Path) -> None:
    toys.write(tmp_path, "01_toy", "print(1 / (1 - seed))")

    def go(seed: str) -> runner.Result:
        planned = runner.plan(notebooks_dir=tmp_path, parameters={"seed": seed})
        return runner.run(planned, output_dir=tmp_path / "runs", stream=io.StringIO())[0]

    good = go("0").output
    content = good.read_bytes()
    bad = go("1")
    assert bad.status == "failed"
    assert bad.output.name == "01_toy.failed.ipynb"
    assert good.read_bytes() == content
    assert go("0").status == "ok"
    assert not bad.output.exists()


def test_in_place_strips_the_machine_and_keeps_a_failing_notebook(tmp_path: Path) -> None:
    good = toys.write(tmp_path, "01_good", "print(2)")
    bad = toys.write(tmp_path, "02_bad", "1 / seed")
    before = bad.read_bytes()
    planned = runner.plan(notebooks_dir=tmp_path)
    results = runner.run(planned, output_dir=tmp_path / "runs", inplace=True, stream=io.StringIO())
    assert [r.status for r in results] == ["ok", "failed"]
    nb = nbformat.read(good, as_version=4)
    assert nb.cells[-1].outputs[0].text == "2\n"
    assert [cell.execution_count for cell in nb.cells[1:]] == [1, 2, 3]
    assert set(nb.metadata) == {"kernelspec", "language_info", "xraykit"}
    assert all(set(cell.metadata) <= {"tags"} for cell in nb.cells)
    assert bad.read_bytes() == before


def test_a_cell_that_takes_too_long_fails(tmp_path: Path) -> None:
    toys.write(tmp_path, "01_slow", "import time; time.sleep(100)")
    planned = runner.plan(notebooks_dir=tmp_path)
    result = runner.run(planned, output_dir=tmp_path / "runs", cell_timeout=1, stream=io.StringIO())[0]
    assert result.error == "the cell ran longer than the limit of 1 seconds"
    assert "sleep(100)" in result.source


def test_two_runs_into_one_folder(tmp_path: Path) -> None:
    toys.write(tmp_path, "01_toy")
    planned = runner.plan(notebooks_dir=tmp_path)
    (tmp_path / "runs").mkdir()
    with FileLock(tmp_path / "runs" / ".lock"), pytest.raises(RunError, match="another run is writing to"):
        runner.run(planned, output_dir=tmp_path / "runs")


def test_an_output_folder_that_cannot_be(tmp_path: Path) -> None:
    toys.write(tmp_path, "01_toy")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="pass another --output-dir"):
        runner.run(runner.plan(notebooks_dir=tmp_path), output_dir=tmp_path / "file" / "runs")


def test_everything_is_checked_before_anything_starts(tmp_path: Path) -> None:
    toys.write(tmp_path, "01_a", datasets=["synthetic", "nih"])
    toys.write(tmp_path, "02_b", parameters=toys.PARAMETERS + "\nk = 1", datasets=["synthetic"])
    folder = {"notebooks_dir": tmp_path}
    with pytest.raises(RunError, match="02_b declares k"):
        runner.plan(**folder)
    with pytest.raises(RunError, match=r"'nih' does not fit: 02_b runs on synthetic"):
        runner.plan(["01", "02"], dataset="nih", **folder)
    with pytest.raises(RunError, match=r"'kermany' does not fit"):
        runner.plan(dataset="kermany", **folder)
    with pytest.raises(RunError, match="no profile 'fast'; the profiles are quick, full"):
        runner.plan(profile="fast", **folder)
    with pytest.raises(RunError, match="01_a has no parameter epochs"):
        runner.plan(["01"], parameters={"epochs": "1"}, **folder)
    planned = runner.plan(dataset="nih", profile="full", **folder)  # 02 does not run on it
    assert [(n.number, values) for n, values in planned] == [("01", {"dataset": "nih", "profile": "full"})]
    with pytest.raises(RunError, match="--jobs must be at least 1, not 0"):
        runner.run(planned, output_dir=tmp_path / "runs", jobs=0)


def test_cores_and_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYKIT_THREADS", "1")
    assert threads.cores() == 1
    assert runner.auto_jobs(9) == 1
    monkeypatch.setenv("XRAYKIT_THREADS", "many")
    with pytest.raises(RunError, match="XRAYKIT_THREADS=many must be a whole number above 0"):
        threads.cores()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    process = SimpleNamespace(notebook=SimpleNamespace(name="01_toy"), cell=4, of=9, seconds=1.0)
    for stream, expected in ((Terminal(), "01_toy: cell 4/9 |"), (io.StringIO(), "01_toy: cell 4/9, 1 s\n")):
        progress = Progress(stream)
        progress.update(process)
        progress.update(process)  # within LINE_EVERY seconds: no second line
        progress.finish(runner.Result("01", "01_toy", "ok", seconds=2.0))
        progress.close()
        assert expected in stream.getvalue()
        assert stream.getvalue().endswith("01_toy: ok, 2 s\n")
    assert stream.getvalue().count("\n") == 2


def test_pages_hold_the_committed_figures_that_the_text_links_to(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "01_a.png").write_bytes(b"picture")
    links = "![here](../figures/01_a.png) ![gone](../figures/01_b.png)"
    notebook = tmp_path / "01_a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(links)]), notebook)
    notebook_worker.write_page(notebook, tmp_path / "01_a.html")
    page = (tmp_path / "01_a.html").read_text()
    assert "data:image/png;base64,cGljdHVyZQ==" in page
    assert '"../figures/01_b.png"' in page
