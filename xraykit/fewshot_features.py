"""Feature arrays before a classifier sees them: checks and normalisation."""

import numpy as np

from xraykit.errors import DataError

NORMALISATIONS = ("raw", "standardised", "l2")
SETTINGS = ("inductive", "transductive")
BLOCK = 1024  # rows at a time, so that a memmap of any length will do


def check_features(features: np.ndarray, name: str) -> np.ndarray:
    """`features` as an array (N, D) of finite floats; `name` is what the error calls them.

    Raises:
        DataError: no (N, D) floats, no row or column, or NaN or infinity: names the row and the column.
    """
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind != "f":
        raise DataError(
            f"{name} features are {features.dtype} {features.shape}; give floats (N, D) with N, D >= 1"
        )
    for start in range(0, len(features), BLOCK):
        bad = np.argwhere(~np.isfinite(features[start : start + BLOCK]))
        if len(bad):
            row, column = bad[0] + (start, 0)
            raise DataError(
                f"{name} features: row {row}, column {column} is {features[row, column]}; "
                "drop that image, or extract its features again"
            )
    return features


def normalise(
    pool: np.ndarray, test: np.ndarray, *, how: str, setting: str = "inductive"
) -> tuple[np.ndarray, np.ndarray]:
    """Training pool and test features on a common scale, float32 (N, D) and (M, D).

    ``"raw"`` changes nothing. ``"standardised"`` gives every feature mean 0 and standard deviation 1 over the
    *pool*: all training images, for which no label is needed. ``"l2"`` standardises, then divides each row by
    its length, as in SimpleShot (Wang et al. 2019). A feature that is constant over the pool becomes 0 there.

    Args:
        pool, test: (N, D) and (M, D) features of training and test images.
        how: one of `NORMALISATIONS`.
        setting: ``"transductive"`` standardises the test features by the test images' *own* mean and standard
            deviation. That uses all test images at once, so its scores must be marked as such.

    Raises:
        DataError: NaN or infinity, different D, an unknown `how` or `setting`.
    """
    for word, allowed in ((how, NORMALISATIONS), (setting, SETTINGS)):
        if word not in allowed:
            raise DataError(f"{word!r} is not one of {allowed}")
    pool, test = check_features(pool, "pool"), check_features(test, "test")
    if pool.shape[1] != test.shape[1]:
        raise DataError(
            f"the pool has {pool.shape[1]} features a row but test has {test.shape[1]}; use one backbone"
        )
    if how == "raw":
        if setting == "transductive":
            raise DataError("raw features use no statistics, so there is no transductive variant of them")
        return pool.astype(np.float32, copy=False), test.astype(np.float32, copy=False)
    of_pool = _moments(pool)
    of_test = _moments(test) if setting == "transductive" else of_pool
    unit = how == "l2"
    return _scaled(pool, *of_pool, unit=unit), _scaled(test, *of_test, unit=unit)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) of each feature, float64; 1 where it is constant."""
    mean = features.mean(axis=0, dtype=np.float64)
    square = np.zeros_like(mean)
    for start in range(0, len(features), BLOCK):
        square += ((features[start : start + BLOCK] - mean) ** 2).sum(axis=0)
    std = np.sqrt(square / len(features))
    # Summing n equal numbers can leave a mean that is a rounding error away from them.
    return mean, np.where(std > 1e-7 * np.abs(mean), std, 1.0)


def _scaled(features: np.ndarray, mean: np.ndarray, std: np.ndarray, *, unit: bool) -> np.ndarray:
    out = np.empty(features.shape, np.float32)
    for start in range(0, len(features), BLOCK):
        block = (features[start : start + BLOCK] - mean) / std
        if unit:
            length = np.linalg.norm(block, axis=1, keepdims=True)
            block /= np.where(length > 0, length, 1)
        out[start : start + BLOCK] = block
    return out
