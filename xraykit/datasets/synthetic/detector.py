"""The detector: scatter, quantum noise, automatic windowing, collimation, side marker."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from xraykit.datasets.synthetic.film import blur

_TILE = 1024
_LEVELS = 1024
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)

_STEPS = np.linspace(0, 1, 129)
_PHASE = 2 * np.pi * np.arange(1, 8)[:, None] * _STEPS
_WAVES = np.stack([np.sin(_PHASE), np.cos(_PHASE)])  # (2, 7, 129)


@lru_cache(maxsize=4)
def textures(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three float32 (1024, 1024) tiles: detector noise and cloudy structure of unit variance, a net 0..1."""
    rng = np.random.Generator(np.random.SFC64([seed, 77]))
    white = rng.standard_normal((_TILE, _TILE)).astype(np.float32)
    noise = white + 0.8 * cv2.GaussianBlur(white, (0, 0), 0.8)
    cloud = sum(
        blur(rng.standard_normal((_TILE, _TILE)).astype(np.float32), s) * np.float32(s)
        for s in (2.2, 5, 12, 26)
    )
    net = np.zeros((_TILE, _TILE), np.float32)
    for grain in (1.5, 2.4):
        fine = cv2.GaussianBlur(rng.standard_normal((_TILE, _TILE)).astype(np.float32), (0, 0), grain)
        net += 0.65 * np.clip(1 - np.abs(fine) / fine.std() * 1.3, 0, 1)
    net = np.minimum(net, 1)
    return noise / noise.std(), (cloud - cloud.mean()) / cloud.std(), cv2.GaussianBlur(net, (0, 0), 0.7)


