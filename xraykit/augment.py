"""Augmentation of whole batches, seeded by image: what happens to an image depends on no other image.

The changes of an image are a function of seed, epoch and its id, so that batch size, order, number of
processes and a resumed run make no difference. They are small, since chests are recorded upright: there are
no vertical flips and no quarter turns among the options, and `quarter_turns_and_flips` exists to measure
that mistake.
"""

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

import numpy as np
import torch
import torch.nn.functional as F

from xraykit.errors import DataError

LIMITS = {"rotation": 45, "translation": 0.5, "zoom": 0.5, "contrast": 0.9, "brightness": 0.5, "flip": 1}
CHANGES, MISTAKES = range(7), range(7, 9)  # columns of draws; fixed, so that no option moves another's draw
GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Augment:
    """How far an image may be changed; 0 switches a change off.

    Attributes:
        rotation: turned by up to so many degrees either way, 0 to 45.
        translation: moved by up to this part of the side, across and along, 0 to .5.
        zoom: magnified by a factor within 1 - zoom and 1 + zoom, 0 to .5.
        contrast: grey levels' distance from the image's mean times 1 - contrast to 1 + contrast, 0 to .9.
        brightness: added to every grey level, up to this much either way, 0 to .5.
        flip: probability of a mirror image (left and right exchanged), 0 to 1. Off by default: the heart is
            on the left, and a mirrored chest shows a rare anomaly (situs inversus) and a reversed side
            marker. A finding of either lung, such as pneumonia, is still one in the mirror, which is why
            many projects flip; where heart, aorta or stomach bubble matter it teaches a wrong anatomy.
            Whether it helps is a question for the validation split.

    Raises:
        DataError: a value outside its range.
    """

    rotation: float = 10.0
    translation: float = 0.05
    zoom: float = 0.1
    contrast: float = 0.2
    brightness: float = 0.1
    flip: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, limit = getattr(self, field.name), LIMITS[field.name]
            if not (isinstance(value, Real) and 0 <= value <= limit):
                raise DataError(f"{field.name} = {value!r}; choose a number from 0 (off) to {limit}")
            object.__setattr__(self, field.name, float(value))  # numbers of NumPy are no JSON


def augment(
    images: torch.Tensor, ids: np.ndarray, *, epoch: int, seed: int, options: Augment
) -> torch.Tensor:
    """Mirror, turn, move and zoom each image, then change its contrast and brightness.

    Every amount is uniform within its range. Edges are continued; contrast and brightness are
    (x - mean) * c + mean + b with the mean of the moved image, then cut to 0..1.

    Args:
        images: grey float32 (B, 1, S, S) in 0..1, on any device.
        ids: integers (B,) from 0 that name the images: their row in the data set, for example, not in the
            batch. The same id twice in an epoch is changed twice in the same way, so number the copies of an
            oversampled image apart.
        epoch, seed: whole numbers from 0.

    Returns:
        New float32 (B, 1, S, S) in 0..1 on the device of `images`.

    Raises:
        DataError: images of another shape or dtype, or out of range (looked for on the CPU only, since it
            would hold up an accelerator); ids that do not match; a number that is negative or not whole.
    """
    _check(images, ids)
    drawn = uniforms(ids, epoch=epoch, seed=seed, columns=CHANGES)
    either_way = torch.from_numpy(2 * drawn[:, :6] - 1).float().to(images.device)  # (B, 6), -1..1
    angle, right, down, zoom, contrast, brightness = either_way.unbind(1)
    x = images
    if options.flip:
        x = _where(drawn[:, 6] < options.flip, x.flip(-1), x)
    if options.rotation or options.translation or options.zoom:
        x = warp(
            x,
            size=x.shape[-1],
            angle=math.radians(options.rotation) * angle,
            zoom=1 / (1 + options.zoom * zoom),
            right=2 * options.translation * right,
            down=2 * options.translation * down,
        )
    if options.contrast or options.brightness:
        factor = (1 + options.contrast * contrast).view(-1, 1, 1, 1)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = x * factor + (mean * (1 - factor) + options.brightness * brightness.view(-1, 1, 1, 1))
    return x.clamp(0, 1)


