"""A shortcut planted in synthetic X-rays: a side marker that follows the label, and then moves.

Zech et al., PLoS Medicine 2018, found networks that read the hospital from such letters.
"""

import numpy as np
import pandas as pd

from xraykit.datasets import XrayDataset, synthetic
from xraykit.errors import DataError

PLACES = ("as in training", "by chance", "moved")
MARGIN = 1 / 16


def places(
    name: str, *, confounder: float, size: int, n_patients: int, seed: int
) -> tuple[XrayDataset, dict[str, XrayDataset]]:
    """A set whose side marker follows the label, and its test patients with the marker elsewhere.

    The sets of test patients show the same exposures of the same chests, pixel by pixel, but for the letter
    and the side of the picture it stands on.

    Args:
        name: ``"synthetic"`` or ``"synthetic-nih"``, of two classes here.
        confounder: above 0 to 1, the probability that the label decides about the marker; otherwise a coin.
        size, n_patients, seed: of `datasets.synthetic.load`; a set with the same ones and without a
            confounder differs from these in the markers alone.

    Returns:
        The set with all splits; and by `PLACES` the test split with the marker as in the training split, by
        a fair coin, and on the other side of where the label would have put it.

    Raises:
        DataError: a confounder that is not above 0 to 1; and as `datasets.synthetic.load`.
    """
    if not 0 < confounder <= 1:
        raise DataError(f"confounder {confounder} plants no shortcut; use above 0 to 1")
    about = {"size": size, "seed": seed, "progress": False}
    full = synthetic.load(name, confounder=confounder, n_patients=n_patients, **about).binary()
    same = full.split("test")
    about["split_sizes"] = {"test": len(set(same.patients))}
    others = [synthetic.load(name, confounder=c, **about).binary() for c in (0.0, -confounder)]
    return full, dict(zip(PLACES, (same, *others), strict=True))


def habit_broken(ds: XrayDataset) -> np.ndarray:
    """Where the marker is not where the label would put it for a positive confounder: bool (N,).

    Args:
        ds: a synthetic set of two classes.
    """
    return (ds.records["marker_side"] == "L").to_numpy() != (ds.labels == 1)


def near_marker(records: pd.DataFrame, side: int, *, margin: float = MARGIN) -> np.ndarray:
    """Where the side marker stands, bool (M, side, side): a square around it, cut at the picture's edge.

    Args:
        records: M rows with ``marker_x``, ``marker_y`` (centre) and ``marker_size`` (height), in fractions
            of the picture, as the synthetic sets have them.
        margin: added to the letter on each side, in fractions of the picture: a map that is coarser than the
            letter cannot lie on it.

    Raises:
        DataError: records without a marker.
    """
    columns = ["marker_x", "marker_y", "marker_size"]
    missing = [c for c in columns if c not in records]
    if missing:
        raise DataError(
            f"the records have no {', '.join(missing)}; only synthetic sets say where markers are"
        )
    x, y, height = records[columns].to_numpy(float).T[:, :, None, None]
    rows, columns = np.indices((side, side)) + 0.5
    reach = height / 2 + margin
    return (abs(columns / side - x) <= reach) & (abs(rows / side - y) <= reach)
