"""Numbers that say whether a face is worth keeping, measured on its crop and its points.

Thresholds and their sources: curation-faces.md, section 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from ...core.masking.facial import CLASSES
from .detect import Face

SIDE = 224
"""Pixels a side to which a crop is resized before its blur is measured."""

_DARK, _BRIGHT = 5, 250  # grey values beyond which a pixel is saturated
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_FACE = tuple(CLASSES.index(name) for name in CLASSES if name not in ("background", "hair"))


@dataclass(frozen=True)
class Pose:
    """Where a face looks, from five points.

    Attributes:
        yaw: nose beside the middle of the eyes, divided by the distance of the eyes; 0 from the
            front, positive where the nose is on the right of the picture.
        pitch: nose between eyes (0) and mouth (1), less its usual place; negative looks up.
        roll: degrees by which the line of the eyes is turned clockwise.
    """

    yaw: float
    pitch: float
    roll: float


_LEVEL = 0.58  # usual place of the nose between eyes and mouth, after `detect.TYPICAL`


def pose(face: Face) -> Pose:
    """Estimate where a face looks; all measured along and across the line of the eyes."""
    right, left, nose, mouth_right, mouth_left = face.array()
    along = left - right
    distance = max(float(np.hypot(*along)), 1e-6)
    along = along / distance
    across = np.array([-along[1], along[0]])
    eyes, mouth = (right + left) / 2, (mouth_right + mouth_left) / 2
    depth = float((mouth - eyes) @ across)
    place = float((nose - eyes) @ across) / depth if abs(depth) > 1e-6 else _LEVEL
    roll = math.degrees(math.atan2(along[1], along[0]))
    return Pose(float((nose - eyes) @ along) / distance, place - _LEVEL, roll)


def luminance(pixels: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
    """Return (h, w) grey values, 0 to 255."""
    return pixels @ _LUMA


def blur(pixels: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the variance of the Laplacian at 224 pixels; below 30 a face is blurred."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
    grey = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float64)
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(np.var(around - 4 * middle))


def exposure(
    pixels: UInt8[np.ndarray, "h w 3"], valid: Bool[np.ndarray, "h w"]
) -> tuple[float, float]:
    """Return mean luminance and the share of pixels that are black or burnt out."""
    grey = luminance(pixels)[valid]
    if not grey.size:
        return 0.0, 1.0
    return float(grey.mean()), float(((grey < _DARK) | (grey > _BRIGHT)).mean())


def visible_share(regions: UInt8[np.ndarray, "h w"]) -> float:
    """Return the share of a crop that a parsing map calls skin or a feature of the face."""
    return float(np.isin(regions, _FACE).mean())


def hidden_features(regions: UInt8[np.ndarray, "h w"]) -> tuple[str, ...]:
    """Return which of both eyes and the mouth a parsing map lacks."""
    groups = {
        "right eye": ("right_eye",),
        "left eye": ("left_eye",),
        "mouth": ("upper_lip", "inner_mouth", "lower_lip"),
    }
    found = set(np.unique(regions).tolist())
    present = {
        name: any(CLASSES.index(part) in found for part in parts) for name, parts in groups.items()
    }
    return tuple(name for name, seen in present.items() if not seen)
