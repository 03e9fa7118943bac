"""Commands of several processes that report by lines of JSON."""

import json
import os
import socket
import subprocess
from pathlib import Path


def environment() -> dict[str, str]:
    path = f"{Path(__file__).parent}{os.pathsep}{os.environ['PYTHONPATH']}"
    fixed = {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONHASHSEED": "12345",
    }
    return {**os.environ, **fixed}  # another hash seed than here: keys must not depend on it


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def reports_of(command: list[str]) -> tuple[list[dict], str]:
    """What the processes of a command report, one dict a line, and their standard error; it must succeed."""
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr
