"""Does a score hold in every group of patients: age, sex, view?

A score over all patients may hide a group in which the method fails (Seyyed-Kalantari et al., Nature Medicine
27, 2021). A small group has a wide interval, and many comparisons find a difference by chance: groups with
too few images get no number, and differences are corrected for how many were looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.intervals import Interval, difference_interval, judged_by_holm, limits, resampling_weights
from xraykit.metrics import score_all

NAMES = ("auroc", "sensitivity", "specificity")
AGE_BANDS = {"0-1": 1, "2-5": 5, "6-12": 12, "13-17": 17, "18-39": 39, "40-59": 59, "60+": 120}  # last year
ATTRIBUTES = ("age", "sex", "view")
TOO_FEW = "too few"
PATIENTS = 5  # of either class: resampling one or two shows nothing of how patients differ

Groups = Mapping[str, np.ndarray]
Answers = np.ndarray | Sequence[np.ndarray]


def age_groups(ages: np.ndarray) -> np.ndarray:
    """Band of each age in years, as text (N,): children 0-1, 2-5, 6-12, 13-17, adults 18-39, 40-59, 60+.

    Years are counted as on a birthday (17.9 is 17). A missing age, or one outside 0 to 120, which is a typing
    error of the records, is in no band: ``""``.

    Raises:
        DataError: ages that are no numbers (N,).
    """
    try:
        ages = np.asarray(ages, dtype=float)
    except (TypeError, ValueError) as problem:
        raise DataError(f"ages must be numbers of years, NaN where unknown: {problem}") from None
    if ages.ndim != 1:
        raise DataError(f"ages of shape {ages.shape}; give one number of years for each image, (N,)")
    years = np.floor(ages)
    known = (years >= 0) & (years <= 120)
    band = np.searchsorted(list(AGE_BANDS.values()), np.where(known, years, 0))
    return np.where(known, np.array(list(AGE_BANDS), dtype=object)[band], "")


def attributes(ds: XrayDataset, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What the records know of the patients of the images `rows`: for `by_group`.

    Args:
        rows: positions in `ds`, (M,).

    Returns:
        For each of age (as `age_groups`), sex and view that the records have, a group for each image, text
        (M,), ``""`` where it was not recorded. Empty for a set that has none of them, such as Kermany.
    """
    records, out = ds.records.iloc[np.asarray(rows)], {}
    for name in ATTRIBUTES:
        if name in records and records[name].notna().any():
            column = records[name]
            plain = column.astype(object).where(column.notna(), "").astype(str).to_numpy(object)
            out[name] = age_groups(column.to_numpy(float)) if name == "age" else plain
    return out


