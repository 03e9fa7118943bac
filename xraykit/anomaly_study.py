"""Around the detectors: parts, the choice before any label is looked at, contamination, verdicts."""

from collections.abc import Mapping, Sequence

import numpy as np

from xraykit import intervals
from xraykit.anomaly import check_normals, ranks, threshold_for_false_alarms
from xraykit.anomaly_detectors import Detector
from xraykit.anomaly_lesions import KINDS, paste
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.intervals import Interval
from xraykit.looks import keep
from xraykit.results import Run
from xraykit.splits import patient_folds

POST_HOC = " (post hoc)"
SHARES = {"fit": 0.6, "stop": 0.1, "choice": 0.15, "calibration": 0.15}


def normal_parts(ds: XrayDataset, *, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The normal images of the split train in four parts, patients whole.

    Returns:
        Positions by part: ``fit`` (.6 of them, for the detectors), ``stop`` (.1, for the epoch of a
        training), ``choice`` (.15, into which lesions are pasted to choose a detector) and ``calibration``
        (.15, for the threshold).

    Raises:
        DataError: no normal images in train, or of fewer than four patients.
    """
    rows = np.flatnonzero((ds.labels == 0) & (ds.records["split"] == "train").to_numpy())
    if len(set(ds.patients[rows])) < len(SHARES):
        raise DataError(
            f"{ds.name} has {len(rows)} {ds.classes[0]} training images of {len(set(ds.patients[rows]))} "
            f"patients; at least {len(SHARES)} are needed"
        )
    shares = list(SHARES.values())
    fold = patient_folds(ds.labels[rows], ds.patients[rows], fractions=shares, rng=rng)
    return {name: rows[fold == i] for i, name in enumerate(SHARES)}


def ill_parts(
    ds: XrayDataset, normals: Mapping[str, np.ndarray], *, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Ill images of the split train, of patients who have no image in `normals`, halved by patient.

    Returns:
        Positions by part: ``judge``, beside held-out normals, and ``contaminants``, to slip among the fitted.

    Raises:
        DataError: fewer than two such patients.
    """
    known = set(ds.patients[np.concatenate(list(normals.values()))])
    others = np.array([patient not in known for patient in ds.patients])
    rows = np.flatnonzero((ds.labels != 0) & (ds.records["split"] == "train").to_numpy() & others)
    if len(set(ds.patients[rows])) < 2:
        raise DataError(
            f"{ds.name}: {len(rows)} ill training images of patients without normal ones; too few"
        )
    fold = patient_folds(ds.labels[rows], ds.patients[rows], fractions=[0.5, 0.5], rng=rng)
    return {name: rows[fold == i] for i, name in enumerate(("judge", "contaminants"))}


def fit_all(
    detectors: Mapping[str, Detector], ds: XrayDataset, rows: np.ndarray, *, allowed: float = 0.0
) -> dict[str, Detector]:
    """The detectors, fitted to the images `rows`, after `anomaly.check_normals` of these."""
    check_normals(ds, rows, allowed=allowed)
    return {name: detector.fit(ds.images, rows) for name, detector in detectors.items()}


def choose(
    detectors: Mapping[str, Detector],
    ds: XrayDataset,
    rows: np.ndarray,
    *,
    seed: int,
    boot: Mapping[str, int],
) -> dict[str, dict[str, Interval]]:
    """How well fitted detectors tell normal images from the same images with a lesion pasted in.

    No label takes part but that the images are normal. Every kind of lesion is pasted into every image.

    Args:
        rows: positions of normal images that no detector was fitted to; see `anomaly_lesions.with_lungs`.
        seed: of `anomaly_lesions.paste`.

    Returns:
        For each detector the AUROC of each kind of lesion; the detector with the highest mean first.
    """
    pasted = {kind: paste(ds.images, rows, kind=kind, seed=seed)[0] for kind in KINDS}
    y, who, everything = np.repeat([0, 1], len(rows)), np.tile(ds.patients[rows], 2), np.arange(len(rows))
    found = {}
    for name, detector in detectors.items():
        plain = detector.score(ds.images, rows)
        both = {
            kind: np.concatenate([plain, detector.score(ill, everything)]) for kind, ill in pasted.items()
        }
        found[name] = {
            kind: intervals.bootstrap(y, [ranks(scores)], who, names=["auroc"], **boot)["auroc"]
            for kind, scores in both.items()
        }
    return dict(sorted(found.items(), key=lambda item: -sum(v.value for v in item[1].values())))


def contaminated(
    normals: np.ndarray, contaminants: np.ndarray, *, share: float, rng: np.random.Generator
) -> np.ndarray:
    """`normals` with so many of them replaced by `contaminants` that these are `share` of all.

    Raises:
        DataError: a share that is not 0 to below 1, or too few contaminants.
    """
    n = round(share * len(normals))
    if not 0 <= share < 1 or n > len(contaminants):
        raise DataError(
            f"share = {share} of {len(normals)} images are {n} contaminants; there are {len(contaminants)}, "
            "and the share is 0 to below 1"
        )
    kept = rng.permutation(len(normals))[: len(normals) - n]
    return np.sort(np.concatenate([normals[kept], rng.choice(contaminants, n, replace=False)]))


def verdict(
    run: Run,
    ds: XrayDataset,
    rows: np.ndarray,
    scores: Sequence[np.ndarray],
    calibration: Sequence[np.ndarray],
    *,
    method: str,
    rate: float,
    boot: Mapping[str, int],
    backbone: str = "",
    settings: Mapping[str, object] | None = None,
) -> dict[str, Interval]:
    """AUROC, AUPRC, and at the threshold of the held-out normals sensitivity and specificity; recorded.

    A method that was not fixed before labels were looked at has `POST_HOC` in its name; of the others the
    ranks of the test scores are recorded as predictions.

    Args:
        rows: positions of the images that judge.
        scores: for each seed those of the images `rows` (M,).
        calibration: for each seed those of held-out normal images. The intervals take the thresholds that
            follow from them as they are.
        rate: wanted share of false alarms.
        settings: for the log of test looks.
    """
    y, who = ds.labels[rows], ds.patients[rows]
    found = intervals.bootstrap(y, [ranks(s) for s in scores], who, names=["auroc", "auprc"], **boot)
    thresholds = [threshold_for_false_alarms(normal, rate=rate) for normal in calibration]
    above = [(s > t).astype(float) for s, t in zip(scores, thresholds, strict=True)]
    found |= intervals.bootstrap(y, above, who, names=["sensitivity", "specificity"], **boot)
    about = {"task": "anomaly", "method": method, "backbone": backbone}
    split = keep(run, ds, rows, found, settings={"false alarms": rate, **(settings or {})}, **about)
    if split == "test" and POST_HOC not in method:
        p = [np.stack([1 - r, r], axis=1) for r in map(ranks, scores)]
        run.record_predictions(ds.records.iloc[rows], p, classes=ds.classes, labels=y, **about)
    return found
