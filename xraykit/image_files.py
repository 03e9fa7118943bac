"""Reading one X-ray file as grey pixels: JPEG, PNG, BMP and TIFF through Pillow, DICOM through pydicom.

Headers are checked before pixels are decoded, those in DICOM frames too (`dicom_frames`): bombs cost nothing.
An EXIF orientation is applied, as every viewer does and so did whoever labelled the file.
"""

import io
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from xraykit import dicom_frames
from xraykit.errors import BadImageError

MAX_PIXELS = 2**26  # 67 million; the largest flat-panel X-rays have about 18 million
MIN_SIDE = 16  # the smallest side that still holds the series' smallest baseline, raw 16x16 pixels
MAX_BYTES = 4 * MAX_PIXELS
FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
_DICOM_META = 132  # bytes before the first element: the preamble and "DICM"
_DRAFT_GAP = 2  # the reduced JPEG is at least this many times `target`, so that the resize still averages


def read_grey(path: str | Path, *, target: int | None = None) -> np.ndarray:
    """Pixels of one image file as uint8 (h, w), 0 black to 255 white.

    Colour becomes luma (ITU-R BT.601: .299 R + .587 G + .114 B), transparency becomes black, 16-bit grey is
    rounded from 0..65535 to 0..255, and EXIF orientation is applied. With `target` a JPEG much larger than
    target x target pixels is decoded at 1/2, 1/4 or 1/8 of its size (never below twice the target), which is
    several times faster; resize the result afterwards.

    DICOM: rescale slope and intercept (or modality LUT), then the first window (else VOI LUT), then
    MONOCHROME1 is inverted. Without a window 8-bit files keep their levels, and deeper ones are stretched
    from their darkest to their brightest pixel (pixel padding apart). Deflated files are refused, because
    pydicom inflates them whole before anything says how large they are.

    Raises:
        BadImageError: not a readable single image with both sides >= MIN_SIDE and at most MAX_PIXELS pixels.
    """
    return decode(read_bytes(path), name=str(path), target=target)[0]


def read_bytes(path: str | Path) -> bytes:
    """Content of an image file; BadImageError if missing, not a regular file, empty or over MAX_BYTES."""
    try:
        info = Path(path).stat()
        if not stat.S_ISREG(info.st_mode):
            raise BadImageError(f"{path}: is a folder or a device, not an image file; remove it or rename it")
        if info.st_size == 0:
            raise BadImageError(f"{path}: is empty (0 bytes); download or copy it again")
        if info.st_size > MAX_BYTES:
            raise BadImageError(
                f"{path}: has {info.st_size:,} bytes, the limit is {MAX_BYTES:,}; shrink it first"
            )
        return Path(path).read_bytes()
    except OSError as error:
        raise BadImageError(
            f"{path}: cannot be read ({error.strerror}); check path and permissions"
        ) from error


