"""Which images to show with their maps: by a rule, so that nobody picks the beautiful ones."""

from collections.abc import Sequence

import numpy as np

from xraykit.errors import DataError

KINDS = ("right, sure", "right, unsure", "wrong, unsure", "wrong, sure")


def gallery(y: np.ndarray, p: np.ndarray, classes: Sequence[str]) -> dict[tuple[str, str], int]:
    """For each class the most and the least certain of the right and of the wrong answers.

    The answer is the most probable class, and its probability the certainty; of equals the first image
    is the surer.

    Args:
        y: labels 0 to K - 1, (N,).
        p: probabilities (N, K).
        classes: K names.

    Returns:
        The position of an image by (its true class, one of `KINDS`), class by class; what does not exist,
        such as a wrong answer of a faultless classifier, is left out, and with one image of a kind it is the
        sure one.

    Raises:
        DataError: shapes that do not fit, or labels out of range.
    """
    y, p = np.asarray(y), np.asarray(p, np.float64)
    if p.shape != (len(y), len(classes)) or not len(y) or y.min() < 0 or y.max() >= len(classes):
        raise DataError(
            f"labels {y.shape} and probabilities {p.shape} of {len(classes)} classes; give (N,), 0 to "
            f"{len(classes) - 1}, and (N, {len(classes)})"
        )
    sure, right = p.max(axis=1), p.argmax(axis=1) == y
    found = {}
    for k, name in enumerate(classes):
        for kind in KINDS:
            rows = np.flatnonzero((y == k) & (right == kind.startswith("right")))
            rows = rows[np.argsort(-sure[rows], kind="stable")]
            certain = kind.endswith(", sure")
            if len(rows) > (0 if certain else 1):
                found[name, kind] = int(rows[0 if certain else -1])
    return found
