"""Compressed DICOM that lies about its size is refused before it is decoded, and what is honest is read."""

import io
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.rle import _rle_decode_segment
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from xraykit import dicom_frames, image_files
from xraykit.errors import BadImageError

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))  # 48 x 64
PLAIN = "1.2.840.10008.1.2.1"


def dicom(content: bytes, *, syntax: str = PLAIN, shape: tuple[int, int] = (48, 64), bits: int = 8) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.Rows, ds.Columns = shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit = bits - 1
    ds.PixelData = content
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def read(frames: Sequence[bytes], **options: object) -> np.ndarray:
    return image_files.decode(dicom(encapsulate(list(frames)), **options), name="x.dcm")[0]


def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on decoding pixels fails the test."""
    monkeypatch.setattr(Dataset, "pixel_array", property(lambda self: pytest.fail("pixels were decoded")))


def picture(grey: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


# ---- run-length coding


def rle(*segments: bytes) -> bytes:
    starts = np.cumsum([64, *map(len, segments)])[:-1]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


ROWS = b"".join(bytes([63]) + row.tobytes() for row in RAMP)  # each row as 64 bytes to be copied


def test_run_length_coded_pixels_are_read() -> None:
    np.testing.assert_array_equal(read([rle(ROWS)], syntax=RLELossless), RAMP)
    low = bytes([129, 7]) * 24  # 128 times 7
    grey = read([rle(ROWS, low)], syntax=RLELossless, bits=16)
    np.testing.assert_array_equal(grey, np.rint(RAMP / 252 * 255))  # (256 r + 7 - 7) / (256 * 252)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(rle(bytes(2 * 48 * 64 + 2)), id="longer than twice the pixels"),
        pytest.param(rle(bytes([129, 7]) * 60), id="short, and 7,680 pixels"),
        pytest.param(rle(ROWS + bytes([129, 7]) * 1000), id="the pixels, and 128,000 more"),
    ],
)
def test_run_lengths_beyond_the_declared_pixels(monkeypatch: pytest.MonkeyPatch, frame: bytes) -> None:
    refused(monkeypatch)
    with pytest.raises(
        BadImageError, match=r"^x\.dcm: its run-length .* more than 2 times the 64 x 48 .*; export it again"
    ):
        read([frame], syntax=RLELossless)


def test_the_second_segment_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(monkeypatch)
    with pytest.raises(BadImageError, match="run-length"):
        read([rle(ROWS, bytes([129, 7]) * 60)], syntax=RLELossless, bits=16)


@given(segment=st.binary(max_size=300))
def test_run_lengths_are_counted_as_pydicom_decodes_them(segment: bytes) -> None:
    decoded = len(_rle_decode_segment(segment))
    counted = dicom_frames._rle_size(segment, limit=10**6)
    assert decoded <= counted <= decoded + 128  # the last run may be cut off
    assert dicom_frames._rle_size(segment, limit=100) > 100 or counted <= 100


@given(content=st.binary(min_size=2, max_size=200), headed=st.booleans())
def test_any_run_lengths_give_pixels_or_a_message(content: bytes, headed: bool) -> None:
    try:
        said = str(read([rle(content) if headed else content], syntax=RLELossless).shape)
    except BadImageError as error:
        said = str(error)
    assert said.startswith(("x.dcm: ", "(48, 64)"))


# ---- JPEG and JPEG 2000


@pytest.mark.parametrize(("kind", "syntax"), [("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)])
def test_a_frame_of_another_size(monkeypatch: pytest.MonkeyPatch, kind: str, syntax: str) -> None:
    grey = read([picture(RAMP, kind)], syntax=syntax)
    assert np.abs(grey.astype(int) - RAMP).max() <= (2 if kind == "JPEG" else 0)
    refused(monkeypatch)
    large = picture(np.tile(RAMP, (20, 20)), kind)
    with pytest.raises(
        BadImageError,
        match=r"^x\.dcm: declares 64 x 48 pixels, and its compressed DICOM frame 1280 x 960; export it again",
    ):
        read([large], syntax=syntax)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLosslessSV1])
def test_frames_that_pillow_cannot_open(monkeypatch: pytest.MonkeyPatch, syntax: str) -> None:
    refused(monkeypatch)
    marker = 0xF7 if syntax == JPEGLSLossless else 0xC3
    header = struct.pack(">BBHBHHB3B", 0xFF, marker, 11, 12, 9000, 8000, 1, 1, 0x11, 0)
    scan = struct.pack(">BBHB2B3B", 0xFF, 0xDA, 8, 1, 1, 0, 0, 0, 0)
    with pytest.raises(BadImageError, match=r"64 x 48 pixels, and its compressed DICOM frame 8000 x 9000"):
        read([b"\xff\xd8" + header + scan], syntax=syntax, bits=16)


def test_every_header_of_a_frame_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = picture(RAMP, "JPEG")
    start = honest.index(b"\xff\xc0")
    large = b"\xff\xc0" + honest[start + 2 : start + 5] + struct.pack(">HH", 8000, 8000)
    large += honest[start + 9 : start + 13]
    refused(monkeypatch)
    with pytest.raises(BadImageError, match="64 x 48 pixels, and its compressed DICOM frame 8000 x 8000"):
        read([honest[:start] + large + honest[start:]], syntax=JPEGBaseline8Bit)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"\xff\xd8junk", "no marker at byte 2"),
        (b"\xff\xd8\xff\xda\0\x02", "no frame header"),
        (b"\xff\xd8\xff\xe0", "their own header says no size"),
        (b"no image", "cannot identify image"),
    ],
)
def test_damaged_headers(frame: bytes, message: str) -> None:
    with pytest.raises(BadImageError, match=rf"^x\.dcm: DICOM pixels \(JPEG .*{message}.*gdcmconv --raw"):
        read([frame], syntax=JPEGBaseline8Bit)


# ---- how many frames and bytes


def test_one_frame_in_several_pieces_and_several_frames() -> None:
    whole = picture(RAMP, "JPEG")
    data = dicom(encapsulate([whole], fragments_per_frame=3), syntax=JPEGBaseline8Bit)
    np.testing.assert_array_equal(
        image_files.decode(data, name="x.dcm")[0], np.asarray(Image.open(io.BytesIO(whole)))
    )
    with pytest.raises(BadImageError, match=r"^x\.dcm: DICOM has several frames, one is read; export each"):
        read([whole, whole], syntax=JPEGBaseline8Bit)


@pytest.mark.parametrize("content", [b"", b"junk", b"\xfe\xff\x00\xe0\xff\xff\xff\x7f"])
def test_damaged_pieces(content: bytes) -> None:
    data = dicom(encapsulate([b"12"]), syntax=JPEGBaseline8Bit).replace(encapsulate([b"12"]), content)
    with pytest.raises(BadImageError, match=r"^x\.dcm: .*DICOM.*export"):
        image_files.decode(data, name="x.dcm")


@pytest.mark.parametrize("n", [48 * 64 - 2, 48 * 64 + 2, 3 * 48 * 64])
def test_pixels_of_another_number(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    refused(monkeypatch)
    with pytest.raises(
        BadImageError, match=rf"^x\.dcm: has {n:,} bytes of DICOM pixels, and 64 x 48 of 8 bits are 3,072"
    ):
        image_files.decode(dicom(bytes(n)), name="x.dcm")


def test_an_odd_number_of_pixels_has_a_byte_more() -> None:
    grey = np.arange(17 * 17, dtype=np.uint16).astype(np.uint8).reshape(17, 17)
    data = dicom(grey.tobytes() + b"\0", shape=(17, 17))
    np.testing.assert_array_equal(image_files.decode(data, name="x.dcm")[0], grey)


# ---- what is said


def test_pydicom_says_nothing_on_the_terminal(tmp_path: Path) -> None:
    jfif = picture(RAMP, "JPEG")
    padded = dicom(
        encapsulate([rle(ROWS + bytes([254, 0]))]), syntax=RLELossless
    )  # 3 bytes too many: a warning
    for name, data in {"a.dcm": padded, "b.dcm": dicom(encapsulate([jfif]), syntax=JPEGBaseline8Bit)}.items():
        (tmp_path / name).write_bytes(data)
    script = (
        "import sys; from xraykit.images import read_grey; print([read_grey(p).shape for p in sys.argv[1:]])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.dcm"), str(tmp_path / "b.dcm")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[(48, 64), (48, 64)]\n", "")
    loud = f"import warnings; warnings.filterwarnings = lambda *_, **__: None; {script}"
    assert (
        "non-conformant padding"
        in subprocess.run([*command[:2], loud, *command[3:]], capture_output=True, text=True).stderr
    )
