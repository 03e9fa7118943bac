"""Refuses every connection that leaves this machine.

tests/conftest.py puts this folder first on PYTHONPATH, so that Python imports the guard at the start of
every kernel and subprocess; conftest.py imports it for the test process itself.
"""

import socket

LOCAL = ("localhost", "127.", "::1")


class OfflineError(OSError):
    """A test tried to reach the network."""


def _check(host: object) -> None:
    host = host.decode() if isinstance(host, bytes) else host
    if host and not str(host).startswith(LOCAL):  # None and "" are this machine
        raise OfflineError(f"tests are offline: no connection to {host}")


_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
_INTERNET = (socket.AF_INET, socket.AF_INET6)


def connect(self: socket.socket, address: tuple) -> None:
    if self.family in _INTERNET:
        _check(address[0])
    _connect(self, address)


def connect_ex(self: socket.socket, address: tuple) -> int:
    if self.family in _INTERNET:
        _check(address[0])
    return _connect_ex(self, address)


def getaddrinfo(host: object, *args: object, **kwargs: object) -> list:
    _check(host)
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect_ex, getaddrinfo
