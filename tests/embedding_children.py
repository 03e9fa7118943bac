"""What the subprocesses of test_embedding_shards.py run."""

import json
import os
import signal
import time
from pathlib import Path

from toy_backbones import pictures, toy

from xraykit import embedding_compute, embedding_store
from xraykit.embeddings import extract

N, CHUNK = 30, 8


def extract_and_die(cache_dir: Path, kill_at: int, pause: float) -> None:
    """Extract with `pause` seconds a batch; SIGKILL at rename number `kill_at`, half of a file written.

    At the end ``<cache_dir>/<pid>.json`` says how many images it computed and whether it found them.
    """
    embedding_store._CHUNK_ROWS = (CHUNK, CHUNK)
    steps = computed = 0
    read = embedding_compute.network_input

    def dies(original):
        def step(self: Path, target: Path) -> Path:
            nonlocal steps
            steps += 1
            if steps == kill_at:
                if self.is_file():
                    os.truncate(self, self.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, target)

        return step

    def slow(images, size):
        nonlocal computed
        computed += len(images)
        time.sleep(pause)
        return read(images, size)

    Path.replace, Path.rename, embedding_compute.network_input = dies(Path.replace), dies(Path.rename), slow
    options = {"backend": "torch", "device": "cpu", "threads": 1, "progress": False}
    found = extract(pictures(N), toy(), cache_dir=cache_dir, **options)
    (cache_dir / f"{os.getpid()}.json").write_text(json.dumps([computed, found.cached]))
