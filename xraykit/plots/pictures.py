"""Figures that show X-rays; their label keeps those of downloaded images out of the repository."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from xraykit.errors import DataError
from xraykit.plots.style import MASK_COLOUR, figure
from xraykit.results import PICTURES


def sample_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    columns: int = 6,
    masks: Sequence[np.ndarray] | None = None,
) -> Figure:
    """Grid of grey images (H, W) uint8, 0 black to 255 white, each under its title.

    Args:
        masks: boolean (H, W) for each image; its outline is drawn where it is not empty.

    Raises:
        DataError: no images, or not one title for each.
    """
    if len(images) == 0 or len(images) != len(titles):
        raise DataError(f"a grid needs images and one title for each; got {len(images)} and {len(titles)}")
    rows = -(-len(images) // columns)
    fig = figure(1.75 * columns, 2.0 * rows)
    fig.set_label(PICTURES)
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for i, (ax, image, title) in enumerate(zip(axes, images, titles, strict=False)):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.set_title(title, fontsize=9)
        if masks is not None and masks[i].any():
            ax.contour(masks[i], levels=[0.5], colors=[MASK_COLOUR], linewidths=0.9)
    return fig


def before_after(stages: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """One image (H, W) uint8 after each named stage, above the histogram of its grey levels."""
    if len(stages) == 0:
        raise DataError("before_after needs at least one (title, image) stage")
    fig = figure(2.2 * len(stages), 3.3)
    fig.set_label(PICTURES)
    axes = fig.subplots(2, len(stages), squeeze=False, height_ratios=[2.4, 1])
    for column, (title, image) in zip(axes.T, stages, strict=True):
        column[0].imshow(image, cmap="gray", vmin=0, vmax=255)
        column[0].set_title(title, fontsize=9)
        column[0].set_axis_off()
        column[1].hist(np.asarray(image).ravel(), bins=64, range=(0, 255), color="0.35")
        column[1].set(xlim=(0, 255), xticks=(0, 128, 255), yticks=())
        column[1].tick_params(labelsize=8)
    axes[1, 0].set_xlabel("grey level", fontsize=8)
    return fig
