"""The crop: a pure function from a face to an affine map, with a name that data and models carry.

Detectors, margins and alignments change what a network sees so much that figures with different
crops cannot be compared. A crop is therefore a value with a version: it is written into every row,
into the store and into the normaliser of every model, and whoever serves a model compares it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ...core.config_tree import to_plain
from ...core.errors import UsageError
from ...datasets.errors import DataError
from ...datasets.geometry import Transform
from .detect import Face

VERSION = 1
"""Number that changes when the same settings cut other pixels."""

Align = Literal["none", "eyes", "similarity"]
Interpolation = Literal["bicubic", "bilinear", "nearest"]

TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Five points in a picture of 112 pixels (curation-faces.md, section 2: Deng et al., ArcFace)."""

_TEMPLATE_SIDE = 112.0
_TEMPLATE_MARGIN = 1.0  # at which the template fills the picture


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How a face becomes a square picture (curation-faces.md, section 2)."""

    margin: float = 1.3
    """Side of the square divided by the longer side of the face's box; with similarity alignment,
    by the side of the template."""
    align: Align = "none"
    """none keeps the pixels' directions (for forensic use: turning destroys traces), eyes makes the
    line of the eyes level, similarity maps five points onto the template of ArcFace."""
    size: int = 224
    """Pixels a side of the result."""
    interpolation: Interpolation = "bicubic"
    """Between pixels. Pictures are averaged first where they are made smaller."""
    version: int = VERSION
    """Of the code that cuts."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1.0 <= self.margin <= 4.0:
            raise UsageError("crop.margin", f"is {self.margin}", "use 1 to 4")
        if not 16 <= self.size <= 2048:
            raise UsageError("crop.size", f"is {self.size}", "use 16 to 2048 pixels")

    @property
    def name(self) -> str:
        """One word that tells two crops apart, such as "none-1.3-224-bicubic-v1"."""
        parts = (self.align, f"{self.margin:g}", self.size, self.interpolation, f"v{self.version}")
        return "-".join(map(str, parts))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return to_plain(self)


def refuse_other_crop(wanted: CropConfig | None, given: CropConfig | None, subject: object) -> None:
    """Refuse pictures that were cropped by another transform than a model's.

    Args:
        wanted: crop that the model was made with.
        given: crop of the pictures; None when they do not say.
        subject: store or file, for messages.

    Raises:
        DataError: naming both.
    """
    if wanted != given:
        names = [crop.name if crop else "unknown" for crop in (given, wanted)]
        reason = f"its faces are cropped as {names[0]}, and the model is for {names[1]}"
        raise DataError(subject, reason, "crop with the model's transform, or take another model")


def crop_transform(face: Face, crop: CropConfig, height: int, width: int) -> Transform:
    """Return the affine map from a crop to its picture.

    Positions are in pixels with 0 at the outer edge of the first one, as in `Geometry.point`:
    x = a col + b row + c, y = d col + e row + f.

    Args:
        face: box and points.
        crop: how.
        height: rows of the picture.
        width: columns of the picture.

    Returns:
        (a, b, c, d, e, f). Without alignment the square lies inside the picture: it is made smaller
        where it does not fit and moved away from a border that it would cross (the published rule
        moves it at the left and top only and cuts at the right and bottom, which loses chins).
        With alignment it may reach beyond.
    """
    if crop.align == "similarity":
        return _similarity(face, crop)
    left, top, right, bottom = face.box
    x, y, side = (left + right) / 2, (top + bottom) / 2, face.side * crop.margin
    if crop.align == "eyes":
        (x0, y0), (x1, y1) = face.points[:2]
        angle = math.atan2(y1 - y0, x1 - x0)
        cos, sin = side / crop.size * math.cos(angle), side / crop.size * math.sin(angle)
        half = crop.size / 2
        return cos, -sin, x - cos * half + sin * half, sin, cos, y - sin * half - cos * half
    # Whole pixels, so that a crop of the size of its square copies pixels.
    side = max(1, min(round(side), width, height))
    x0 = min(max(round(x - side / 2), 0), width - side)
    y0 = min(max(round(y - side / 2), 0), height - side)
    step = side / crop.size
    return step, 0.0, float(x0), 0.0, step, float(y0)


