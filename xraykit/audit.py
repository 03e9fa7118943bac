"""What is in a data set, and what is wrong with it, before anything is split, balanced or trained.

The counting functions take an `XrayDataset`, or its records alone with the class names: a label table without
images (NIH's 112,120 rows) can be audited too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xraykit.datasets.base import NO_IMAGE, SPLITS, XrayDataset
from xraykit.duplicates import NEAR_THRESHOLD, duplicate_counts, exact_duplicates, near_duplicates
from xraykit.errors import DataError

Records = XrayDataset | pd.DataFrame


def counts(data: Records, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """Images of each class (columns) in each split (rows; ``all`` where the records have no split).

    Multilabel images count once for each of their labels, so that rows can add up to more than the images.
    """
    records, onehot = _table(data, classes)
    table = onehot.groupby(_splits(records), observed=True).sum()
    return table.set_axis(pd.Index(table.index.astype(str), name="split"))


def images_and_patients(data: Records, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """``images`` and ``patients`` of each class, and in the row ``all``; a patient counts in each class."""
    records, onehot = _table(data, classes)
    onehot = onehot.assign(all=1)
    patients = onehot.groupby(records["patient_id"].to_numpy()).max().sum()
    return pd.DataFrame({"images": onehot.sum(), "patients": patients}).rename_axis("class")


def images_per_patient(data: Records) -> pd.Series:
    """Number of patients (values) who have so many images (index)."""
    records = data.records if isinstance(data, XrayDataset) else data
    sizes = records["patient_id"].value_counts()
    return sizes.value_counts().sort_index().rename("patients").rename_axis("images")


def labels_per_image(data: Records, classes: Sequence[str] | None = None) -> pd.Series:
    """Number of images (values) that have so many labels (index); ``No Finding`` counts as a label."""
    _, onehot = _table(data, classes)
    return onehot.sum(axis=1).value_counts().sort_index().rename("images").rename_axis("labels")


def cooccurrence(data: Records, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """Images that have both labels, K x K and symmetric; the diagonal holds the images of each label."""
    _, onehot = _table(data, classes)
    return onehot.T @ onehot


def patients_across_splits(data: Records) -> pd.DataFrame:
    """Images in each split (columns) of the patients (rows, sorted) who are in more than one."""
    records = data.records if isinstance(data, XrayDataset) else data
    table = pd.crosstab(records["patient_id"], _splits(records))
    table = table.set_axis(table.columns.astype(str), axis=1)
    return table[(table > 0).sum(axis=1) > 1].rename_axis(index="patient_id", columns=None)


def _table(data: Records, classes: Sequence[str] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The records, and one int64 0/1 column for each class."""
    if isinstance(data, XrayDataset):
        data, classes = data.records, data.classes
    if not classes:
        raise DataError("records alone need the class names too: counts(records, classes)")
    names = list(classes)
    if set(names) <= set(data.columns):
        return data, data[names].astype(np.int64)
    if "label" not in data.columns:
        missing = [name for name in names if name not in data.columns]
        raise DataError(f"records have neither a column 'label' nor the label columns {missing}")
    codes = pd.Index(names).get_indexer(data["label"])
    if (codes < 0).any():
        unknown = sorted(set(data["label"].astype(str)) - set(names))
        raise DataError(f"labels {unknown} are not among the classes {names}")
    onehot = np.eye(len(names), dtype=np.int64)[codes]
    return data, pd.DataFrame(onehot, columns=names, index=data.index)


def _splits(records: pd.DataFrame) -> pd.Categorical:
    if "split" not in records.columns:
        return pd.Categorical(["all"] * len(records))
    return pd.Categorical(records["split"], categories=SPLITS).remove_unused_categories()


