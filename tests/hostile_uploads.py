"""Files that somebody may upload to do harm, or by mistake, and what is said about each."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

NO_IMAGE = "is not a JPEG, PNG, BMP, TIFF or DICOM image"


def encoded(grey: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file of grey uint8 (h, w)."""
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, kind)
    return stream.getvalue()


def dicom(rows: int, columns: int, content: bytes) -> bytes:
    """A DICOM file that declares so many 8-bit pixels and holds `content`."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = rows, columns, 1
    ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelData = content
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG whose header declares width x height, with `chunks` before its empty pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", zlib.compress(b"")), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


TEXT_BOMB = png(64, 64, _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200 * 2**20), 9)))
"""200 kB that would be 200 MiB of text."""
NOISE = encoded(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
HOSTILE = {
    "bomb.png": (
        png(50_000, 50_000),
        r"declares .*more pixels|declares 50000 x 50000 = 2,500,000,000 pixels",
    ),
    "just over.png": (png(8193, 8192), r"declares 8193 x 8192 = 67,117,056 pixels, the limit is 67,108,864"),
    "largest.png": (png(2**31 - 1, 2**31 - 1), "declares"),
    "text bomb.png": (TEXT_BOMB, "damaged"),
    "bomb.dcm": (dicom(60_000, 60_000, b"\0\0"), "declares 60000 x 60000 = 3,600,000,000 pixels"),
    "cut.png": (NOISE[: len(NOISE) // 2], "is damaged or truncated"),
    "page.png": (b"<!DOCTYPE html><html><script>alert(1)</script></html>", NO_IMAGE),
    "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>', NO_IMAGE),
    "moving.png": (b"GIF89a" + bytes(100), NO_IMAGE),
    "program.png": (b"MZ" + bytes(1000), NO_IMAGE),
    "archive.png": (b"PK\x03\x04" + bytes(1000), NO_IMAGE),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n", NO_IMAGE),
    "junk.dcm": (bytes(128) + b"DICM" + b"junk", "DICOM header is damaged"),
    "empty.png": (b"", r"is empty \(0 bytes\)"),
    "tiny.png": (
        encoded(np.arange(64, dtype=np.uint8).reshape(8, 8)),
        "8 x 8 pixels, the minimum side is 16",
    ),
    "black.png": (encoded(np.zeros((64, 64), np.uint8)), "has the grey level 0 everywhere"),
}
"""By file name the content, and the message as a regular expression."""