def decode(data: bytes, *, name: str, target: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Like `read_grey`, of a file's content: uint8 pixels and the full (height, width) before any reduction.

    `name` is what error messages call the file.
    """
    if data[128:132] == b"DICM":
        return _decode_dicom(data, name)
    return _decode_picture(data, name, target)


def _check_size(name: str, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise BadImageError(
            f"{name}: declares {width} x {height} = {height * width:,} pixels, the limit is {MAX_PIXELS:,}; "
            "crop or shrink it first"
        )
    if min(height, width) < MIN_SIDE:
        raise BadImageError(
            f"{name}: is {width} x {height} pixels, the minimum side is {MIN_SIDE}; use the full image"
        )


def _decode_picture(data: bytes, name: str, target: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    image, pages = _open_picture(data, name)
    width, height = image.size
    _check_size(name, height, width)
    if pages != 1:
        raise BadImageError(f"{name}: holds {pages} pages, the limit is 1; save each page as a file")
    try:
        # The decoder then delivers the luma plane itself, already reduced; other formats ignore this.
        image.draft("L", (target * _DRAFT_GAP,) * 2 if target else None)
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        upright = image if orientation == 1 else ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's plugins raise whatever a damaged file runs them into
        raise BadImageError(
            f"{name}: is damaged or truncated ({error}); download or copy it again"
        ) from error
    turned = orientation in (5, 6, 7, 8)
    return _to_grey(upright, name), (width, height) if turned else (height, width)


def _open_picture(data: bytes, name: str) -> tuple[Image.Image, int]:
    """The image, its pixels not yet decoded, and its number of pages (of a TIFF only)."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        return image, image.n_frames if image.format == "TIFF" else 1
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(
            f"{name}: declares more pixels than the limit, {MAX_PIXELS:,} ({error}); crop or shrink it first"
        ) from error
    except Exception as error:  # as above
        raise BadImageError(
            f"{name}: is not a {', '.join(FORMATS)} or DICOM image, or its header is damaged; "
            "convert it, or download or copy it again"
        ) from error


def _to_grey(image: Image.Image, name: str) -> np.ndarray:
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image), name)
    if image.mode == "F":
        raise BadImageError(
            f"{name}: has floating-point pixels of unknown range; save it as 8- or 16-bit grey"
        )
    if image.has_transparency_data:
        grey, alpha = (np.asarray(band, np.uint16) for band in image.convert("RGBA").convert("LA").split())
        return ((grey * alpha + 127) // 255).astype(np.uint8)
    return np.array(image if image.mode == "L" else image.convert("L"))


def _from_16_bit(values: np.ndarray, name: str) -> np.ndarray:
    values = values.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError(
            f"{name}: has pixels from {values.min()} to {values.max()}, the limits are 0 and 65535; "
            "save it as 8- or 16-bit grey"
        )
    return ((values + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257: exact rounding


def _decode_dicom(data: bytes, name: str) -> tuple[np.ndarray, tuple[int, int]]:
    from pydicom import dcmread  # heavy, and most data sets have no DICOM

    # For good: files are read in several threads, and catch_warnings would undo that of another one.
    warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")
    try:
        _refuse_deflated(data, name)
        header = dcmread(io.BytesIO(data), stop_before_pixels=True)
        height, width = int(header.Rows), int(header.Columns)
        frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
        kind = str(header.PhotometricInterpretation)
    except BadImageError:
        raise
    except Exception as error:  # as above, and pydicom parses values on access
        raise BadImageError(
            f"{name}: its DICOM header is damaged or has no image ({error}); export it again"
        ) from error
    _check_size(name, height, width)
    if frames != 1:
        raise BadImageError(f"{name}: DICOM has {frames} frames, the limit is 1; export each frame as a file")
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadImageError(
            f"{name}: DICOM pixels are {kind}, only MONOCHROME1 and 2 are read; export it as grey PNG"
        )
    if samples != 1:
        raise BadImageError(f"{name}: DICOM has {samples} samples a pixel, not 1; export it as grey PNG")
    dataset = dcmread(io.BytesIO(data))
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    try:
        dicom_frames.check(dataset, name=name)
        stored = dataset.pixel_array
    except BadImageError:
        raise
    except Exception as error:  # missing codec, wrong length, damaged stream
        raise BadImageError(
            f"{name}: DICOM pixels ({getattr(syntax, 'name', 'no transfer syntax')}) cannot be decoded "
            f"({str(error).splitlines()[0]}); decompress it (gdcmconv --raw) or `pip install pylibjpeg[all]`"
        ) from error
    if stored.shape != (height, width):
        raise BadImageError(
            f"{name}: DICOM pixels are {stored.shape}, not ({height}, {width}); export it as grey PNG"
        )
    grey = _scale_dicom(dataset, stored, name)
    return 255 - grey if kind == "MONOCHROME1" else grey, (height, width)


def _refuse_deflated(data: bytes, name: str) -> None:
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    stream = io.BytesIO(data)
    stream.seek(_DICOM_META)
    # File meta (group 2) is never deflated; dcmread would inflate what follows before it returns.
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise BadImageError(
            f"{name}: DICOM is deflated as a whole ({DeflatedExplicitVRLittleEndian}), so its size cannot be "
            "checked before it is inflated; decompress it with dcmtk (dcmconv +te in.dcm out.dcm)"
        )


def _scale_dicom(dataset: Any, stored: np.ndarray, name: str) -> np.ndarray:
    """Stored values (h, w) to 0..255, after rescale and window (DICOM PS3.3, C.11.1 and C.11.2)."""
    from pydicom.pixels import apply_modality_lut

    if stored.min() == stored.max():
        raise BadImageError(
            f"{name}: every DICOM pixel is {stored.min()}, so it cannot be scaled; export it again"
        )
    try:
        values = apply_modality_lut(stored, dataset)
        if _has_window(dataset) or dataset.get("VOILUTSequence"):
            values, ends = _apply_window(dataset, values)
        elif dataset.get("BitsStored") == 8 and dataset.get("PixelRepresentation") == 0:
            ends = apply_modality_lut(np.array([0, 255], stored.dtype), dataset)
        else:
            ends = values[stored != dataset.get("PixelPaddingValue", np.nan)]
    except Exception as error:  # pydicom raises several kinds for a malformed rescale, window or LUT
        raise BadImageError(
            f"{name}: its DICOM rescale or window is malformed ({error}); export it again"
        ) from error
    low, high = (float(ends.min()), float(ends.max())) if ends.size else (0.0, 0.0)
    if not (np.isfinite(values).all() and high > low):
        raise BadImageError(
            f"{name}: DICOM pixels are not finite or all equal after rescale and window; export it again"
        )
    return np.rint((np.clip(values, low, high) - low) * (255 / (high - low))).astype(np.uint8)


def _has_window(dataset: Any) -> bool:
    return None not in (dataset.get("WindowCenter"), dataset.get("WindowWidth"))


def _apply_window(dataset: Any, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values after the first window, or the VOI LUT where there is none, and the ends of their range."""
    from pydicom.pixels import apply_voi, apply_windowing

    if _has_window(dataset):
        # What lies far outside every window shows where black and white are.
        return apply_windowing(values, dataset), apply_windowing(np.array([-(2**30), 2**30]), dataset)
    entries, first, bits = dataset.VOILUTSequence[0].LUTDescriptor
    if bits < 10:
        raise ValueError(f"its VOI LUT has {bits} bits an entry, 10 to 16 are read")
    index = np.clip(np.rint(values), first, first + (entries or 2**16) - 1)
    return apply_voi(index.astype(np.int64), dataset), np.array([0, 2**bits - 1])
