"""What the app takes from a browser: limits, hostile files, pictures that are given twice."""

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hostile_uploads import HOSTILE, dicom, encoded
from hypothesis import given
from hypothesis import strategies as st

from xraykit.app import uploads
from xraykit.app.uploads import (
    alone,
    check_bytes,
    class_names,
    first_of,
    picture_of,
    read_picture,
    shown_name,
)
from xraykit.errors import BadImageError, DataError
from xraykit.image_files import read_grey

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))  # 48 x 64


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_picture_is_read_exactly(kind: str) -> None:
    picture = read_picture(f"ramp.{kind.lower()}", encoded(RAMP, kind))
    np.testing.assert_array_equal(picture.grey, RAMP)
    assert picture.name == f"ramp.{kind.lower()}"
    assert picture.digest == picture_of("other name", RAMP).digest


def test_pictures_are_read_as_files_are(tmp_path: Path) -> None:
    for name, data in {"x.jpg": encoded(RAMP, "JPEG"), "x.dcm": dicom(48, 64, RAMP.tobytes())}.items():
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(read_picture(name, data).grey, read_grey(tmp_path / name))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_a_message(name: str) -> None:
    data, message = HOSTILE[name]
    with pytest.raises(DataError, match=message) as caught:
        read_picture(name, data)
    assert str(caught.value).startswith(f"{name}: ")


def test_a_bomb_is_refused_before_its_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(BadImageError, match="declares"):
        read_picture("bomb.png", HOSTILE["bomb.png"][0])


@given(
    data=st.binary(max_size=400),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0"]),
)
def test_any_bytes_give_pixels_or_a_message(data: bytes, start: bytes) -> None:
    try:
        said = read_picture("x.png", start + data).name
    except DataError as error:
        said = str(error)
    assert said.startswith("x.png")


def test_reading_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    read_picture("ramp.tiff", encoded(RAMP, "TIFF"))
    read_picture("ramp.dcm", dicom(48, 64, RAMP.tobytes()))
    assert list(tmp_path.iterdir()) == []


def test_the_limit_of_bytes() -> None:
    check_bytes("x.png", bytes(20 * 2**20))
    with pytest.raises(DataError, match=r"x\.png: has 20\.0 MiB, the limit of an upload is 20; shrink it"):
        check_bytes("x.png", bytes(20 * 2**20 + 1))
    with pytest.raises(DataError, match="is empty"):
        check_bytes("x.png", b"")


def test_the_first_of_too_many() -> None:
    assert first_of([1, 2], 2) == ([1, 2], "")
    assert first_of([1, 2, 3, 4], 2) == ([1, 2], "4 images, the limit is 2: the last 2 are left out")


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("x.png", "x.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\y.png", "y.png"),
        ("a\nb\x1b[31m.png", "a?b?[31m.png"),
        ("folder/", "unnamed"),
        ("a" * 60, "a" * 60),
        ("a" * 61 + ".png", "a" * 29 + "…" + "a" * 26 + ".png"),
    ],
)
def test_shown_names(given_name: str, expected: str) -> None:
    assert shown_name(given_name) == expected


@given(st.text(max_size=200))
def test_a_shown_name_is_short_and_printable(name: str) -> None:
    shown = shown_name(name)
    assert 1 <= len(shown) <= uploads.MAX_NAME
    assert shown.isprintable()
    assert "/" not in shown


def test_the_same_picture_in_two_classes_is_an_error() -> None:
    ill = [picture_of("a.png", RAMP.T), picture_of("b.png", RAMP)]
    with pytest.raises(
        DataError, match=re.escape("a.bmp of normal and b.png of ill are the same picture; take")
    ):
        alone({"normal": [picture_of("a.bmp", RAMP)], "ill": ill})


def test_the_same_picture_twice_in_a_class_counts_once() -> None:
    first, again, other = (picture_of(n, p) for n, p in (("a", RAMP), ("b", RAMP), ("c", RAMP[:, ::-1])))
    kept, twice = alone({"normal": [first, again, other], "ill": []})
    assert kept == {"normal": [first, other], "ill": []}
    assert twice == ["normal: b is the same picture as a and counts once"]


def test_pixels_of_another_shape_are_another_picture() -> None:
    flat = np.arange(32 * 64, dtype=np.uint32).astype(np.uint8)
    assert picture_of("x", flat.reshape(32, 64)).digest != picture_of("x", flat.reshape(64, 32)).digest
    assert picture_of("x", RAMP).digest == picture_of("x", np.asfortranarray(RAMP)).digest


def test_class_names() -> None:
    assert class_names([" normal ", "ill  or\tnot"]) == ("normal", "ill or not")
    for names, message in (
        (["normal", " "], "class 2 has no name; give every class one"),
        (["a" * 61, "b"], "class 1 has 61 letters; give at most 60"),
        (["a\x07", "b"], "the name of class 1 has 2 letters; give at most 60, printable ones"),
        (["Normal", "ill", "normal"], "two classes are called 'normal'; give each another name"),
    ):
        with pytest.raises(DataError, match=message):
            class_names(names)
