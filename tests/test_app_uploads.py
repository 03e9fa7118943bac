"""What the app takes from a browser: limits, hostile files, pictures that are given twice."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hostile_uploads import HOSTILE, dicom, encoded
from hypothesis import given
from hypothesis import strategies as st

from xraykit.app import uploads
from xraykit.app.uploads import check_bytes, first_of, picture_of, shown_name, smaller, thumbnail
from xraykit.errors import BadImageError, DataError
from xraykit.images import Preprocess, read_for, resize

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))  # 48 x 64


def read_picture(name: str, data: bytes, *, size: int = 32, side: int = 0) -> uploads.Picture:
    return uploads.read_picture(name, data, wanted=Preprocess(size=size), side=side)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_picture_is_kept_at_the_size_of_the_classifier(kind: str) -> None:
    picture = read_picture(f"ramp.{kind.lower()}", encoded(RAMP, kind))
    np.testing.assert_array_equal(picture.grey, resize(RAMP, 32))
    assert picture.shown is None
    assert picture.name == f"ramp.{kind.lower()}"
    np.testing.assert_array_equal(
        picture_of("x", RAMP, wanted=Preprocess(size=32), side=8).grey, picture.grey
    )


LARGE = np.add.outer(np.arange(900) % 251, np.arange(1100) // 5).astype(np.uint8)


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.dcm"])
def test_the_app_reads_what_the_command_line_reads(tmp_path: Path, name: str, fit: str) -> None:
    data = {
        "x.jpg": encoded(LARGE, "JPEG"),
        "x.png": encoded(LARGE),
        "x.dcm": dicom(900, 1100, LARGE.tobytes()),
    }[name]
    (tmp_path / name).write_bytes(data)
    picture = uploads.read_picture(name, data, wanted=Preprocess(size=64, fit=fit), side=640)
    np.testing.assert_array_equal(picture.grey, read_for(tmp_path / name, name=name, size=64, fit=fit))
    assert picture.shown.shape == (524, 640)  # 900 * 640 / 1100 = 523.6, also where the JPEG is read smaller


def test_a_file_is_decoded_once_at_its_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, sizes = uploads.decode, []

    def counted(*arguments: object, **options: object) -> tuple[np.ndarray, tuple[int, int]]:
        sizes.append(decode(*arguments, **options)[0].shape)
        return decode(*arguments, **options)

    monkeypatch.setattr(uploads, "decode", counted)
    read_picture("x.png", encoded(LARGE), side=640)
    assert sizes == [(900, 1100)]
    sizes.clear()
    read_picture("x.jpg", encoded(LARGE, "JPEG"), side=300)
    assert sizes == [(113, 138), (450, 550)]  # 1/8 for 2 x 32 pixels at least, 1/2 for 300


def test_a_thumbnail() -> None:
    assert thumbnail("x.png", encoded(LARGE), side=160).shape == (131, 160)
    np.testing.assert_array_equal(smaller(RAMP, side=64), RAMP)
    with pytest.raises(DataError, match=r"^x\.png: is empty"):
        thumbnail("x.png", b"", side=160)


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
