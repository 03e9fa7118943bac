"""The app through Streamlit's own test client: no server, no browser."""

import re
import socket
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hostile_uploads import HOSTILE, encoded
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from xraykit import app, bundle_build, bundle_files, classifiers, cli, explain
from xraykit.app import build_page, building, choosing, examples, uploads, views
from xraykit.app.uploads import Picture
from xraykit.bundle import Bundle, Predictor
from xraykit.bundle_cards import USE
from xraykit.errors import DataError, RunError, StorageError
from xraykit.images import Preprocess, read_for


@pytest.fixture(autouse=True)
def main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest leaves the app's script as ``__main__``, which processes of later tests would start from."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


SCRIPT = Path(app.__file__).with_name("main.py")
PNG = "image/png"


def pictures(n: int, *, seed: int = 0, size: int = 48) -> list[np.ndarray]:
    """Grey noise, uint8, n different pictures."""
    return list(np.random.default_rng(seed).integers(0, 256, (n, size, size), np.uint8))


def files(images: list[np.ndarray], name: str = "x") -> list[tuple[str, bytes, str]]:
    return [(f"{name} {i}.png", encoded(image), PNG) for i, image in enumerate(images)]


def few_shot(classes: tuple[str, ...], name: str, **options: object) -> Bundle:
    images = np.stack(pictures(4 * len(classes)))
    images[4:] //= np.repeat(np.arange(2, len(classes) + 1), 4)[:, None, None].astype(np.uint8)
    return bundle_build.few_shot(images, np.repeat(np.arange(len(classes)), 4), classes, name=name, **options)


@pytest.fixture(scope="module")
def binary() -> Bundle:
    return few_shot(("normal", "ill"), "two classes")


@pytest.fixture(scope="module")
def findings() -> Bundle:
    """A multi-label network; one finding is always said, one never."""
    model = classifiers.build("cnn-small", 3)
    return bundle_build.from_network(
        model,
        classes=("Mass", "Small effusion", "Hernia"),
        size=48,
        temperature=1.0,
        thresholds=(0.0, 0.0, 1.0),
        images=np.stack(pictures(8)),
        labels=np.tile([[1, 0, 0], [0, 1, 1]], (4, 1)),
        name="findings",
        architecture="cnn-small",
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binary: Bundle) -> Path:
    """A bundles folder with the bundle of two classes in place of the embedded one."""
    monkeypatch.setenv("XRAYKIT_BUNDLES_DIR", str(tmp_path / "bundles"))
    monkeypatch.setenv("XRAYKIT_WEIGHTS_DIR", str(tmp_path / "weights"))
    made = bundle_files.save(binary, tmp_path / "bundles" / "embedded")
    monkeypatch.setattr(bundle_build, "embedded", lambda: made)
    return tmp_path / "bundles"


@pytest.fixture
def page(folder: Path) -> Callable[[], AppTest]:
    return lambda: AppTest.from_file(str(SCRIPT), default_timeout=60).run()


def text(at: AppTest) -> str:
    """Everything that is written on the page, without the backslashes of `parts.plain`."""
    kinds = (at.markdown, at.caption, at.warning, at.error, at.info, at.metric, at.subheader)
    return "\n".join(str(e.value) for of in kinds for e in of).replace("\\", "")


def upload(at: AppTest, given: list[tuple[str, bytes, str]], key: str = "images") -> AppTest:
    at.file_uploader(key=key).set_value(given)
    at.run()
    assert not at.exception
    return at


# ---- using a classifier


def test_the_first_page(page: Callable[[], AppTest]) -> None:
    at = page()
    assert not at.exception
    assert at.markdown[0].value == "For teaching and research, not for clinical use."
    assert at.markdown[0].value.lower() == f"{USE}."
    assert at.selectbox(key=choosing.CHOICE).options == ["embedded"]
    assert "two classes tells normal, ill: one of two classes, by a threshold" in text(at).replace("**", "")
    assert at.info[0].value == "Upload images or choose an example above."


