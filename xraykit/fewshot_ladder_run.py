"""The ladder on a data set: features of every rung, development, and the one look at test, all recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xraykit import embeddings, intervals
from xraykit.backbones import Backbone
from xraykit.backbones.layers import at_layer, layer_names
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.fewshot import draws
from xraykit.fewshot_heads import SVC
from xraykit.fewshot_ladder import Choice, Found, check_held_out, choose, climb, joined
from xraykit.fewshot_transforms import side_by_side, views
from xraykit.intervals import Interval
from xraykit.metrics import per_draw
from xraykit.results import Run
from xraykit.splits import development, feasible_shots

METRICS = ("macro_f1", "auroc")
CHOSEN, ENSEMBLE = "head chosen on development", "ensemble"
FROZEN = (CHOSEN, ENSEMBLE)  # heads of what development decided for


@dataclass(frozen=True)
class Plan:
    """What is drawn and what is held out, before any feature is computed.

    Attributes:
        inside, dev: positions in train of the images to draw from, and of the development fold.
        shots: labelled images a class.
        support: draws from `inside` (rows of that part), for development.
        support_of_train: draws from all of train, for the look at test.
        seed: of everything random.
    """

    inside: np.ndarray
    dev: np.ndarray
    shots: list[int]
    support: np.ndarray
    support_of_train: np.ndarray
    seed: int

    @property
    def drawn(self) -> np.ndarray:
        """Rows of train, sorted, that some draw of either kind holds."""
        return np.union1d(self.inside[self.support], self.support_of_train)


@dataclass(frozen=True)
class Rungs:
    """Features to climb on.

    Attributes:
        train, test: of each backbone, (N, D) and (M, D), not normalised.
        together: rungs that are several of these side by side.
        views: of the main rung's ``(V, n, D)`` features of augmented training images, and their rows.
        main: the rung that has views.
    """

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    together: dict[str, list[str]]
    views: tuple[np.ndarray, np.ndarray]
    main: str

    def pairs(self, rows: np.ndarray, query: np.ndarray | None = None) -> dict:
        """(pool, query) of each rung: training rows, and others of them, or the test images."""
        alone = {
            name: (x[rows], self.test[name] if query is None else x[query]) for name, x in self.train.items()
        }
        joint = {name: side_by_side([alone[part] for part in parts]) for name, parts in self.together.items()}
        return alone | joint

    def views_of(self, rows: np.ndarray, support: np.ndarray) -> dict:
        """Views of the drawn images of a pool that holds the training images `rows`."""
        features, of = self.views
        drawn = np.unique(support)
        place = np.searchsorted(of, rows[drawn])
        return {self.main: (features[:, place], drawn)}


@dataclass(frozen=True)
class Developed:
    """What development found and fixed: see `fewshot_ladder`.

    Attributes:
        found: scores of the development fold.
        choices: for each number of shots.
        labels: class codes of the fold.
    """

    found: Found
    choices: dict[int, Choice]
    labels: np.ndarray


def plan(train: XrayDataset, *, shots: Sequence[int] = (10, 100), n_draws: int, seed: int) -> Plan:
    """The development fold of `splits.development`, and draws of as many of `shots` as patients allow.

    Args:
        train: the training images as their set has them; the ladder itself is of normal against the rest.

    Raises:
        DataError: no patient to draw of a class.
    """
    inside, dev = development(train, seed=seed)
    two, patients = train.binary().labels, train.patients
    most = feasible_shots(two[inside], patients[inside])
    if most < 1:
        raise DataError(
            f"{train.name} has a class without a patient outside the development fold; use more images"
        )
    allowed = [k for k in shots if k <= most] or [most]
    often = {"shots": allowed, "n_draws": n_draws, "seed": seed}
    supports = (draws(two[rows], patients[rows], **often) for rows in (inside, np.arange(len(train))))
    return Plan(inside, dev, allowed, *supports, seed)


def rungs(
    ds: XrayDataset,
    loaded: Sequence[Backbone],
    *,
    plan: Plan,
    n_views: int,
    **where: object,
) -> Rungs:
    """Features of every backbone, of two layers of the first, and of all trained ones side by side.

    Args:
        ds: with the splits train and test.
        loaded: the main backbone first; those named random or pixels do not take part side by side.
        n_views: augmented views of each drawn image.
        where: ``cache_dir, precision, progress`` of `embeddings.extract`.

    Raises:
        DataError: a backbone that was pretrained on the development fold, two of one name, or pixels first.
    """
    train, names = ds.split("train"), [b.name for b in loaded]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"two backbones are called {', '.join(twice)}; rename one of the files")
    check_held_out(loaded, ds.name, train.patients[plan.dev])
    main, trained = loaded[0], [n for n in names if "random" not in n and n != "pixels"]
    if main.name == "pixels":
        raise DataError("pixels comes first but has no layers; put a network first, such as phantom")
    lower = at_layer(main, layer_names(main)[-2])
    every = {b.name: _features(ds.images, b, where) for b in [*loaded, lower]}
    parts = {part: (ds.records["split"] == part).to_numpy() for part in ("train", "test")}
    of = {part: {name: x[chosen] for name, x in every.items()} for part, chosen in parts.items()}
    together = {f"{main.name}, two layers": [main.name, lower.name], "side by side": trained}
    together = {name: members for name, members in together.items() if len(members) > 1}
    rows = plan.drawn
    shown = views(np.asarray(train.images[rows]), n_views=n_views, seed=plan.seed, ids=rows)
    seen = np.stack([_features(view, main, where) for view in shown])
    return Rungs(of["train"], of["test"], together, (seen, rows), main.name)


def _features(images: np.ndarray, backbone: Backbone, where: Mapping[str, object]) -> np.ndarray:
    return np.asarray(embeddings.extract(images, backbone, **where).features)


def develop(run: Run, ladder: Rungs, train: XrayDataset, plan: Plan) -> Developed:
    """Climb on the development fold, choose there, and record the medians that decided.

    Args:
        train: the training images that the ladder was made of.
    """
    y = train.binary().labels
    about = {"support": plan.support, "shots": plan.shots, "seed": plan.seed}
    about["views"] = ladder.views_of(plan.inside, plan.support)
    found = climb(ladder.pairs(plan.inside, plan.dev), y[plan.inside], **about)
    truth = y[plan.dev]
    choices = {k: choose(found, truth, shots=k) for k in plan.shots}
    medians = {
        (rung, head, k, metric): float(np.median(per_draw(truth, p, metric)))
        for rung, head, k, p in _everything(found, choices)
        for metric in METRICS
    }
    run.record_many(
        [
            _about(rung, head, k) | {"metric": metric, "value": value, "split": "development"}
            for (rung, head, k, metric), value in medians.items()
        ]
    )
    return Developed(found, choices, truth)


def look(
    run: Run,
    ladder: Rungs,
    train: XrayDataset,
    test: XrayDataset,
    plan: Plan,
    developed: Developed,
    *,
    n_boot: int,
) -> pd.DataFrame:
    """The one look at test: everything that development tried, and what it chose; recorded and logged.

    Returns:
        Rows ``rung, head, shots, metric, value, ci_low, ci_high`` (see `intervals.frame`); the head
        `CHOSEN` repeats the rung's chosen one, the rung `ENSEMBLE` is the chosen ensemble. Those of the
        metric ``macro_f1 difference`` say what each part gave, paired by draw and patient.
    """
    train, test, everyone = train.binary(), test.binary(), np.arange(len(train))
    about = {"support": plan.support_of_train, "shots": plan.shots, "seed": plan.seed}
    about["views"] = ladder.views_of(everyone, plan.support_of_train)
    found = climb(ladder.pairs(everyone), train.labels, **about)
    scored: dict[tuple[str, str, int], dict[str, Interval]] = {}
    looks = []
    for rung, head, k, p in _everything(found, developed.choices):
        choice = developed.choices[k]
        key = (rung, choice.heads[rung], k) if head == CHOSEN else None
        scored[rung, head, k] = scored.get(key) or intervals.bootstrap(
            test.labels, p, test.patients, names=METRICS, seed=plan.seed, n_boot=n_boot
        )
        decided = {"members": list(choice.members)} if rung == ENSEMBLE else {}
        decided |= {"head": choice.heads[rung]} if head == CHOSEN else {}
        settings = _about(rung, head, k) | decided | {"seed": plan.seed, "n_draws": len(plan.support)}
        looks.append((settings, {m: v.value for m, v in scored[rung, head, k].items()}))
    for (rung, method, k), (one, other) in _compared(found, developed.choices, ladder.main).items():
        pair = {"names": ["macro_f1"], "seed": plan.seed, "n_boot": n_boot}
        gain = intervals.paired_differences(test.labels, one, other, test.patients, **pair)["macro_f1"]
        scored[rung, method, k] = {"macro_f1 difference": gain}
    run.record_many(
        [
            _about(*key) | {"metric": metric, "value": value, "split": "test"}
            for key, values in scored.items()
            for metric, value in values.items()
        ]
    )
    for settings, values in looks:
        run.log_test(settings, values)
    return intervals.frame(scored, levels=["rung", "head", "shots"])


def _about(rung: str, head: str, shots: int) -> dict[str, object]:
    return {"task": "binary", "method": f"ladder, {head}", "backbone": rung, "shots": shots}


def _compared(
    found: Found, choices: Mapping[int, Choice], main: str
) -> dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray]]:
    """Scores with each part and without it: the heads of the main rung, and the ensemble."""
    pairs = {
        (rung, f"{head} minus {SVC}", k): (p, found[rung, SVC, k])
        for (rung, head, k), p in found.items()
        if rung == main and head != SVC
    }
    for k, choice in choices.items():
        alone = found[choice.rung, choice.heads[choice.rung], k]
        pairs[ENSEMBLE, "ensemble minus its best member", k] = (joined(found, choice, shots=k), alone)
        pairs[ENSEMBLE, f"ensemble minus {SVC} of the main rung", k] = (
            joined(found, choice, shots=k),
            found[main, SVC, k],
        )
    return pairs


def _everything(found: Found, choices: Mapping[int, Choice]) -> list[tuple[str, str, int, np.ndarray]]:
    """(rung, head, shots, scores) of all that was evaluated, of each rung's chosen head, of the ensemble."""
    listed = [(*key, p) for key, p in found.items()]
    for k, choice in choices.items():
        listed += [(rung, CHOSEN, k, found[rung, head, k]) for rung, head in choice.heads.items()]
        listed.append((ENSEMBLE, ENSEMBLE, k, joined(found, choice, shots=k)))
    return listed
