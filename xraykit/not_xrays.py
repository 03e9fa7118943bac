"""Images that are no chest X-rays, to measure what a classifier's check of its input notices; all offline."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits, load_sample_images

from xraykit.errors import DataError
from xraykit.image_files import MIN_SIDE
from xraykit.images import check_images, resize

LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def not_xrays(size: int, *, seed: int, n: int = 20) -> dict[str, np.ndarray]:
    """Grey images of nine kinds, none of which is an X-ray.

    Photographs are random crops of scikit-learn's two sample images, the digits are its handwritten ones,
    enlarged; everything else is drawn.

    Args:
        size: side of the images, in pixels, at least MIN_SIDE.
        seed: of what is drawn and where photographs are cropped; equal seeds give equal images.
        n: images of each kind.

    Returns:
        By kind uint8 (n, size, size), 0 black to 255 white.

    Raises:
        DataError: a size below MIN_SIDE, or n below 1.
    """
    if size < MIN_SIDE or n < 1:
        raise DataError(f"size {size}, n {n}; give at least {MIN_SIDE} pixels and 1 image of each kind")
    made = {}
    for kind, draw in _makers().items():
        rng = np.random.default_rng([seed, *kind.encode()])
        made[kind] = np.stack([draw(rng, size) for _ in range(n)])
    return made


def altered(images: np.ndarray) -> dict[str, np.ndarray]:
    """X-rays shown wrongly: negative, upside down, turned by a quarter, mirrored.

    Args:
        images: uint8 (N, S, S), 0 black to 255 white.

    Returns:
        By alteration uint8 (N, S, S).

    Raises:
        DataError: images that are not uint8 and square.
    """
    check_images(images)
    if images.shape[1] != images.shape[2]:
        raise DataError(f"images are {images.shape[1:]}; give square ones, which can be turned by a quarter")
    return {
        "negative": 255 - images,
        "upside down": images[:, ::-1].copy(),
        "turned by a quarter": np.rot90(images, axes=(1, 2)).copy(),
        "mirrored": images[:, :, ::-1].copy(),
    }


def _makers() -> dict[str, Callable[[np.random.Generator, int], np.ndarray]]:
    """By kind what draws one image; the sample images are read once."""
    photographs = [np.asarray(Image.fromarray(p).convert("L")) for p in load_sample_images().images]
    digits = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)

    def photograph(rng: np.random.Generator, size: int) -> np.ndarray:
        whole = photographs[rng.integers(len(photographs))]
        side = int(rng.integers(min(whole.shape) // 3, min(whole.shape)))
        top, left = (int(rng.integers(length - side + 1)) for length in whole.shape)
        return resize(whole[top : top + side, left : left + side], size)

    def digit(rng: np.random.Generator, size: int) -> np.ndarray:
        return resize(digits[rng.integers(len(digits))], size)

    return {
        "photograph": photograph,
        "page of text": _page,
        "handwritten digit": digit,
        "noise": lambda rng, size: rng.integers(0, 256, (size, size), dtype=np.uint8),
        "clouds": _clouds,
        "gradient": _gradient,
        "chequerboard": _chequerboard,
        "shapes": _shapes,
        "blank": lambda rng, size: np.full((size, size), rng.integers(256), np.uint8),
    }


def _page(rng: np.random.Generator, size: int) -> np.ndarray:
    """Lines of made-up words, dark on light, drawn large and shrunk as a scan would be."""
    side = 448
    page = Image.new("L", (side, side), int(rng.integers(225, 256)))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=int(rng.integers(14, 26)))
    step = round(1.4 * font.size)
    for top in range(24, side - step, step):
        words = ["".join(rng.choice(LETTERS, rng.integers(2, 10))) for _ in range(side // font.size // 2)]
        pen.text((24, top), " ".join(words)[: rng.integers(10, 80)], fill=int(rng.integers(60)), font=font)
    return resize(np.asarray(page), size)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smoothed noise: as soft as an X-ray, and without any of its shapes."""
    return _full_range(gaussian_filter(rng.normal(size=(size, size)), size * rng.uniform(0.02, 0.1)))


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size]
    return _full_range(np.cos(angle) * x + np.sin(angle) * y)


def _chequerboard(rng: np.random.Generator, size: int) -> np.ndarray:
    field = int(rng.integers(max(2, size // 32), size // 4 + 1))
    dark, light = (int(level) for level in (rng.integers(80), rng.integers(176, 256)))
    y, x = np.mgrid[:size, :size] // field
    return np.where((x + y) % 2, light, dark).astype(np.uint8)


def _shapes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Overlapping filled ellipses and boxes, as a chart or a screenshot has them."""
    drawn = Image.new("L", (size, size), int(rng.integers(256)))
    pen = ImageDraw.Draw(drawn)
    for i in range(int(rng.integers(4, 10))):
        corners = np.sort(rng.integers(0, size, (2, 2)), axis=0).ravel().tolist()
        (pen.ellipse if i % 2 else pen.rectangle)(corners, fill=int(rng.integers(256)))
    return np.asarray(drawn)


def _full_range(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return np.rint((values - low) * (255 / (high - low))).astype(np.uint8)
