"""Reading, pixel operations and the pixel-range contract."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless

from xraykit import image_files
from xraykit.errors import BadImageError, DataError
from xraykit.images import (
    Preprocess,
    brighten,
    check_images,
    clahe,
    histogram,
    mean_std,
    read_for,
    read_grey,
    resize,
)

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))  # 48 x 64, every level a multiple of 4


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def chest(height: int, width: int) -> np.ndarray:
    """Smooth bright and dark blobs with an edge, uint8."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    lungs = np.exp(-(((x - 0.3) / 0.1) ** 2 + ((y - 0.5) / 0.3) ** 2)) + np.exp(
        -(((x - 0.7) / 0.1) ** 2 + ((y - 0.5) / 0.3) ** 2)
    )
    ribs = 12 * np.sin(60 * y + 10 * (x - 0.5) ** 2)
    return np.clip(190 - 140 * lungs + ribs - 120 * (y < 0.05), 0, 255).astype(np.uint8)


def test_importing_the_readers_imports_neither_torch_nor_pydicom():
    code = "import sys, xraykit.image_cache; print([m for m in ('torch', 'pydicom') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# ---- ordinary files


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_lossless_grey_is_read_exactly(tmp_path, suffix):
    grey = read_grey(saved(tmp_path / f"x.{suffix}", Image.fromarray(RAMP)))
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey, RAMP)


