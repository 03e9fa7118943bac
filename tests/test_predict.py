"""Answers about image files: which files, in which order, and how they are written."""

import csv
import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from xraykit import bundle_build, bundle_files, predict, predict_overlays
from xraykit.bundle import Bundle, Predictor, explained, prepared
from xraykit.datasets import synthetic
from xraykit.errors import DataError
from xraykit.images import Preprocess
from xraykit.predict import Answered, answered, columns, rows, rows_of, shown
from xraykit.predict_files import find_bundle, image_paths
from xraykit.predict_output import check_out, format_of, partial, writer, written
from xraykit.storage import write_atomic

CLASSES = ("normal", "bacterial", "viral")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 (18, 64, 64), six of each of CLASSES, of as many patients."""
    ds = synthetic.load("synthetic", size=64, n_patients=60, progress=False)
    first = np.unique(ds.patients, return_index=True)[1]
    found = [first[ds.labels[first] == code][:6] for code in range(3)]
    return np.concatenate([ds.images[of] for of in found])


@pytest.fixture(scope="module")
def binary(images: np.ndarray) -> Bundle:
    about = {"classes": CLASSES[:2], "name": "two", "preprocess": Preprocess(size=64, clahe_clip=3.0)}
    return bundle_build.few_shot(images[:12], np.repeat([0, 1], 6), **about)


@pytest.fixture(scope="module")
def three(images: np.ndarray) -> Bundle:
    return bundle_build.few_shot(images, np.repeat([0, 1, 2], 6), CLASSES, name="three")


def refuse(path: Path, reason: str) -> None:
    pytest.fail(f"{path} is unreadable: {reason}")


def saved(folder: Path, images: np.ndarray) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:02d}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def dicom(path: Path, image: np.ndarray) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.5.1.4.1.1.1",
        generate_uid(),
    )
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.Rows, ds.Columns = image.shape
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 7, 0, 1
    ds.PhotometricInterpretation, ds.PixelData = "MONOCHROME2", image.tobytes()
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_rows_are_the_answers_in_order(
    binary: Bundle, images: np.ndarray, batch_size: int, tmp_path: Path
) -> None:
    paths = saved(tmp_path, images)
    found = list(rows(Predictor(binary, batch_size=batch_size), paths, on_unreadable=refuse))
    expected = Predictor(binary).answer(images)
    assert [row["image"] for row in found] == [str(path) for path in paths]
    assert [row["said"] for row in found] == list(expected.said)
    assert [row["unknown"] for row in found] == expected.unknown.tolist()
    p = [[row["p_normal"], row["p_bacterial"]] for row in found]
    np.testing.assert_allclose(p, expected.probabilities, atol=2e-6)
    np.testing.assert_allclose([row["distance"] for row in found], expected.distance, rtol=1e-4)
    assert {row["threshold"] for row in found} == {0.5}


def test_dicom_and_large_and_oblong_files(binary: Bundle, images: np.ndarray, tmp_path: Path) -> None:
    large = np.array(Image.fromarray(images[3]).resize((300, 200)))
    paths = [dicom(tmp_path / "one", images[3]), tmp_path / "large.png"]
    Image.fromarray(large).save(paths[1])
    found = list(rows(Predictor(binary), paths, on_unreadable=refuse))
    for row, image in zip(found, (images[3], large), strict=True):
        expected = Predictor(binary).answer([image]).probabilities[0, 1]
        assert row["p_bacterial"] == pytest.approx(expected, abs=2e-6)


def test_unreadable_files_are_reported_and_the_others_answered(
    binary: Bundle, images: np.ndarray, tmp_path: Path
) -> None:
    paths = saved(tmp_path, images[:4])
    paths[1].write_bytes(b"no image")
    paths[3].unlink()
    bad = []
    found = list(rows(Predictor(binary, batch_size=2), paths, on_unreadable=lambda *a: bad.append(a)))
    assert [row["image"] for row in found] == [str(paths[0]), str(paths[2])]
    assert [path for path, _ in bad] == [paths[1], paths[3]]
    assert "is not a JPEG" in bad[0][1]
    assert "cannot be read" in bad[1][1]
    assert list(rows(Predictor(binary), paths[1:2], on_unreadable=lambda *a: None)) == []


def test_columns_and_rows_of_each_kind(three: Bundle, images: np.ndarray) -> None:
    assert columns(three) == [
        "image", "said", "p_normal", "p_bacterial", "p_viral", "threshold", "unknown", "distance",
    ]  # fmt: skip
    answers = Predictor(three).answer(images[:1])
    batch = Answered((Path("a.png"),), images[:1], answers)
    (row,) = rows_of(three, batch)
    assert (row["image"], row["threshold"], list(row)) == ("a.png", None, columns(three))
    assert row["p_normal"] + row["p_bacterial"] + row["p_viral"] == pytest.approx(1, abs=3e-6)
    several = replace(three, kind="multilabel", thresholds=(0.1, 0.2, 0.3))
    (row,) = rows_of(several, batch)
    assert [row[f"threshold_{c}"] for c in CLASSES] == [0.1, 0.2, 0.3]
    assert "threshold" not in columns(several)


def test_few_files_are_read_ahead(
    binary: Bundle, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = saved(tmp_path, images[:1]) * 40
    asked, read = 0, predict.read_for
    lock = threading.Lock()

    def counted(path: Path, **options: object) -> np.ndarray:
        nonlocal asked
        with lock:
            asked += 1
        return read(path, **options)

    monkeypatch.setattr(predict, "read_for", counted)
    batches = answered(Predictor(binary, batch_size=3), paths, on_unreadable=refuse)
    for n, batch in enumerate(batches, 1):
        assert len(batch.paths) == (1 if n == 14 else 3)
        assert asked <= 3 * n + 6  # what was answered, and two batches ahead
    assert asked == 40


def test_stopping_early_ends_the_threads(binary: Bundle, images: np.ndarray, tmp_path: Path) -> None:
    batches = answered(Predictor(binary, batch_size=1), saved(tmp_path, images), on_unreadable=refuse)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_names_of_any_bytes() -> None:
    assert shown(Path(os.fsdecode(b"x\xff.png"))) == "x�.png"
    assert shown(Path("früh.png")) == "früh.png"


def test_paths_of_folders(tmp_path: Path, images: np.ndarray) -> None:
    deep = saved(tmp_path / "b" / "c", images[:2])
    plain = dicom(tmp_path / "b" / "IM0001", images[0])
    for name in (
        "notes.txt",
        "README",
        ".hidden.png",
        "a.PNG",
        "Thumbs.db",
        "a.gradcam.png",
        "b.GradCAM.PNG",
    ):
        (tmp_path / "b" / name).write_bytes(b"not read yet")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    upper = tmp_path / "b" / "a.PNG"
    assert image_paths([tmp_path]) == [plain, upper, *deep]
    assert image_paths([deep[1], tmp_path / "b", deep[0]]) == [deep[1], plain, upper, deep[0]]
    link = tmp_path / "link.png"
    link.symlink_to(deep[0])
    assert image_paths([link, deep[0]]) == [link]  # the same file is answered once
    for name in ("notes.txt", "a.gradcam.png"):  # named themselves
        assert image_paths([tmp_path / "b" / name]) == [tmp_path / "b" / name]


def test_paths_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    gone = [tmp_path / f"x{i}.png" for i in range(7)]
    with pytest.raises(DataError, match=r"x0.png, .*x4.png and 2 more does not exist"):
        image_paths([tmp_path / "empty", *gone])
    (tmp_path / "empty" / "a.gradcam.png").touch()
    with pytest.raises(DataError, match=r"empty has no image in it or below; files ending with \.png"):
        image_paths([tmp_path / "empty"])
    with pytest.raises(DataError, match="no image does not exist"):
        image_paths([])


def test_bundles_by_path_and_name(binary: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XRAYKIT_BUNDLES_DIR", raising=False)
    with pytest.raises(
        DataError, match=r"no bundle 'two': .*two does not exist, and .*bundles has no bundles$"
    ):
        find_bundle("two", data_dir=tmp_path)
    folder = bundle_files.save(binary, tmp_path / "bundles" / "two")
    zipped = tmp_path / "bundles" / "more" / "other.zip"
    zipped.parent.mkdir()
    zipped.write_bytes(bundle_files.to_zip(binary))
    assert find_bundle(str(folder)) == folder
    assert find_bundle("two", data_dir=tmp_path) == folder
    assert [find_bundle(n, data_dir=tmp_path) for n in ("other", "other.zip", "more/other")] == [zipped] * 3
    with pytest.raises(DataError, match=r"bundles has none of that name, only more/other, two$"):
        find_bundle("too", data_dir=tmp_path)
    bundle_files.save(binary, tmp_path / "bundles" / "more" / "two")
    with pytest.raises(DataError, match=r"'two' is the name of .*two, .*two; give the path of one"):
        find_bundle("two", data_dir=tmp_path)


def test_a_folder_that_is_no_bundle_does_not_hide_one(
    binary: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XRAYKIT_BUNDLES_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    named = bundle_files.save(binary, tmp_path / "data" / "bundles" / "two")
    (tmp_path / "two").mkdir()
    (tmp_path / "too").mkdir()
    assert find_bundle("two", data_dir="data").resolve() == named
    places = f"{tmp_path / 'too'} is a folder without bundle.json, and data/bundles has none of that name"
    with pytest.raises(DataError, match=re.escape(places)):
        find_bundle("too", data_dir="data")
    bundle_files.save(binary, tmp_path / "three")
    bundle_files.save(binary, tmp_path / "data" / "bundles" / "three")
    assert find_bundle("three", data_dir="data") == Path("three")
    (tmp_path / "too").rmdir()
    (tmp_path / "too").write_bytes(b"taken as it is a file; loading it says what is wrong")
    assert find_bundle("too", data_dir="data") == Path("too")
    with pytest.raises(DataError, match="x does not exist"):
        find_bundle("x" * 300, data_dir="data")


ROWS = [
    {"image": "a,b.png", "said": "normal", "p_normal": 0.75, "p_pneumonia": 0.25,
     "threshold": 0.5, "unknown": False, "distance": 0.5},
    {"image": "c.png", "said": "pneumonia", "p_normal": 0.125, "p_pneumonia": 0.875,
     "threshold": 0.5, "unknown": True, "distance": 1.25},
]  # fmt: skip


def text(form: str, some: list[dict]) -> str:
    target = io.StringIO()
    to = writer(form, target, columns=list(ROWS[0]), images=[row["image"] for row in some])
    to.start()
    for row in some:
        to.row(row)
    to.end()
    return target.getvalue()


def test_csv_and_json_can_be_read_again() -> None:
    assert text("csv", ROWS) == (
        "image,said,p_normal,p_pneumonia,threshold,unknown,distance\n"
        '"a,b.png",normal,0.75,0.25,0.5,no,0.5\n'
        "c.png,pneumonia,0.125,0.875,0.5,yes,1.25\n"
    )
    assert json.loads(text("json", ROWS)) == ROWS
    assert json.loads(text("json", [])) == []
    assert list(csv.DictReader(io.StringIO(text("csv", [])))) == []


def test_table() -> None:
    assert text("table", ROWS).splitlines() == [
        "   image    said       normal  pneumonia  threshold  distance",
        "   a,b.png  normal      0.750      0.250      0.500     0.500",
        "!  c.png    pneumonia   0.125      0.875      0.500     1.250",
        "! 1 of 2 did not look like the X-rays that this classifier knows (distance above 1); "
        "the answer means nothing",
        "For teaching and research, not for clinical use.",
    ]
    assert "!" not in text("table", ROWS[:1])
    assert "\x1b" not in text("table", [{**ROWS[0], "image": "\x1b[2J.png"}])
    long = text("table", [{**ROWS[0], "image": "x" * 90 + "end.png"}]).splitlines()[1]
    assert long.startswith("   …xxx")
    assert "xend.png  normal" in long


def test_table_of_many_classes() -> None:
    row = {"image": "a", "said": "none"} | {f"p_{c}": p for c, p in zip("abcdef", range(6), strict=True)}
    row |= {f"threshold_{c}": 0.5 for c in "abcdef"} | {"unknown": False, "distance": 0.25}
    target = io.StringIO()
    to = writer("table", target, columns=list(row), images=["a"])
    to.start()
    to.row(row)
    assert target.getvalue().splitlines() == [
        "   image  said  distance  most probable",
        "   a      none     0.250  f 5.00, e 4.00, d 3.00, c 2.00",
    ]


def test_format_by_suffix() -> None:
    assert format_of(None, None) == "table"
    assert [format_of(None, Path(n)) for n in ("a.csv", "a.JSON", "a.txt")] == ["csv", "json", "table"]
    assert format_of("json", Path("a.csv")) == "json"
    with pytest.raises(DataError, match="format 'xml'; choose of table, csv, json"):
        format_of("xml", None)


def failing(out: Path, content: str, kind: type[BaseException]) -> None:
    with written(out) as file:
        file.write(content)
        raise kind


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.csv"
    with written(out) as file:
        file.write("one")
        assert not out.exists()
    assert out.read_text() == "one"
    with pytest.raises(ZeroDivisionError):
        failing(out, "two", ZeroDivisionError)
    assert [p.name for p in out.parent.iterdir()] == ["a.csv"]
    with pytest.raises(KeyboardInterrupt):
        failing(out, "three", KeyboardInterrupt)
    assert (out.read_text(), partial(out).read_text()) == ("one", "three")
    assert sorted(p.name for p in out.parent.iterdir()) == ["a.csv", "a.csv.partial"]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with images, of which ``link.csv`` is a link to ``IM1``, other files, and the bundle ``b``."""
    for name in ("a.png", "IM1", "other.png", "notes.md", "old.csv", "b/bundle.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link.csv").symlink_to("IM1")
    return tmp_path


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.png", "a.png is one of the images; give another file"),
        ("IM1", "IM1 is one of the images"),
        ("link.csv", "link.csv is one of the images"),
        ("b/../a.png", "a.png is one of the images"),
        ("b/bundle.json", r"bundle.json lies in the bundle .*b, which has to stay as it is; .*\(--out\)"),
        ("b/new/said.csv", "said.csv lies in the bundle"),
        ("b", "b is a folder; give the name of a file"),
        ("other.png", r"other.png would be taken for an image; .* one of .csv, .json, .txt \(--out\)"),
        ("new.DCM", "new.DCM would be taken for an image"),
        ("notes.md", "notes.md exists; only files that end with .csv, .json, .txt are replaced"),
    ],
)
def test_answers_never_replace_what_is_read(inputs: Path, out: str, message: str) -> None:
    images = [inputs / "gone.png", inputs / "a.png", inputs / "IM1"]
    with pytest.raises(DataError, match=message):
        check_out(inputs / out, images=images, bundle=inputs / "b")


