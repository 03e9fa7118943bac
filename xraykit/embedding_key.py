"""What decides the features of a set of images, as the fields of a cache key."""

import hashlib
import inspect
from collections.abc import Iterator
from types import CodeType

import numpy as np
from torch import nn

from xraykit.backbones.base import Backbone
from xraykit.embedding_choice import Choice
from xraykit.embedding_store import blocks, release

_BLOCK_BYTES = 2**24


def key_fields(images: np.ndarray, backbone: Backbone, choice: Choice) -> dict[str, object]:
    """Pixels, network and computation, as JSON values: two extractions with the same fields are the same."""
    return {
        "pixels": pixels_hash(images),
        "shape": list(images.shape),
        "weights": backbone.weights_hash,
        "code": code_hash(backbone.module),
        "size": backbone.size,
        "backend": choice.backend,
        "precision": choice.precision,
        "device": choice.device,
        "versions": choice.versions(),
    }


def code_hash(module: nn.Module) -> str:
    """Hex digest of what `module` does beside its weights: an edited ``forward`` keeps those.

    That is every method of its classes, below decorators, with the defaults of its arguments, and every plain
    attribute (number, text or tuple). What a method calls outside its class is not seen: change the weights'
    name, or clear the cache, after an edit there. Reads bytecode and not source, which a class typed into a
    notebook may lack; so it also depends on the version of Python.
    """
    kinds = {type(part) for part in module.modules()}
    methods = {
        f"{kind.__module__}.{kind.__qualname__}.{name}": inspect.unwrap(method)
        for kind in kinds
        for base in kind.__mro__
        if issubclass(base, nn.Module) and base is not nn.Module
        for name, method in vars(base).items()
        if inspect.isfunction(method)
    }
    digest = hashlib.sha256()
    for name in sorted(methods):
        defaults = repr((methods[name].__defaults__, methods[name].__kwdefaults__))
        digest.update("\n".join([name, defaults, *_instructions(methods[name].__code__)]).encode())
    for name, part in module.named_modules():
        plain = {k: v for k, v in vars(part).items() if isinstance(v, bool | int | float | str | tuple)}
        digest.update(f"{name} {sorted(plain.items())}".encode())
    return digest.hexdigest()


def _instructions(code: CodeType) -> Iterator[str]:
    """Everything in a code object that is not a line number, the name of a file or the order of a set."""
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
        else:
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


def pixels_hash(images: np.ndarray, rows: np.ndarray | None = None) -> str:
    """Hex digest of grey images uint8 (N, H, W), or of those at the positions `rows`; read in blocks."""
    digest, at_once = hashlib.sha256(), max(1, _BLOCK_BYTES // (images.shape[1] * images.shape[2]))
    if rows is None:
        for _, block in blocks(images, at_once):
            digest.update(np.ascontiguousarray(block))
        return digest.hexdigest()
    for _, part in blocks(rows, at_once):
        digest.update(np.ascontiguousarray(images[part]))
        release(images)
    return digest.hexdigest()