def _similarity(face: Face, crop: CropConfig) -> Transform:
    """Return the least-squares similarity from the template to the points (Umeyama 1991)."""
    centre = _TEMPLATE_SIDE / 2
    # A margin above 1 shows more than the template: its points move towards the middle.
    goal = (np.array(TEMPLATE) - centre) * _TEMPLATE_MARGIN / crop.margin + centre
    goal = goal * crop.size / _TEMPLATE_SIDE
    found = face.array()
    mean_goal, mean_found = goal.mean(axis=0), found.mean(axis=0)
    a, b = goal - mean_goal, found - mean_found
    spread = (a**2).sum()
    # For a rotation with scale in the plane: the complex quotient of both sets.
    cos, sin = (a * b).sum() / spread, (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / spread
    turn = np.array([[cos, -sin], [sin, cos]])
    x, y = mean_found - turn @ mean_goal
    return float(cos), float(-sin), float(x), float(sin), float(cos), float(y)


def scale_of(transform: Transform) -> float:
    """Return how many pixels of the picture one pixel of the crop is wide."""
    a, b, _, d, e, _ = transform
    return math.sqrt(abs(a * e - b * d))


def cut_crop(
    image: UInt8[np.ndarray, "h w 3"], transform: Transform, crop: CropConfig
) -> tuple[UInt8[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"]]:
    """Cut a face out of a picture.

    Args:
        image: the picture.
        transform: what `crop_transform` returned.
        crop: size and interpolation.

    Returns:
        Pixels, 0 beyond the picture, and where the picture has pixels.
    """
    from PIL import Image

    ways = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    way = ways.get(crop.interpolation, Image.Resampling.NEAREST)
    picture, size = Image.fromarray(np.ascontiguousarray(image)), (crop.size, crop.size)
    a, b, c, d, _, f = transform
    right, bottom = (round(start + a * crop.size, 6) for start in (c, f))
    fits = min(c, f) >= 0 and right <= image.shape[1] and bottom <= image.shape[0]
    if b == 0 and d == 0 and fits:
        box = (c, f, right, bottom)
        whole = np.ones(size, bool)
        return np.asarray(picture.resize(size, way, box=box)), whole
    # Averaging over several samples a pixel keeps what is made smaller free of stairs.
    times = max(1, round(scale_of(transform)))
    fine = _finer(transform, times)
    large = (crop.size * times, crop.size * times)
    cut = picture.transform(large, Image.Transform.AFFINE, fine, resample=way)
    pixels = np.asarray(cut.reduce(times) if times > 1 else cut)
    inside = _inside(transform, crop.size, image.shape[0], image.shape[1])
    return np.where(inside[..., None], pixels, 0).astype(np.uint8), inside


def cut_map(
    labels: UInt8[np.ndarray, "h w"], transform: Transform, size: int
) -> UInt8[np.ndarray, "s s"]:
    """Cut the same square out of a map of classes by nearest neighbours; 0 beyond the picture."""
    positions = crop_positions(transform, size)
    inside = _inside(transform, size, labels.shape[0], labels.shape[1])
    column = np.clip(positions[..., 0].astype(np.int64), 0, labels.shape[1] - 1)
    row = np.clip(positions[..., 1].astype(np.int64), 0, labels.shape[0] - 1)
    return np.where(inside, labels[row, column], 0).astype(np.uint8)


def crop_positions(transform: Transform, size: int) -> Float[np.ndarray, "s s 2"]:
    """Return the position in the picture, x before y, of the centre of every pixel of a crop."""
    a, b, c, d, e, f = transform
    row, column = np.mgrid[:size, :size] + 0.5
    return np.stack([a * column + b * row + c, d * column + e * row + f], axis=-1)


def outline(transform: Transform, size: int) -> tuple[float, float, float, float]:
    """Return the upright box around a crop in its picture: left, top, right, bottom."""
    a, b, c, d, e, f = transform
    corners = [(a * x + b * y + c, d * x + e * y + f) for x in (0, size) for y in (0, size)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def to_crop(points: Float[np.ndarray, "n 2"], transform: Transform) -> Float[np.ndarray, "n 2"]:
    """Return positions in the picture as positions in the crop, in pixels of the crop."""
    a, b, c, d, e, f = transform
    return np.linalg.solve(np.array([[a, b], [d, e]]), (points - [c, f]).T).T


def _finer(transform: Transform, times: int) -> Transform:
    a, b, c, d, e, f = transform
    return a / times, b / times, c, d / times, e / times, f


def _inside(transform: Transform, size: int, height: int, width: int) -> np.ndarray:
    x, y = np.moveaxis(crop_positions(transform, size), -1, 0)
    return (x >= 0) & (y >= 0) & (x < width) & (y < height)
