"""The improvement process: Optuna over the settings of a training, judged on the validation images alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from xraykit import training
from xraykit.backbones.own import build_cnn
from xraykit.classifiers import Classifier, build, outputs
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError, TrainingError
from xraykit.fewshot_tuning import quiet_optuna
from xraykit.training_config import Config

if TYPE_CHECKING:
    import optuna

LEARNING_RATES = (1e-4, 3e-2)
WEIGHT_DECAYS = (1e-6, 1e-1)
TUNED = ("learning_rate", "batch_size", "weight_decay")  # of `Config`; the width is the network's


@dataclass(frozen=True)
class Improvement:
    """What a search found.

    Attributes:
        trials: one row a trial, in order, the base settings first: ``number, val_auroc, learning_rate,
            batch_size, weight_decay, width, state``; state PRUNED and no value where training diverged.
        best: the configuration of the best trial.
        width: of its network, `nets.BaselineCnn`.
        importances: for each hyperparameter its share of the variance of the value, summing to 1; empty
            where fewer than two trials have a value, or all have the same.
        first, winner: networks of the base settings (None if they diverged) and of the best trial.
    """

    trials: pd.DataFrame
    best: Config
    width: int
    importances: dict[str, float]
    first: Classifier | None = None
    winner: Classifier | None = None


def improve(
    ds: XrayDataset,
    *,
    train: np.ndarray,
    val: np.ndarray,
    base: Config,
    n_trials: int,
    seed: int,
    base_width: int = 16,
    widths: Sequence[int] = (8, 16, 32),
    batch_sizes: Sequence[int] = (16, 32, 64),
    progress: bool = True,
    **how: object,
) -> Improvement:
    """Search learning rate, batch size, weight decay and width of a light plain CNN, beginning with `base`.

    Optuna's tree-structured Parzen estimator (Akiba et al., KDD 2019; Bergstra et al., NeurIPS 2011), whose
    first third of the trials, at most ten, is random. All trials start from the seed of `base`. The value is
    the validation AUROC after the last epoch, so that no epoch is chosen too; of many trials the best value
    is nevertheless too good, and only other images say how good its settings are.

    Args:
        train, val: positions in `ds`, as in `training.fit`.
        base: the first trial, and whatever is not searched; its ``monitor`` and ``patience`` are not used.
        n_trials: trainings, that of `base` among them.
        seed: of the search.
        base_width: width of the first trial.
        widths, batch_sizes: the choices; learning rate and weight decay are searched on a logarithmic scale
            within `LEARNING_RATES` and `WEIGHT_DECAYS`.
        progress: a bar over the trials.
        how: further keywords of `training.fit`.

    Raises:
        DataError: no trials, or base settings outside of what is searched.
        TrainingError: every trial diverged.
    """
    first = {name: getattr(base, name) for name in TUNED} | {"width": base_width}
    _check(first, n_trials=n_trials, widths=widths, batch_sizes=batch_sizes)

    models: list[tuple[float, Classifier]] = []

    def value(tried: dict) -> float:
        config = {name: tried[name] for name in TUNED} | {"monitor": (), "patience": 0}
        model = build(
            build_cnn(width=tried["width"], seed=base.seed, light=True), outputs(ds), seed=base.seed
        )
        on = {"train": train, "val": val, "config": replace(base, **config)}
        fitted = training.fit(model, ds, progress=False, **on, **how)
        found = float(fitted.history["val_auroc"].iloc[-1])
        if math.isfinite(found):
            models.append((found, fitted.model("last")))
        return found

    with quiet_optuna():
        study = _search(
            value,
            first,
            _space(widths, batch_sizes),
            n_trials=n_trials,
            seed=seed,
            progress=progress,
        )
        importances = _importances(study, seed=seed)
    trials = study.trials_dataframe(attrs=("number", "value", "params", "state"))
    trials = trials.rename(columns=lambda c: c.removeprefix("params_")).rename(columns={"value": "val_auroc"})
    if trials["val_auroc"].isna().all():
        raise TrainingError(
            f"all {n_trials} trials diverged, that of the base settings too (learning rate "
            f"{base.learning_rate:g}, clip {base.clip:g}); lower the rate, or clip to 1"
        )
    best = study.best_params
    chosen = replace(base, **{name: best[name] for name in TUNED})
    columns = ["number", "val_auroc", *first, "state"]
    start = None if trials["val_auroc"].isna().iloc[0] else models[0][1]
    winner = max(models, key=lambda pair: pair[0])[1]
    return Improvement(trials[columns], chosen, best["width"], importances, start, winner)


def _check(first: dict, *, n_trials: int, widths: Sequence[int], batch_sizes: Sequence[int]) -> None:
    if n_trials < 1:
        raise DataError(f"n_trials = {n_trials}; try at least 1, the base settings")
    ranges = {"learning_rate": LEARNING_RATES, "weight_decay": WEIGHT_DECAYS}
    for name, (low, high) in ranges.items():
        if not low <= first[name] <= high:
            raise DataError(f"base {name} = {first[name]:g}; the search goes from {low:g} to {high:g}")
    for name, choices in {"batch_size": batch_sizes, "width": widths}.items():
        if first[name] not in choices:
            raise DataError(
                f"base {name} = {first[name]} is not among the choices {list(choices)}; add it to them"
            )


def _space(widths: Sequence[int], batch_sizes: Sequence[int]) -> dict:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        "learning_rate": FloatDistribution(*LEARNING_RATES, log=True),
        "batch_size": CategoricalDistribution(list(batch_sizes)),
        "weight_decay": FloatDistribution(*WEIGHT_DECAYS, log=True),
        "width": CategoricalDistribution(list(widths)),
    }


def _search(
    value: Callable[[dict], float], first: dict, space: dict, *, n_trials: int, seed: int, progress: bool
) -> "optuna.Study":
    """A finished study; a trial without a finite value is pruned."""
    import optuna

    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, n_trials // 3))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(first)
    for _ in tqdm(range(n_trials), unit="trial", disable=not progress):
        trial = study.ask(space)
        try:
            found = value(trial.params)
        except TrainingError:
            found = float("nan")
        if math.isfinite(found):
            study.tell(trial, found)
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return study


def _importances(study: "optuna.Study", *, seed: int) -> dict[str, float]:
    """By a random forest over the trials (fANOVA; Hutter, Hoos and Leyton-Brown, ICML 2014)."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    values = {t.value for t in study.trials if t.value is not None}
    if len(values) < 2:
        return {}
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name: float(share) for name, share in found.items()}