def test_a_zipped_bundle_is_not_replaced(inputs: Path) -> None:
    with pytest.raises(DataError, match=r"old\.csv lies in the bundle"):
        check_out(inputs / "old.csv", images=[], bundle=inputs / "old.csv")


@pytest.mark.parametrize("out", ["old.csv", "new.csv", "new", "new.tsv", "bb/said.csv", "x" * 300])
def test_other_places_take_answers(inputs: Path, out: str) -> None:
    assert check_out(inputs / out, images=[inputs / "a.png"], bundle=inputs / "b") is None
    assert (inputs / "old.csv").read_text() == "old.csv"


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b.jpg", "IM1"], ["a", "b", "IM1"]),
        (["a.png", "a.jpg", "b.png"], ["a.png", "a.jpg", "b"]),
        (["s/a.png", "t/A.png", "b.png"], ["s_a.png", "t_A.png", "b"]),
        (["s/a.png", "t/a.jpg", "s/u/a.png"], ["s_a.png", "a.jpg", "u_a.png"]),
        (["x/s/a.png", "y/s/a.png"], ["x_s_a.png", "y_s_a.png"]),
        (["a.gradcam.png"], ["a.gradcam"]),
    ],
)
def test_overlays_are_named_after_images(files: list[str], names: list[str], tmp_path: Path) -> None:
    found = predict_overlays.places([Path(name) for name in files], tmp_path)
    expected = [tmp_path / f"{name}.gradcam.png" for name in names]
    assert found == dict(zip(map(Path, files), expected, strict=True))


