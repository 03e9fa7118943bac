"""A few-shot study in two steps: choose on a development fold, then evaluate what was frozen.

Features are dictionaries from the name of a backbone to ``(pool, query)``, (N, D) and (M, D), not normalised.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from xraykit.errors import DataError
from xraykit.fewshot import NORMALISATIONS, Scores, classifier, ensemble, evaluate, normalise
from xraykit.metrics import per_draw

Features = Mapping[str, tuple[np.ndarray, np.ndarray]]
Curves = dict[tuple[str, str, int, str], np.ndarray]  # (method, backbone, shots, setting): draws


def choice_table(
    features: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    query_labels: np.ndarray,
    *,
    support: np.ndarray,
    shots: int,
    metric: str = "macro_f1",
) -> pd.DataFrame:
    """Median over draws of `metric` on a development fold: classifiers as rows, normalisations as columns.

    Args:
        features: of the pool and of the development fold, (N, D) and (M, D).
        labels, query_labels: class codes (N,) and (M,).
        support: from `fewshot.draws`.
    """
    table = {}
    for how in NORMALISATIONS:
        found = _evaluated(features, labels, how=how, support=support, shots=[shots])
        table[how] = {name: np.median(per_draw(query_labels, p, metric)) for (name, _), p in found.items()}
    return pd.DataFrame(table)


def frozen_curves(
    features: Features,
    labels: np.ndarray,
    *,
    main: str,
    choice: tuple[str, str],
    together: Sequence[str],
    support: np.ndarray,
    shots: Sequence[int],
    afterwards: Sequence[int],
) -> Curves:
    """Pseudo-probabilities of the query images from everything that a shot curve shows, for every draw.

    A method is a classifier with its normalisation: ``"SVC RBF, l2"``. On the backbone `main` each classifier
    with the chosen normalisation, and at the shots `afterwards` those with the other normalisations too, to
    see how good the choice was. The chosen method also on each other backbone, on the mean of `together`
    (backbone ``"ensemble"``), and on `main` with the query images standardised by their own statistics
    (setting ``"transductive"``; there is none of raw features, which use no statistics).

    Args:
        features: of the pool and the query images from each backbone.
        choice: classifier and normalisation, fixed beforehand.
        together: backbones of the ensemble.

    Returns:
        float32 (n_draws, M, K) by (method, backbone, shots, setting).

    Raises:
        DataError: a backbone without features; see also `fewshot.evaluate`.
    """
    missing = sorted({main, *together} - set(features))
    if missing:
        raise DataError(f"no features from {', '.join(missing)}; there are those from {', '.join(features)}")
    (chosen, how), on = choice, {"labels": labels, "support": support}
    method, one = f"{chosen}, {how}", {"how": how, "shots": shots, "classifiers": [chosen]}
    curves = {}
    for other in NORMALISATIONS:
        at = {"how": other, "shots": shots if other == how else afterwards}
        found = _evaluated(features[main], **at, **on)
        curves |= {(f"{c}, {other}", main, k, "inductive"): p for (c, k), p in found.items()}
    members = {main: {(chosen, k): curves[method, main, k, "inductive"] for k in shots}}
    members |= {name: _evaluated(features[name], **one, **on) for name in features if name != main}
    members["ensemble"] = ensemble([members[name] for name in together])
    for name, found in members.items():
        curves |= {(method, name, k, "inductive"): p for (_, k), p in found.items()}
    if how != "raw":
        found = _evaluated(features[main], setting="transductive", **one, **on)
        curves |= {(method, main, k, "transductive"): p for (_, k), p in found.items()}
    return curves


def reference_curves(
    features: Features, labels: np.ndarray, *, main: str, support: np.ndarray, shots: Sequence[int]
) -> Curves:
    """The SVCs of a table that others measured, for comparison: fixed before anything was tried.

    RBF with C = 1 on the raw features of every backbone, and with C = 10 on the ``l2`` features of `main`,
    inductive and transductive. Arguments and result as for `frozen_curves`.
    """
    curves, on = {}, {"labels": labels, "support": support, "shots": shots}
    todo = [(name, "raw", "inductive", 1) for name in features]
    todo += [(main, "l2", setting, 10) for setting in ("inductive", "transductive")]
    for name, how, setting, c in todo:
        method = f"SVC RBF with C={c}, {how}"
        svc = {method: classifier("SVC RBF", C=c)}
        found = _evaluated(features[name], how=how, setting=setting, classifiers=svc, **on)
        curves |= {(method, name, k, setting): p for (_, k), p in found.items()}
    return curves


def _evaluated(
    pair: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    *,
    how: str,
    setting: str = "inductive",
    **about: object,
) -> Scores:
    pool, query = normalise(*pair, how=how, setting=setting)
    return evaluate(pool, labels, query, **about)
