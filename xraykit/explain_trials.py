"""The tests of trust as a notebook runs them: many maps or orders at once, each number recorded."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from xraykit.classifiers import Classifier
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.explain_cut import Explained
from xraykit.explain_occlusion import FILLS, area, occlusion
from xraykit.explain_study import Way, judge_values, maps_of
from xraykit.explain_trust import similarity
from xraykit.fewshot_classifiers import classifier
from xraykit.intervals import Interval
from xraykit.localisation import by_image, heat_share
from xraykit.looks import Scores
from xraykit.results import Run
from xraykit.shots import feasible_shots, k_shot_draw


def few_shot(
    name: str,
    labels: np.ndarray,
    *,
    features: np.ndarray,
    patients: np.ndarray,
    pool: np.ndarray,
    shots: int,
    seed: int,
) -> tuple[Pipeline, int]:
    """A classifier of notebook 04 on one draw, as the scikit-learn object that `explain_cut.estimator` takes.

    Args:
        name: of `fewshot_classifiers.CLASSIFIERS`. An SVC decides between all pairs of classes (``ovo``).
        labels: class codes (N,).
        features, patients: (N, D) of a frozen backbone, and ids (N,).
        pool: positions of the training images. All of them scale the features, which needs no label.
        shots: images a class, at most one a patient; as many as there can be, where that is less.
        seed: of the draw.

    Returns:
        The fitted pipeline, and how many images a class it was fitted to.
    """
    who, scaler = (labels[pool], patients[pool]), StandardScaler().fit(features[pool])
    k = min(shots, feasible_shots(*who))
    pick = pool[k_shot_draw(*who, k=k, rng=np.random.default_rng(seed))]
    fit = classifier(name).estimator()
    if isinstance(fit, SVC):
        fit.set_params(decision_function_shape="ovo", break_ties=False)
    return Pipeline([("scale", scaler), ("fit", fit.fit(scaler.transform(features[pick]), labels[pick]))]), k


def groups(ds: XrayDataset, rows: np.ndarray, masks: np.ndarray, cuts: np.ndarray) -> dict[str, np.ndarray]:
    """Which of the images `rows` belong to each kind of lesion and to each size, bool (M,) by name.

    Args:
        ds: with its kinds as classes; two classes or findings that overlap are no kinds.
        masks: bool (M, H, W), the lesions.
        cuts: two areas, as shares of the picture, between small, middle and large.
    """
    of = np.searchsorted(cuts, masks.mean(axis=(1, 2)))
    kinds = ds.classes[1:] if ds.task == "multiclass" and len(ds.classes) > 2 else ()
    by_kind = {kind: ds.labels[rows] == k for k, kind in enumerate(kinds, 1)}
    return by_kind | {size: of == k for k, size in enumerate(("small", "middle", "large"))}


def by_lesion(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    values: Mapping[str, Mapping[str, np.ndarray]],
    truth: np.ndarray,
    *,
    cuts: np.ndarray,
    **about: object,
) -> dict[str, Scores]:
    """The mean of each method's scores in each of `groups` that has an image; recorded.

    Args:
        values: by method and score one value an image, (M,).
        truth: bool (M, H, W), the lesions of the images `rows`.
        cuts: two areas between small, middle and large.
        about: of `explain_study.judge_values`.

    Returns:
        By ``"<group>: <method>"``.
    """
    found = {}
    for group, here in groups(ds, rows, truth, cuts).items():
        for method, scores in values.items() if here.any() else ():
            part = {q: v[here] for q, v in scores.items()}
            on = {"method": method, "target": group, **about}
            found[f"{group}: {method}"] = judge_values(run, ds, rows[here], part, **on)
    return found


def forgetting(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    stages: Mapping[str, Sequence[Classifier]],
    *,
    ways: Mapping[str, Way],
    target: str,
    **about: object,
) -> tuple[dict[str, list[tuple[str, Interval]]], dict[str, dict[str, np.ndarray]]]:
    """How alike the maps of several networks are to those of the first, in several ways; recorded.

    Args:
        stages: by name the networks of each stage, one or several draws of the same; the trained one first.
            See `explain_trust.cascade`.
        about: of `explain_study.judge_values`.

    Returns:
        For `plots.randomisation`, by way the name of each later stage with its `similarity`, the mean over
        its networks; and by stage and way the maps of its first network.

    Raises:
        DataError: other than one network in the first stage.
    """
    first, *later = stages
    if len(stages[first]) != 1:
        raise DataError(f"stage {first!r} has {len(stages[first])} networks; give the trained one alone")
    maps = {
        stage: [maps_of(net, ds, rows, ways=ways, target=target) for net in nets]
        for stage, nets in stages.items()
    }
    curves: dict[str, list[tuple[str, Interval]]] = {way: [] for way in ways}
    for way, points in curves.items():
        (trained,) = [x[way] for x in maps[first]]
        for stage in later:
            alike = {"similarity": np.mean([similarity(x[way], trained) for x in maps[stage]], axis=0)}
            scores = judge_values(run, ds, rows, alike, method=f"{way}, {stage}", **about)
            points.append((stage, scores["similarity"]))
    return curves, {stage: of_nets[0] for stage, of_nets in maps.items()}


def take_away(
    run: Run,
    model: Explained,
    ds: XrayDataset,
    rows: np.ndarray,
    orders: Mapping[str, np.ndarray],
    *,
    target: str,
    steps: int,
    **about: object,
) -> tuple[dict[str, dict[str, dict[str, np.ndarray]]], dict[tuple[str, str], Scores]]:
    """`explain_occlusion.occlusion` in several orders with each of its `FILLS`; the areas are recorded.

    Args:
        orders: by name maps (M, H, W), the largest values first.
        about: of `explain_study.judge_values`.

    Returns:
        For `plots.occlusion` the curves by fill and order; and by both ``insertion minus deletion``.
    """
    curves: dict[str, dict[str, dict[str, np.ndarray]]] = {fill: {} for fill in FILLS}
    on, found = {"rows": rows, "target": target, "steps": steps}, {}
    for fill, name in product(FILLS, orders):
        c = occlusion(model, ds.images, maps=orders[name], fill=fill, **on)
        curves[fill][name] = {"deletion": c.deletion, "insertion": c.insertion}
        between = {"insertion minus deletion": area(c.insertion) - area(c.deletion)}
        found[fill, name] = judge_values(run, ds, rows, between, method=f"{name}, {fill}", **about)
    return curves, found


def heat_at(
    run: Run,
    ds: XrayDataset,
    nets: Mapping[str, Sequence[Classifier]],
    near: np.ndarray,
    *,
    ways: Mapping[str, Way],
    target: Sequence[str],
    **about: object,
) -> tuple[dict[tuple[str, str], Scores], dict[tuple[str, str], np.ndarray]]:
    """How much heat of each network lies near the side marker in each way, of all images; recorded.

    Args:
        nets: by name trainings of the same network, over which the values of an image are averaged.
        near: bool (N, H, W), see `shortcut.near_marker`.
        target: for each image what its maps explain.
        about: of `explain_study.judge_values`.

    Returns:
        By network and way the share of the heat that lies there and whether the hottest point does, last
        what a constant map has; and the maps of the first training.
    """
    rows, found, maps = np.arange(len(ds.images)), {}, {}
    for name, trained in nets.items():
        made = [maps_of(net, ds, rows, ways=ways, target=target) for net in trained]
        for way in ways:
            maps[name, way] = made[0][way]
            points = [by_image(x[way], near, names=["pointing_game"])["pointing_game"] for x in made]
            values = {"heat at the marker": np.mean([heat_share(x[way], near) for x in made], axis=0)}
            values["points at the marker"] = np.mean(points, axis=0)
            found[name, way] = judge_values(run, ds, rows, values, method=f"{way}, {name}", **about)
    flat = {"heat at the marker": near.mean(axis=(1, 2))}
    found["any", "constant"] = judge_values(run, ds, rows, flat, method="constant", **about)
    return found, maps
