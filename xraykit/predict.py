"""What a bundle says about image files: one row for each, however many there are.

The files are read by a few threads, ahead of the network by at most two batches, so that memory does not
depend on their number.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from xraykit.bundle import Answers, Bundle, Predictor
from xraykit.errors import BadImageError
from xraykit.images import Preprocess, read_for
from xraykit.threads import cores

BATCHES_AHEAD = 2
OnUnreadable = Callable[[Path, str], None]


@dataclass(frozen=True, eq=False)
class Answered:
    """A batch of B images and what was said about them.

    Attributes:
        paths: of the files.
        images: uint8 (B, size, size), resized as `Bundle.preprocess` does and nothing else;
            `bundle.prepared` does the rest.
        answers: of the predictor.
    """

    paths: tuple[Path, ...]
    images: np.ndarray
    answers: Answers


def rows(
    predictor: Predictor, paths: Iterable[Path], *, on_unreadable: OnUnreadable
) -> Iterator[dict[str, object]]:
    """One row an image, in the order of `paths`; see `columns`.

    Args:
        predictor: its `batch_size` is how many images are in one batch.
        on_unreadable: called with the path of each file that cannot be used and the reason; it has no row.
    """
    for batch in answered(predictor, paths, on_unreadable=on_unreadable):
        yield from rows_of(predictor.bundle, batch)


def answered(
    predictor: Predictor, paths: Iterable[Path], *, on_unreadable: OnUnreadable
) -> Iterator[Answered]:
    """As `rows`, a batch at a time and with the images."""
    waiting: deque[tuple[tuple[Path, ...], np.ndarray]] = deque()

    def images() -> Iterator[np.ndarray]:
        for batch in _batches(readable, predictor.batch_size):
            waiting.append((tuple(path for path, _ in batch), np.stack([image for _, image in batch])))
            yield waiting[-1][1]

    with _read(paths, predictor.bundle.preprocess, ahead=BATCHES_AHEAD * predictor.batch_size) as found:
        readable = _readable(found, on_unreadable)
        for answers in predictor.stream(images()):
            yield Answered(*waiting.popleft(), answers)


def columns(bundle: Bundle) -> list[str]:
    """Names of what a row of `bundle` holds, in their order.

    ``image`` (path), ``said`` (the decision), ``p_<class>`` for each class (0..1), ``threshold`` (None where
    the most probable class wins; of several labels an image a ``threshold_<class>`` each), ``unknown`` (bool)
    and ``distance`` (above 1: unknown).
    """
    several = [f"threshold_{c}" for c in bundle.classes] if bundle.kind == "multilabel" else ["threshold"]
    return ["image", "said", *(f"p_{c}" for c in bundle.classes), *several, "unknown", "distance"]


def rows_of(bundle: Bundle, batch: Answered) -> Iterator[dict[str, object]]:
    """The rows of one batch; probabilities and distances with six decimals."""
    names, thresholds = columns(bundle), bundle.thresholds or (None,)
    said = batch.answers
    for i, path in enumerate(batch.paths):
        p = [round(float(value), 6) for value in said.probabilities[i]]
        about = (bool(said.unknown[i]), round(float(said.distance[i]), 6))
        yield dict(zip(names, (shown(path), said.said[i], *p, *thresholds, *about), strict=True))


def shown(path: Path) -> str:
    """A path as text that can be written as UTF-8, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", "replace")


def _loaded(path: Path, preprocess: Preprocess) -> np.ndarray | BadImageError:
    try:
        return read_for(path, name=str(path), size=preprocess.size, fit=preprocess.fit)
    except BadImageError as error:
        return error


Found = Iterator[tuple[Path, np.ndarray | BadImageError]]


@contextmanager
def _read(paths: Iterable[Path], preprocess: Preprocess, *, ahead: int) -> Iterator[Found]:
    """Images or errors in the order of `paths`, read in threads that end with the context."""
    pool = ThreadPoolExecutor(cores(), thread_name_prefix="read")
    left = iter(paths)

    def start(n: int) -> Iterator[tuple[Path, Future]]:
        return ((path, pool.submit(_loaded, path, preprocess)) for path in islice(left, n))

    def found() -> Found:
        running = deque(start(ahead))
        while running:
            path, future = running.popleft()
            yield path, future.result()
            running.extend(start(1))

    try:
        yield found()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _readable(found: Found, on_unreadable: OnUnreadable) -> Iterator[tuple[Path, np.ndarray]]:
    for path, image in found:
        if isinstance(image, BadImageError):
            on_unreadable(path, str(image))
        else:
            yield path, image


def _batches(
    readable: Iterator[tuple[Path, np.ndarray]], batch_size: int
) -> Iterator[Sequence[tuple[Path, np.ndarray]]]:
    while batch := list(islice(readable, batch_size)):
        yield batch
