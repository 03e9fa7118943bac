"""The command that serves the app."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    bundles: Annotated[
        Path | None,
        typer.Option(
            help="Folder of saved classifiers (default: XRAYKIT_BUNDLES_DIR, else bundles/ of the data "
            "folder)."
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8501,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets everybody on the network in.")
    ] = "localhost",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
) -> None:
    """Use a saved classifier, or build one from a handful of images, in a browser; all stays on this machine.

    For teaching and research, not for clinical use.
    """
    from xraykit import app as served

    served.start(bundles=bundles, port=port, host=host, browser=browser)