@given(st.lists(st.sampled_from(["a", "A", "b_a", "b/a", "c/b/a", "a-2"]), unique=True), st.booleans())
def test_no_overlay_takes_the_place_of_another(stems: list[str], one_suffix: bool) -> None:
    suffixes = [".png"] if one_suffix else [".png", ".jpg"]
    paths = [Path(stem + suffix) for stem in stems for suffix in suffixes]
    names = [path.name.casefold() for path in predict_overlays.places(paths, Path("out")).values()]
    assert len(set(names)) == len(paths)


@pytest.mark.parametrize("letter", ["x", "é", os.fsdecode(b"\xff")])
def test_long_names_are_cut(letter: str, tmp_path: Path) -> None:
    stem = letter * (251 // len(os.fsencode(letter)))  # what a file system takes with ".png"
    paths = [tmp_path / "in" / f"{stem}.png", tmp_path / "in" / f"{stem[:-1]}y.png"]
    cut = list(predict_overlays.places(paths, tmp_path / "out").values())
    assert cut == list(predict_overlays.places(paths, tmp_path / "out").values())
    assert len({path.name.casefold() for path in cut}) == 2
    digits = hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
    assert cut[0].name.endswith(f"-{digits}.gradcam.png")
    assert max(len(os.fsencode(path.name)) for path in cut) <= 220
    write_atomic(cut[0], b"fits")
    assert cut[0].read_bytes() == b"fits"


def test_overlays_never_lie_among_the_images(tmp_path: Path, images: np.ndarray) -> None:
    (path,) = saved(tmp_path, images[:1])
    with pytest.raises(DataError, match=r"holds the image 00.png; choose a folder of their own"):
        predict_overlays.places([path], tmp_path)
    with pytest.raises(DataError, match=r"00.png is a file; give a folder"):
        predict_overlays.places([path], path)
    (tmp_path / "same").symlink_to(tmp_path)
    (tmp_path / "far").mkdir()
    (tmp_path / "link.png").symlink_to(path)
    for one in (tmp_path / "same" / "00.png", tmp_path / "same" / "link.png"):
        with pytest.raises(DataError, match="choose a folder of their own"):
            predict_overlays.places([one], tmp_path)
    (tmp_path / "far" / "link.png").symlink_to(path)
    with pytest.raises(DataError, match=r"holds the image link\.png"):
        predict_overlays.places([tmp_path / "same" / "far" / "link.png"], tmp_path / "far")


def test_overlays(three: Bundle, images: np.ndarray, tmp_path: Path) -> None:
    paths = saved(tmp_path / "in", images[[7, 0, 1]])
    speck = np.full((640, 640), 90, np.uint8)
    speck[0, 0] = 91  # gone after resizing
    Image.fromarray(speck).save(paths[1])
    to = predict_overlays.places(paths, tmp_path / "out")
    (batch,) = answered(Predictor(three), paths, on_unreadable=refuse)
    np.testing.assert_array_equal(prepared(three, batch.images)[0], three.preprocess.apply(images[7]))
    (line,) = predict_overlays.draw(explained(three), three, batch, to=to)
    assert line.startswith(f"{paths[1]}: no overlay: image 0 has the grey level 90 everywhere")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00.gradcam.png", "02.gradcam.png"]
    with Image.open(to[paths[0]]) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert np.ptp(pixels, axis=2).max() > 60  # the map is in colour


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]
