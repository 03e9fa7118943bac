"""One synthetic radiograph from its numbers: patient, image, seed and options."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from xraykit.datasets.synthetic import anatomy as shape
from xraykit.datasets.synthetic import detector
from xraykit.datasets.synthetic.film import Film, Pose, blur
from xraykit.datasets.synthetic.findings import paint
from xraykit.datasets.synthetic.organs import expose
from xraykit.datasets.synthetic.patients import CLASSES, NAMES, NIH_FINDINGS, image_findings, stream
from xraykit.errors import DataError

SIZES = (32, 1024)
_TEXTURE_SPAN = 224  # texture pixels across the picture, whatever its size
_SUPERSAMPLE_BELOW = 112  # smaller pictures are drawn twice as large and averaged
_PAINTABLE = {"synthetic": CLASSES["synthetic"][1:], "synthetic-nih": NIH_FINDINGS}


@dataclass(frozen=True)
class Options:
    """Everything an image depends on but the patient and image number; see `load` for `confounder`."""

    name: str = "synthetic"
    size: int = 224
    seed: int = 0
    confounder: float = 0.0
    difficulty: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise DataError(f"unknown synthetic data set {self.name!r}; use one of {NAMES}")
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise DataError(
                f"size {self.size} is outside {SIZES[0]}..{SIZES[1]} pixels; choose a size in that range"
            )
        if self.seed < 0:
            raise DataError(f"seed {self.seed} is negative; use 0 or more")
        if not -1 <= self.confounder <= 1:
            raise DataError(
                f"confounder {self.confounder} is outside -1..1; it is a probability with a direction"
            )
        if not 0.25 <= self.difficulty <= 4:
            raise DataError(f"difficulty {self.difficulty} is outside 0.25..4; 1 is the calibrated default")


@dataclass(frozen=True)
class Rendered:
    """One image (size, size) uint8, its masks uint16 with bit k for ``classes[k]``, and its record."""

    image: np.ndarray
    masks: np.ndarray
    record: dict[str, object]


def render(patient: int, image: int = 0, *, findings: Iterable[str] | None = None, **options) -> Rendered:
    """One image of one patient.

    Args:
        patient: patient number, usually from `PATIENT_RANGES`.
        image: 0 for the first image of the patient, and so on.
        findings: what to show instead of what the patient has; ``()`` shows the same exposure without
            lesions. Body, pose, exposure, window, marker and noise stay those of the recorded image, so
            that two such pictures differ inside the masks only. The record keeps the recorded labels.
        **options: fields of `Options`: ``name, size, seed, confounder, difficulty``.

    Raises:
        DataError: an option is out of range or a finding is unknown to the data set.
    """
    return render_image(patient, image, Options(**options), findings=findings)


def render_image(
    patient: int, image: int, options: Options, *, findings: Iterable[str] | None = None
) -> Rendered:
    """As `render`, with the options already checked."""
    film = _film(patient, image, options)
    recorded = image_findings(options.name, options.seed, patient, image)
    rng = stream("detector", options.seed, patient, image)
    exposure = detector.draw_exposure(rng)
    marker = detector.draw_marker(rng, abnormal=bool(recorded), confounder=options.confounder)
    noise = detector.crop(detector.textures(options.seed)[0], rng, film.w)
    cloud, net = (
        detector.crop(t, rng, film.w, span=_TEXTURE_SPAN) for t in detector.textures(options.seed)[1:]
    )
    film.tissue += np.float32(0.012) * cloud
    film.air *= 1 - np.float32(0.10) * net
    clear = blur(detector.scatter(film.tissue, film.w) - film.air, 0.0026 * film.w)
    wanted = recorded if findings is None else _checked(findings, options.name)
    before = (film.air.copy(), film.heart) if wanted != recorded else None
    lesions, masks = _paint(film, recorded, patient, image, options)
    signal = detector.read_out(clear + lesions, exposure, noise)
    curve = detector.tone_curve(signal, film.body, exposure)
    if before is not None:
        film.air, film.heart = before
        lesions, masks = _paint(film, wanted, patient, image, options)
        signal = detector.read_out(clear + lesions, exposure, noise)
    picture = detector.finish(curve.take(signal), exposure, marker)
    bits = _bits(masks, options)
    record = _record(patient, image, recorded, film, exposure, marker, options)
    record["lesion_area"] = round(float(np.count_nonzero(bits)) / bits.size, 5)
    return Rendered(_shrink(picture, options.size), bits, record)


def anatomy_masks(patient: int, image: int = 0, **options) -> dict[str, np.ndarray]:
    """Boolean masks of a recorded image: ``lungs`` (also behind the heart), ``heart``, ``body``."""
    chosen = Options(**options)
    film = _film(patient, image, chosen)
    _paint(film, image_findings(chosen.name, chosen.seed, patient, image), patient, image, chosen)
    parts = {"lungs": cv2.max(*film.lungs), "heart": film.heart, "body": film.body}
    return {k: _shrink(v, chosen.size) > 127 for k, v in parts.items()}


def _film(patient: int, image: int, options: Options) -> Film:
    """The chest without lesions, drawn twice as large where the picture is small."""
    if patient < 0 or image < 0:
        raise DataError(f"patient {patient}, image {image}: both numbers count from 0; see PATIENT_RANGES")
    w = 2 * options.size if options.size < _SUPERSAMPLE_BELOW else options.size
    return expose(shape.build(options.name, options.seed, patient), draw_pose(patient, image, options), w)


def draw_pose(patient: int, image: int, options: Options) -> Pose:
    """How the patient stood for one image: view, rotation, place, inspiration."""
    who = shape.build(options.name, options.seed, patient).who
    rng = stream("pose", options.seed, patient, image)
    z = np.clip(rng.normal(size=6), -2.2, 2.2)
    portable = bool(rng.random() < who.portable)
    return Pose(
        view="AP" if portable else "PA",
        angle=float(2.2 * z[0]),
        shift=(float(0.013 * z[1]), float(0.016 * z[2] - 0.005)),
        zoom=float(1.04 + 0.035 * z[3]),
        yaw=float(0.010 * z[4]),
        breath=float(np.clip(1.0 + 0.035 * z[5] - 0.05 * portable, 0.85, 1.1)),
        heart=1.08 if portable else 1.0,
        markings=float(rng.uniform(0.7, 1.4)),
    )


def _checked(findings: Iterable[str], name: str) -> tuple[str, ...]:
    wanted = tuple(findings)
    unknown = [f for f in wanted if f not in _PAINTABLE[name]]
    if unknown:
        raise DataError(f"{name} cannot show {unknown}; choose from {_PAINTABLE[name]}")
    return wanted


def _paint(
    film: Film, names: tuple[str, ...], patient: int, image: int, options: Options
) -> tuple[np.ndarray, dict]:
    """Lesions of one image. A finding keeps its place and shape in all images of a patient, whatever else is
    there; it is fainter or denser in the later ones, and the pose moves it."""
    order = CLASSES[options.name]
    course = 1.0 if image == 0 else stream("course", options.seed, patient, image).uniform(0.75, 1.15)
    return paint(
        film,
        names,
        streams=lambda f: stream("lesion", options.seed, patient, order.index(f)),
        seed=options.seed,
        strength=course / options.difficulty,
    )


def _bits(masks: dict[str, np.ndarray], options: Options) -> np.ndarray:
    bits = np.zeros((options.size, options.size), np.uint16)
    for name, mask in masks.items():
        if mask.shape[0] != options.size:
            mask = mask.reshape(options.size, 2, options.size, 2).any(axis=(1, 3))
        bits |= mask.astype(np.uint16) << CLASSES[options.name].index(name)
    return bits


def _shrink(picture: np.ndarray, size: int) -> np.ndarray:
    if picture.shape[0] == size:
        return picture
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def _record(patient, image, recorded, film: Film, exposure, marker, options: Options) -> dict[str, object]:
    who, pose = film.anatomy.who, film.pose
    row: dict[str, object] = {
        "image_id": f"s{options.seed}-p{patient:07d}-{image}",
        "patient_id": f"s{options.seed}-p{patient:07d}",
    }
    if options.name == "synthetic":
        row["label"] = recorded[0] if recorded else "normal"
    else:
        row |= {f: int(f in recorded) for f in NIH_FINDINGS} | {"No Finding": int(not recorded)}
    return row | {
        "age": who.age,
        "sex": who.sex,
        "view": pose.view,
        "marker_side": marker.side,
        "marker_x": round(marker.x, 4),
        "marker_y": round(marker.y, 4),
        "marker_size": round(marker.height, 4),
        "dose": round(exposure.dose, 3),
        "angle": round(pose.angle, 2),
        "shift_x": round(pose.shift[0], 4),
        "shift_y": round(pose.shift[1], 4),
        "zoom": round(pose.zoom, 4),
        "yaw": round(pose.yaw, 4),
        "breath": round(pose.breath, 4),
        "heart_ratio": round(film.anatomy.heart_scale * pose.heart, 3),
    }
