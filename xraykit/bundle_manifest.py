"""``bundle.json``: what a bundle is, which files belong to it, and what each of them must be."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from xraykit.errors import BundleError

JSON = "bundle.json"
FORMAT = 1
"""Version of the layout; what a later xraykit writes may have a higher one."""
LARGEST = {
    JSON: 2**20,
    "backbone.safetensors": 2**31,
    "network.safetensors": 2**31,
    "head.skops": 2**28,
    "known.safetensors": 2**27,
    "support.safetensors": 2**28,
}
"""The files that a bundle may have, and their largest sizes in bytes."""
MOST = 2**31
"""The largest size of all files of a bundle together, in bytes."""
_SHA256 = re.compile("[0-9a-f]{64}")
_DIGITS = 20  # of a whole number, as seeds of 64 bits have
_AGAIN = "get the bundle again"


@dataclass(frozen=True)
class Entry:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


def written(manifest: Mapping[str, object]) -> bytes:
    """The bytes of ``bundle.json``.

    Raises:
        BundleError: values that are no JSON, such as NaN, or too many of them.
    """
    try:
        data = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(
            f"its card cannot be written as JSON ({error}); give texts, finite numbers, lists"
        ) from error
    if len(data) > LARGEST[JSON]:
        raise BundleError(
            f"its card makes {JSON} {len(data):,} bytes long; the limit is {LARGEST[JSON]:,}: shorten it"
        )
    return data


def parse(data: bytes) -> dict[str, object]:
    """The manifest of ``bundle.json``, of this format, with all of its top-level values of the right kind.

    Raises:
        BundleError: no JSON, a newer format, or values that are missing or of another kind.
    """
    try:
        manifest = json.loads(data, parse_constant=_refused, parse_float=_finite, parse_int=_short)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{JSON} is no JSON ({str(error)[:200]}); {_AGAIN}") from error
    if not isinstance(manifest, dict):
        raise BundleError(f"{JSON} holds a {type(manifest).__name__}, not a bundle; {_AGAIN}")
    made = take(manifest, "format", int)
    if made > FORMAT:
        raise BundleError(
            f"it was made by a newer xraykit (format {made}, this reads {FORMAT}); pip install -U xraykit"
        )
    if made < 1:
        raise BundleError(f"{JSON} has the format {made}; formats begin with 1: {_AGAIN}")
    return manifest


def take(where: Mapping[str, object], key: str, kind: type | tuple[type, ...]) -> object:
    """The value of `key`, of type `kind`; a bool is no number.

    Raises:
        BundleError: it is missing or of another kind; names both.
    """
    value = where.get(key)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(k.__name__ for k in kinds)
        found = f"is {value!r:.80}" if key in where else "is missing"
        raise BundleError(f"{JSON}: {key!r} {found}; it must be {wanted}: {_AGAIN}")
    return value


def listed(where: Mapping[str, object], key: str, kind: type | tuple[type, ...]) -> list:
    """The list of `key`, all of its values of type `kind`."""
    values = take(where, key, list)
    for value in values:
        take({key: value}, key, kind)
    return values


def entries(manifest: Mapping[str, object]) -> dict[str, Entry]:
    """The files of a bundle by name, the names and sizes being possible ones.

    Raises:
        BundleError: other files than a bundle has, or larger ones.
    """
    files = take(manifest, "files", dict)
    heads = [{"backbone.safetensors", "head.skops"}, {"network.safetensors"}]
    if (
        set(files) - {"known.safetensors", "support.safetensors"} not in heads
        or "known.safetensors" not in files
    ):
        raise BundleError(
            f"{JSON} lists the files {sorted(files)!r:.200}, which are not those of a bundle; {_AGAIN}"
        )
    found = {}
    for name, about in files.items():
        if not isinstance(about, dict):
            raise BundleError(f"{JSON}: {name} is {about!r:.80}, not its size and hash; {_AGAIN}")
        size, digest = take(about, "bytes", int), take(about, "sha256", str)
        if not 0 < size <= LARGEST[name]:
            raise BundleError(f"{name} is said to have {size:,} bytes; 1 to {LARGEST[name]:,} are possible")
        if not _SHA256.fullmatch(digest):
            raise BundleError(f"{JSON}: the sha256 of {name} is {digest!r:.80}, not 64 hex digits; {_AGAIN}")
        found[name] = Entry(size, digest)
    check_total(sum(entry.size for entry in found.values()))
    return found


def check_total(size: int) -> None:
    """Raise BundleError where the files of a bundle together have more than `MOST` bytes."""
    if size > MOST:
        raise BundleError(
            f"its files have {size:,} bytes together; the limit is {MOST:,}: take a smaller network"
        )


def _refused(name: str) -> float:
    raise ValueError(f"{name} is not allowed")


def _short(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"{text[:20]}... is too large")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value
