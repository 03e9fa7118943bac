"""What notebook 05 looks at beside the plain scores: votes, sources, shares, a table of models, findings."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.neighbors import KNeighborsClassifier

from xraykit import intervals, results
from xraykit.classifiers import Classifier
from xraykit.datasets import XrayDataset
from xraykit.datasets.catalogue import NO_FINDING
from xraykit.fewshot_features import normalise
from xraykit.fewshot_shift import told_apart
from xraykit.looks import Scores, judge_one, keep
from xraykit.results import Run
from xraykit.training_files import Fitted
from xraykit.training_findings import with_no_finding
from xraykit.training_study import CHECKPOINTS, images_a_class, probabilities_of

PUBLISHED = ("vgg16", "resnet50", "inception_v3")


def votes(
    features: np.ndarray, ds: XrayDataset, train: np.ndarray, parts: Mapping[str, np.ndarray], *, k: int
) -> dict[str, list[np.ndarray]]:
    """KNN on embeddings (N, D) of `ds`, standardised by those of `train`: shares of votes (M, K) by part."""
    found = {}
    for part, rows in parts.items():
        pool, queries = normalise(features[train], features[rows], how="standardised")
        machine = KNeighborsClassifier(n_neighbors=min(k, len(train))).fit(pool, ds.labels[train])
        found[part] = [machine.predict_proba(queries)]
    return found


def apart(
    run: Run,
    ds: XrayDataset,
    features: np.ndarray,
    parts: Mapping[str, np.ndarray],
    *,
    against: np.ndarray,
    rng: np.random.Generator,
    boot: Mapping[str, int],
    backbone: str,
    n_deals: int = 5,
) -> dict[str, dict[str, Scores]]:
    """By class and part: AUROC with which its images are told from those of `against`; chance is one half.

    The median of `n_deals` deals of the patients into folds, since one deal of few patients is luck.

    A network that was trained tells its own training images from all others, so `against` must be images that
    it has not learned from. See `fewshot_shift.told_apart`.
    """
    found: dict[str, dict[str, Scores]] = {}
    for c, name in enumerate(ds.classes):
        for part, rows in parts.items():
            old, new = against[ds.labels[against] == c], rows[ds.labels[rows] == c]
            pair = normalise(features[old], features[new], how="standardised")
            deals = [told_apart(*pair, ds.patients[old], ds.patients[new], rng=rng) for _ in range(n_deals)]
            source, _, who = deals[0]
            scores = intervals.bootstrap(
                source, [score for _, score, _ in deals], who, names=["auroc"], **boot
            )
            found.setdefault(name, {})[part] = scores
            about = {"task": "data", "target": name, "backbone": backbone}
            keep(run, ds, rows, scores, method=f"{part} images told from validation images", **about)
    return found


def shares_table(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    moved: Mapping[tuple[str, float], Sequence[Fitted]],
    *,
    train: np.ndarray,
    boot: Mapping[str, int],
    settings: Mapping[str, object] | None = None,
    **on: str,
) -> pd.DataFrame:
    """Scores of what `training_study.transfer` trained, as rows for `plots.shot_curves`.

    ``shots`` is the mean number of images a class.

    Args:
        rows: positions of the images that judge.
        train: positions of which the shares were taken.
        on: ``device``, ``precision``.
    """
    points = []
    for (way, share), group in moved.items():
        answers = probabilities_of(group, ds, rows, **on)
        seconds = float(np.mean([fitted.seconds for fitted in group]))
        shots = round(share * images_a_class(ds, train))
        about = {
            "task": "binary",
            "method": way,
            "backbone": group[0].name,
            "shots": "" if share == 1 else shots,
            "settings": settings,
        }
        names = ["macro_f1", "auroc", "accuracy"]
        scores = judge_one(run, ds, rows, answers, boot=boot, names=names, seconds=seconds, **about)
        points += [{"method": way, "shots": shots, "metric": m, **vars(v)} for m, v in scores.items()]
    return pd.DataFrame(points)


def table_of(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    found: Mapping[tuple[str, str, str], Classifier | str],
    *,
    boot: Mapping[str, int],
    settings: Mapping[str, object] | None = None,
    **on: str,
) -> pd.DataFrame:
    """Scores of each model of `training_study.model_table`, for reading; of those not run, the reason."""
    names, written = ["accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc"], {}
    for key, model in found.items():
        if isinstance(model, str):
            written[key] = {"accuracy": model}
            continue
        answers = probabilities_of([model], ds, rows, **on)
        about = {"task": "binary", "backbone": key[0], "method": f"{key[0]}, {key[1]}, kept by {key[2]}"}
        about |= {"settings": settings}
        scores = judge_one(run, ds, rows, answers, boot=boot, names=names, **about)
        written[key] = {name: str(value) for name, value in scores.items()}
    levels = ["network", "augmentation", "kept by"]
    return pd.DataFrame(written).T.reindex(columns=names).fillna("").rename_axis(levels)


def not_listed(networks: Sequence[str], *, why: str) -> dict[tuple[str, str, str], str]:
    """Rows of `table_of` for the published networks that are not among `networks`, with the reason `why`."""
    absent = [name for name in PUBLISHED if not any(given.startswith(name) for given in networks)]
    return {(n, a, kept): why for n in absent for a in ("augmented", "plain") for kept in CHECKPOINTS}


def findings_table(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    fitted: Fitted,
    *,
    boot: Mapping[str, int],
    method: str,
    backbone: str,
    settings: Mapping[str, object] | None = None,
    **on: str,
) -> dict[str, Scores]:
    """AUROC and AUPRC of each finding, their macro average, and of No Finding, recorded and logged.

    Args:
        ds: multi-label; without the class No Finding, of which its records have a column where the data do.
        rows: positions of the images that judge.
        fitted: trained on the findings of `ds`, watching AUROC.
        on: ``device``, ``precision``.
    """
    y, who, p = ds.labels[rows], ds.patients[rows], probabilities_of([fitted], ds, rows, **on)[0]
    columns = {"macro average": (y, p), **{name: (y[:, k], p[:, k]) for k, name in enumerate(ds.classes)}}
    healthy = ds.records[NO_FINDING].to_numpy()[rows] if NO_FINDING in ds.records else ~y.any(axis=1)
    columns[NO_FINDING] = (healthy.astype(int), with_no_finding(p, ds.classes)[0][:, -1])
    found = {}
    for name, (truth, scores) in columns.items():
        found[name] = intervals.bootstrap(truth, [scores], who, names=["auroc", "auprc"], **boot)
        about = {"task": "multi-label", "target": "" if name == "macro average" else name}
        about |= {"method": method, "backbone": backbone}
        keep(run, ds, rows, found[name], settings=settings, **about)
    return found


def few_shot_rows(run: Run, backbone: str) -> pd.DataFrame:
    """Test rows of notebook 04 on two classes: its frozen choice on the features `backbone`.

    No rows before that notebook ran. Its frozen choice is the method that raw pixels have at most shots.
    """
    rows = results.numbers(run.folder)
    here = {"notebook": "04", "task": "binary", "split": "test", "setting": "inductive", "target": ""}
    for column, value in here.items():
        rows = rows[rows[column] == value]
    rows = rows[rows["shots"].ne("") & rows["metric"].isin(["macro_f1", "auroc"])]
    rows = rows[~rows["method"].str.startswith("ladder, ")]  # a study of its own, of other numbers of shots
    frozen = rows[rows["backbone"] == "pixels"].groupby("method")["shots"].nunique()
    rows = rows[rows["method"].isin(frozen.nlargest(1).index) & rows["backbone"].eq(backbone)]
    rows = rows.sort_values("profile")  # "full" before "quick"
    return rows.drop_duplicates(["shots", "metric"]).assign(method="notebook 04: " + rows["method"])
