"""Functions that take data and return a matplotlib Figure; only `results.Run.save_figure` writes files."""

from xraykit.plots.pictures import before_after, sample_grid
from xraykit.plots.scores import intervals, recall_bars, reliability
from xraykit.plots.tables import bars, class_counts, cooccurrence, grey_histograms, images_per_patient

__all__ = [
    "bars",
    "before_after",
    "class_counts",
    "cooccurrence",
    "grey_histograms",
    "images_per_patient",
    "intervals",
    "recall_bars",
    "reliability",
    "sample_grid",
]
