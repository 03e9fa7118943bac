"""Choosing a classifier: from the bundles folder, or one that was uploaded or built in this session."""

from pathlib import Path

import streamlit as st

from xraykit import bundle_build, bundle_files
from xraykit.app import library, parts, uploads
from xraykit.app.views import Viewer
from xraykit.bundle import Bundle
from xraykit.errors import XraykitError

CHOICE = "chosen classifier"
"""Key of the choice in the session; a new classifier is chosen by writing its label there in a callback."""
GIVEN = "given bundles"
MOST_GIVEN = 5
"""Bundles that a session keeps; of more the oldest goes."""


def given() -> dict[str, Bundle]:
    """The bundles that were uploaded or built in this session, by label."""
    return st.session_state.setdefault(GIVEN, {})


def add(bundle: Bundle, how: str) -> str:
    """Keep a bundle for this session; returns its label."""
    label, number = f"{bundle.name} ({how})", 2
    while label in given():
        label, number = f"{bundle.name} ({how}, {number})", number + 1
    given()[label] = bundle
    for old in list(given())[:-MOST_GIVEN]:
        del given()[old]
    return label


@st.cache_resource(show_spinner="Making the embedded classifier from synthetic X-rays. Only the first time…")
def _embedded(folder: str) -> Path:
    return bundle_build.embedded()


@st.cache_data(show_spinner="Checking a classifier…", max_entries=1000)
def _why_not(key: str, path: str) -> str:
    return library.why_not(Path(path))


def classifier() -> tuple[library.Source | None, Viewer | None]:
    """What was chosen, ready to answer; None, None where nothing can be."""
    folder = bundle_files.bundles_dir()
    with parts.guarded():
        _embedded(str(folder))
    sources, broken = [], []
    for source in library.on_disk(folder):
        reason = _why_not(source.key, str(source.path))
        broken += [f"{source.label}: {reason}"] if reason else []
        sources += [] if reason else [source]
    choice, others = st.container(), st.container()
    with others, st.expander("Add a classifier of your own", icon=":material/upload:"):
        _upload()
    if broken:
        with others, st.expander(f"{len(broken)} in the folder cannot be used", icon=":material/warning:"):
            parts.listed(broken)
    sources = library.of_session(given())[::-1] + sources
    if not sources:
        st.error(f"There is no classifier in {parts.plain(folder)}: build one in the other tab.")
        return None, None
    by_label = {source.label: source for source in sources}
    if st.session_state.get(CHOICE) not in by_label:
        st.session_state[CHOICE] = next(iter(by_label))
    with choice:
        where = f"Those of {parts.plain(folder)}, and those of this session"
        label = st.selectbox("Classifier", list(by_label), key=CHOICE, help=where)
        viewer = _viewer(by_label[label])
        if viewer is not None:
            _about(viewer.bundle)
    return by_label[label], viewer


def _upload() -> None:
    file = st.file_uploader(
        f"The .zip of a bundle, at most {uploads.MAX_MB} MB",
        type="zip",
        key="bundle upload",
    )
    if file is None:
        return
    last, reason = st.session_state.get("last bundle upload", ("", ""))
    if last != file.file_id:
        reason = ""
        try:
            st.session_state[CHOICE] = add(library.read_zip(file.name, file.getvalue()), "uploaded")
        except XraykitError as error:
            reason = str(error)
        st.session_state["last bundle upload"] = (file.file_id, reason)
    if reason:
        st.error(parts.plain(reason), icon=":material/error:")


def _viewer(source: library.Source) -> Viewer | None:
    """Kept in the session for the one classifier that is chosen; a message and None where it cannot be."""
    kept = st.session_state.get("viewer")
    if kept is not None and kept[0] == source.key:
        return kept[1]
    with parts.guarded(), st.spinner("Loading the classifier…"):
        bundle = bundle_files.load(source.path) if source.path else given()[source.label]
        st.session_state["viewer"] = (source.key, Viewer(bundle))
        return st.session_state["viewer"][1]
    return None


def _about(bundle: Bundle) -> None:
    decision = {
        "binary": "one of two classes, by a threshold",
        "multiclass": "the class with the largest probability",
        "multilabel": "every finding above its threshold",
    }[bundle.kind]
    st.markdown(
        f"**{parts.plain(bundle.name)}** tells {parts.plain(', '.join(bundle.classes))}: {decision}. "
        f"It sees {bundle.size} × {bundle.size} pixels through {parts.plain(bundle.backbone.name)}."
    )
