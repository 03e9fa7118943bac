"""Around heat maps: where lesions are known to be, which layer and method to take, and what is recorded."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from xraykit.classifiers import Classifier
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.explain import METHODS, explain
from xraykit.explain_cut import Explained, network
from xraykit.explain_occlusion import gain
from xraykit.localisation import best_threshold, by_image, localise, mean_interval, paired
from xraykit.looks import Scores, keep
from xraykit.results import Run

Way = tuple[str, str]
"""A method of `explain.METHODS` and a layer."""
LEAST_PLACES = 10
"""Images with a known lesion from which on a choice is made by them; fewer are an anecdote."""
SCORES = ("pointing_game", "energy_inside", "iou")
CHOSEN_BY = ("energy_inside", "insertion minus deletion")


def lesions(ds: XrayDataset, rows: np.ndarray, *, finding: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Those of the images `rows` of which it is known where the lesion is, and there True.

    Where a set has no masks its boxes are taken, filled, which hold more than the lesion.

    Args:
        rows: (M,) positions in `ds`.
        finding: of ``ds.classes``; empty for all findings together.

    Returns:
        Positions (K,) and masks bool (K, H, W); K is 0 for a set that says nothing about places.

    Raises:
        DataError: a finding that is no class of `ds`.
    """
    rows = np.asarray(rows)
    if finding and finding not in ds.classes:
        raise DataError(f"{finding!r} is no class of {ds.name}; choose from {', '.join(ds.classes)}")
    if ds.masks is not None:
        bits = np.asarray(ds.masks[rows])
        masks = bits != 0 if not finding else (bits >> ds.classes.index(finding)) & 1 == 1
    else:
        boxed = set() if ds.boxes is None else set(ds.boxes["image_id"])
        rows = rows[ds.records["image_id"].iloc[rows].isin(boxed).to_numpy()]
        masks = _filled(ds, rows, finding) if len(rows) else np.zeros((0, *ds.images.shape[1:]), bool)
    known = masks.any(axis=(1, 2))
    return rows[known], masks[known]


