"""One look for every figure: colour-blind-safe colours, no chart junk, text that survives a projector."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from seaborn import color_palette

COLOURS = color_palette("colorblind").as_hex()
GREY = "#666666"
MASK_COLOUR = COLOURS[1]


def figure(width: float, height: float) -> Figure:
    """An empty Figure of the given size in inches, laid out so that nothing is clipped."""
    return Figure(figsize=(width, height), layout="constrained")


def tidy(ax: Axes, *, title: str = "", x: str = "", y: str = "") -> Axes:
    """Set title and axis labels, drop the box."""
    ax.set_title(title, fontsize=11, loc="left")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
