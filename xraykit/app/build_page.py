"""The second tab: name classes, give a handful of images of each, get a classifier with its honest score."""

from dataclasses import dataclass, field

import numpy as np
import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from xraykit import bundle_files
from xraykit.app import building, choosing, parts, uploads, use_page
from xraykit.app.uploads import Picture
from xraykit.backbones import weights_dir
from xraykit.bundle import Bundle
from xraykit.bundle_cards import FEW
from xraykit.bundle_inputs import LEAST
from xraykit.errors import DataError
from xraykit.fewshot_classifiers import CLASSIFIERS
from xraykit.images import Preprocess

TAB = "Build a classifier"
MOST_CLASSES = 5
DEFAULTS = ("normal", "pneumonia", "", "", "")
THUMBNAILS, THUMBNAIL_SIDE = 4, 160
UNNAMED = "my classifier"


@dataclass(frozen=True)
class Built:
    """What was built: its label in the other tab, its .zip, images by class, and what was left out."""

    label: str
    bundle: Bundle = field(repr=False)
    data: bytes = field(repr=False)
    counts: dict[str, int]
    left_out: tuple[str, ...]


def show() -> None:
    """The tab."""
    st.markdown(
        f"Name 2 to {MOST_CLASSES} classes. Give each {LEAST} to {uploads.MAX_A_CLASS} images. "
        "Take **one image of each patient**: with several, the score below would be too good."
    )
    number, how = _choices()
    names, files = [], []
    for place, column in enumerate(st.columns(number, gap="medium")):
        with column, st.container(border=True):
            names.append(_text(f"Class {place + 1}", DEFAULTS[place], key=f"class {place}"))
            files.append(_uploader(place))
    how["pictures"] = st.checkbox(
        "Put the pictures into the bundle",
        value=True,
        key="pictures inside",
        help="They are shown beside answers. Leave them out if X-rays of patients must not travel with it.",
    )
    if st.button("Build", type="primary", icon=":material/build:", key="build"):
        st.session_state.pop("built", None)
        with parts.guarded():
            _build(names, files, **how)
    if "built" in st.session_state:
        _result(st.session_state["built"])


def _text(title: str, value: str, *, key: str) -> str:
    return st.text_input(title, value, max_chars=uploads.MAX_NAME, key=key)


def _choices() -> tuple[int, dict[str, object]]:
    """The number of classes, and what `building.build` takes beside the pictures."""
    columns = st.columns([2, 1, 2, 2], gap="medium")
    with columns[0]:
        name = _text("Name of the classifier", UNNAMED, key="name")
    number = columns[1].number_input("Classes", 2, MOST_CLASSES, 2, key="classes")
    found = building.backbones_found(weights_dir())
    backbone = columns[2].selectbox("Backbone", found, key="backbone", help="Makes features of each image.")
    kinds = list(CLASSIFIERS)
    first = kinds.index("logistic regression")
    classifier = columns[3].selectbox("Classifier", kinds, index=first, key="classifier")
    return int(number), {
        "name": " ".join(name.split()) or UNNAMED,
        "backbone": backbone,
        "classifier": classifier,
    }


def _uploader(place: int) -> list:
    files = st.file_uploader(
        "Images", type=list(uploads.SUFFIXES), accept_multiple_files=True, key=f"images of class {place}"
    )
    files, left_out = uploads.first_of(files, uploads.MAX_A_CLASS)
    parts.listed([left_out] if left_out else [])
    _thumbnails(files, place)
    return files


def _thumbnails(files: list, place: int) -> None:
    """The first pictures of a class, and how many there are; what cannot be read is said when building."""
    kept, shown = st.session_state.get(f"thumbnails {place}", {}), {}
    for file in files[:THUMBNAILS]:
        shown[file.file_id] = kept[file.file_id] if file.file_id in kept else _thumbnail(file)
    st.session_state[f"thumbnails {place}"] = shown
    for column, picture in zip(st.columns(THUMBNAILS) if shown else [], shown.values(), strict=False):
        if picture is not None:
            column.image(picture, alt="one of the images of this class", width="stretch")
    st.caption(f"{len(files)} {'image' if len(files) == 1 else 'images'}")


def _thumbnail(file: UploadedFile) -> np.ndarray | None:
    try:
        return uploads.thumbnail(file.name, file.getvalue(), side=THUMBNAIL_SIDE)
    except DataError:
        return None


def _read(
    names: tuple[str, ...], files: list[list], wanted: Preprocess
) -> tuple[dict[str, list[Picture]], list[str]]:
    """The pictures of each class, and which files are left out and why."""
    pictures: dict[str, list[Picture]] = {name: [] for name in names}
    left_out = []
    for name, uploaded in zip(names, files, strict=True):
        for file in uploaded:
            try:
                pictures[name].append(uploads.read_picture(file.name, file.getvalue(), wanted=wanted))
            except DataError as error:
                left_out.append(f"{name}: {error}")
    kept, twice = building.alone(pictures)
    return kept, left_out + twice


def _build(names: list[str], files: list[list], *, backbone: str, **how: object) -> None:
    with st.spinner("Reading the images, making features, checking on images held out…"):
        wanted = building.wanted_by(backbone)
        pictures, left_out = _read(building.class_names(names), files, wanted)
        bundle = building.build(pictures, backbone=backbone, **how)
        data = bundle_files.to_zip(bundle)
    counts = {label: len(of) for label, of in pictures.items()}
    label = choosing.add(bundle, "built here")
    st.session_state["built"] = Built(label, bundle, data, counts, tuple(left_out))


def _result(built: Built) -> None:
    with st.container(border=True):
        st.subheader(f"{parts.plain(built.bundle.name)} is ready", anchor=False)
        parts.listed(built.left_out)
        _score(built)
        left, right, _ = st.columns([1, 1, 2])
        left.download_button(
            "Download (.zip)",
            built.data,
            file_name=building.file_name(built.bundle.name),
            mime="application/zip",
            icon=":material/download:",
            on_click="ignore",
            key="download",
        )
        right.button(
            "Use it now", icon=":material/arrow_forward:", key="use it", on_click=_use, args=(built.label,)
        )


def _use(label: str) -> None:
    """A callback, because the choice and the tab are drawn before this page."""
    st.session_state[choosing.CHOICE], st.session_state["tab"] = label, use_page.TAB


def _score(built: Built) -> None:
    scores, counts = built.bundle.card["cross_validated"], built.counts
    each = ", ".join(f"{n} of {label}" for label, n in counts.items())
    st.markdown(
        f"Cross-validated on its own {sum(counts.values())} images ({parts.plain(each)}), in "
        f"{scores['folds']} parts: each image was answered by a classifier that had not seen it. In brackets "
        "the 95% interval."
    )
    for column, (metric, title) in zip(st.columns([1, 1, 2]), building.METRICS.items(), strict=False):
        column.metric(title, str(scores[metric]))
        column.caption(f"always saying the same class: {scores[f'baseline_{metric}']}")
    if building.no_better(scores):
        st.warning(
            "It is not told apart from always saying the same class: nothing that it says can be relied on.",
            icon=":material/warning:",
        )
    if min(counts.values()) < FEW:
        st.warning(
            f"The smallest class has {min(counts.values())} images. With fewer than {FEW} the score "
            "is rough and its interval wide, or too narrow by chance: collect more before you believe it.",
            icon=":material/warning:",
        )
    st.info(
        f"Calibration: {parts.plain(built.bundle.card['calibration'])}. The probabilities "
        "hold for images from the same source, with classes as frequent as here.",
        icon=":material/info:",
    )