def test_answers_are_those_of_the_classifier(page: Callable[[], AppTest], binary: Bundle) -> None:
    (large,) = pictures(1, seed=7, size=500)  # as a JPEG it is decoded at part of its size
    data = [*map(encoded, pictures(1, seed=5) + pictures(1, seed=6, size=70)), encoded(large, "JPEG")]
    at = upload(page(), [(f"x {i}.png", content, PNG) for i, content in enumerate(data)])
    read = [read_for(content, name="x", size=binary.size, fit="squash") for content in data]
    expected = [Predictor(binary).answer([image]) for image in read]
    shown = at.dataframe[0].value
    assert list(shown["image"]) == ["x 0.png", "x 1.png", "x 2.png"]
    assert list(shown["says"]) == [e.said[0] for e in expected]
    np.testing.assert_array_equal(
        shown[["p(normal)", "p(ill)"]], np.concatenate([e.probabilities for e in expected])
    )
    assert list(shown["looks like what it knows"] == "yes") == [not e.unknown[0] for e in expected]
    assert text(at).count("Nearest labelled images") == 3


def test_what_it_does_not_know_is_called_so(page: Callable[[], AppTest]) -> None:
    stripes = np.tile(np.repeat([0, 255], 8).astype(np.uint8), (64, 4))
    at = upload(page(), files([stripes]))
    assert "This does not look like the X-rays that two classes knows: the answer means nothing." in text(at)


def test_examples_come_with_their_true_class(page: Callable[[], AppTest]) -> None:
    at = page()
    at.session_state["examples"] = ["normal 1", "viral 2"]
    at.run()
    assert not at.exception
    assert list(at.dataframe[0].value["true class"]) == ["normal", "viral"]
    assert "true class: **viral**" in text(at)


