"""The first tab: choose a classifier, give it images, see what it says and why."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from xraykit.app import choosing, details, parts, uploads
from xraykit.app.examples import examples
from xraykit.app.uploads import Picture
from xraykit.app.views import SIDE, View, Viewer
from xraykit.errors import DataError
from xraykit.images import Preprocess

TAB = "Use a classifier"


@dataclass(frozen=True)
class Item:
    """One image to answer: its key in the session, its true class if known, and how it is read for a
    classifier."""

    key: str
    truth: str
    picture: Callable[[Preprocess], Picture]


def show() -> None:
    """The tab."""
    left, right = st.columns([2, 3], gap="large")
    with left:
        st.subheader("1. Classifier", anchor=False)
        source, viewer = choosing.classifier()
    with right:
        st.subheader("2. Images", anchor=False)
        items = _items()
    if viewer is None:
        return
    with st.expander("Model card of the classifier", icon=":material/description:"):
        parts.card(viewer.bundle.card)
    st.subheader("3. Answers", anchor=False)
    if not items:
        st.info("Upload images or choose an example above.", icon=":material/info:")
        return
    views = _views(viewer, source.key, items)
    parts.listed([view for view in views.values() if isinstance(view, str)])
    answered = [(view, item.truth) for item in items if isinstance(view := views[item.key], View)]
    if len(answered) > 1:
        details.table(viewer.bundle, answered)
    if answered:
        details.each(viewer.bundle, answered)


def _items() -> list[Item]:
    files = st.file_uploader(
        f"Chest X-rays: PNG, JPEG, BMP, TIFF or DICOM, at most {uploads.MAX_IMAGES} of {uploads.MAX_MB} MB",
        type=list(uploads.SUFFIXES),
        accept_multiple_files=True,
        key="images",
    )
    files, left_out = uploads.first_of(files, uploads.MAX_IMAGES)
    parts.listed([left_out] if left_out else [])
    made = examples()
    chosen = st.pills(
        "Or synthetic examples, which no classifier was trained on",
        list(made),
        selection_mode="multi",
        key="examples",
    )
    items = [Item(name, made[name][0], partial(_example, name, made[name][1])) for name in chosen]
    return items + [Item(f.file_id, "", partial(_read, f)) for f in files]


def _read(file: UploadedFile, wanted: Preprocess) -> Picture:
    return uploads.read_picture(file.name, file.getvalue(), wanted=wanted, side=SIDE)


def _example(name: str, pixels: np.ndarray, wanted: Preprocess) -> Picture:
    return uploads.picture_of(name, pixels, wanted=wanted, side=SIDE)


def _views(viewer: Viewer, classifier: str, items: list[Item]) -> dict[str, View | str]:
    """By key a view or why there is none; kept in the session for the images and the classifier in use."""
    kept = st.session_state.get("views", {})
    views = {item.key: kept[classifier, item.key] for item in items if (classifier, item.key) in kept}
    missing = [item for item in items if item.key not in views]
    progress = st.empty()
    for number, item in enumerate(missing):
        progress.progress(number / len(missing), text=f"{number} of {len(missing)} images answered")
        try:
            views[item.key] = viewer.view(item.picture(viewer.bundle.preprocess))
        except DataError as error:
            views[item.key] = str(error)
        st.session_state["views"] = {(classifier, key): view for key, view in views.items()}
    progress.empty()
    st.session_state["views"] = {(classifier, key): view for key, view in views.items()}
    return views
