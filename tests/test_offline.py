"""The tests' own plumbing: no connection leaves the machine, and nothing is written into the checkout."""

import socket
import subprocess
import sys

import pytest

from xraykit import paths

OUTSIDE = "http://192.0.2.1/"  # reserved for documentation, RFC 5737
CODE = f"import urllib.request; urllib.request.urlopen({OUTSIDE!r}, timeout=1)"


def test_connections_outside_are_refused() -> None:
    with socket.socket() as outside:
        for connect in (outside.connect, outside.connect_ex):
            with pytest.raises(OSError, match=r"tests are offline: no connection to 192\.0\.2\.1"):
                connect(("192.0.2.1", 80))
    with pytest.raises(OSError, match=r"no connection to example\.com"):
        socket.getaddrinfo("example.com", 80)


def test_subprocesses_are_offline_too() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert "tests are offline: no connection to 192.0.2.1" in done.stderr


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client:
            client.sendall(b"x")
        assert server.accept()[0].recv(1) == b"x"


def test_figures_and_data_go_to_a_temporary_folder() -> None:
    for folder in (paths.figures_dir(), paths.data_dir()):
        assert "xraykit-tests-" in str(folder)
        assert paths.project_root() not in folder.parents
