"""Functions that take data and return a matplotlib Figure; only `results.Run.save_figure` writes files."""

from xraykit.plots.against_labels import against_labels
from xraykit.plots.anomaly import evidence, roc
from xraykit.plots.comparison import every_method, group_forest, mistake_forest, pair_forest
from xraykit.plots.decisions import confusions, heatmap, score_histograms
from xraykit.plots.embeddings import map3d, maps
from xraykit.plots.episodes import difference_forest, episode_picture, episode_shots, few_tasks, step_curves
from xraykit.plots.explain import overlay_table, overlays
from xraykit.plots.explain_trust import occlusion, randomisation, shortcut
from xraykit.plots.pictures import before_after, sample_grid
from xraykit.plots.scores import intervals, recall_bars, reliability
from xraykit.plots.searches import study
from xraykit.plots.shots import draw_distribution, ladder, shot_curves
from xraykit.plots.tables import bars, class_counts, cooccurrence, grey_histograms, images_per_patient
from xraykit.plots.training import learning_curves, trade_off

__all__ = [
    "against_labels",
    "bars",
    "before_after",
    "class_counts",
    "confusions",
    "cooccurrence",
    "difference_forest",
    "draw_distribution",
    "episode_picture",
    "episode_shots",
    "every_method",
    "evidence",
    "few_tasks",
    "grey_histograms",
    "group_forest",
    "heatmap",
    "images_per_patient",
    "intervals",
    "ladder",
    "learning_curves",
    "map3d",
    "maps",
    "mistake_forest",
    "occlusion",
    "overlay_table",
    "overlays",
    "pair_forest",
    "randomisation",
    "recall_bars",
    "reliability",
    "roc",
    "sample_grid",
    "score_histograms",
    "shortcut",
    "shot_curves",
    "step_curves",
    "study",
    "trade_off",
]
