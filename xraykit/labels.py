"""Checks of labels and patient ids, shared by everything that splits, draws or balances."""

import numpy as np
import pandas as pd

from xraykit.errors import DataError


def label_matrix(labels: np.ndarray) -> np.ndarray:
    """Labels as a bool indicator matrix (N, K): (N, K) 0/1 labels as they are, (N,) codes as one-hot columns
    for 0 .. the largest code.

    Raises:
        DataError: no rows, missing values, negative or fractional codes, or a matrix with more than 0 and 1.
    """
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or 0 in labels.shape:
        raise DataError(f"labels of shape {labels.shape}; give (N,) codes or an (N, K) 0/1 matrix")
    if labels.dtype.kind not in "biuf":
        raise DataError(f"labels are {labels.dtype}; give integer codes (XrayDataset.labels) or 0/1 columns")
    if not np.isfinite(labels).all():
        bad = np.flatnonzero(~np.isfinite(labels.reshape(len(labels), -1)).all(axis=1))
        raise DataError(
            f"{len(bad)} of {len(labels)} rows have NaN or infinite labels, row {bad[0]} first; drop them"
        )
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise DataError(f"a label matrix holds only 0 and 1; this has {labels.min()} to {labels.max()}")
        return labels.astype(bool)
    codes = labels.astype(np.int64)
    if codes.min() < 0 or (labels != codes).any():
        raise DataError(f"label codes must be whole numbers >= 0; the smallest here is {labels.min()}")
    return codes[:, None] == np.arange(codes.max() + 1)


def patient_codes(patients: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Integer code (N,) of each image's patient, and the sorted ids (P,) that the codes point into.

    Ids are compared as text, so the codes do not depend on the order of the rows.

    Raises:
        DataError: not one id for each of the `n` images, or a missing id.
    """
    patients = np.asarray(patients, dtype=object)
    if patients.shape != (n,):
        raise DataError(f"{n} images but patient ids of shape {patients.shape}; give one id for each image")
    missing = np.flatnonzero(pd.isna(patients))
    if len(missing):
        raise DataError(f"{len(missing)} images have no patient id, row {missing[0]} first; give each one")
    codes, ids = pd.factorize(patients.astype(str), sort=True)
    return codes, np.asarray(ids, dtype=object)
