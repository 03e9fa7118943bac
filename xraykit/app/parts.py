"""What both pages draw: the banner, messages, bars of probabilities, a model card."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import altair as alt
import pandas as pd
import streamlit as st

from xraykit.bundle_cards import USE
from xraykit.errors import XraykitError
from xraykit.plots.style import COLOURS

BANNER = f"{USE[0].upper()}{USE[1:]}."
STYLE = """<style>
*:has(> .st-key-banner) {position: sticky; top: 0; z-index: 1000000;}
.st-key-banner {background: #7a4100; color: white; padding: .4rem 1rem; border-radius: .4rem;}
.st-key-banner [data-testid="stMarkdownContainer"] {margin-bottom: 0;}
.st-key-banner p {margin: 0; color: white; font-weight: 600;}
.stMainBlockContainer {padding-top: 2.5rem;}
</style>"""
DEPTH, SENTENCE = 3, 40
"""Of a model card: how deep entries are listed, and letters from which on an item has a line of its own."""
SAID, OTHER = COLOURS[0], "#a9b4bf"
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def plain(text: object) -> str:
    """Text for Streamlit's Markdown that shows as it is: no links, pictures, formulas or HTML."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(str(text).split()))


def banner() -> None:
    """The line that stays at the top while one scrolls."""
    st.html(STYLE)
    with st.container(key="banner"):
        st.markdown(BANNER)


@contextmanager
def guarded() -> Iterator[None]:
    """Show an error as a message; of one that nobody foresaw only its kind, the rest goes to the terminal."""
    try:
        yield
    except XraykitError as error:
        st.error(plain(error), icon=":material/error:")
    except Exception as error:
        logging.getLogger(__name__).exception("unexpected error in the app")
        st.error(
            f"Something went wrong in the app ({plain(type(error).__name__)}). Details are in the terminal "
            "that it was started from.",
            icon=":material/error:",
        )


def listed(messages: Sequence[str]) -> None:
    """Messages about single files, together in one warning."""
    lines = [plain(message) for message in messages]
    if lines:
        text = lines[0] if len(lines) == 1 else "\n".join(f"- {line}" for line in lines)
        st.warning(text, icon=":material/warning:")


def bars(
    classes: Sequence[str],
    probabilities: Sequence[float],
    *,
    thresholds: Mapping[str, float],
    said: Sequence[str],
) -> alt.LayerChart:
    """A bar of 0 to 100% for each class, those that were said in colour, and a mark at each threshold."""
    rows = pd.DataFrame(
        {
            "class": list(classes),
            "probability": [float(p) for p in probabilities],
            "threshold": [thresholds.get(name) for name in classes],
            "colour": [SAID if name in said else OTHER for name in classes],
        }
    )
    percent = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1], grid=True)
    x = alt.X("probability:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=percent)
    y = alt.Y("class:N", title=None, sort=None, axis=alt.Axis(labelLimit=180, labelFontSize=13))
    base = alt.Chart(rows, height=alt.Step(34))
    bar = base.mark_bar(height=18).encode(x=x, y=y, color=alt.Color("colour:N", scale=None))
    number = base.mark_text(align="left", dx=5, fontSize=13).encode(
        x=x, y=y, text=alt.Text("probability:Q", format=".1%")
    )
    mark = alt.Chart(rows.dropna(subset="threshold")).mark_tick(color="#d62728", thickness=3, size=28)
    return alt.layer(bar, number, mark.encode(x=alt.X("threshold:Q", title=None), y=y))


def card(about: Mapping[str, object]) -> None:
    """A model card: one line for each entry, those within an entry below it."""
    lines = [line for name, value in about.items() for line in _lines(name, value, depth=0)]
    st.markdown("\n".join(lines))


def _lines(name: str, value: object, *, depth: int) -> list[str]:
    start, below = f"{'    ' * depth}- **{plain(name.replace('_', ' '))}**", "    " * (depth + 1)
    if isinstance(value, Mapping) and depth < DEPTH:
        return [start, *(line for k, v in value.items() for line in _lines(str(k), v, depth=depth + 1))]
    if isinstance(value, list | tuple):
        if any(len(str(item)) > SENTENCE for item in value):
            return [start, *(f"{below}- {plain(item)}" for item in value)]
        value = ", ".join(map(str, value)) or "none"
    return [f"{start}: {plain(value)}"]
