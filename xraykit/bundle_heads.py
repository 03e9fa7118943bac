"""The scikit-learn part of a bundle as a skops file, of which nothing is trusted but a short list of types.

skops rebuilds objects from their attributes and runs no code of the file. Its own list of trusted types is
long; ours is what a bundle needs. `bundle_head_checks` looks at the numbers before they compute.
"""

import io
import json
import warnings
import zipfile
from collections.abc import Iterator

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline

from xraykit.bundle_head_checks import CLASSIFIERS, SCALINGS, SUPPORTED, check, first_line
from xraykit.errors import BundleError

_INSIDE = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "str", "int", "float", "bool")),
    *(f"numpy.{name}" for name in ("ndarray", "float64", "float32", "int64", "int32")),
)
_ESTIMATORS = (CalibratedClassifierCV, Pipeline, *CLASSIFIERS, *SCALINGS)
TRUSTED = frozenset(f"{kind.__module__}.{kind.__name__}" for kind in _ESTIMATORS) | frozenset(_INSIDE)
"""Every type that a head may hold."""
LOADERS = frozenset(
    ("DictNode", "JsonNode", "ListNode", "NdArrayNode", "ObjectNode", "TupleNode", "TypeNode", "CachedNode")
)
"""What skops may make them with; none of these is a function or a method."""
LONGEST_SCHEMA = 2**20
"""Bytes that may describe a head: of two classes it takes 75,000, of a hundred 340,000."""


def fitted_part(head: BaseEstimator) -> BaseEstimator:
    """What `head` calibrates, the pipeline that was fitted to all images; or `head` itself."""
    return head.calibrated_classifiers_[0].estimator if isinstance(head, CalibratedClassifierCV) else head


def answer(head: BaseEstimator, features: np.ndarray) -> np.ndarray:
    """Probabilities float64 (N, K) of features (N, D), computed in float64 whatever their precision."""
    return np.asarray(head.predict_proba(np.asarray(features, np.float64)), np.float64)


def dump(head: BaseEstimator) -> bytes:
    """The skops file of a fitted head.

    Raises:
        BundleError: another estimator than `bundle_head_checks.SUPPORTED`.
    """
    import skops.io

    check(head)
    try:
        data = skops.io.dumps(head)
    except Exception as error:  # skops has an error of its own for each thing that it cannot write
        raise BundleError(
            f"its head cannot be written ({first_line(error)}); a head is {SUPPORTED}"
        ) from error
    _check_schema(data)
    return data


def load(data: bytes) -> BaseEstimator:
    """The head of a skops file, checked: it can compute.

    Raises:
        BundleError: a damaged file, types that are not in `TRUSTED`, or numbers that do not fit together.
    """
    import skops.io

    _check_schema(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # another version of scikit-learn is reported by the caller
            head = skops.io.loads(data, trusted=sorted(TRUSTED))
    except Exception as error:  # skops and NumPy raise many kinds on a file that was altered
        raise BundleError(f"its head cannot be read ({first_line(error)}); get the bundle again") from error
    check(head)
    return head


def _check_schema(data: bytes) -> None:
    """Refuse whatever is no zip of a schema and arrays, or has a type or a loader that is on no list."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            packed = any(item.compress_type != zipfile.ZIP_STORED for item in opened.infolist())
            size = opened.getinfo("schema.json").file_size
            schema = {} if packed or size > LONGEST_SCHEMA else json.loads(opened.read("schema.json"))
            nodes = list(_nodes(schema))
    except Exception as error:  # as above
        raise BundleError(f"its head is no skops file ({first_line(error)}); get the bundle again") from error
    if packed:
        raise BundleError("its head is compressed, which it is not when it is saved; get the bundle again")
    if size > LONGEST_SCHEMA:
        raise BundleError(
            f"its head is described in {size:,} bytes; the limit is {LONGEST_SCHEMA:,}, which about 300 "
            "classes need: take fewer classes, or get the bundle again"
        )
    types = {f"{node.get('__module__')}.{node['__class__']}" for node in nodes}
    refused = sorted(types - TRUSTED) + sorted({str(node.get("__loader__")) for node in nodes} - LOADERS)
    if refused:
        raise BundleError(
            f"its head holds {', '.join(refused)[:300]}, which is not on the list of what a bundle may hold: "
            f"it could run code, and is not loaded. A head is {SUPPORTED}"
        )


def _nodes(part: object) -> Iterator[dict]:
    """Every object that the schema describes."""
    if isinstance(part, dict):
        if "__class__" in part:
            yield part
        part = list(part.values())
    for value in part if isinstance(part, list) else ():
        yield from _nodes(value)
