"""Where faces are in a picture: one protocol for our own detector and for anybody's results.

A detector returns boxes with scores and, if it has them, five points. What it is called is written
into every row of a manifest, because figures of two detectors cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

POINTS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
"""Names of the five points; right and left are those of the person, so the right eye is on the
left of the picture."""

Points = tuple[tuple[float, float], ...]

TYPICAL = ((0.265, 0.40), (0.735, 0.40), (0.50, 0.61), (0.295, 0.76), (0.705, 0.76))
"""Where the points of a face seen from the front lie in its box, as shares of width and height:
rounded means over upright portraits whose boxes and points MTCNN found."""

Which = Literal["largest", "central", "all", "reject"]
"""What to do with several faces: the largest (area times score), the one nearest to the middle, all
of them, or none of the picture."""


@dataclass(frozen=True)
class Face:
    """A face in a picture, in pixels: x to the right, y down, 0 the outer edge of the first pixel.

    Attributes:
        box: left, top, right, bottom.
        score: of the detector, 0 to 1; 1 where it has none.
        points: as `POINTS`.
        estimated: whether the points were not seen but follow from the box.
    """

    box: tuple[float, float, float, float]
    score: float
    points: Points
    estimated: bool = False

    @property
    def side(self) -> float:
        """Longer side of the box."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)

    @property
    def area(self) -> float:
        """Area of the box."""
        left, top, right, bottom = self.box
        return max(right - left, 0.0) * max(bottom - top, 0.0)

    def array(self) -> Float[np.ndarray, "5 2"]:
        """Return the points as numbers, x before y."""
        return np.array(self.points, np.float64)


@runtime_checkable
class Detector(Protocol):
    """Finds faces."""

    @property
    def name(self) -> str:
        """What manifests call it, with whatever changes its results."""
        ...

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], uri: str) -> list[Face]:
        """Return the faces of a picture.

        Args:
            image: the picture.
            uri: file it comes from, "#" and the number of the frame in a video; a detector that
                reads results looks it up.
        """
        ...


def face_from_box(
    box: tuple[float, float, float, float], score: float = 1.0, points: Points | None = None
) -> Face:
    """Return a face; points that are not given are those of a typical face in the box."""
    if points is not None:
        return Face(box, score, points)
    left, top, right, bottom = box
    shares = np.array(TYPICAL) * [right - left, bottom - top] + [left, top]
    return Face(box, score, tuple((float(x), float(y)) for x, y in shares), estimated=True)


@dataclass(frozen=True)
class WholeImage:
    """For pictures that show one face already: the box is in the middle, so that a crop is all.

    Args:
        margin: of the crop; the box is that much smaller than the shorter side of the picture.
    """

    margin: float

    @property
    def name(self) -> str:
        """Name for manifests."""
        return "whole"

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], uri: str) -> list[Face]:
        """Return one face."""
        del uri
        height, width = image.shape[:2]
        half = min(height, width) / self.margin / 2
        x, y = width / 2, height / 2
        return [face_from_box((x - half, y - half, x + half, y + half))]


def choose(faces: list[Face], which: Which, size: tuple[int, int]) -> list[Face]:
    """Return the faces of a picture that are used (curation-faces.md, step 4).

    Args:
        faces: those that are good enough.
        which: see `Which`; "reject" returns nothing when there are several.
        size: height and width of the picture.
    """
    if len(faces) <= 1 or which == "all":
        return sorted(faces, key=lambda face: face.box)
    if which == "reject":
        return []
    if which == "largest":
        return [max(faces, key=lambda face: (face.area * face.score, face.box))]
    middle = np.array([size[1], size[0]]) / 2

    def distance(face: Face) -> tuple[float, tuple[float, ...]]:
        left, top, right, bottom = face.box
        offset = np.array([left + right, top + bottom]) / 2 - middle
        return float(offset @ offset), face.box

    return [min(faces, key=distance)]


def covered(box: tuple[float, float, float, float], others: list[Face]) -> float:
    """Return which share of a box the boxes of other faces cover, counted one by one."""
    left, top, right, bottom = box
    total = 0.0
    for face in others:
        a, b, c, d = face.box
        total += max(min(c, right) - max(a, left), 0) * max(min(d, bottom) - max(b, top), 0)
    return total / max((right - left) * (bottom - top), 1e-9)


def follow(faces: list[Face], before: Face | None) -> list[Face]:
    """Return the face that continues a track: the one that overlaps most with the face before.

    Args:
        faces: of this frame.
        before: face of the frame before; None at the beginning.

    Returns:
        One face, or all of them where none overlaps.
    """
    if before is None or not faces:
        return faces
    overlaps = [overlap(face.box, before.box) for face in faces]
    best = int(np.argmax(overlaps))
    return [faces[best]] if overlaps[best] > 0 else faces


def overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Return the intersection of two boxes divided by their union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = ((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second))
    return both / max(sum(areas) - both, 1e-9)


def scaled(face: Face, factor: float) -> Face:
    """Return a face in a picture that is `factor` times as large."""
    left, top, right, bottom = (value * factor for value in face.box)
    points = tuple((x * factor, y * factor) for x, y in face.points)
    return replace(face, box=(left, top, right, bottom), points=points)
