"""Answers about image files: which files, in which order, and how they are written."""

import csv
import io
import json
import os
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
from xraykit.predict_output import format_of, partial, writer, written

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
    found = list(rows(Predictor(binary), paths, batch_size=batch_size, on_unreadable=refuse))
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
    found = list(rows(Predictor(binary), paths, batch_size=2, on_unreadable=lambda *a: bad.append(a)))
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
    asked, read = 0, predict.read_grey
    lock = threading.Lock()

    def counted(path: Path, **options: int) -> np.ndarray:
        nonlocal asked
        with lock:
            asked += 1
        return read(path, **options)

    monkeypatch.setattr(predict, "read_grey", counted)
    batches = answered(Predictor(binary), paths, batch_size=3, on_unreadable=refuse)
    for n, batch in enumerate(batches, 1):
        assert len(batch.paths) == (1 if n == 14 else 3)
        assert asked <= 3 * n + 6  # what was answered, and two batches ahead
    assert asked == 40


def test_stopping_early_ends_the_threads(binary: Bundle, images: np.ndarray, tmp_path: Path) -> None:
    batches = answered(Predictor(binary), saved(tmp_path, images), batch_size=1, on_unreadable=refuse)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_a_batch_of_none_is_refused(binary: Bundle) -> None:
    with pytest.raises(DataError, match="batch_size is 0; at least 1 is needed"):
        next(rows(Predictor(binary), [], batch_size=0, on_unreadable=refuse))


def test_names_of_any_bytes() -> None:
    assert shown(Path(os.fsdecode(b"x\xff.png"))) == "x�.png"
    assert shown(Path("früh.png")) == "früh.png"


def test_paths_of_folders(tmp_path: Path, images: np.ndarray) -> None:
    deep = saved(tmp_path / "b" / "c", images[:2])
    plain = dicom(tmp_path / "b" / "IM0001", images[0])
    for name in ("notes.txt", "README", ".hidden.png", "a.PNG", "Thumbs.db"):
        (tmp_path / "b" / name).write_bytes(b"not read yet")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    upper = tmp_path / "b" / "a.PNG"
    assert image_paths([tmp_path]) == [plain, upper, *deep]
    assert image_paths([deep[1], tmp_path / "b", deep[0]]) == [deep[1], plain, upper, deep[0]]
    link = tmp_path / "link.png"
    link.symlink_to(deep[0])
    assert image_paths([link, deep[0]]) == [link]  # the same file is answered once
    assert image_paths([tmp_path / "b" / "notes.txt"]) == [tmp_path / "b" / "notes.txt"]


def test_paths_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    gone = [tmp_path / f"x{i}.png" for i in range(7)]
    with pytest.raises(DataError, match=r"x0.png, .*x4.png and 2 more does not exist"):
        image_paths([tmp_path / "empty", *gone])
    with pytest.raises(DataError, match=r"empty has no image in it or below; files ending with \.png"):
        image_paths([tmp_path / "empty"])
    with pytest.raises(DataError, match="no image does not exist"):
        image_paths([])


def test_bundles_by_path_and_name(binary: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XRAYKIT_BUNDLES_DIR", raising=False)
    with pytest.raises(DataError, match=r"no bundle 'two': .*bundles, where there are none"):
        find_bundle("two", data_dir=tmp_path)
    folder = bundle_files.save(binary, tmp_path / "bundles" / "two")
    zipped = tmp_path / "bundles" / "more" / "other.zip"
    zipped.parent.mkdir()
    zipped.write_bytes(bundle_files.to_zip(binary))
    assert find_bundle(str(folder)) == folder
    assert find_bundle("two", data_dir=tmp_path) == folder
    assert [find_bundle(n, data_dir=tmp_path) for n in ("other", "other.zip", "more/other")] == [zipped] * 3
    with pytest.raises(DataError, match=r"no bundle 'too': .*where there are more/other, two"):
        find_bundle("too", data_dir=tmp_path)
    bundle_files.save(binary, tmp_path / "bundles" / "more" / "two")
    with pytest.raises(DataError, match=r"'two' is the name of .*two, .*two; give the path of one"):
        find_bundle("two", data_dir=tmp_path)


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
    with pytest.raises(DataError, match="new is a folder; give the name of a file"), written(out.parent):
        pass


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b.jpg", "IM1"], ["a.png", "b.png", "IM1.png"]),
        (["a.png", "a.jpg", "b.png"], ["a.png", "a.jpg.png", "b.png"]),
        (["s/a.png", "t/A.png", "b.png"], ["s_a.png", "t_A.png", "b.png"]),
        (["s/a.png", "t/a.jpg", "s/u/a.png"], ["s_a.png", "a.jpg.png", "u_a.png"]),
        (["x/s/a.png", "y/s/a.png"], ["x_s_a.png", "y_s_a.png"]),
    ],
)
def test_overlays_are_named_after_images(files: list[str], names: list[str], tmp_path: Path) -> None:
    found = predict_overlays.places([Path(name) for name in files], tmp_path)
    assert found == {Path(file): tmp_path / name for file, name in zip(files, names, strict=True)}


@given(st.lists(st.sampled_from(["a", "A", "b_a", "b/a", "c/b/a", "a-2"]), unique=True), st.booleans())
def test_no_overlay_takes_the_place_of_another(stems: list[str], one_suffix: bool) -> None:
    suffixes = [".png"] if one_suffix else [".png", ".jpg"]
    paths = [Path(stem + suffix) for stem in stems for suffix in suffixes]
    names = [path.name.casefold() for path in predict_overlays.places(paths, Path("out")).values()]
    assert len(set(names)) == len(paths)


def test_overlays_never_lie_among_the_images(tmp_path: Path, images: np.ndarray) -> None:
    (path,) = saved(tmp_path, images[:1])
    with pytest.raises(DataError, match=r"holds the image 00.png; choose a folder of their own"):
        predict_overlays.places([path], tmp_path)
    with pytest.raises(DataError, match=r"00.png is a file; give a folder"):
        predict_overlays.places([path], path)


def test_overlays(three: Bundle, images: np.ndarray, tmp_path: Path) -> None:
    black = np.zeros((1, 64, 64), np.uint8)
    paths = saved(tmp_path / "in", np.concatenate([images[7:8], black, images[1:2]]))
    to = predict_overlays.places(paths, tmp_path / "out")
    (batch,) = answered(Predictor(three), paths, on_unreadable=refuse)
    np.testing.assert_array_equal(prepared(three, batch.images)[0], three.preprocess.apply(images[7]))
    (line,) = predict_overlays.draw(explained(three), three, batch, to=to)
    assert line.startswith(f"{paths[1]}: no overlay: ")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00.png", "02.png"]
    with Image.open(to[paths[0]]) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert np.ptp(pixels, axis=2).max() > 60  # the map is in colour


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]