def crop(tile: np.ndarray, rng: np.random.Generator, w: int, *, span: int | None = None) -> np.ndarray:
    """A random w x w window of `tile` (a view); with `span`, that many of its pixels are stretched to w."""
    span = min(span or w, len(tile))
    y, x = (rng.random(2) * (len(tile) - span + 1)).astype(int)
    part = tile[y : y + span, x : x + span]
    return part if span == w else cv2.resize(part, (w, w), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Marker:
    """The lead letter in the field: its side, and its centre as fractions of width and height."""

    side: str
    x: float
    y: float
    height: float
    font: int
    value: int


@dataclass(frozen=True)
class Exposure:
    """Random choices of one exposure."""

    dose: float
    low: float
    high: float
    equalise: float
    knee: float
    ripple: np.ndarray  # (2, 7) small waves of the tone curve, sine and cosine
    collimated: bool
    field: np.ndarray  # (4, 2) corners of the exposed field, fractions


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """What the tube, the operator and the vendor's processing chose for one image."""
    edge = np.where(rng.random(4) < 0.3, rng.uniform(0.005, 0.05, 4), -0.1)
    corners = np.array(
        [[edge[0], edge[1]], [1 - edge[2], edge[1]], [1 - edge[2], 1 - edge[3]], [edge[0], 1 - edge[3]]]
    )
    corners = corners + rng.normal(0, 0.004, (4, 2))
    return Exposure(
        dose=float(np.exp(rng.normal(0, 0.35))),
        low=float(rng.uniform(0.05, 0.18)),
        high=float(rng.uniform(0.83, 0.95)),
        equalise=float(rng.uniform(0.92, 1.0)),
        knee=float(np.exp(rng.normal(0.0, 0.08))),
        ripple=rng.normal(0, 0.19, (2, 7)),
        collimated=bool((edge > 0).any()),
        field=corners,
    )


def draw_marker(rng: np.random.Generator, *, abnormal: bool, confounder: float) -> Marker:
    """A side marker in a usual place: R to the left of the picture, L to the right (see `loader.load`)."""
    u = rng.random(7)
    by_label = u[6] < abs(confounder)
    left = (abnormal == (confounder > 0)) if by_label else u[0] < 0.5
    x = 0.035 + 0.11 * u[1]
    return Marker(
        side="L" if left else "R",
        x=float(1 - x if left else x),
        y=float(0.06 + 0.5 * u[2] ** 1.5),
        height=float(0.035 + 0.045 * u[3]),
        font=_FONTS[int(3 * u[4])],
        value=int(185 + 70 * u[5]),
    )


def read_out(total: np.ndarray, exposure: Exposure, noise: np.ndarray) -> np.ndarray:
    """Digital signal (w, w) uint16 0..1023 of attenuation `total`; noise grows where few quanta arrive."""
    sigma = np.float32(0.0065 / np.sqrt(exposure.dose) * (total.shape[0] / 224) ** 0.5)
    signal = total + noise * (0.75 * sigma + 0.3 * sigma * total)
    signal += 0.25
    signal *= 512
    return np.clip(signal, 0, _LEVELS - 1, out=signal).astype(np.uint16)


def tone_curve(signal: np.ndarray, body: np.ndarray, exposure: Exposure) -> np.ndarray:
    """Look-up table (1024,) uint8 from signal to grey, as automatic processing makes it.

    A mixture of a window on percentiles inside the body and of equalising its histogram towards a shape that
    the exposure drew by chance: so the mean and the histogram say little about what is in the picture.
    """
    every_other, inside = (np.ascontiguousarray(part[::2, ::2]) for part in (signal, body))
    counts = cv2.calcHist([every_other], [0], inside, [_LEVELS], [0, _LEVELS]).ravel().astype(np.float64)
    share = np.cumsum(counts) / max(counts.sum(), 1)
    capped = np.cumsum(np.minimum(counts, 6 * counts.sum() / _LEVELS))
    capped /= max(capped[-1], 1)
    first, last = np.searchsorted(share, (0.01, 0.992))
    window = (np.arange(_LEVELS) - first) / max(last - first, 1)
    window = np.where(window > 0.9, 0.9 + 0.1 * np.tanh((window - 0.9) / 0.1), window)
    mixed = (1 - exposure.equalise) * np.maximum(window, 0) + exposure.equalise * _rippled(capped, exposure)
    grey = exposure.low + (exposure.high - exposure.low) * mixed + 0.4 * np.minimum(window, 0)
    return np.rint(255 * np.clip(grey, 0, 1)).astype(np.uint8)


def _rippled(share: np.ndarray, exposure: Exposure) -> np.ndarray:
    """Monotone curve through (0, 0) and (1, 1): a power with small waves, so that no two histograms agree."""
    slope = np.maximum(1 + np.einsum("ab,abc->c", exposure.ripple, _WAVES), 0.25)
    curve = np.concatenate([[0], np.cumsum((slope[1:] + slope[:-1]) / 2)])
    return np.interp(share, _STEPS, curve / curve[-1]) ** exposure.knee


def finish(image: np.ndarray, exposure: Exposure, marker: Marker) -> np.ndarray:
    """Collimate and put the marker, on uint8 (w, w)."""
    w = image.shape[0]
    if exposure.collimated:
        field = np.zeros((w, w), np.uint8)
        cv2.fillConvexPoly(field, np.rint(exposure.field * w * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
        image = cv2.multiply(image, field, scale=1 / 255)
    _stamp(image, marker)
    return image


@lru_cache(maxsize=8)
def _lead_letter(side: str, font: int) -> np.ndarray:
    """The letter as uint8 (64, w), cropped to its ink; drawn once, because text is slow to draw."""
    canvas = np.zeros((160, 160), np.uint8)
    cv2.putText(canvas, side, (40, 120), font, 3.0, 255, 6, cv2.LINE_AA)
    x, y, w, h = cv2.boundingRect(canvas)
    return cv2.resize(canvas[y : y + h, x : x + w], (round(w * 64 / h), 64), interpolation=cv2.INTER_AREA)


def _stamp(image: np.ndarray, marker: Marker) -> None:
    """Put the marker's letter into `image`; what would fall outside is cut off."""
    side = image.shape[0]
    letter = _lead_letter(marker.side, marker.font)
    h = max(3, round(marker.height * side))
    w = max(2, round(h * letter.shape[1] / 64))
    ink = cv2.resize(letter, (w, h), interpolation=cv2.INTER_AREA)
    x, y = round(marker.x * side - w / 2), round(marker.y * side - h / 2)
    x0, y0 = max(x, 0), max(y, 0)
    part = image[y0 : y + h, x0 : x + w]
    cover = ink[y0 - y : y0 - y + part.shape[0], x0 - x : x0 - x + part.shape[1]] * np.float32(1 / 255)
    part[:] = part * (1 - cover) + marker.value * cover


def scatter(tissue: np.ndarray, w: int, *, amount: float = 0.25) -> np.ndarray:
    """Veil of scattered rays: mixes a wide blur into the attenuation."""
    return tissue * np.float32(1 - amount) + blur(tissue, 0.09 * w) * np.float32(amount)
