"""Faces that another detector found: boxes and points in files of the usual shapes.

A table (CSV) has a line per face: file, a box as x, y, w, h or left, top, right, bottom, and if
known score and points (right_eye_x, right_eye_y, left_eye_x, ...). JSON maps file to faces, each
with facial_area or bbox, score or det_score, and landmarks (five named points), kps (five) or 68 or
106 points, which is what RetinaFace and InsightFace tools write. Frames of a video are listed as
"video.mp4#12".
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ...core.errors import UsageError
from ...datasets.errors import DataError
from .detect import POINTS, Detector, Face, Points, WholeImage, face_from_box
from .facts import read_json, read_rows

_CORNERS = (("left", "top", "right", "bottom"), ("x", "y", "w", "h"))
_NUMBERS = {
    68: ((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47), (30,), (48,), (54,)),
    106: ((38,), (88,), (86,), (52,), (61,)),
}
"""Which of 68 points (iBUG) or 106 points (InsightFace) make ours; several are averaged."""


@dataclass(frozen=True)
class ListedFaces:
    """A detector that looks its answers up.

    Args:
        path: CSV or JSON file.
        faces: by file name as listed.
        digest: of the file; other results are another detector.
    """

    path: str
    faces: Mapping[str, tuple[Face, ...]]
    digest: str

    @property
    def name(self) -> str:
        """Name for manifests."""
        return f"file-{self.digest}"

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], uri: str) -> list[Face]:
        """Return the faces that the file lists for the longest tail of a path.

        Raises:
            DataError: when a box lies outside of the picture.
        """
        height, width = image.shape[:2]
        parts = Path(uri).parts
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        key = next((tail for tail in tails if tail in self.faces), None)
        found = list(self.faces[key]) if key is not None else []
        for face in found:
            left, top, right, bottom = face.box
            if right <= 0 or bottom <= 0 or left >= width or top >= height:
                reason = f"has a box {face.box} outside of {uri}, {width}x{height} pixels"
                raise DataError(self.path, reason, "were boxes made for another size?")
        return found


def read_faces(path: Path) -> ListedFaces:
    """Read faces that another detector found.

    Raises:
        UsageError: when the file does not exist or is neither CSV nor JSON by its name.
        DataError: when it cannot be understood.
    """
    kinds = {".csv": _from_table, ".json": _from_json}
    if not path.is_file() or path.suffix.lower() not in kinds:
        reason = f"{path} is no CSV or JSON file"
        raise UsageError("detector", reason, "use mtcnn, whole, or a file of boxes")
    faces = kinds[path.suffix.lower()](path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return ListedFaces(str(path), faces, digest)


@lru_cache(maxsize=4)
def make_detector(spec: str, min_face: int, max_side: int, margin: float) -> Detector:
    """Return a detector by name.

    Args:
        spec: "mtcnn", "whole" (a picture is a face), or a file of boxes.
        min_face: smallest side of a face that is looked for, in pixels.
        max_side: longer pictures are made smaller before they are searched.
        margin: of the crop.

    Raises:
        UsageError: for an unknown name, or when weights are not installed.
        DataError: when a file of boxes cannot be understood.
    """
    if spec == "mtcnn":
        from .mtcnn import Mtcnn

        return Mtcnn(min_face=min_face, max_side=max_side)
    return WholeImage(margin) if spec == "whole" else read_faces(Path(spec))


def _from_table(path: Path) -> dict[str, tuple[Face, ...]]:
    found: dict[str, list[Face]] = {}
    for line, row in enumerate(read_rows(path, ("file",)), 2):
        try:
            found.setdefault(row["file"], []).append(_table_face(row))
        except (KeyError, ValueError) as error:
            reason = f"line {line} is no box ({error})"
            remedy = "columns are file, x, y, w, h, or left, top, right, bottom"
            raise DataError(path, reason, remedy) from error
    return {name: tuple(faces) for name, faces in found.items()}


def _table_face(row: Mapping[str, str]) -> Face:
    names = _CORNERS[0] if row.get("left") else _CORNERS[1]
    a, b, c, d = (float(row[name]) for name in names)
    box = (a, b, c, d) if names is _CORNERS[0] else (a, b, a + c, b + d)
    points = None
    if row.get(f"{POINTS[0]}_x"):
        points = tuple((float(row[f"{p}_x"]), float(row[f"{p}_y"])) for p in POINTS)
    return _checked(box, float(row.get("score") or 1.0), points)


def _from_json(path: Path) -> dict[str, tuple[Face, ...]]:
    plain = read_json(path)
    if isinstance(plain, list):  # [{"file": ..., "faces": [...]}, ...]
        plain = {str(entry.get("file")): entry.get("faces") for entry in plain if _is_map(entry)}
    found = {}
    remedy = "map each file to its faces, with bbox or facial_area"
    if not _is_map(plain):
        raise DataError(path, "does not map files to faces", remedy)
    for name, faces in plain.items():
        listed = list(faces.values()) if _is_map(faces) else faces or []
        try:
            found[str(name)] = tuple(_json_face(face) for face in listed)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"{name} has something that is no face ({json.dumps(str(error))})"
            raise DataError(path, reason, remedy) from error
    return found


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _json_face(face: Mapping[str, Any]) -> Face:
    box = face["bbox"] if "bbox" in face else face["facial_area"]
    left, top, right, bottom = (float(value) for value in box[:4])
    score = float(face.get("score", face.get("det_score", 1.0)))
    points: Points | None = None
    if _is_map(face.get("landmarks")):
        named = face["landmarks"]
        points = tuple(_pair(named[name]) for name in POINTS)
    else:
        keys = ("kps", "landmark", "landmarks", "landmark_2d_106", "landmark_3d_68")
        many = next((face[key] for key in keys if face.get(key) is not None), None)
        points = None if many is None else five_points(np.asarray(many, float)[:, :2])
    return _checked((left, top, right, bottom), score, points)


def five_points(points: np.ndarray) -> Points:
    """Return our five points from 5, 68 or 106.

    Raises:
        ValueError: for another number.
    """
    if len(points) == len(POINTS):
        return tuple(_pair(point) for point in points)
    if len(points) not in _NUMBERS:
        raise ValueError(f"{len(points)} points are not 5, 68 or 106")
    return tuple(_pair(points[list(group)].mean(axis=0)) for group in _NUMBERS[len(points)])


def _pair(point: Sequence[float] | np.ndarray) -> tuple[float, float]:
    x, y = point
    return float(x), float(y)


def _checked(box: tuple[float, float, float, float], score: float, points: Points | None) -> Face:
    numbers = [*box, score, *(value for point in points or () for value in point)]
    if not all(math.isfinite(value) for value in numbers):
        raise ValueError("a number is not finite")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"the box {box} has no area")
    return face_from_box(box, score, points)