def boxed_out(ds: XrayDataset, inside: np.ndarray, val: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The training part without the patients of boxed images, and the validation part with these images.

    A set without masks has few boxes, and a network's map of an image that it was trained on proves little.
    """
    if ds.masks is not None:
        return inside, val
    boxed, _ = lesions(ds, inside)
    return inside[~np.isin(ds.patients[inside], ds.patients[boxed])], np.sort(np.concatenate([val, boxed]))


def compare(
    cut: Callable[[str], Explained],
    ds: XrayDataset,
    rows: np.ndarray,
    *,
    layers: Sequence[str],
    target: str,
    n_occluded: int,
    boot: Mapping[str, int],
    methods: Sequence[str] = METHODS,
    **how: object,
) -> dict[tuple[str, str], Scores]:
    """Each layer with each method, on images that judge no result.

    Args:
        cut: from the name of a layer to the classifier cut there, such as
            ``lambda layer: explain_cut.network(model, classes, size=64, layer=layer)``.
        rows: positions of the images; of those whose lesions are known, if at least `LEAST_PLACES`,
            `localise` scores the maps.
        n_occluded: as many of the first of `rows` serve for ``"insertion minus deletion"``, see
            `explain_occlusion.gain`, which needs no known lesion; 0 leaves it out.
        how: further keywords of `explain.explain`.

    Returns:
        By (layer, method) ``energy_inside`` and ``pointing_game``, where a lesion is known, and
        ``insertion minus deletion``; the best first, by the first of `CHOSEN_BY` that there is.

    Raises:
        DataError: no image with a known lesion and none to occlude.
    """
    (known, masks), found, few = lesions(ds, rows), {}, rows[:n_occluded]
    located = len(known) >= LEAST_PLACES
    if not located and not len(few):
        raise DataError(
            f"{ds.name}: lesions are known in {len(known)} of {len(rows)} images, {LEAST_PLACES} are needed, "
            f"and n_occluded = {n_occluded}; occlude at least one"
        )
    for layer in layers:
        model = cut(layer)
        heat_of = partial(explain, model, ds.images, target=target, **how)
        for method in methods:
            scores: Scores = {}
            if located:
                maps, names = heat_of(rows=known, method=method).maps, ["energy_inside", "pointing_game"]
                scores |= localise(maps, masks, ds.patients[known], names=names, **boot)
            if len(few):
                marked = heat_of(rows=few, method=method).maps
                gained = gain(model, ds.images, rows=few, maps=marked, target=target)
                scores[CHOSEN_BY[1]] = mean_interval(gained, ds.patients[few], **boot)
            found[layer, method] = scores
    by = CHOSEN_BY[0] if located else CHOSEN_BY[1]
    return dict(sorted(found.items(), key=lambda item: -item[1][by].value))


def maps_of(
    net: Classifier,
    ds: XrayDataset,
    rows: np.ndarray,
    *,
    ways: Mapping[str, Way],
    target: str | Sequence[str],
) -> dict[str, np.ndarray]:
    """Heat maps (M, H, W) of a network, by the name of the way: a method and a layer (empty for the last)."""
    found = {}
    for name, (method, layer) in ways.items():
        model = network(net, ds.classes, size=ds.images.shape[1], layer=layer)
        found[name] = explain(model, ds.images, target=target, rows=rows, method=method).maps
    return found


def judge_maps(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    maps: np.ndarray,
    masks: np.ndarray,
    *,
    method: str,
    names: Sequence[str],
    boot: Mapping[str, int],
    threshold: float | None = None,
    **about: str,
) -> Scores:
    """`localise` of the maps of the images `rows`, recorded; of test images also logged as a look at test.

    Args:
        method, about: of `Run.record`.
        threshold: for the name ``"iou"``, chosen on other images.
    """
    found = localise(maps, masks, ds.patients[rows], names=names, threshold=threshold, **boot)
    record(run, ds, rows, found, method=method, **about)
    return found


def tuned_values(
    tuned: Mapping[str, Sequence[np.ndarray]],
    masks: np.ndarray,
    maps: Mapping[str, Sequence[np.ndarray]],
    truth: np.ndarray,
) -> dict[str, dict[str, np.ndarray]]:
    """`SCORES` of each image, the IoU at the threshold that is best on other images.

    Args:
        tuned: by name heat maps (L, H, W) of the images that choose the threshold, one array a network.
        masks: bool (L, H, W), their lesions; with L = 0 there is no threshold, and no IoU.
        maps: by the same names those of the images that judge, (M, H, W) each.
        truth: bool (M, H, W), their lesions.

    Returns:
        By name and score values (M,), the mean over the networks.
    """
    found = {}
    for name, of_nets in maps.items():
        names, chosen = SCORES[:2], None
        if len(masks):
            names, every = SCORES, np.concatenate([masks] * len(tuned[name]))
            chosen = best_threshold(np.concatenate(tuned[name]), every)
        each = [by_image(x, truth, names=names, threshold=chosen) for x in of_nets]
        found[name] = {q: np.mean([values[q] for values in each], axis=0) for q in names}
    return found


def judge_values(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    values: Mapping[str, np.ndarray],
    *,
    method: str,
    boot: Mapping[str, int],
    **about: str,
) -> Scores:
    """The mean of each kind of values (M,), one an image of `rows`, with its interval; recorded as above."""
    found = {q: mean_interval(v, ds.patients[rows], **boot) for q, v in values.items()}
    record(run, ds, rows, found, method=method, **about)
    return found


def judge_pairs(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    values: Mapping[str, np.ndarray],
    others: Mapping[str, np.ndarray],
    *,
    method: str,
    boot: Mapping[str, int],
    **about: str,
) -> Scores:
    """What `values` have more than `others`, image by image, in the mean; recorded as ``... difference``."""
    who = ds.patients[rows]
    found = {f"{q} difference": paired(v, others[q], who, **boot) for q, v in values.items()}
    record(run, ds, rows, found, method=method, **about)
    return found


def record(run: Run, ds: XrayDataset, rows: np.ndarray, scores: Scores, *, method: str, **about: str) -> None:
    """Scores of the images `rows` into the ledger and, where they are of the test split, its log."""
    keep(run, ds, rows, scores, **{"task": "localisation", "method": method, **about})


def _filled(ds: XrayDataset, rows: np.ndarray, finding: str) -> np.ndarray:
    """Boxes as masks, bool (M, H, W)."""
    masks = np.zeros((len(rows), *ds.images.shape[1:]), bool)
    side, of = np.array(ds.images.shape[1:]), dict(zip(ds.records["image_id"].iloc[rows], masks, strict=True))
    boxes = ds.boxes[ds.boxes["image_id"].isin(of)]
    for box in boxes[boxes["finding"] == finding].itertuples() if finding else boxes.itertuples():
        corners = np.array([[box.y, box.x], [box.y + box.h, box.x + box.w]]) * side
        corners = corners.round(6)  # 0.1 + 0.2 is no more than 0.3
        low, high = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int)
        of[box.image_id][low[0] : high[0], low[1] : high[1]] = True
    return masks
