"""Kills, two runs at once, and processes that share the work: real subprocesses."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import embedding_children
import numpy as np
import pytest
from embedding_children import CHUNK, N
from processes import free_port, reports_of
from toy_backbones import pictures, toy

from xraykit import devices, embedding_shards, embedding_store
from xraykit.embedding_choice import Choice, import_openvino
from xraykit.embeddings import Embeddings, extract
from xraykit.errors import DataError, StorageError

CHUNKS = 4
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")

SHARED = f"""
import json, sys
from toy_backbones import pictures, toy
from xraykit import embedding_store
from xraykit.embeddings import extract

embedding_store._CHUNK_ROWS = ({CHUNK}, {CHUNK})
rows, original = [], embedding_store.write

def write(place, chunk, features):
    rows.append(chunk.start)
    original(place, chunk, features)

embedding_store.write = write
for backend in sys.argv[2:]:
    rows.clear()
    for again in range(2):
        options = dict(cache_dir=sys.argv[1], backend=backend, device="cpu", threads=1)
        found = extract(pictures({N}), toy(), **options)
        report = dict(rank=found.rank, backend=backend, cached=found.cached, rows=rows, key=found.key)
        report["sum"] = float(found.features.sum())
        sys.stdout.write(json.dumps(report) + "\\n")
        sys.stdout.flush()
"""


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(embedding_store, "_CHUNK_ROWS", (CHUNK, CHUNK))


def quiet(cache_dir: Path, **options) -> Embeddings:
    options = {"backend": "torch", "device": "cpu", "threads": 1, "progress": False, **options}
    return extract(pictures(N), toy(), cache_dir=cache_dir, **options)


def start(cache_dir: Path, *, kill_at: int = 0, pause: float = 0) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_fabric", "xraykit.embeddings"])  # once for all children
    child = context.Process(target=embedding_children.extract_and_die, args=(cache_dir, kill_at, pause))
    child.start()
    return child


def contents(cache_dir: Path) -> dict[str, bytes]:
    """Every file of the one finished cache."""
    (folder,) = (path for path in (cache_dir / "embeddings").iterdir() if path.is_dir())
    assert folder.suffix == ""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@POSIX
@pytest.mark.parametrize(
    ("kill_at", "finished"),
    [
        (1, 0),  # the first chunk half written
        (CHUNKS, 3 * CHUNK),  # the last one
        (CHUNKS + 1, N),  # merged, the file half written
        (CHUNKS + 2, N),  # meta.json half written
        (CHUNKS + 3, N),  # everything there but the last rename
    ],
)
def test_a_killed_extraction_goes_on_and_ends_the_same(tmp_path, computed, kill_at, finished):
    child = start(tmp_path / "killed", kill_at=kill_at)
    child.join(timeout=60)
    assert child.exitcode == -signal.SIGKILL
    found = quiet(tmp_path / "killed")
    assert not found.cached
    assert sum(computed) == N - finished
    quiet(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@POSIX
def test_two_runs_at_once_compute_each_image_once(tmp_path):
    children = [start(tmp_path / "cache", pause=0.1) for _ in range(2)]
    for child in children:
        child.join(timeout=60)
    assert [child.exitcode for child in children] == [0, 0]
    answers = [json.loads((tmp_path / f"cache/{child.pid}.json").read_text()) for child in children]
    assert sorted(answers) == [[0, True], [N, False]]
    quiet(tmp_path / "whole")
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


@POSIX
def test_waiting_for_another_run_is_said_and_a_kill_hands_over(tmp_path, capsys, computed):
    child = start(tmp_path / "cache", pause=0.3)
    while not list((tmp_path / "cache").rglob("*.chunk")):
        assert child.exitcode is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGSTOP)  # it holds the lock and does nothing
    killer = threading.Timer(0.5, child.kill)
    killer.start()
    found = quiet(tmp_path / "cache", progress=True)
    killer.join()
    child.join(timeout=60)
    assert "another run is computing these features; waiting" in capsys.readouterr().err
    assert (found.cached, sum(computed) < N) == (False, True)


def test_two_processes_of_torchrun_give_the_same_bytes(tmp_path):
    (tmp_path / "shared.py").write_text(SHARED)
    backends = ["torch", "openvino"] if import_openvino() else ["torch"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    command += [str(tmp_path / "shared.py"), str(tmp_path / "shared"), *backends]
    reports, _ = reports_of(command)
    for backend in backends:
        alone = quiet(tmp_path / "alone", backend=backend)
        shared = quiet(tmp_path / "shared", backend=backend)
        assert shared.cached
        assert shared.features.tobytes() == alone.features.tobytes()
        mine = {(r["rank"], r["cached"]): r for r in reports if r["backend"] == backend}
        assert sorted(mine) == [(0, False), (0, True), (1, False), (1, True)]
        for rank in (0, 1):
            assert mine[rank, False]["rows"] == mine[rank, True]["rows"] == [rank * CHUNK, (rank + 2) * CHUNK]
            assert mine[rank, False]["key"] == alone.key
            assert mine[rank, True]["sum"] == float(alone.features.sum())
    assert not list((tmp_path / "shared").rglob("*.chunk"))


def test_a_chunk_that_vanishes_before_the_merge_is_said(tmp_path, monkeypatch):
    original = embedding_store.merge

    def merge(place):
        place.file(place.chunks()[2]).unlink()
        original(place)

    monkeypatch.setattr(embedding_store, "merge", merge)
    with pytest.raises(StorageError, match=r"000000016\.chunk was removed or damaged .*; run this"):
        quiet(tmp_path)
    monkeypatch.setattr(embedding_store, "merge", original)
    assert not quiet(tmp_path).cached


# ---- how many processes


def test_team_size_is_as_given_or_as_torchrun_started_it(monkeypatch):
    assert devices.team_size(None, None) == (1, 1)
    assert devices.team_size(4, 2) == (4, 2)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert devices.team_size(None, None) == devices.team_size(4, 2) == (4, 2)
    with pytest.raises(DataError, match=r"devices = 2 .* torchrun started 4 processes on each of 2 machines"):
        devices.team_size(2, None)


def test_openvino_alone_needs_no_fabric():
    team = embedding_shards.join(Choice("openvino", "fp32", "cpu"), devices=1, num_nodes=1)
    assert (team.rank, team.world, team.local, team.fabric) == (0, 1, 1, None)
    team.barrier()


def test_what_fabric_refuses_is_a_data_error(monkeypatch):
    monkeypatch.setenv("LT_CLI_USED", "1")
    monkeypatch.setenv("LT_ACCELERATOR", "gpu")
    with pytest.raises(DataError, match=r"1 x cpu on 1 machines: .*conflicts"):
        embedding_shards.join(Choice("torch", "fp32", "cpu"), devices=1, num_nodes=1)


def test_the_result_is_a_view_of_the_file(tmp_path):
    found = quiet(tmp_path)
    assert Path(found.features.filename) == found.folder / "features.f32"
    np.testing.assert_array_equal(
        np.fromfile(found.folder / "features.f32", np.float32), found.features.ravel()
    )