def quarter_turns_and_flips(images: torch.Tensor, ids: np.ndarray, *, epoch: int, seed: int) -> torch.Tensor:
    """A published mistake, to be measured and not used: chests on their side and upside down.

    Each image is turned by 0, 90, 180 or 270 degrees, then flipped vertically with probability 1/2. No
    radiograph is read so: the network learns pictures that it will never be shown.

    Arguments, return value and errors as for `augment`; the draws are independent of those of `augment`.
    """
    _check(images, ids)
    drawn = uniforms(ids, epoch=epoch, seed=seed, columns=MISTAKES)
    quarters, x = np.floor(4 * drawn[:, 0]), images
    for quarter in (1, 2, 3):
        x = _where(quarters == quarter, images.rot90(quarter, (2, 3)), x)
    return _where(drawn[:, 1] < 0.5, x.flip(-2), x)


def warp(
    images: torch.Tensor,
    *,
    size: int,
    angle: torch.Tensor,
    zoom: torch.Tensor,
    right: torch.Tensor,
    down: torch.Tensor,
) -> torch.Tensor:
    """Sample each image bilinearly on a square that is turned, zoomed and moved; edges are continued.

    Autocast is off, as it would round the grid to bfloat16.

    Args:
        images: float (B, 1, S, S).
        size: side of the result in pixels.
        angle: (B,), radians; the picture turns counter-clockwise about the middle of the result.
        zoom: (B,), side of the square over the side of the image: below 1 magnifies.
        right, down: (B,), middle of the square off the middle of the image, in halves of its side.

    Returns:
        (B, 1, size, size).
    """
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = [torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)]
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(torch.stack(rows, 1), [len(images), 1, size, size], align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def uniforms(ids: np.ndarray, *, epoch: int, seed: int, columns: range) -> np.ndarray:
    """Uniform numbers (B, P) in [0, 1), float64: a pure function of seed, epoch, id and column.

    SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014) can be
    entered at any place of its sequence. The epoch picks a place in the sequence of the seed; the number
    found there is the seed of a sequence in which the id picks a place; and likewise the column.

    Args:
        ids: integers (B,) from 0.
        epoch, seed: whole numbers from 0 to 2**63 - 1.
        columns: which P parameters.

    Raises:
        DataError: a number that is negative, too large or not whole.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or (ids < 0).any():
        raise DataError(f"ids {ids.dtype} of shape {ids.shape}; give whole numbers (B,), none below 0")
    for name, value in (("epoch", epoch), ("seed", seed)):
        if not (isinstance(value, Integral) and 0 <= value < 2**63):
            raise DataError(f"{name} = {value!r}; choose a whole number from 0 to 2**63 - 1")
    state = np.array([[seed]], np.uint64)
    for place in (np.array([[epoch]]), ids[:, None], np.array([columns])):
        state = splitmix64(state, place.astype(np.uint64))
    return (state >> np.uint64(11)) * 2.0**-53


def splitmix64(seed: np.ndarray, place: np.ndarray) -> np.ndarray:
    """What SplitMix64 returns at a place, counted from 0, of the sequence of a seed; uint64, broadcast."""
    z = seed + (place + np.uint64(1)) * GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _check(images: torch.Tensor, ids: np.ndarray) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4 or not shape[0] or shape[1] != 1 or shape[2] != shape[3]:
        raise DataError(f"images of shape {shape}; give at least one grey square image (B, 1, S, S)")
    if images.dtype != torch.float32:
        raise DataError(f"images are {images.dtype}; give float32 in 0..1, uint8 ones divided by 255")
    if images.device.type == "cpu":
        low, high = images.aminmax()
        if not 0 <= low <= high <= 1:
            raise DataError(
                f"images from {low:.3g} to {high:.3g}; give grey levels 0..1, uint8 divided by 255"
            )
    if np.shape(ids) != shape[:1]:
        raise DataError(f"ids of shape {np.shape(ids)} for {shape[0]} images; give one id for each image")


def _where(chosen: np.ndarray, these: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.from_numpy(chosen).to(these.device).view(-1, 1, 1, 1), these, others)