def test_the_slider_computes_nothing_again(
    page: Callable[[], AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(views, "explain", lambda *a, **k: calls.append(1) or explain.explain(*a, **k))
    at = upload(page(), files(pictures(2, seed=5)))
    assert len(calls) == 2
    for opacity in (0, 30, 100):
        at.slider(key="opacity").set_value(opacity).run()
    assert not at.exception
    upload(at, files(pictures(3, seed=5)))  # the client names all files anew
    assert len(calls) == 5


def test_many_images_come_in_pages_and_the_rest_is_left_out(
    page: Callable[[], AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_IMAGES", 7)
    at = upload(page(), files(pictures(8, seed=5)))
    assert "8 images, the limit is 7: the last 1 are left out" in text(at)
    assert len(at.dataframe[0].value) == 7
    assert at.selectbox[1].options == ["1 to 5 of 7", "6 to 7 of 7"]
    assert text(at).count("Said: ") == 5
    at.selectbox[1].set_value(5).run()
    assert text(at).count("Said: ") == 2


def test_hostile_images_are_messages_beside_the_good_one(page: Callable[[], AppTest]) -> None:
    at = upload(page(), [*((name, data, PNG) for name, (data, _) in HOSTILE.items()), *files(pictures(1))])
    lines = at.warning[0].value.replace("\\", "").split("\n")
    assert len(lines) == len(HOSTILE)
    for line, (name, (_, message)) in zip(lines, HOSTILE.items(), strict=True):
        assert re.search(f"^- {re.escape(name)}: .*({message})", line), line
    assert text(at).count("Said: ") == 1
    assert not at.error


def test_a_file_name_is_never_markdown(page: Callable[[], AppTest]) -> None:
    name = "![x](http:evil)<b>:red[a]$x$.png"
    at = upload(page(), [(name, encoded(pictures(1)[0]), PNG)])
    (heading,) = (m.value for m in at.markdown if m.value.startswith("#### "))
    assert heading.replace("\\", "") == f"#### {name}"
    for mark in "![]()<>:$":
        assert f"\\{mark}" in heading
        assert heading.count(f"\\{mark}") == heading.count(mark)


# ---- choosing one


def test_new_bundles_need_no_change_to_the_app(
    page: Callable[[], AppTest], folder: Path, findings: Bundle
) -> None:
    bundle_files.save(few_shot(("normal", "bacterial", "viral"), "three"), folder / "more" / "three")
    bundle_files.save(findings, folder / "network")
    (folder / "packed.zip").write_bytes(bundle_files.to_zip(findings))
    bundle_files.save(few_shot(("a", "b"), "KNN", classifier="KNN", pictures=False), folder / "knn")
    at = page()
    chosen = at.selectbox(key=choosing.CHOICE)
    assert chosen.options == ["embedded", "knn", "more/three", "network", "packed.zip"]
    upload(at, files(pictures(1, seed=5)))
    expected = {
        "more/three": ["the class with the largest probability", "Nearest labelled images"],
        "network": ["every finding above its threshold", "Said: **Mass, Small effusion**"],
        "packed.zip": ["Said: **Mass, Small effusion**"],
        "knn": ["No heat map: ", "saved without pictures"],
    }
    for label, messages in expected.items():
        at.selectbox(key=choosing.CHOICE).set_value(label).run()
        assert not at.exception
        assert not at.error
        for message in messages:
            assert message in text(at), label


def test_broken_bundles_are_listed_with_their_reason(page: Callable[[], AppTest], folder: Path) -> None:
    broken = folder / "broken"
    broken.mkdir()
    (broken / "bundle.json").write_text("{")
    at = page()
    assert at.selectbox(key=choosing.CHOICE).options == ["embedded"]
    assert "broken: " in text(at)
    assert "is no usable bundle" in text(at)
    assert not at.error


def test_a_replaced_bundle_is_loaded_again(page: Callable[[], AppTest], folder: Path) -> None:
    at = page()
    bundle_files.save(few_shot(("clear", "cloudy"), "another"), folder / "embedded")
    at.run()
    assert "another tells clear, cloudy" in text(at).replace("**", "")


def test_a_folder_that_cannot_be_written(
    page: Callable[[], AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise StorageError("cannot write to /bundles; choose another folder")

    monkeypatch.setattr(bundle_build, "embedded", fails)
    at = page()
    assert [e.value.replace("\\", "") for e in at.error] == [
        "cannot write to /bundles; choose another folder"
    ]
    assert at.selectbox(key=choosing.CHOICE).options == ["embedded"]


def test_an_uploaded_bundle_is_chosen_and_leaves_no_file(
    page: Callable[[], AppTest], findings: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(empty))
    monkeypatch.setenv("HOME", str(empty))
    monkeypatch.chdir(empty)
    at = page()
    upload(at, ("mine.zip", bundle_files.to_zip(findings), "application/zip"), "bundle upload")
    assert at.selectbox(key=choosing.CHOICE).options == ["findings (uploaded)", "embedded"]
    assert at.selectbox(key=choosing.CHOICE).value == "findings (uploaded)"
    upload(at, files(pictures(1, seed=5)))
    assert "Said: **Mass, Small effusion**" in text(at)
    assert list(empty.rglob("*")) == []


def zip_bomb() -> bytes:
    import io
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("bundle.json", bytes(300 * 2**20))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b"PK\x03\x04 no zip", "is no zip file"),
        (b"<html></html>", "is no zip file"),
        (None, "more than a bundle has"),
    ],
)
def test_a_bad_bundle_is_a_message(page: Callable[[], AppTest], data: bytes | None, message: str) -> None:
    at = page()
    upload(at, ("bad.zip", zip_bomb() if data is None else data, "application/zip"), "bundle upload")
    assert [e.value.replace("\\", "").startswith("bad.zip: ") for e in at.error] == [True]
    assert message in text(at)
    assert at.selectbox(key=choosing.CHOICE).options == ["embedded"]


def test_what_nobody_foresaw_is_a_message_and_not_a_trace(
    page: Callable[[], AppTest], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at = page()
    monkeypatch.setattr(views.Viewer, "view", lambda *_: 1 / 0)
    upload(at, files(pictures(1)))
    assert [e.value.replace("\\", "").split(".")[0] for e in at.error] == [
        "Something went wrong in the app (ZeroDivisionError)"
    ]
    assert at.button(key="build") is not None  # the other tab is still there
    assert "ZeroDivisionError: division by zero" in caplog.text


# ---- building one


def given_classes(at: AppTest, *classes: list[tuple[str, bytes, str]]) -> AppTest:
    for place, of in enumerate(classes):
        at.file_uploader(key=f"images of class {place}").set_value(of)
    at.button(key="build").click().run()
    assert not at.exception
    return at


def test_build_and_use(page: Callable[[], AppTest]) -> None:
    dark, bright = ([p // 4 + add for p in pictures(4, seed=s)] for s, add in ((1, 0), (2, 190)))
    at = page()
    at.text_input(key="name").set_value("dark or bright")
    at.text_input(key="class 0").set_value("dark")
    at.text_input(key="class 1").set_value("bright")
    given_classes(at, files(dark, "d"), [*files(bright, "b"), ("bad.png", b"junk", PNG)])
    built = at.session_state["built"]
    assert built.counts == {"dark": 4, "bright": 4}
    assert [m.label for m in at.metric] == ["Macro-F1", "AUROC"]
    assert [m.value for m in at.metric] == [
        built.bundle.card["cross_validated"][m] for m in ("macro_f1", "auroc")
    ]
    assert "always saying the same class: 0.333" in text(at)
    assert "The smallest class has 4 images" in text(at)
    assert "bright: bad.png: is not a JPEG" in text(at)
    again = bundle_files.from_zip(built.data)
    assert (again.name, again.classes) == ("dark or bright", ("dark", "bright"))
    at.button(key="use it").click().run()
    assert at.selectbox(key=choosing.CHOICE).value == "dark or bright (built here)"
    upload(at, files([dark[0], bright[0]]))
    assert list(at.dataframe[0].value["says"]) == list(
        Predictor(built.bundle).answer([dark[0], bright[0]]).said
    )


def test_three_classes_without_pictures(page: Callable[[], AppTest]) -> None:
    at = page()
    at.number_input(key="classes").set_value(3).run()
    at.text_input(key="class 2").set_value("third")
    at.checkbox(key="pictures inside").uncheck()
    given_classes(at, *(files(pictures(3, seed=s)) for s in range(3)))
    built = at.session_state["built"].bundle
    assert built.classes == ("normal", "pneumonia", "third")
    assert built.support is None


def test_what_cannot_be_built_is_a_message(page: Callable[[], AppTest]) -> None:
    one, two = files(pictures(3, seed=1), "a"), files(pictures(3, seed=2), "b")
    at = given_classes(page(), one, two[:2])
    assert "pneumonia has 2 images that can be used; give 3 to 100 of each" in text(at)
    given_classes(at, one, [*two, ("again.png", one[0][1], PNG)])
    assert "again.png (pneumonia) is the same as a 0.png (normal); keep it in one class" in text(at)
    given_classes(at, one, [*two[:2], ("twice.png", two[0][1], PNG)])
    assert "pneumonia has 2 images that can be used" in text(at)
    at.text_input(key="class 1").set_value("NORMAL")
    given_classes(at, one, two)
    assert "two classes are called 'normal' and 'NORMAL'" in text(at)
    assert "built" not in at.session_state


RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))


def test_the_same_picture_in_two_classes_is_an_error() -> None:
    ill = [Picture("a.png", RAMP.T), Picture("b.png", RAMP)]
    message = re.escape("b.png (ill) is the same as a.bmp (normal); keep it in one class")
    with pytest.raises(DataError, match=f"^{message}"):
        building.alone({"normal": [Picture("a.bmp", RAMP)], "ill": ill})


def test_the_same_picture_twice_in_a_class_counts_once() -> None:
    first, again, other = (Picture(n, p) for n, p in (("a", RAMP), ("b", RAMP), ("c", RAMP[:, ::-1])))
    kept, twice = building.alone({"normal": [first, again, other], "ill": []})
    assert kept == {"normal": [first, other], "ill": []}
    assert kept["normal"][0] is first
    assert twice == ["normal: b is the same picture as a and counts once"]


def test_class_names() -> None:
    assert building.class_names([" normal ", "ill  or\tnot"]) == ("normal", "ill or not")
    for names, message in (
        (["normal", " "], "class 2 has no name; give every class one"),
        (["a" * 201, "b"], "of 201 letters; give a text of 1 to 200"),
        (["a\x07", "b"], "the name 'a.*of 2 letters; give a text of 1 to 200 printable characters"),
        (["Normal", "ill", "normal"], "two classes are called 'Normal' and 'normal'; give each another name"),
    ):
        with pytest.raises(DataError, match=message):
            building.class_names(names)


def test_what_is_wanted_is_what_the_classifier_takes(binary: Bundle) -> None:
    assert building.wanted_by("phantom") == binary.preprocess


class File(NamedTuple):
    name: str
    data: bytes

    def getvalue(self) -> bytes:
        return self.data


def test_pictures_are_made_small_one_at_a_time() -> None:
    side = 1500
    rows = np.random.default_rng(0).integers(0, 256, (8, side), np.uint8)
    given = [File(f"{i}.png", encoded(np.tile(row, (side, 1)))) for i, row in enumerate(rows)]
    tracemalloc.start()
    try:
        read, left_out = build_page._read(("a", "b"), [given[:4], given[4:]], Preprocess(size=64))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [picture.grey.shape for of in read.values() for picture in of] == [(64, 64)] * 8
    assert left_out == []
    assert kept < 2**20 < most < 3 * side**2  # two copies of one of them at a time


def test_building_leaves_no_file(
    page: Callable[[], AppTest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(empty))
    monkeypatch.chdir(empty)
    at = given_classes(page(), files(pictures(3, seed=1)), files(pictures(3, seed=2)))
    assert "built" in at.session_state
    assert list(empty.rglob("*")) == []


def test_backbones_are_found_by_the_names_of_their_files(tmp_path: Path) -> None:
    assert building.backbones_found(tmp_path / "nowhere") == ["phantom"]
    for name in ("resnet18.pth", "resnet101_v2.safetensors", "Phantom-7.safetensors", "mine.pt", "notes.md"):
        (tmp_path / name).touch()
    assert building.backbones_found(tmp_path) == [
        "phantom",
        "phantom:Phantom-7.safetensors",
        "resnet101:resnet101_v2.safetensors",
        "resnet18:resnet18.pth",
    ]


@pytest.mark.parametrize(
    ("macro_f1", "auroc", "expected"),
    [
        ("0.812 [0.700, 0.901]", "0.900 [0.800, 0.950]", False),
        ("0.812 [0.333, 0.901]", "0.900 [0.800, 0.950]", True),
        ("0.812 [0.700, 0.901]", "0.500 [0.500, 0.500]", True),
    ],
)
def test_no_better_than_the_same_answer(macro_f1: str, auroc: str, expected: bool) -> None:
    baseline = {"baseline_macro_f1": "0.333", "baseline_auroc": "0.500"}
    assert building.no_better({"macro_f1": macro_f1, "auroc": auroc} | baseline) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("My classifier 2!", "my-classifier-2.zip"), ("../../x", "x.zip"), ("肺", "classifier.zip")],
)
def test_names_of_downloads(name: str, expected: str) -> None:
    assert building.file_name(name) == expected


# ---- pictures and sessions


def test_the_overlay_by_hand() -> None:
    seen, heat = np.full((320, 320), 100, np.uint8), np.zeros((320, 320))
    heat[0, 0] = 1
    mixed = views.overlay(seen, heat, opacity=0.5)
    top = np.array([252, 255, 164])  # the end of inferno
    np.testing.assert_allclose(mixed[0, 0], 50 + top / 2, atol=1)
    np.testing.assert_array_equal(mixed[1:], np.full((319, 320, 3), 100))
    np.testing.assert_array_equal(views.overlay(seen, heat, opacity=0), np.full((320, 320, 3), 100))
    assert views.overlay(seen[:32, :32], heat[:32, :32], opacity=1).shape == (320, 320, 3)


def test_the_examples_are_fixed() -> None:
    made = examples.examples()
    assert list(made) == ["normal 1", "normal 2", "bacterial 1", "bacterial 2", "viral 1", "viral 2"]
    for name, (truth, picture) in made.items():
        assert name.startswith(truth)
        assert (picture.shape, picture.dtype) == ((512, 512), np.uint8)
    assert len({picture.tobytes() for _, picture in made.values()}) == 6


# ---- the server


def test_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RunError, match=rf"port {port} of 127.0.0.1 is in use.*--port {port + 1}"):
            app.start(port=port, host="127.0.0.1")
    app.check_free("127.0.0.1", port)


def test_an_address_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 8501))]  # reserved for documentation
    monkeypatch.setattr(app.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(
        RunError, match=r"--host 192\.0\.2\.1 is no address of this machine .*; use localhost"
    ):
        app.check_free("192.0.2.1", 8501)


def test_without_streamlit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r'not installed; pip install "xraykit\[app\]"'):
        app.start()


