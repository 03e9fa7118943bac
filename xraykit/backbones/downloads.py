"""What to say when a library's own download of weights fails."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xraykit.backbones.weight_files import DAMAGED, reason, weights_dir
from xraykit.errors import DownloadError, StorageError
from xraykit.storage import DISK_ERRORS

_FAILURES = (OSError, http.client.HTTPException, AttributeError, ImportError, *DAMAGED)


@contextmanager
def explained(name: str, *, url: str, target: Path, alternatives: str) -> Iterator[None]:
    """Around a download of `url` to `target`, and the loading of it: failures as errors that say what to do.

    Args:
        name: the backbone that was asked for.
        alternatives: what else `load` could be given, a line each.

    Raises:
        DownloadError: no network, another answer than the file, or a damaged file.
        StorageError: the folder of `target` cannot be written.
    """
    try:
        yield
    except _FAILURES as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise StorageError(
                f"cannot write {target} ({error.strerror}); free some space, or correct the "
                "rights of that folder"
            ) from error
        if target.is_file():
            raise DownloadError(
                f"the weights of {name}, {target}, are damaged ({reason(error)}); delete that file, and "
                f"the next run downloads {url} again"
            ) from error
        raise DownloadError(
            f"{name}: cannot download {url} ({reason(error)}). Get the file in another way and put it at\n"
            f"  {target}\nwhere it is looked for first, or choose other weights:\n{alternatives}"
        ) from error


def alternatives(architecture: str, folder: str | Path | None = None) -> str:
    """Weights that need no download, a line each; `folder` as the argument of `weights_dir`."""
    return (
        f"  {architecture}:<file>.safetensors or .pth, a path or the name of a file in {weights_dir(folder)} "
        "(XRAYKIT_WEIGHTS_DIR)\n"
        f"  {architecture}:random, untrained, as a baseline\n"
        "  phantom, the small encoder that comes with xraykit"
    )