@dataclass(frozen=True)
class Audit:
    """The tables of `audit`; each is what the function of that name returns.

    ``exact`` (with ``exact_counts``) and ``near`` are None for a label table without images. ``near`` also
    has ``image_id``, ``patient_id`` and ``split`` of both images as ``first_...`` and ``second_...``.
    ``unreadable`` is what the data set lists as ``excluded``.
    """

    counts: pd.DataFrame
    images_and_patients: pd.DataFrame
    images_per_patient: pd.Series
    labels_per_image: pd.Series
    cooccurrence: pd.DataFrame
    patients_across_splits: pd.DataFrame
    unreadable: pd.DataFrame
    exact: pd.DataFrame | None
    near: pd.DataFrame | None

    def summary(self) -> pd.DataFrame:
        """One row a check: ``check``, ``value`` (a count), ``verdict``.

        Verdicts: ``fact`` (nothing to judge), ``ok`` (none found), ``note`` (harmless if known), ``look`` (a
        suspicion that only eyes can settle), ``problem`` (a score measured on these splits would be wrong).
        """
        total = self.images_and_patients.loc["all"]
        rows = [
            ("images", total["images"], "fact"),
            ("patients", total["patients"], "fact"),
            ("largest number of images of one patient", self.images_per_patient.index.max(), "fact"),
            *_excluded_rows(self.unreadable),
            ("classes absent from a split", (self.counts == 0).any().sum(), "problem"),
            ("patients in more than one split", len(self.patients_across_splits), "problem"),
        ]
        rows += [] if self.exact is None else _exact_rows(self.exact, self.counts.index)
        rows += [] if self.near is None else _near_rows(self.near, self.exact)
        return pd.DataFrame(
            [(check, int(n), verdict if n or verdict == "fact" else "ok") for check, n, verdict in rows],
            columns=["check", "value", "verdict"],
        )


def _excluded_rows(excluded: pd.DataFrame) -> list[tuple[str, int, str]]:
    no_image = int((excluded["reason"] == NO_IMAGE).sum())
    rows = [("unreadable files", len(excluded) - no_image, "note")]
    return [*rows, ("labels without an image", no_image, "note")] if no_image else rows


def _exact_rows(exact: pd.DataFrame, splits: Sequence[str]) -> list[tuple[str, int, str]]:
    found = duplicate_counts(exact)
    extra = found["extra"].reindex(splits, fill_value=0)
    return [
        *((f"exact duplicates inside {split}", n, "note") for split, n in extra.items()),
        ("exact duplicates across splits", found.loc["across splits", "groups"], "problem"),
        ("exact duplicates with two labels", found.loc["two labels", "groups"], "problem"),
        ("exact duplicates with two patient ids", found.loc["two patients", "groups"], "note"),
    ]


def _near_rows(near: pd.DataFrame, exact: pd.DataFrame | None) -> list[tuple[str, int, str]]:
    """Counts without the pairs that `exact` groups. It may go by file, so a copy saved anew counts here."""
    pairs = near
    if exact is not None:
        group = exact.set_index("image_id")["group"]
        pairs = near[~near["first_image_id"].map(group).eq(near["second_image_id"].map(group))]
    across = pairs[pairs["first_split"] != pairs["second_split"]]
    return [
        ("near-duplicate pairs inside a split", len(pairs) - len(across), "note"),
        (
            "near-duplicate pairs across splits",
            len(across),
            "problem" if across["identical"].any() else "look",
        ),
    ]


def audit(
    data: Records, classes: Sequence[str] | None = None, *, near_threshold: float | None = NEAR_THRESHOLD
) -> Audit:
    """Every check of this module on a data set, or on records alone (then without those that need images).

    Args:
        near_threshold: correlation of `near_duplicates`, or None to leave that check out (its time grows with
            the square of the images: 6,000 take about a second, 100,000 some minutes).
    """
    is_set = isinstance(data, XrayDataset)
    near = None
    if is_set and near_threshold is not None:
        near = _name_pairs(near_duplicates(data.images, threshold=near_threshold), data.records)
    return Audit(
        counts=counts(data, classes),
        images_and_patients=images_and_patients(data, classes),
        images_per_patient=images_per_patient(data),
        labels_per_image=labels_per_image(data, classes),
        cooccurrence=cooccurrence(data, classes),
        patients_across_splits=patients_across_splits(data),
        unreadable=data.excluded if is_set else pd.DataFrame({"path": [], "reason": []}, dtype=str),
        exact=exact_duplicates(data) if is_set else None,
        near=near,
    )


def _name_pairs(pairs: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    for side in ("first", "second"):
        named = records.iloc[pairs[side]][["image_id", "patient_id", "split"]].add_prefix(f"{side}_")
        pairs = pairs.join(named.reset_index(drop=True))
    return pairs