def by_group(
    y: np.ndarray,
    p: Answers,
    patients: np.ndarray,
    groups: Groups,
    *,
    names: Sequence[str] = NAMES,
    threshold: float = 0.5,
    seed: int = 0,
    n_boot: int = 1000,
    least: int = 10,
) -> pd.DataFrame:
    """Scores within each group of patients, with 95% bootstrap intervals over patients.

    Args:
        y: labels (N,), 0/1.
        p: probabilities of the positive class (N,) or of both (N, 2), 0..1; a list of those of several draws
            or seeds has their median.
        patients: ids (N,).
        groups: by attribute the group of each image, text (N,); ``""`` is in no group. See `attributes`.
        names, threshold: of `metrics.score_all`, for a binary task.
        seed, n_boot: of the resamplings, and how many.
        least: images of either class that a group needs, from five patients or more.

    Returns:
        One row an attribute, group and metric: ``attribute, group, n_images, n_patients, n_positive, metric,
        value, ci_low, ci_high, text, note``. A group with too few images or patients of a class has NaN
        and the note ``too few``. A resampling that lost a class of the group is left out.

    Raises:
        DataError: labels that are not 0/1, or arrays of different lengths.
    """
    sample = _sampler(y, p, patients, names=names, threshold=threshold, seed=seed, n_boot=n_boot)
    rows = []
    for attribute, group, member in _members(len(y), groups):
        n_positive = int(np.asarray(y)[member].sum())
        about = {"attribute": attribute, "group": group, "n_images": int(member.sum())}
        about |= {"n_patients": len(set(np.asarray(patients)[member])), "n_positive": n_positive}
        enough = _enough(y, patients, member, least)
        samples = sample(member) if enough else {}
        for name in names:
            found = Interval(*[float("nan")] * 3)
            if enough:
                found = Interval(float(samples[name][0]), *limits(samples[name][1:]))
            scored = {"metric": name, "value": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
            text, note = (str(found), "") if enough else (TOO_FEW, TOO_FEW)
            rows.append({**about, **scored, "text": text, "note": note})
    columns = ["attribute", "group", "n_images", "n_patients", "n_positive", "metric", "value", "ci_low"]
    return pd.DataFrame(rows, columns=[*columns, "ci_high", "text", "note"])


def differences(
    y: np.ndarray,
    p: Answers,
    patients: np.ndarray,
    groups: Groups,
    *,
    names: Sequence[str] = NAMES,
    threshold: float = 0.5,
    seed: int = 0,
    n_boot: int = 1000,
    least: int = 10,
) -> pd.DataFrame:
    """How far the scores of two groups of an attribute lie apart, for all that have enough images.

    All patients are resampled together, so a patient with images in both groups (two views, or a birthday
    between them) is rightly in both. Holm's correction is over all rows: attributes, groups and metrics.

    Args:
        y, p, patients, groups, names, threshold, seed, n_boot, least: of `by_group`.

    Returns:
        ``attribute, first, second, metric, difference`` (first minus second)``, ci_low, ci_high, text, p,
        p_holm, verdict`` (told apart where ``p_holm < 0.05``). No rows where no two groups have enough.
    """
    sample = _sampler(y, p, patients, names=names, threshold=threshold, seed=seed, n_boot=n_boot)
    large = [part for part in _members(len(y), groups) if _enough(y, patients, part[2], least)]
    found = {(attribute, group): sample(member) for attribute, group, member in large}
    rows = []
    for (attribute, first), (other, second) in combinations(found, 2):
        if attribute != other:
            continue
        for name in names:
            samples = found[attribute, first][name] - found[attribute, second][name]
            gap = difference_interval(samples, n_draws=1, n_test=len(y))
            about = {"attribute": attribute, "first": first, "second": second, "metric": name}
            numbers = {"difference": gap.value, "ci_low": gap.ci_low, "ci_high": gap.ci_high}
            rows.append({**about, **numbers, "text": str(gap), "p": gap.p_value})
    columns = ["attribute", "first", "second", "metric", "difference", "ci_low", "ci_high", "text", "p"]
    return judged_by_holm(pd.DataFrame(rows, columns=columns))


def _members(n: int, groups: Groups) -> list[tuple[str, str, np.ndarray]]:
    """Each attribute, group and where it is (N,), age bands by age and other groups by name."""
    order = {band: i for i, band in enumerate(AGE_BANDS)}
    out = []
    for attribute, labels in groups.items():
        labels = np.asarray(labels, dtype=object)
        if labels.shape != (n,):
            raise DataError(f"{attribute}: groups of shape {labels.shape} for {n} images; give one for each")
        named = pd.notna(labels) & (labels != "")
        present = sorted(set(labels[named]), key=lambda g: (order.get(g, len(order)), str(g)))
        out += [(attribute, group, labels == group) for group in present]
    return out


def _enough(y: np.ndarray, patients: np.ndarray, member: np.ndarray, least: int) -> bool:
    """Whether a group has `least` images and `PATIENTS` patients of either class."""
    of_class = [member & (np.asarray(y) == c) for c in (0, 1)]
    return all(c.sum() >= least and len(set(np.asarray(patients)[c])) >= PATIENTS for c in of_class)


def _sampler(
    y: np.ndarray, p: Answers, patients: np.ndarray, *, names: Sequence[str], threshold: float, **boot: int
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from the images of a group (N,) to each metric as observed and as resampled, (n_boot + 1,).

    A resampling that lost one of the group's classes has NaN: its sensitivity would read 0.
    """
    y = np.asarray(y)
    draws = [p] if isinstance(p, np.ndarray) and p.ndim < 3 else [np.asarray(draw) for draw in p]
    shapes = [np.shape(draw) for draw in draws]
    if (
        not draws
        or y.ndim != 1
        or not np.isin(y, (0, 1)).all()
        or any(s[1:] not in ((), (2,)) for s in shapes)
    ):
        raise DataError(
            f"subgroups are of a binary task: labels 0/1 (N,) and probabilities (N,) or (N, 2) of each draw; "
            f"got labels {y.shape} and probabilities {shapes}"
        )
    score_all(y, draws[0], names=names, threshold=threshold)
    rng = np.random.default_rng(boot["seed"])
    weights = resampling_weights(len(y), patients, n_boot=boot["n_boot"], rng=rng)
    pick = rng.integers(len(draws), size=(len(draws), len(weights)))
    pick[:, 0] = np.arange(len(draws))

    def sample(member: np.ndarray) -> dict[str, np.ndarray]:
        of_group, labels = weights[:, member], y[member]
        lost = np.any([of_group[:, labels == c].sum(axis=1) == 0 for c in (0, 1)], axis=0)
        how = {"names": names, "weights": np.where(lost[:, None], 1, of_group), "threshold": threshold}
        scored = [score_all(labels, draw[member], **how) for draw in draws]
        stacked = {name: np.stack([one[name] for one in scored]) for name in names}
        medians = {
            name: np.median(np.take_along_axis(s, pick, axis=0), axis=0) for name, s in stacked.items()
        }
        return {name: np.where(lost, np.nan, m) for name, m in medians.items()}

    return sample