def test_16_bit_png_is_scaled_exactly(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    values[0, :6] = [0, 128, 129, 257, 65534, 65535]
    grey = read_grey(saved(tmp_path / "x.png", Image.fromarray(values)))
    assert grey[0, :6].tolist() == [0, 0, 1, 1, 255, 255]  # 128/257 = .498, 129/257 = .502
    np.testing.assert_array_equal(grey, np.rint(values / 257).astype(np.uint8))


def test_every_16_bit_level_goes_to_the_nearest_8_bit_level(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    grey = read_grey(saved(tmp_path / "x.tiff", Image.fromarray(values)))
    assert np.abs(grey - values * (255 / 65535)).max() < 0.5


def test_32_bit_tiff_beyond_16_bits_and_float_tiff_are_bad(tmp_path):
    wide = saved(tmp_path / "wide.tiff", Image.fromarray(np.full((32, 32), 70000, np.int32)))
    with pytest.raises(BadImageError, match=r"wide\.tiff: has pixels from 70000 to 70000.*65535"):
        read_grey(wide)
    real = saved(tmp_path / "real.tiff", Image.fromarray(np.zeros((32, 32), np.float32)))
    with pytest.raises(BadImageError, match="floating-point"):
        read_grey(real)


def test_multi_page_tiff_is_bad(tmp_path):
    page = Image.fromarray(RAMP)
    path = saved(tmp_path / "x.tiff", page, save_all=True, append_images=[page])
    with pytest.raises(BadImageError, match="2 pages, the limit is 1"):
        read_grey(path)


def test_tiff_whose_second_page_is_damaged_is_bad(tmp_path):
    data = bytearray(saved(tmp_path / "x.tiff", Image.fromarray(RAMP)).read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    struct.pack_into("<I", data, directory + 2 + 12 * entries, len(data))  # the next directory ...
    with pytest.raises(BadImageError, match="its header is damaged"):
        image_files.decode(bytes(data) + bytes(6), name="x.tiff")  # ... has no entries, so no dimensions


@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_transparency_becomes_black(tmp_path, alpha):
    band = Image.fromarray(RAMP)
    opacity = Image.new("L", band.size, alpha)
    expected = (RAMP.astype(int) * alpha + 127) // 255  # 51/255 = one fifth
    for mode, bands in (("RGBA", [band, band, band, opacity]), ("LA", [band, opacity])):
        path = saved(tmp_path / f"{mode}.png", Image.merge(mode, bands))
        np.testing.assert_array_equal(read_grey(path), expected)


def test_palette_and_one_bit(tmp_path):
    palette = Image.fromarray((RAMP > 127).astype(np.uint8), mode="P")
    palette.putpalette([255, 0, 0, 0, 0, 255])  # red: .299 * 255 = 76, blue: .114 * 255 = 29
    grey = read_grey(saved(tmp_path / "p.png", palette))
    np.testing.assert_array_equal(grey, np.where(RAMP > 127, 29, 76))
    one_bit = read_grey(saved(tmp_path / "b.png", Image.fromarray(RAMP > 127)))
    np.testing.assert_array_equal(one_bit, np.where(RAMP > 127, 255, 0))


@pytest.mark.parametrize(
    ("colour", "luma"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((200, 100, 50), 124)]
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_colour_becomes_standard_luma(tmp_path, colour, luma, suffix):
    # .299 * 200 + .587 * 100 + .114 * 50 = 124.2; JPEG may be one level off
    path = saved(tmp_path / f"x.{suffix}", Image.new("RGB", (32, 32), colour))
    assert abs(read_grey(path).astype(int) - luma).max() <= (suffix == "jpg")


def test_cmyk_jpeg_is_read(tmp_path):
    path = saved(tmp_path / "x.jpg", Image.fromarray(RAMP).convert("CMYK"), quality=95)
    assert abs(read_grey(path).astype(int) - RAMP).mean() < 2


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    image = Image.fromarray(chest(64, 96))
    plain = read_grey(saved(tmp_path / "plain.jpg", image, quality=95))
    data = saved(tmp_path / "turned.jpg", image, quality=95, exif=exif).read_bytes()
    turned, size = image_files.decode(data, name="turned.jpg")
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))
    assert size == (96, 64)


# ---- large files


@pytest.mark.parametrize("size", [64, 128, 224])
def test_reduced_jpeg_decode_is_close_to_the_full_one(tmp_path, size):
    path = saved(tmp_path / "x.jpg", Image.fromarray(chest(1200, 1500)), quality=92)
    full, reduced = read_grey(path), read_grey(path, target=size)
    assert full.shape == (1200, 1500)
    assert 4 * reduced.size <= full.size
    assert min(reduced.shape) >= 2 * size
    difference = abs(resize(full, size).astype(int) - resize(reduced, size))
    assert difference.mean() < 0.6
    assert np.percentile(difference, 99) <= 4


def test_target_beyond_the_image_and_other_formats_change_nothing(tmp_path):
    for name in ("x.jpg", "x.png"):
        path = saved(tmp_path / name, Image.fromarray(chest(100, 120)))
        np.testing.assert_array_equal(read_grey(path), read_grey(path, target=224))


def test_decode_reports_the_full_size(tmp_path):
    data = saved(tmp_path / "x.jpg", Image.fromarray(chest(1200, 1500))).read_bytes()
    assert image_files.decode(data, name="x.jpg", target=64)[1] == (1200, 1500)


def test_20_000_pixels_wide_is_read(tmp_path):
    wide = np.tile(np.arange(20_000, dtype=np.uint32) * 255 // 19_999, (300, 1)).astype(np.uint8)
    np.testing.assert_array_equal(read_grey(saved(tmp_path / "w.png", Image.fromarray(wide))), wide)
    jpeg = read_grey(saved(tmp_path / "w.jpg", Image.fromarray(wide)), target=64)
    assert resize(jpeg, 64).shape == (64, 64)


def png_declaring(width: int, height: int) -> bytes:
    """A PNG of under 100 bytes whose header declares width x height."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height"), [(20_000, 20_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1), (8193, 8192)]
)
def test_decompression_bomb_is_refused_by_its_header(tmp_path, monkeypatch, width, height):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_declaring(width, height))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(BadImageError, match=r"bomb\.png: declares.*67,108,864.*shrink"):
        read_grey(path)


# ---- damaged files


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tiff"])
def test_truncated_files_are_bad(tmp_path, suffix, keep):
    whole = saved(tmp_path / f"whole.{suffix}", Image.fromarray(chest(200, 200))).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: int(len(whole) * keep)])
    for target in (None, 64):
        with pytest.raises(BadImageError, match=rf"cut\.{suffix}: .*(truncated|damaged).* again"):
            read_grey(path, target=target)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("this is not an image")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "junk.dcm").write_bytes(bytes(128) + b"DICM" + b"junk")
    expected = {
        "empty.png": r"0 bytes",
        "text.png": r"not a JPEG, PNG, BMP, TIFF or DICOM",
        "folder.png": r"is a folder or a device",
        "pipe.png": r"is a folder or a device",
        "junk.dcm": r"DICOM header is damaged",
        "missing.png": r"cannot be read \(No such file",
    }
    for name, message in expected.items():
        with pytest.raises(BadImageError, match=message) as caught:
            read_grey(tmp_path / name)
        assert name in str(caught.value)


def test_file_over_the_byte_limit_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(image_files.MAX_BYTES + 1)  # sparse
    with pytest.raises(BadImageError, match=r"268,435,457 bytes, the limit is 268,435,456"):
        read_grey(tmp_path / "huge.png")


@pytest.mark.parametrize("shape", [(1, 1), (15, 400), (400, 15)])
def test_too_small_names_the_minimum(tmp_path, shape):
    path = saved(tmp_path / "x.png", Image.fromarray(np.zeros(shape, np.uint8)))
    with pytest.raises(BadImageError, match=rf"{shape[1]} x {shape[0]} pixels, the minimum side is 16"):
        read_grey(path)


def encoded(kind: str) -> bytes:
    if kind == "DICOM":
        return dicom_bytes(chest(24, 24).astype(np.uint16) * 16)
    stream = io.BytesIO()
    Image.fromarray(chest(24, 24)).save(stream, kind)
    return stream.getvalue()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_gives_pixels_or_a_clear_error(data):
    content = bytearray(encoded(data.draw(st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "DICOM"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(1, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow and pydicom warn about what they then read
        try:
            grey, size = image_files.decode(content, name="x")
        except BadImageError:  # any other error fails the test
            return
    assert grey.dtype == np.uint8
    assert grey.shape == size


# ---- DICOM


def dicom_bytes(
    pixels: np.ndarray, *, syntax: str = "1.2.840.10008.1.2.1", content: bytes = b"", **tags
) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.PixelData = content or pixels.tobytes()
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def read_dicom(pixels: np.ndarray, **tags) -> np.ndarray:
    return image_files.decode(dicom_bytes(pixels, **tags), name="x.dcm")[0]


def test_8_bit_dicom_keeps_its_levels_and_monochrome1_is_inverted(tmp_path):
    grey = RAMP // 2 + 30
    (tmp_path / "x.dcm").write_bytes(dicom_bytes(grey))
    np.testing.assert_array_equal(read_grey(tmp_path / "x.dcm"), grey)
    np.testing.assert_array_equal(read_dicom(grey, PhotometricInterpretation="MONOCHROME1"), 255 - grey)
    np.testing.assert_array_equal(read_dicom(grey, RescaleSlope="3", RescaleIntercept="-50"), grey)


def test_12_bit_dicom_without_window_uses_its_own_range():
    stored = np.tile(np.arange(1000, 1032, dtype=np.uint16), (32, 1))
    expected = np.rint(np.arange(32) * 255 / 31)
    for options in ({}, {"RescaleSlope": "2", "RescaleIntercept": "-1024"}):
        np.testing.assert_array_equal(read_dicom(stored, BitsStored=12, HighBit=11, **options)[0], expected)
    np.testing.assert_array_equal(
        read_dicom(stored, BitsStored=12, HighBit=11, RescaleSlope="-1", RescaleIntercept="0")[0],
        255 - expected,
    )


def test_pixel_padding_does_not_stretch_the_range():
    stored = np.tile(np.arange(1000, 1032, dtype=np.uint16), (32, 1))
    stored[:4] = 0
    grey = read_dicom(stored, BitsStored=12, HighBit=11, PixelPaddingValue=0)
    assert (grey[0] == 0).all()
    np.testing.assert_array_equal(grey[4], np.rint(np.arange(32) * 255 / 31))


@pytest.mark.parametrize("signed", [False, True])
def test_window_is_applied_after_rescale(signed):
    # PS3.3 C.11.2.1.2.1: value v maps to ((v - (c - .5)) / (w - 1) + .5), clipped to 0..1
    stored = np.tile(np.arange(0, 3200, 100), (32, 1)).astype(np.int16 if signed else np.uint16)
    tags = {"RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": "500", "WindowWidth": "2001"}
    grey = read_dicom(stored, **tags)
    values = stored[0] * 2.0 - 1000
    expected = np.clip((values - 499.5) / 2000 + 0.5, 0, 1) * 255
    assert abs(grey[0] - expected).max() <= 0.5 + 1e-9
    assert grey[0, 0] == 0
    assert grey[0, -1] == 255
    inverted = read_dicom(stored, PhotometricInterpretation="MONOCHROME1", **tags)
    np.testing.assert_array_equal(inverted, 255 - grey)


def test_voi_lut_is_applied():
    table = Dataset()
    table.LUTDescriptor = [4, 1, 16]  # 4 entries, the first for value 1, 16 bits
    table.LUTData = np.array([0, 257, 1000, 65535], "<u2").tobytes()
    stored = np.tile(np.array([0, 1, 2, 3, 4, 5, 6, 999], np.uint16), (32, 8))
    grey = read_dicom(stored, VOILUTSequence=[table])
    assert grey[0, :8].tolist() == [0, 0, 1, 4, 255, 255, 255, 255]  # 1000 / 257 = 3.9
    table.LUTDescriptor = [4, 1, 8]
    with pytest.raises(BadImageError, match="8 bits an entry"):
        read_dicom(stored, VOILUTSequence=[table])


@pytest.mark.parametrize(
    ("pixels", "tags", "message"),
    [
        (np.full((32, 32), 7, np.uint16), {}, "every DICOM pixel is 7"),
        (np.arange(1024, dtype=np.uint16).reshape(32, 32), {"RescaleSlope": "0"}, "not finite or all equal"),
        (
            np.arange(1024, dtype=np.uint16).reshape(32, 32),
            {"WindowCenter": "1", "WindowWidth": "0"},
            "window is malformed",
        ),
        (np.zeros((2, 32, 32), np.uint16), {"NumberOfFrames": 2}, "2 frames, the limit is 1"),
        (
            np.zeros((32, 32), np.uint8),
            {"PhotometricInterpretation": "PALETTE COLOR"},
            "only MONOCHROME1 and 2",
        ),
        (np.zeros((1, 400), np.uint8), {}, "400 x 1 pixels, the minimum side is 16"),
        (
            np.zeros((32, 32), np.uint8),
            {"Rows": 20_000, "Columns": 20_000},
            "400,000,000 pixels, the limit is 67,108,864",
        ),
        (np.zeros((32, 32), np.uint8), {"Rows": 64}, "cannot be decoded"),
        (
            np.arange(3072, dtype=np.uint16).reshape(3, 32, 32),
            {"SamplesPerPixel": 3, "PlanarConfiguration": 0},
            r"DICOM has 3 samples a pixel, not 1; export it as grey PNG",
        ),
    ],
)
def test_bad_dicom(pixels, tags, message):
    tags = {"RescaleIntercept": "0", **tags} if "RescaleSlope" in tags else tags
    with pytest.raises(BadImageError, match=rf"^x\.dcm: .*{message}"):
        read_dicom(pixels, **tags)


def test_dicom_that_is_not_finite():
    data = dicom_bytes(
        np.arange(1024, dtype=np.uint16).reshape(32, 32), RescaleSlope="1", RescaleIntercept="0"
    )
    assert data.count(b"DS\x02\x001 ") == 1  # the slope, written as text
    with pytest.raises(BadImageError, match=r"x\.dcm: .*(malformed|not finite)"):
        image_files.decode(data.replace(b"DS\x02\x001 ", b"DS\x04\x00nan "), name="x.dcm")


@pytest.mark.parametrize("implicit", [False, True])
def test_deflated_dicom_is_refused_before_it_is_inflated(monkeypatch, implicit):
    def inflate(*args):
        pytest.fail("it was inflated")

    plain = dicom_bytes(RAMP)
    np.testing.assert_array_equal(image_files.decode(plain, name="x.dcm")[0], RAMP)
    meta = b"\x02\x00\x10\x00" + (b"\x16\x00\x00\x00" if implicit else b"UI\x16\x00")
    meta += DeflatedExplicitVRLittleEndian.encode()  # 22 characters
    packer = zlib.compressobj(wbits=-15)
    deflated = packer.compress(plain[plain.index(b"\x08\x00\x16\x00UI") :]) + packer.flush()
    monkeypatch.setattr(zlib, "decompress", inflate)
    with pytest.raises(BadImageError, match=r"^x\.dcm: DICOM is deflated .*1\.99\).*dcmtk \(dcmconv \+te"):
        image_files.decode(bytes(128) + b"DICM" + meta + deflated, name="x.dcm")


def test_unsupported_dicom_compression_names_the_syntax():
    data = dicom_bytes(RAMP, syntax=JPEGLSLossless, content=encapsulate([b"\xff\xd8junk"]))
    with pytest.raises(BadImageError, match=r"JPEG-LS Lossless.*cannot be decoded.*gdcmconv --raw"):
        image_files.decode(data, name="x.dcm")


def test_jpeg_compressed_dicom_is_read():
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, "JPEG", quality=95)
    grey = read_dicom(RAMP, syntax=JPEGBaseline8Bit, content=encapsulate([stream.getvalue()]))
    np.testing.assert_array_equal(grey, np.asarray(Image.open(stream)))


# ---- resize, CLAHE, brightness


def test_resize_squash_and_pad_by_hand():
    blocks = np.kron(np.array([[0, 100], [200, 40]], np.uint8), np.ones((16, 32), np.uint8))  # 32 x 64
    squashed = resize(blocks, 16)
    assert squashed.shape == (16, 16)
    assert [squashed[0, 0], squashed[0, -1], squashed[-1, 0], squashed[-1, -1]] == [0, 100, 200, 40]
    padded = resize(blocks + 10, 16, fit="pad")  # 32 x 64 becomes 8 x 16, with 4 black rows on either side
    assert padded.shape == (16, 16)
    assert (padded[:4] == 0).all()
    assert (padded[-4:] == 0).all()
    assert (padded[4:-4] >= 10).all()


def test_resize_of_the_right_size_changes_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    for fit in ("squash", "pad"):
        np.testing.assert_array_equal(resize(noise, 32, fit=fit), noise)


def test_resize_is_antialiased_like_torchvision():
    torch = pytest.importorskip("torch")
    noise = np.random.default_rng(1).integers(0, 256, (301, 407), dtype=np.uint8)
    for size in (64, 512):
        theirs = torch.nn.functional.interpolate(
            torch.from_numpy(noise)[None, None].float(), size=(size, size), mode="bilinear", antialias=True
        )
        assert abs(resize(noise, size) - theirs[0, 0].numpy()).max() <= 1


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    size=st.integers(16, 64),
    fit=st.sampled_from(["squash", "pad"]),
)
def test_resize_of_a_constant_is_that_constant(height, width, size, fit):
    result = resize(np.full((height, width), 77, np.uint8), size, fit=fit)
    assert result.shape == (size, size)
    assert set(np.unique(result)) <= ({77} if fit == "squash" else {0, 77})
    assert (result == 77).any()


def equalise_by_hand(grey: np.ndarray, tiles: int, clip_limit: float) -> np.ndarray:
    """CLAHE from its definition: clipped tile histograms, equalised, mixed bilinearly between tiles.

    As OpenCV does, what was clipped is dealt out in whole counts: the same to every level, and the rest to
    every n-th level from 0.
    """
    side = grey.shape[0] // tiles
    limit = max(1, int(clip_limit * side * side / 256))
    curves = np.empty((tiles, tiles, 256))
    for i, j in np.ndindex(tiles, tiles):
        counts = np.bincount(
            grey[i * side : (i + 1) * side, j * side : (j + 1) * side].ravel(), minlength=256
        )
        share, rest = divmod(int(np.maximum(counts - limit, 0).sum()), 256)
        counts = np.minimum(counts, limit) + share
        if rest:
            counts[:: max(256 // rest, 1)][:rest] += 1
        curves[i, j] = np.rint(counts.cumsum() * 255 / (side * side))
    at = np.arange(grey.shape[0]) / side - 0.5
    low, part = np.floor(at).astype(int), at - np.floor(at)
    near, far = low.clip(0, tiles - 1), (low + 1).clip(0, tiles - 1)
    result = np.zeros(grey.shape)
    for rows, row_weight in ((near, 1 - part), (far, part)):
        for columns, column_weight in ((near, 1 - part), (far, part)):
            values = curves[rows[:, None], columns[None, :], grey]
            result += row_weight[:, None] * column_weight[None, :] * values
    return result


@pytest.mark.parametrize("clip_limit", [2.0, 3.0, 40.0])
def test_clahe_follows_its_definition(clip_limit):
    grey = chest(240, 240)
    ours = clahe(grey, clip_limit=clip_limit, tiles=10)
    assert abs(ours - equalise_by_hand(grey, 10, clip_limit)).max() <= 1


def test_clahe_raises_local_contrast():
    grey = (chest(200, 200) // 4 + 90).astype(np.uint8)
    assert clahe(grey).std() > 1.3 * grey.std()


def test_brighten_saturates():
    levels = np.array([[0, 4, 250, 251, 255]], np.uint8)
    assert brighten(levels, 5).tolist() == [[5, 9, 255, 255, 255]]
    assert brighten(levels, -5).tolist() == [[0, 0, 245, 246, 250]]


def test_preprocess_applies_its_steps_in_order():
    grey = chest(300, 240)
    steps = Preprocess(size=64, fit="pad", clahe_clip=3.0, clahe_tiles=8, brightness=5)
    expected = brighten(clahe(resize(grey, 64, fit="pad"), clip_limit=3.0, tiles=8), 5)
    np.testing.assert_array_equal(steps.apply(grey), expected)
    np.testing.assert_array_equal(Preprocess(size=64).apply(grey), resize(grey, 64))


def test_preprocess_keys_tell_outputs_apart():
    variants = [
        Preprocess(),
        Preprocess(size=128),
        Preprocess(fit="pad"),
        Preprocess(clahe_clip=3.0),
        Preprocess(clahe_clip=2.0),
        Preprocess(clahe_clip=3.0, clahe_tiles=8),
        Preprocess(brightness=5),
    ]
    assert len({variant.key() for variant in variants}) == len(variants)
    assert Preprocess(clahe_clip=3).key() == Preprocess(clahe_clip=3.0).key()
    assert Preprocess(clahe_tiles=8).key() == Preprocess().key()  # no CLAHE, so tiles do not matter
    assert Preprocess().key() == "size=224,fit=squash,clahe=off,brightness=0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size is 8; it must lie in 16..4096"),
        ({"size": 5000}, "size is 5000"),
        ({"fit": "crop"}, "fit is 'crop'"),
        ({"clahe_clip": 0}, "clip limit is 0"),
        ({"clahe_clip": float("nan")}, "clip limit is nan"),
        ({"clahe_clip": 3.0, "clahe_tiles": 0}, "tiles are 0"),
        ({"clahe_clip": 3.0, "clahe_tiles": 10, "size": 16}, "use 1..8"),
        ({"brightness": 300}, "brightness is 300"),
    ],
)
def test_preprocess_refuses_what_makes_no_sense(options, message):
    with pytest.raises(DataError, match=message):
        Preprocess(**options)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), np.zeros((4, 4), np.uint16)]
)
def test_pixel_operations_refuse_other_arrays(bad):
    for operation in (clahe, lambda x: resize(x, 16)):
        with pytest.raises(DataError, match=r"must be uint8 \(h, w\)"):
            operation(bad)


# ---- the contract, mean and standard deviation


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 8, 8), 0.5, np.float32), r"float32 in 0\.5\.\.0\.5: use np\.rint\(images \* 255\)"),
        (
            np.linspace(-1, 1, 64).reshape(1, 8, 8),
            r"float64 in -1\.\.1: use np\.rint\(\(images \+ 1\) \* 127\.5\)",
        ),
        (np.full((2, 8, 8), 99.0), r"use np\.rint\(images\)"),
        (np.full((2, 8, 8), np.nan), "not finite"),
        (np.zeros((2, 8, 8), np.uint16), "uint16; store them as uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), "drop the channel axis"),
        (np.zeros((8, 8), np.uint8), "at least one image"),
        (np.zeros((0, 8, 8), np.uint8), "at least one image"),
        ([[[0]]], "are a list"),
    ],
)
def test_check_images_names_the_fix(images, message):
    with pytest.raises(DataError, match=message):
        check_images(images)


def test_check_images_accepts_memmaps(tmp_path):
    check_images(np.memmap(tmp_path / "x", np.uint8, "w+", shape=(2, 8, 8)))


def test_mean_std_by_hand():
    images = np.array([0, 51, 102, 255], np.uint8).reshape(1, 2, 2)  # 0, .2, .4, 1
    assert mean_std(images) == pytest.approx((0.4, np.sqrt(0.14)), abs=1e-15)


@settings(max_examples=50, deadline=None)
@given(
    images=arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))),
    data=st.data(),
)
def test_mean_std_and_histogram_match_numpy(images, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(images), max_size=len(images))))
    assert histogram(images).sum() == images.size
    np.testing.assert_array_equal(
        histogram(images, index=mask), np.bincount(images[mask].ravel(), minlength=256)
    )
    if mask.any():
        chosen = images[mask] / 255
        for index in (mask, np.flatnonzero(mask)):
            assert mean_std(images, index=index) == pytest.approx((chosen.mean(), chosen.std()), abs=1e-12)


def test_mean_std_is_the_same_in_chunks(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (23, 16, 16), dtype=np.uint8)
    whole = mean_std(images, index=np.arange(22, -1, -2))
    monkeypatch.setattr("xraykit.images._CHUNK_PIXELS", 5 * 256)
    assert mean_std(images, index=np.arange(22, -1, -2)) == whole


def test_mean_std_of_nothing_is_an_error():
    with pytest.raises(DataError, match="selects no image"):
        mean_std(np.zeros((2, 8, 8), np.uint8), index=np.zeros(2, bool))


# ---- one reader for classifiers


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("jpg", {"quality": 95})])
def test_a_file_and_its_content_are_read_alike(tmp_path: Path, fit: str, suffix: str, options: dict) -> None:
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(chest(900, 700)), **options)
    read = read_for(path, name="x", size=64, fit=fit)
    assert (read.dtype, read.shape) == (np.uint8, (64, 64))
    np.testing.assert_array_equal(read, read_for(path.read_bytes(), name="x", size=64, fit=fit))
    with Image.open(path) as image:
        image.draft("L", (128, 128))
        np.testing.assert_array_equal(read, resize(np.array(image), 64, fit=fit))


@pytest.mark.parametrize("level", [0, 90, 255])
@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_one_grey_level_everywhere_is_refused(tmp_path: Path, fit: str, level: int) -> None:
    flat = Image.new("L", (40, 20), level)
    path = saved(tmp_path / "x.png", flat)
    with pytest.raises(BadImageError) as caught:
        read_for(path, name="the upload", size=32, fit=fit)
    assert str(caught.value) == (
        f"the upload: has the grey level {level} everywhere; nothing can be said about it"
    )
    flat.putpixel((0, 0), abs(level - 1))
    assert read_for(saved(path, flat), name="x", size=32, fit=fit).shape == (32, 32)


def test_what_cannot_be_read_has_its_name() -> None:
    with pytest.raises(BadImageError, match=r"^the upload: is not a JPEG"):
        read_for(b"no image", name="the upload", size=32, fit="squash")
