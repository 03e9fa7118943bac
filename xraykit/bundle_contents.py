"""What stands in the files of a bundle: a bundle to bytes, and bytes to a bundle, each checked."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields

import numpy as np
import sklearn
from safetensors.numpy import load as arrays_from
from safetensors.numpy import save as arrays_to
from safetensors.torch import load as tensors_from
from safetensors.torch import save as tensors_to

from xraykit import bundle_heads
from xraykit.bundle import Bundle, Support
from xraykit.bundle_cards import USE, versions
from xraykit.bundle_checks import check
from xraykit.bundle_head_checks import first_line
from xraykit.bundle_manifest import FORMAT, JSON, LARGEST, check_total, listed, parse, take, written
from xraykit.bundle_networks import check_same, describe, rebuild, tensors
from xraykit.errors import BundleError
from xraykit.images import Preprocess
from xraykit.known import Known

_NUMBER = (int, float)
_PREPROCESS = {
    "size": int,
    "fit": str,
    "clahe_clip": (*_NUMBER, type(None)),
    "clahe_tiles": int,
    "brightness": int,
}


def contents(bundle: Bundle) -> dict[str, bytes]:
    """Every file of a bundle by name, ``bundle.json`` last.

    Raises:
        BundleError: parts that do not fit together, an architecture of one's own, or too large a part.
    """
    check(bundle)
    network = describe(bundle)
    state = tensors(bundle)
    check_same(bundle, *rebuild(network, state))
    if bundle.few_shot:
        files = {"backbone.safetensors": tensors_to(state), "head.skops": bundle_heads.dump(bundle.head)}
    else:
        files = {"network.safetensors": tensors_to(state)}
    values, arrays = _split(bundle.known)
    files["known.safetensors"] = arrays_to(arrays)
    if bundle.support is not None:
        files["support.safetensors"] = arrays_to(
            {k: np.ascontiguousarray(v) for k, v in vars(bundle.support).items()}
        )
    for name, data in files.items():
        if len(data) > LARGEST[name]:
            raise BundleError(f"{name} would have {len(data):,} bytes; the limit is {LARGEST[name]:,}")
    check_total(sum(map(len, files.values())))
    manifest = {
        "format": FORMAT,
        "name": bundle.name,
        "kind": bundle.kind,
        "classes": list(bundle.classes),
        "preprocess": asdict(bundle.preprocess),
        "network": network,
        "temperature": float(bundle.temperature),
        "thresholds": [float(t) for t in bundle.thresholds],
        "known": values,
        "card": bundle.card | {"use": USE},
        "versions": versions(),
        "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()},
    }
    data = written(manifest)
    parse(data)  # what could not be read again is not written
    return files | {JSON: data}


def _split(known: Known) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """The plain values of `known`, and its arrays."""
    parts = {f.name: getattr(known, f.name) for f in fields(known)}
    arrays = {k: np.ascontiguousarray(v) for k, v in parts.items() if isinstance(v, np.ndarray)}
    return {
        k: v.item() if isinstance(v, np.generic) else v for k, v in parts.items() if k not in arrays
    }, arrays


def read_bundle(manifest: Mapping[str, object], files: Mapping[str, bytes]) -> Bundle:
    """The bundle of a manifest and its files, whose sizes and hashes are right.

    Raises:
        BundleError: anything that does not fit.
    """
    try:
        bundle = _bundle(manifest, files)
        check(bundle)
    except BundleError:
        raise
    except Exception as error:  # the libraries raise many kinds on files that were altered
        raise BundleError(
            f"its parts do not fit together ({first_line(error)}); get the bundle again"
        ) from error
    return bundle


def _bundle(manifest: Mapping[str, object], files: Mapping[str, bytes]) -> Bundle:
    versions = take(manifest, "versions", dict)
    network = _network(take(manifest, "network", dict))
    whole = "network.safetensors" in files
    if whole != ("n_outputs" in network):
        raise BundleError(f"{JSON} describes another kind of head than its files hold; get the bundle again")
    backbone, model = rebuild(
        network, tensors_from(files["network.safetensors" if whole else "backbone.safetensors"])
    )
    head = model or _head(files["head.skops"], versions)
    preprocess = take(manifest, "preprocess", dict)
    return Bundle(
        name=take(manifest, "name", str),
        kind=take(manifest, "kind", str),
        classes=tuple(listed(manifest, "classes", str)),
        preprocess=Preprocess(**{k: take(preprocess, k, kind) for k, kind in _PREPROCESS.items()}),
        architecture=network["architecture"],
        backbone=backbone,
        head=head,
        temperature=float(take(manifest, "temperature", _NUMBER)),
        thresholds=tuple(float(t) for t in listed(manifest, "thresholds", _NUMBER)),
        known=_known(take(manifest, "known", dict), arrays_from(files["known.safetensors"])),
        support=_support(files.get("support.safetensors")),
        card=take(manifest, "card", dict) | {"use": USE},
    )


def _network(about: Mapping[str, object]) -> dict[str, object]:
    """The description of the network with every value of its kind."""
    kinds = {"architecture": str, "name": str, "size": int, "built_for": int}
    if "n_outputs" in about:
        kinds |= {"model": str, "n_outputs": int, "dropout": _NUMBER}
    network = {key: take(about, key, kind) for key, kind in kinds.items()}
    network |= {key: listed(about, key, _NUMBER) for key in ("mean", "std")}
    seen = take(about, "pretraining", dict)
    texts = {key: take(seen, key, str) for key in ("source", "seeds")}
    network["pretraining"] = texts | {key: listed(seen, key, str) for key in ("data", "labels")}
    if not (1 <= network.get("n_outputs", 1) <= 1000 and 0 <= network.get("dropout", 0) < 1):
        raise BundleError(
            f"its network has {network['n_outputs']} outputs, dropout {network['dropout']}; get it again"
        )
    return network


def _head(data: bytes, versions: Mapping[str, object]) -> object:
    made = take(versions, "scikit-learn", str)
    if made != sklearn.__version__:
        warnings.warn(
            f"this bundle's head was saved with scikit-learn {made}, and this is "
            f"{sklearn.__version__}; its answers may differ: compare them on images that "
            f"you know, or pip install scikit-learn=={made:.20}",
            stacklevel=5,
        )
    return bundle_heads.load(data)


def _known(values: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> Known:
    names = {f.name for f in fields(Known)}
    if names != {*values, *arrays}:
        raise BundleError(
            f"its known images have {sorted({*values, *arrays})!r:.200} instead of "
            f"{sorted(names)}; build the bundle again with this version"
        )
    take(values, "limit", _NUMBER)
    return Known(**values, **arrays)


def _support(data: bytes | None) -> Support | None:
    if data is None:
        return None
    arrays = arrays_from(data)
    names = [f.name for f in fields(Support)]
    if set(arrays) != set(names):
        raise BundleError(
            f"its support holds {sorted(arrays)!r:.200} instead of {names}; get the bundle again"
        )
    return Support(**arrays)
