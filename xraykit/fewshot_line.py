"""Where to draw the line between two classes when only unlabelled images are left to draw it with."""

import numpy as np
from scipy.special import expit, logit
from skimage.filters import threshold_otsu

from xraykit.errors import DataError
from xraykit.fewshot_shift import prior_corrected

SURE = 1e-6  # probabilities nearer to 0 or 1 say no more


def pool_line(p: np.ndarray) -> float:
    """Decision line of two classes from unlabelled images: where their log odds part best in two groups.

    Otsu's threshold (IEEE Transactions on Systems, Man, and Cybernetics 9, 1979) of scikit-image, on a
    histogram of 256 bins: the middle of the bin up to which the lower group reaches. If all scores are equal
    it is that score. It needs no label, but expects two groups: a rare class pulls it into the common one.

    Args:
        p: probabilities (N,) of the second class for images without labels, cut to 1e-6..1 - 1e-6.

    Returns:
        A probability; images above it are of the second class.

    Raises:
        DataError: fewer than two images, or p outside 0..1.
    """
    p = np.asarray(p, np.float64)
    if p.ndim != 1 or len(p) < 2:
        raise DataError(f"p has shape {p.shape}; a line needs (N,) of at least 2 images without labels")
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"p from {p.min():.3g} to {p.max():.3g}; give probabilities in 0..1, none missing")
    return float(expit(threshold_otsu(logit(np.clip(p, SURE, 1 - SURE)))))


def moved(p: np.ndarray, line: float) -> np.ndarray:
    """Probabilities of two classes with their log odds shifted so that `line` becomes .5.

    The order of the images stays, and so does the AUROC. The shift is that of `fewshot_shift.prior_corrected`
    from classes of the shares 1 - line and line to equally frequent ones.

    Args:
        p: (..., 2), rows sum to 1.
        line: probability of the second class, above 0 and below 1.

    Returns:
        float64 of the shape of `p`; rows sum to 1.

    Raises:
        DataError: `p` of another shape or outside 0..1, or a line outside 0..1.
    """
    p = np.asarray(p)
    if p.ndim < 1 or p.shape[-1] != 2 or p.size == 0:
        raise DataError(f"p has shape {p.shape}; give (..., 2), both classes' probabilities of each image")
    if not 0 < line < 1:
        raise DataError(f"line = {line}; choose a probability above 0 and below 1")
    equal = prior_corrected(p.reshape(-1, 2), train_prior=(1 - line, line), target_prior=(0.5, 0.5))
    return equal.reshape(p.shape)
