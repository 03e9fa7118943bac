"""Whether the pixels in a DICOM file are as many as it declares; said before they are decoded.

A compressed frame says itself how large it is, and its decoder believes that and not the Rows and Columns of
the file.
"""

import io
import struct
from itertools import islice, pairwise
from typing import Any

from PIL import Image

from xraykit.errors import BadImageError

RLE_HEADER = 64
"""Bytes: the number of segments and where each begins (DICOM PS3.5, G.5)."""
MOST = 2
"""Times the bytes of the pixels that run-length coding may take or give; badly chosen runs make 129/128."""
_RLE = "1.2.840.10008.1.2.5"
_SOI, _SOS = 0xD8, 0xDA
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG (T.81, B.1.1.3) and JPEG-LS


def check(dataset: Any, *, name: str) -> None:
    """Keep in `dataset` the one frame that its header declares, whose size was checked.

    Args:
        dataset: of pydicom, with one sample a pixel; a compressed frame is put back without offset tables, so
            that what is decoded is what was checked.
        name: what error messages call the file.

    Raises:
        BadImageError: more or fewer pixels than declared, several frames, or a compressed frame whose own
            header is damaged or declares another size.
    """
    from pydicom.encaps import encapsulate

    if "PixelData" not in dataset:
        return
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        _check_bytes(dataset, name)
        return
    frame = _only_frame(dataset, name)
    if dataset.file_meta.TransferSyntaxUID == _RLE:
        _check_rle(frame, dataset, name)
    else:
        _check_header(frame, dataset, name)
    dataset.PixelData = encapsulate([frame])
    for table in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        dataset.pop(table, None)


def _check_bytes(dataset: Any, name: str) -> None:
    bits, there = int(dataset.BitsAllocated), len(dataset.PixelData)
    needed = -(-dataset.Rows * dataset.Columns * bits // 8)
    if there not in (needed, needed + needed % 2):  # DICOM makes every length even
        raise BadImageError(
            f"{name}: has {there:,} bytes of DICOM pixels, and {dataset.Columns} x {dataset.Rows} of {bits} "
            f"bits are {needed:,}, so they cannot be decoded; export it again"
        )


def _only_frame(dataset: Any, name: str) -> bytes:
    from pydicom.encaps import generate_frames

    try:
        frames = list(islice(generate_frames(dataset.PixelData, number_of_frames=1), 2))
    except Exception as error:  # lengths and offsets that point anywhere
        raise BadImageError(
            f"{name}: its compressed DICOM pixels are damaged ({error}); export it again"
        ) from error
    if len(frames) != 1:
        raise BadImageError(
            f"{name}: DICOM has {'several frames' if frames else 'no frame'}, one is read; "
            "export each frame as a file"
        )
    return frames[0]


def _check_rle(frame: bytes, dataset: Any, name: str) -> None:
    pixels = dataset.Rows * dataset.Columns
    n = int(dataset.BitsAllocated) // 8  # each byte of the pixels has a segment of its own
    where = [*struct.unpack("<16I", frame[:RLE_HEADER].ljust(RLE_HEADER, b"\0"))[1 : n + 1], len(frame)]
    largest = len(frame) - RLE_HEADER
    if largest <= MOST * pixels * n:
        sizes = (_rle_size(frame[start:end], limit=MOST * pixels) for start, end in pairwise(where))
        largest = max(sizes, default=0)
    if largest > MOST * pixels:
        raise BadImageError(
            f"{name}: its run-length coded DICOM pixels are more than {MOST} times the {dataset.Columns} x "
            f"{dataset.Rows} that it declares; export it again"
        )


def _rle_size(segment: bytes, *, limit: int) -> int:
    """Bytes that a segment is decoded to (PackBits; DICOM PS3.5, G.3), or some number above `limit`."""
    size = place = 0
    while place < len(segment) and size <= limit:
        count = segment[place] + 1
        size += 0 if count == 129 else count if count < 129 else 258 - count
        place += 1 if count == 129 else 1 + count if count < 129 else 2
    return size


def _check_header(frame: bytes, dataset: Any, name: str) -> None:
    try:
        sizes = _sizes(frame)
    except Exception as error:  # whatever a damaged header runs the readers into
        syntax = dataset.file_meta.TransferSyntaxUID.name
        raise BadImageError(
            f"{name}: DICOM pixels ({syntax}) cannot be decoded (their own header says no size: {error}); "
            "decompress it (gdcmconv --raw)"
        ) from error
    wrong = sizes - {(dataset.Columns, dataset.Rows)}
    if wrong:
        width, height = wrong.pop()
        raise BadImageError(
            f"{name}: declares {dataset.Columns} x {dataset.Rows} pixels, and its compressed DICOM frame "
            f"{width} x {height}; export it again"
        )


def _sizes(frame: bytes) -> set[tuple[int, int]]:
    """Width and height as the headers of a JPEG, JPEG-LS or JPEG 2000 stream have them, mostly one."""
    if frame[:2] != b"\xff\xd8":
        with Image.open(io.BytesIO(frame), formats=("JPEG2000",)) as image:
            return {image.size}
    found, place, marker = set(), 2, _SOI
    while marker != _SOS:
        start, marker, length = struct.unpack_from(">BBH", frame, place)
        if start != 0xFF:
            raise ValueError(f"no marker at byte {place}")
        if marker == 0xFF:  # may be repeated
            place += 1
            continue
        if marker in _FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", frame, place + 5)
            found.add((width, height))
        place += 2 + length
    if not found:
        raise ValueError("no frame header")
    return found
