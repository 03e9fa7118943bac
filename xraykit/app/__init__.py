"""The app: use a saved classifier, or build one from a handful of images, in a browser on this machine."""

import errno
import importlib.util
import os
import socket
from contextlib import closing
from pathlib import Path

from xraykit.errors import RunError

PORT = 8501
LOCAL = ("localhost", "127.0.0.1", "::1")
EVERY = ("0.0.0.0", "::")


def start(
    *, bundles: Path | None = None, port: int = PORT, host: str = "localhost", browser: bool = True
) -> None:
    """Serve the app until the process is interrupted.

    Uploads stay in the memory of this process, and nothing is sent elsewhere.

    Args:
        bundles: folder of saved classifiers, where the embedded one is made too; default `bundles_dir`.
        port: to listen on.
        host: address to listen on; anything else than `LOCAL` lets others on the network in.
        browser: open one.

    Raises:
        RunError: Streamlit is not installed, `bundles` is no folder of bundles, or the address cannot be
            listened on; says what to do.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise RunError('the app needs Streamlit, which is not installed; pip install "xraykit[app]"')
    check_free(host, port)
    if bundles is not None:
        os.environ["XRAYKIT_BUNDLES_DIR"] = str(_folder(bundles))
    from starlette.formparsers import MultiPartParser
    from streamlit.web import bootstrap

    from xraykit.app.uploads import MAX_MB

    MultiPartParser.spool_max_size = (
        2 * MAX_MB * 2**20
    )  # else uploads over 1 MiB pass through a temporary file
    flags = options(port=port, host=host, browser=browser)
    bootstrap.load_config_options(flag_options=flags)
    shown = "localhost" if host in EVERY else host
    print(
        f"xraykit app: http://{f'[{shown}]' if ':' in shown else shown}:{port} (end it with Ctrl-C)",
        flush=True,
    )
    bootstrap.run(str(Path(__file__).with_name("main.py")), False, [], flags)


def _folder(bundles: Path) -> Path:
    folder = bundles.expanduser().absolute()
    if not folder.is_dir() or (folder / "bundle.json").exists():
        what = "is a bundle itself" if folder.is_dir() else "is no folder"
        raise RunError(
            f"--bundles {bundles} {what}; give the folder that holds the folders or zips of bundles"
        )
    return folder


def options(*, port: int, host: str, browser: bool) -> dict[str, object]:
    """Streamlit's settings, by name with ``_`` for the dot; they win over a config.toml of the user."""
    from xraykit.app.uploads import MAX_MB

    hosts = [] if host in EVERY else sorted({*LOCAL, host})
    return {
        "browser_gatherUsageStats": False,
        "client_showErrorDetails": "none",
        "client_showErrorLinks": False,
        "client_toolbarMode": "minimal",
        "global_developmentMode": False,
        "logger_hideWelcomeMessage": True,
        "runner_magicEnabled": False,
        "server_address": host,
        "server_allowedHosts": hosts,
        "server_enableXsrfProtection": True,
        "server_fileWatcherType": "none",
        "server_headless": not browser,
        "server_maxUploadSize": MAX_MB,
        "server_port": port,
        "server_showEmailPrompt": False,
    }


def check_free(host: str, port: int) -> None:
    """Raise RunError unless somebody may listen on the address now; the message says what to do."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with closing(socket.socket(family, kind, protocol)) as server:
            if os.name == "posix":
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
    except OSError as error:
        raise RunError(_why_not(host, port, error)) from error


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use, perhaps by another xraykit app; end that one, or choose "
            f"another: --port {port + 1}"
        )
    if error.errno == errno.EACCES:
        return f"port {port} is reserved ({error.strerror}); choose one above 1023: --port {PORT}"
    return f"--host {host} is no address of this machine ({error.strerror or error}); use localhost"