def test_start_serves_the_script_and_keeps_uploads_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from starlette.formparsers import MultiPartParser
    from streamlit.web import bootstrap

    calls = []
    monkeypatch.setattr(MultiPartParser, "spool_max_size", 2**20)
    monkeypatch.setattr(bootstrap, "load_config_options", lambda flag_options: calls.append(flag_options))
    monkeypatch.setattr(bootstrap, "run", lambda *arguments: calls.append(arguments))
    monkeypatch.setenv("XRAYKIT_BUNDLES_DIR", "elsewhere")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    app.start(bundles=tmp_path, port=port, host="127.0.0.1", browser=False)
    flags = app.options(port=port, host="127.0.0.1", browser=False)
    assert calls == [flags, (str(SCRIPT), False, [], flags)]
    assert MultiPartParser.spool_max_size > uploads.MAX_MB * 2**20
    assert bundle_files.bundles_dir() == tmp_path
    assert capsys.readouterr().out == f"xraykit app: http://127.0.0.1:{port} (end it with Ctrl-C)\n"


def test_a_bundles_folder_that_is_none(tmp_path: Path, binary: Bundle) -> None:
    with pytest.raises(RunError, match="is no folder; give the folder that holds"):
        app._folder(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is a bundle itself; give the folder that holds"):
        app._folder(bundle_files.save(binary, tmp_path / "one"))
    assert app._folder(tmp_path) == tmp_path


def test_the_settings_are_options_of_streamlit() -> None:
    from streamlit import config

    wanted = app.options(port=8501, host="localhost", browser=False)
    for name in wanted:
        assert name.replace("_", ".") in config._config_options_template, name
    assert wanted["browser_gatherUsageStats"] is False
    assert wanted["server_enableXsrfProtection"] is True
    assert wanted["server_fileWatcherType"] == "none"
    assert wanted["server_maxUploadSize"] == uploads.MAX_MB
    assert wanted["server_allowedHosts"] == ["127.0.0.1", "::1", "localhost"]
    assert app.options(port=1, host="0.0.0.0", browser=True)["server_allowedHosts"] == []


def test_the_command_passes_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    monkeypatch.setattr(app, "start", lambda **options: calls.append(options))
    arguments = ["app", "--bundles", str(tmp_path), "--port", "9000", "--host", "::1", "--no-browser"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.stderr
    assert calls == [{"bundles": tmp_path, "port": 9000, "host": "::1", "browser": False}]
    assert CliRunner().invoke(cli.app, ["app"]).exit_code == 0
    assert calls[1] == {"bundles": None, "port": 8501, "host": "localhost", "browser": True}


def test_the_package_imports_without_streamlit() -> None:
    import subprocess

    code = "import sys, xraykit.app, xraykit.cli; print({'streamlit', 'torch', 'skops'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_bundle_of_a_session_goes_when_there_are_more(binary: Bundle) -> None:
    at = AppTest.from_function(_six_bundles, args=(binary,)).run()
    assert not at.exception
    assert [m.value for m in at.markdown] == [f"two classes (x, {n})" for n in range(2, 7)]


def _six_bundles(bundle: "Bundle") -> None:
    import streamlit as st

    from xraykit.app import choosing

    for _ in range(6):
        choosing.add(bundle, "x")
    for label in choosing.given():
        st.markdown(label)
