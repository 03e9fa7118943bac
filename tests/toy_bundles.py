"""Small bundles of every kind, and X-rays that are told apart at a glance."""

import functools
import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xraykit import classifiers
from xraykit.bundle import Bundle
from xraykit.bundle_build import few_shot, from_network
from xraykit.bundle_files import load, save, to_zip
from xraykit.bundle_manifest import JSON
from xraykit.errors import BundleError, XraykitError

PAIR = ("normal", "pneumonia")
THREE = ("normal", "bacterial", "viral")
FINDINGS = ("mass", "nodule", "oedema")


def xrays(n: int, k: int = 2, *, side: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n noisy images of each of k classes, each with a brighter band in another place, and their codes."""
    codes = np.repeat(np.arange(k), n)
    images = np.random.default_rng(seed).integers(40, 160, (n * k, side, side))
    for image, code in zip(images, codes, strict=True):
        image[code * side // k : (code + 1) * side // k] += 60
    return images.astype(np.uint8), codes


def estimator(k: int = 2, *, n: int = 6, backbone: str = "phantom", **options: object) -> Bundle:
    """A few-shot classifier of k classes."""
    images, codes = xrays(n, k)
    return few_shot(images, codes, PAIR if k == 2 else THREE, backbone=backbone, **{"name": "toy", **options})


def network(kind: str = "binary", *, spec: str = "cnn-small", size: int = 64, **options: object) -> Bundle:
    """An untrained network with a temperature and thresholds."""
    k = 2 if kind == "binary" else 3
    images, labels = xrays(5, k, side=size)
    thresholds = {"binary": [0.4], "multiclass": [], "multilabel": [0.3, 0.5, 0.6]}[kind]
    classes = {"binary": PAIR, "multiclass": THREE, "multilabel": FINDINGS}[kind]
    if kind == "multilabel":
        labels = np.eye(3, dtype=np.int64)[labels]
        labels[0] = 1
    model = classifiers.build(spec, 1 if kind == "binary" else 3, dropout=0.2)
    about = {"temperature": 1.7, "thresholds": thresholds, "images": images, "labels": labels}
    about |= {"architecture": spec, "classes": classes, "size": size, "name": "toy network"}
    return from_network(model, **about | options)


def save_and_die(target: Path, step: int) -> None:
    """Save a network as `target`, and die just before the given write or move; for a process of its own."""
    steps = iter(range(99))
    for owner, name in ((os, "fsync"), (Path, "rename")):
        original = getattr(owner, name)

        def counted(*args: object, original: Callable = original) -> object:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        setattr(owner, name, counted)
    save(network(), target)


@functools.cache
def zipped_toy() -> bytes:
    """A network without pictures, as a zip."""
    return to_zip(network(pictures=False))


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    """Edit the manifest."""
    manifest = json.loads((folder / JSON).read_text(encoding="utf-8"))
    edit(manifest)
    (folder / JSON).write_text(json.dumps(manifest), encoding="utf-8")


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file as an attacker would, with the right size and hash in the manifest."""
    (folder / name).write_bytes(data)
    about = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(folder, lambda m: m["files"].update({name: about}))


def refused(folder: Path, message: str) -> None:
    """Assert that it is not loaded, for this reason."""
    with pytest.raises(BundleError, match=message) as caught:
        load(folder)
    assert isinstance(caught.value, XraykitError)
    assert str(folder) in str(caught.value)
