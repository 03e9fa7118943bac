"""What is shown of each answer: the image, the heat map under its slider, probabilities, neighbours."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from xraykit.app import parts
from xraykit.app.views import View, labels_of, overlay
from xraykit.bundle import Bundle
from xraykit.bundle_answers import decided

A_PAGE = 5
Answered = Sequence[tuple[View, str]]
"""Views, each with the true class of its image, empty where nobody knows it."""


def table(bundle: Bundle, answered: Answered) -> None:
    """One row an image."""
    rows = []
    for view, truth in answered:
        row: dict[str, object] = {"image": view.name, "says": view.answers.said[0]}
        row |= {
            f"p({name})": float(p)
            for name, p in zip(bundle.classes, view.answers.probabilities[0], strict=True)
        }
        row["looks like what it knows"] = "no: the answer means nothing" if view.answers.unknown[0] else "yes"
        rows.append(row | ({"true class": truth} if any(t for _, t in answered) else {}))
    bars = {
        f"p({name})": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
        for name in bundle.classes
    }
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=bars)


@st.fragment
def each(bundle: Bundle, answered: Answered) -> None:
    """A fragment: the slider draws this part again, and nothing else."""
    left, right = st.columns([2, 3], gap="large")
    opacity = left.slider("Opacity of the heat map", 0, 100, 60, format="%d %%", key="opacity")
    start, pages = 0, list(range(0, len(answered), A_PAGE))
    if len(pages) > 1:
        start = right.selectbox(
            "Images",
            pages,
            format_func=lambda i: f"{i + 1} to {min(i + A_PAGE, len(answered))} of {len(answered)}",
        )
    for view, truth in answered[start : start + A_PAGE]:
        with st.container(border=True):
            _one(bundle, view, truth, opacity=opacity / 100)


def _one(bundle: Bundle, view: View, truth: str, *, opacity: float) -> None:
    answers = view.answers
    known = f" · true class: **{parts.plain(truth)}**" if truth else ""
    st.markdown(f"#### {parts.plain(view.name)}")
    st.markdown(f"Said: **{parts.plain(answers.said[0])}**{known}")
    if answers.unknown[0]:
        st.warning(
            f"This does not look like the X-rays that {parts.plain(bundle.name)} knows: the answer means "
            f"nothing. It lies {answers.distance[0]:.1f} times as far from them as the limit.",
            icon=":material/warning:",
        )
    image, heat, chart = st.columns([1, 1, 1.4], gap="medium")
    caption = "as generated" if truth else "as uploaded"
    image.image(view.shown, caption=caption, alt=f"{view.name}, {caption}", width="stretch")
    with heat:
        _heat(view, opacity)
    with chart:
        _probabilities(bundle, view)
    _neighbours(bundle, view)


def _heat(view: View, opacity: float) -> None:
    if view.heat is None:
        st.image(view.seen, caption="as the classifier sees it", alt=f"{view.name}, resized", width="stretch")
        st.caption(f"No heat map: {parts.plain(view.no_heat)}")
        return
    st.image(
        overlay(view.seen, view.heat, opacity=opacity),
        caption=f"as the classifier sees it, and Grad-CAM: what speaks for {parts.plain(view.target)}",
        alt=f"Grad-CAM of {view.name}",
        width="stretch",
    )


def _probabilities(bundle: Bundle, view: View) -> None:
    answers = view.answers
    named = bundle.classes[1:] if bundle.kind == "binary" else bundle.classes
    thresholds = dict(zip(named, bundle.thresholds, strict=True)) if bundle.thresholds else {}
    st.markdown("**Probabilities**" + (", red marks: decided from here on" if thresholds else ""))
    (said,) = decided(bundle, answers.probabilities)
    st.altair_chart(parts.bars(bundle.classes, answers.probabilities[0], thresholds=thresholds, said=said))
    st.caption(f"Distance from the known images: {answers.distance[0]:.2f} of the limit 1.")


def _neighbours(bundle: Bundle, view: View) -> None:
    if bundle.support is None:
        st.caption("This classifier was saved without pictures, so no labelled neighbours can be shown.")
        return
    st.markdown("**Nearest labelled images** (cosine distance of the features)")
    for place, (row, distance) in zip(st.columns(max(5, len(view.near))), view.near, strict=False):
        place.image(
            bundle.support.images[row],
            caption=f"{parts.plain(labels_of(bundle, row))} · {distance:.3f}",
            alt=f"labelled image {row}, {labels_of(bundle, row)}",
            width="stretch",
        )
