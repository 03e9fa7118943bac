"""k-shot draws: k images of every class, at most one image a patient over the whole draw."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from xraykit.errors import DataError
from xraykit.labels import label_matrix, patient_codes


def feasible_shots(labels: np.ndarray, patients: np.ndarray) -> int:
    """Largest k for which `k_shot_draw` can succeed; 0 when a class has no patient to itself.

    By Hall's theorem it is the largest k such that every set S of classes has at least k|S| patients with an
    image of a class in S. Found exactly, by maximum flow from classes to patients.

    Args:
        labels: class codes (N,); every code from 0 to the largest counts as a class.
        patients: patient id (N,) of each image.

    Raises:
        DataError: labels that are not class codes, or patient ids that do not match them.
    """
    label, patient = _single_labels(labels, patients)
    has = np.zeros((patient.max() + 1, label.max() + 1), dtype=bool)
    has[patient, label] = True
    # Patients with the same set of classes are interchangeable: one node for each distinct set.
    kinds, sizes = np.unique(has, axis=0, return_counts=True)
    low, high = 0, int(has.sum(axis=0).min())
    while low < high:
        k = (low + high + 1) // 2
        low, high = (k, high) if _flow(kinds, sizes, k) == k * has.shape[1] else (low, k - 1)
    return low


def _flow(kinds: np.ndarray, sizes: np.ndarray, k: int) -> int:
    """Largest draw of at most k a class; `kinds` (J, K) sets of classes, `sizes` (J,) patients."""
    n_kinds, n_classes = kinds.shape
    first_kind = 2 + n_classes  # nodes: 0 source, 1 sink, then the classes, then the kinds of patient
    graph = np.zeros((first_kind + n_kinds,) * 2, dtype=np.int32)
    graph[0, 2:first_kind] = k
    graph[2:first_kind, first_kind:] = kinds.T * k
    graph[first_kind:, 1] = sizes
    return int(maximum_flow(csr_array(graph), 0, 1).flow_value)


def k_shot_draw(
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    k: int,
    rng: np.random.Generator,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """Random indices of k images of each class, at most one image a patient over the whole draw.

    Images are visited in random order and taken while their class and their patient are free. Where patients
    have images of several classes this can leave a class short; it then takes patients over along a shortest
    augmenting path, so that a draw succeeds whenever one exists. A patient with many images is likelier to be
    drawn, as in uniform sampling of images.

    Args:
        labels, patients: as in `feasible_shots`.
        k: images wanted of each class.
        classes: names for the error message; with them, all of these classes are drawn.

    Returns:
        int64 (K*k,), grouped by class in the order of the codes: the first k are class 0, in random order.

    Raises:
        DataError: labels that are not class codes, k < 1, fewer `classes` than codes, or too few patients:
            names the classes that fall short, the k wanted and the feasible k.
    """
    if k < 1:
        raise DataError(f"k = {k} images a class; k must be at least 1")
    label, patient = _single_labels(labels, patients)
    names = _class_names(classes, label.max())
    options, holder = _visit(rng.permutation(len(label)), label, patient, k=k, n_classes=len(names))
    held = list(holder.values())
    for c in range(len(names)):
        for _ in range(k - held.count(c)):
            if blocked := _augment(c, options, holder):
                feasible = feasible_shots(labels, patients) if all(options) else 0
                raise DataError(_too_few(blocked, options, names=names, k=k, feasible=feasible))
    return _collect(options, holder, rng)


def _class_names(classes: Sequence[str] | None, last: int) -> list[str]:
    """Names of the codes 0 to `last`; `classes` may name more, which then have no image."""
    if classes is None:
        return [f"class {c}" for c in range(last + 1)]
    if len(classes) <= last:
        raise DataError(
            f"classes holds {len(classes)} names, but the labels hold codes up to {last}; name all "
            f"{last + 1} classes in the order of their codes"
        )
    return list(classes)


def _visit(
    order: np.ndarray, label: np.ndarray, patient: np.ndarray, *, k: int, n_classes: int
) -> tuple[list[dict[int, int]], dict[int, int]]:
    """The greedy pass: the first image of every (class, patient), and the class that uses each patient."""
    options: list[dict[int, int]] = [{} for _ in range(n_classes)]
    holder: dict[int, int] = {}
    missing = [k] * n_classes
    for i, c, p in zip(order.tolist(), label[order].tolist(), patient[order].tolist(), strict=True):
        options[c].setdefault(p, i)
        if missing[c] and p not in holder:
            holder[p] = c
            missing[c] -= 1
    return options, holder


def _augment(start: int, options: list[dict[int, int]], holder: dict[int, int]) -> set[int]:
    """Give class `start` one more patient, moving others between classes; breadth first.

    Returns the empty set on success, else the classes whose patients are all in use among themselves.
    """
    came: dict[int, tuple[int, int] | None] = {
        start: None
    }  # class -> (class that takes over, patient it takes)
    queue = [start]
    for taker in queue:  # grows while it is read
        for p in options[taker]:
            owner = holder.get(p)
            if owner is None:
                holder[p] = taker
                step = came[taker]
                while step is not None:
                    taker, p = step
                    holder[p] = taker
                    step = came[taker]
                return set()
            if owner not in came:
                came[owner] = (taker, p)
                queue.append(owner)
    return set(came)


def _collect(options: list[dict[int, int]], holder: dict[int, int], rng: np.random.Generator) -> np.ndarray:
    images: list[list[int]] = [[] for _ in options]
    for p, c in holder.items():
        images[c].append(options[c][p])
    return np.concatenate([rng.permutation(i) for i in images]).astype(np.int64)


def _too_few(
    blocked: set[int], options: list[dict[int, int]], *, names: list[str], k: int, feasible: int
) -> str:
    have = len(set().union(*(options[c] for c in blocked)))
    which = " and ".join(names[c] for c in sorted(blocked))
    return (
        f"{which}: {have} patients, but k = {k} images a class at one image a patient needs "
        f"{k * len(blocked)}; the largest feasible k is {feasible}"
    )


def _single_labels(labels: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class codes (N,) and patient codes (N,), checked."""
    if np.ndim(labels) != 1:
        raise DataError(
            f"a k-shot draw needs one class an image, codes (N,), not labels of shape {np.shape(labels)}; "
            "in a multilabel set draw one finding against the rest: labels[:, finding]"
        )
    label = label_matrix(labels).argmax(axis=1)
    return label, patient_codes(patients, len(label))[0]
