"""The drawing surface: a pose, maps of attenuation, and drawing with OpenCV.

Grey in a digital radiograph follows the logarithm of the exposure, that is the sum of what the rays passed
through. So every organ adds (or, for air, removes) thickness on a float32 map; 1.0 is the soft tissue of an
average trunk. The air of the lungs is kept as a map of its own, because most lesions replace air.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from xraykit.datasets.synthetic.anatomy import Anatomy

_SHIFT = 4  # fixed-point bits of OpenCV's coordinates; edges are smoothed later, by the focal spot's blur
Polygons = np.ndarray | list[np.ndarray]


@dataclass(frozen=True)
class Pose:
    """How one image was taken. `yaw` turns the patient: what is in front moves right, what is behind left."""

    view: str
    angle: float  # degrees, in the plane
    shift: tuple[float, float]
    zoom: float
    yaw: float
    breath: float  # 1 is a usual inspiration; more lowers the diaphragm
    heart: float  # factor on the width of the heart (AP magnifies it)
    markings: float  # how full the vessels are


@dataclass
class Film:
    """The maps of one image before exposure, all (w, w)."""

    anatomy: Anatomy
    pose: Pose
    w: int
    matrix: np.ndarray  # (2, 3), patient's frame to pixels
    lung_x: np.ndarray  # float32 lung units, signed
    lung_y: np.ndarray
    tissue: np.ndarray  # float32, everything but lung air
    air: np.ndarray  # float32, attenuation missing because there is air in the lung
    lungs: list[np.ndarray]  # uint8 0..255, right and left, whole (behind the heart too)
    heart: np.ndarray  # uint8 0..255
    body: np.ndarray  # uint8 0..255
    vessels: np.ndarray  # uint8, how much vessel there is

    def to_pixels(self, points: np.ndarray, depth: float = 0.0) -> np.ndarray:
        """Lung units (..., 2) to pixels; `depth` is +1 at the front of the chest and -1 at the back."""
        a = self.anatomy
        units = np.array([a.width, (a.base - a.apex) * self.pose.breath])
        return self.frame_to_pixels(points * units + (self.pose.yaw * depth, a.apex))

    def frame_to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Patient's frame (..., 2) to pixels."""
        flat = points.reshape(-1, 2) @ self.matrix[:, :2].T + self.matrix[:, 2]
        return flat.reshape(points.shape)

    def smooth_field(self, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """A smooth `function` of (lung_x, lung_y), evaluated at every fourth pixel and interpolated."""
        coarse = function(self.lung_x[2::4, 2::4], self.lung_y[2::4, 2::4])
        return cv2.resize(coarse, (self.w, self.w), interpolation=cv2.INTER_LINEAR)

    def canvas(self) -> np.ndarray:
        """A black uint8 drawing."""
        return np.zeros((self.w, self.w), np.uint8)

    def fill(self, polygons: Polygons, value: int = 255, *, on: np.ndarray | None = None) -> np.ndarray:
        """Fill pixel polygons on a uint8 drawing (a new one by default)."""
        on = self.canvas() if on is None else on
        cv2.fillPoly(on, _fixed(polygons), value, cv2.LINE_8, _SHIFT)
        return on

    def thickness(self, polygons: np.ndarray, radius: float) -> np.ndarray:
        """As `rounded` for a body that reaches beyond the picture; `radius` is a fraction of the side.

        Made at half the size with a margin around, so that the edge counts even just outside the picture.
        """
        half, margin = self.w // 2, self.w // 8
        canvas = np.zeros((half + 2 * margin, half + 2 * margin), np.uint8)
        cv2.fillPoly(
            canvas, _fixed((polygons + 0.5) * (half / self.w) - 0.5 + margin), 255, cv2.LINE_8, _SHIFT
        )
        inside = rounded(canvas, radius * half)[margin:-margin, margin:-margin]
        return cv2.resize(inside, (self.w, self.w), interpolation=cv2.INTER_LINEAR)

    def lines(
        self, curves: Polygons, value: int, *, on: np.ndarray, width: int = 1, closed: bool = False
    ) -> None:
        """Draw pixel curves on a uint8 drawing."""
        cv2.polylines(on, _fixed(curves), closed, value, width, cv2.LINE_8, _SHIFT)

    def soften(self, drawing: np.ndarray, sigma: float, strength: float) -> np.ndarray:
        """uint8 drawing as float32, blurred by `sigma` (fraction of the side), `strength` where it is 255."""
        return blur(drawing, sigma * self.w) * np.float32(strength / 255)


def new_film(anatomy: Anatomy, pose: Pose, w: int) -> Film:
    """An empty film with the coordinates of its pixels in lung units."""
    angle = np.deg2rad(pose.angle)
    c, s = np.cos(angle) * pose.zoom, np.sin(angle) * pose.zoom
    linear = np.array([[c, -s], [s, c]])
    centre = np.array([0.5 + pose.shift[0], 0.5 + pose.shift[1]])
    matrix = np.column_stack([linear, centre - linear @ (0.0, 0.5)]) * w
    matrix[:, 2] -= 0.5
    scale = np.array([[1 / anatomy.width], [1 / ((anatomy.base - anatomy.apex) * pose.breath)]])
    back = np.linalg.inv(linear) * scale
    offset = scale[:, 0] * (0.0, 0.5 - anatomy.apex) - back @ centre
    column, row = _pixel_centres(w)
    x, y = (
        np.float32(b[0]) * row + (np.float32(b[1]) * column + np.float32(o))
        for b, o in zip(back, offset, strict=True)
    )
    none = np.zeros((w, w), np.uint8)
    return Film(anatomy, pose, w, matrix, x, y, none, none, [], none, none, none)


@lru_cache(maxsize=8)
def _pixel_centres(w: int) -> tuple[np.ndarray, np.ndarray]:
    centres = (np.arange(w, dtype=np.float32) + 0.5) / w
    return centres[:, None], centres[None, :]


def _fixed(curves: Polygons) -> list[np.ndarray]:
    """Pixel curves (m, 2), (n, m, 2) or a list of (m, 2) as OpenCV's fixed-point integers."""
    if isinstance(curves, list):
        return [np.rint(c * (1 << _SHIFT)).astype(np.int32) for c in curves]
    points = np.rint(curves * (1 << _SHIFT)).astype(np.int32)
    return [points] if points.ndim == 2 else list(points)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, `sigma` in pixels; wide ones are made at a smaller size, which looks the same."""
    if sigma < 0.3:
        return image
    part = 1 if sigma < 1.2 else 2 if sigma < 4 else 4
    h, w = image.shape
    small = image if part == 1 else cv2.resize(image, (w // part, h // part), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / part)
    return small if part == 1 else cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)


def rounded(mask: np.ndarray, radius: float) -> np.ndarray:
    """Thickness of a round body with outline `mask`: 0 at the edge, 1 from `radius` pixels inwards."""
    depth = cv2.distanceTransform(cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)[1], cv2.DIST_L2, 3)
    depth *= np.float32(1 / radius)
    np.minimum(depth, 1, out=depth)
    depth *= 2 - depth
    return cv2.sqrt(depth)
