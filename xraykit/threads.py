"""How many processors to use."""

import os

from xraykit.errors import RunError


def cores() -> int:
    """Processors that this process may use, at most ``XRAYKIT_THREADS`` where that is set.

    Raises:
        RunError: ``XRAYKIT_THREADS`` is not a whole number above 0.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    available = len(affinity(0)) if affinity else os.cpu_count() or 1
    limit = os.environ.get("XRAYKIT_THREADS", "")
    if limit and not (limit.isdigit() and int(limit) > 0):
        raise RunError(f"XRAYKIT_THREADS={limit} must be a whole number above 0; unset it to use every core")
    return min(available, int(limit)) if limit else available
