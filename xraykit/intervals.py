"""How sure one may be of a score: patient bootstrap, paired comparison, Holm correction."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from xraykit.errors import DataError
from xraykit.labels import patient_codes
from xraykit.metrics import score_all

ALPHA = 0.05  # of a family of comparisons


def patient_weights(patients: np.ndarray, *, n_boot: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap weights (n_boot, N) float32: how often each image's *patient* was drawn.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; the patient is the sampling unit.
    """
    codes, names = patient_codes(patients, len(patients))
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_boot)
    return draws[:, codes].astype(np.float32)


def resampling_weights(n: int, patients: np.ndarray, *, n_boot: int, rng: np.random.Generator) -> np.ndarray:
    """`patient_weights` under a first row of ones, (n_boot + 1, N): the sample as it was observed."""
    if len(patients) != n:
        raise DataError(f"{n} labels but {len(patients)} patient ids; give one for each image")
    weights = patient_weights(patients, n_boot=n_boot, rng=rng)
    return np.concatenate([np.ones((1, n), weights.dtype), weights])


@dataclass(frozen=True)
class Interval:
    """A number, its 95% patient-bootstrap interval and, over several draws, its 2.5 to 97.5 percentiles.

    `p_value` is that of a paired difference, two-sided.
    """

    value: float
    ci_low: float
    ci_high: float
    spread_low: float = float("nan")
    spread_high: float = float("nan")
    n_draws: int = 1
    n_test: int = 0
    p_value: float = float("nan")

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.ci_low:.3f}, {self.ci_high:.3f}]"


def limits(samples: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of resampled values, leaving out those that are not defined (NaN)."""
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def _median_of_draws(by_draw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap over draws as well: (D, B) to (B,), in each column the median of D draws with replacement."""
    n_draws, n_boot = by_draw.shape
    pick = rng.integers(n_draws, size=(n_draws, n_boot))
    return np.median(np.take_along_axis(by_draw, pick, axis=0), axis=0)


def bootstrap(
    y: np.ndarray,
    draws: Sequence[np.ndarray],
    patients: np.ndarray,
    *,
    names: Sequence[str],
    seed: int,
    n_boot: int = 1000,
    threshold: float = 0.5,
) -> dict[str, Interval]:
    """Median over draws of each metric, with its interval, on one test set.

    Args:
        y: labels of the N test images.
        draws: one array of scores per draw (or seed); a single classifier is a list of one.
        patients: (N,) ids; the bootstrap resamples these, never single images, and the draws with them.
        names, threshold: see `score_all`.
        seed, n_boot: of the resamplings, and how many. The same seed resamples the same patients.

    Returns:
        An `Interval` for each metric. A resampling in which a metric is undefined is left out. Those of the
        ECE are moved so that their median is the observed value: a patient drawn twice looks like two that
        agree, which inflates a binned calibration error in every resampling.
    """
    if len(draws) == 0:
        raise DataError("bootstrap needs at least one draw of scores; got none")
    rng = np.random.default_rng(seed)
    weights = resampling_weights(len(y), patients, n_boot=n_boot, rng=rng)
    by_draw = [score_all(y, d, names=names, weights=weights, threshold=threshold) for d in draws]
    out = {}
    for name in names:
        samples = np.stack([d[name] for d in by_draw])
        resampled = _median_of_draws(samples[:, 1:], rng)
        spread = limits(samples[:, 0]) if len(draws) > 1 else (float("nan"), float("nan"))
        value = float(np.median(samples[:, 0]))
        if name == "ece":
            resampled = np.maximum(resampled + value - np.median(resampled), 0)
        low, high = limits(resampled)
        out[name] = Interval(value, low, high, *spread, n_draws=len(draws), n_test=len(y))
    return out


def paired_differences(
    y: np.ndarray,
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    patients: np.ndarray,
    *,
    names: Sequence[str],
    seed: int,
    n_boot: int = 1000,
    threshold: float = 0.5,
) -> dict[str, Interval]:
    """For each metric, median over draws of `a` minus that of `b`, on the same images, resampled together.

    Draws i of `a` and `b` belong together (same support set or seed) and must be equally many. The p-value is
    two-sided normal with the bootstrap standard error (Efron and Tibshirani 1993, ch. 6 and 13): counting
    resamplings beyond zero could not go below 2/n_boot, too coarse for Holm's correction.
    """
    if len(a) != len(b) or len(a) == 0:
        raise DataError(f"paired methods need equally many draws; got {len(a)} and {len(b)}")
    rng = np.random.default_rng(seed)
    weights = resampling_weights(len(y), patients, n_boot=n_boot, rng=rng)
    pick = rng.integers(len(a), size=(len(a), n_boot + 1))
    pick[:, 0] = np.arange(len(a))

    def medians(draws: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        by_draw = [score_all(y, d, names=names, weights=weights, threshold=threshold) for d in draws]
        stacked = {n: np.stack([d[n] for d in by_draw]) for n in names}
        return {n: np.median(np.take_along_axis(s, pick, axis=0), axis=0) for n, s in stacked.items()}

    of_a, of_b = medians(a), medians(b)
    return {n: difference_interval(of_a[n] - of_b[n], n_draws=len(a), n_test=len(y)) for n in names}


def difference_interval(samples: np.ndarray, *, n_draws: int, n_test: int) -> Interval:
    """From the observed difference (first) and the resampled ones (the rest), (n_boot + 1,), with the p-value
    of `paired_differences`. A resampled NaN is left out."""
    value, boot = float(samples[0]), samples[1:][~np.isnan(samples[1:])]
    error = float(np.std(boot, ddof=1)) if len(boot) > 1 else 0.0
    p_value = float(2 * norm.sf(abs(value) / error)) if error > 0 else float(value == 0)
    return Interval(value, *limits(boot), n_draws=n_draws, n_test=n_test, p_value=p_value)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's (1979) step-down adjusted p-values, in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1.0)
    return out


def judged_by_holm(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with ``p_holm``, Holm's correction of its column ``p`` over all rows, and the ``verdict``:
    "told apart" where that is below `ALPHA`, else "not told apart"."""
    p_holm = holm(table["p"])
    return table.assign(p_holm=p_holm, verdict=np.where(p_holm < ALPHA, "told apart", "not told apart"))


def frame(
    found: Mapping[tuple[str, ...] | str, Mapping[str, Interval]], *, levels: Sequence[str]
) -> pd.DataFrame:
    """Intervals as a table: one row a key and metric, with the parts of the key in the columns `levels`, and
    in ``text`` the value with its interval, for reading."""
    rows = []
    for key, values in found.items():
        parts = (key,) if isinstance(key, str) else key
        names = dict(zip(levels, parts, strict=True))
        rows += [{**names, "metric": m, **vars(value), "text": str(value)} for m, value in values.items()]
    return pd.DataFrame(rows)


def wide(found: Mapping, *, levels: Sequence[str]) -> pd.DataFrame:
    """Intervals for reading: one row a key, one column a metric, each cell ``value [low, high]``.

    Args:
        found: mappings within mappings down to those of metrics, as deep as `levels`; a key may also be a
            tuple of several levels.
        levels: what each depth is.
    """
    rows = frame(dict(_flat(found)), levels=levels)
    index = list(levels)
    return rows.pivot_table(index=index, columns="metric", values="text", aggfunc="first", sort=False).fillna(
        ""
    )


def _flat(found: Mapping, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    for key, values in found.items():
        parts = (*before, *(key if isinstance(key, tuple) else (key,)))
        if all(isinstance(value, Interval) for value in values.values()):
            yield parts, values
        else:
            yield from _flat(values, parts)
