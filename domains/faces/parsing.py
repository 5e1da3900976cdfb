"""Parsing maps: the region of the face that every pixel belongs to.

Three sources, one result: maps that a user's own parser wrote, in the classes of LaPa (FaRL) or of
CelebAMask-HQ, and a fallback that draws regions around five points. The fallback knows neither hair
styles nor hands; for masks, which hide whole patches, it is enough.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from ...core.masking.facial import CLASSES
from ...datasets.errors import DataError

Kind = Literal["lapa", "celebamask", "bisenet"]
"""Classes of a map: those of LaPa, of CelebAMask-HQ in the order of its labels, or in the order of
the BiSeNet parsers that were trained on it."""

KINDS: tuple[Kind, ...] = ("lapa", "celebamask", "bisenet")
"""All kinds of maps."""

MapSize = Literal["reject", "resize"]
"""What to do with a map of another size than its picture."""

_ID = {name: place for place, name in enumerate(CLASSES)}
_SIDES = (("right_brow", "left_brow"), ("right_eye", "left_eye"))

_OTHER = {a: b for pair in _SIDES for a, b in (pair, pair[::-1])}

MIRRORED = tuple(_ID[_OTHER.get(name, name)] for name in CLASSES)
"""What each class is in a mirrored picture."""

_CELEBA = {
    "skin": "skin",
    "l_brow": "left_brow",
    "r_brow": "right_brow",
    "l_eye": "left_eye",
    "r_eye": "right_eye",
    "eye_g": "skin",
    "l_ear": "skin",
    "r_ear": "skin",
    "ear_r": "skin",
    "nose": "nose",
    "mouth": "inner_mouth",
    "u_lip": "upper_lip",
    "l_lip": "lower_lip",
    "neck": "skin",
    "neck_l": "skin",
    "cloth": "background",
    "hair": "hair",
    "hat": "hair",
    "background": "background",
}
"""Classes of CelebAMask-HQ in ours (curation-faces.md, section 3); glasses without their own class
are skin, because a map of one class per pixel does not say which eye is behind them."""

_ORDERS: dict[str, str] = {
    "celebamask": "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip "
    "l_lip hair hat ear_r neck_l neck cloth",
    "bisenet": "background skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip "
    "l_lip neck neck_l cloth hair hat",
}


def _table(kind: Kind) -> UInt8[np.ndarray, "k"]:
    if kind == "lapa":
        return np.arange(len(CLASSES), dtype=np.uint8)
    return np.array([_ID[_CELEBA[name]] for name in _ORDERS[kind].split()], np.uint8)


def translate(
    labels: UInt8[np.ndarray, "h w"], kind: Kind, subject: object
) -> UInt8[np.ndarray, "h w"]:
    """Return a map in our classes, with right and left as those of the person.

    Sources disagree about whose right is meant; where a picture is not mirrored, the person's right
    eye is on its left, and that decides.

    Raises:
        DataError: for a class that the kind does not have.
    """
    table = _table(kind)
    if int(labels.max(initial=0)) >= len(table):
        reason = f"has a class {int(labels.max())}, and {kind} has 0 to {len(table) - 1}"
        raise DataError(subject, reason, "name the right kind with --regions")
    found = table[labels]
    for right, left in _SIDES:
        places = [np.nonzero(found == _ID[name])[1] for name in (right, left)]
        if all(len(place) for place in places) and places[0].mean() > places[1].mean():
            swap = {_ID[right]: _ID[left], _ID[left]: _ID[right]}
            found = np.array([swap.get(i, i) for i in range(len(CLASSES))], np.uint8)[found]
    return found


def read_map(
    path: Path, kind: Kind, size: tuple[int, int], other_size: MapSize
) -> UInt8[np.ndarray, "h w"]:
    """Read the map of a picture, in our classes.

    Args:
        path: a picture of one channel, or with a palette, that holds the number of the class.
        kind: what the numbers mean.
        size: height and width of the picture that it belongs to.
        other_size: what to do with a map of another size; resized maps take nearest neighbours.

    Raises:
        DataError: when it cannot be read, has several channels or another size.
    """
    from PIL import Image, UnidentifiedImageError

    from ...datasets.readers.photo import MAX_PIXELS

    try:
        with Image.open(path) as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise DataError(path, f"claims more than {MAX_PIXELS} pixels", "make it smaller")
            if image.mode not in ("L", "P", "1"):
                reason = f"has the mode {image.mode} and not one number a pixel"
                raise DataError(path, reason, "write class numbers, not colours")
            if image.size != (size[1], size[0]):
                if other_size == "reject":
                    had, wanted = "x".join(map(str, image.size)), f"{size[1]}x{size[0]}"
                    reason = f"is {had} pixels and its picture {wanted}"
                    raise DataError(path, reason, "use --region-size resize to stretch maps")
                image = image.resize((size[1], size[0]), Image.Resampling.NEAREST)
            labels = np.array(image, np.uint8)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise DataError(path, f"is no map that can be read ({error})", "write it again") from error
    return translate(labels, kind, path)


def find_map(folder: Path, relative: str) -> Path | None:
    """Return the map of a picture: the same place below another folder, as PNG, BMP, GIF or TIFF.

    Args:
        folder: of the maps.
        relative: path of the picture relative to its source.
    """
    for suffix in (".png", ".bmp", ".gif", ".tif"):
        path = (folder / relative).with_suffix(suffix)
        if path.is_file():
            return path
    return None


def draw_regions(points: Float[np.ndarray, "5 2"], size: int) -> UInt8[np.ndarray, "s s"]:
    """Draw regions around five points (curation-faces.md, section 3, fallback).

    Everything is measured in d, the distance of the eyes (at least 0.6 of the way from eyes to
    mouth, which keeps profiles whole), and turned with the line of the eyes.

    Args:
        points: of the face in the pixels of the crop.
        size: pixels a side of the crop.

    Returns:
        Class of every pixel, see `CLASSES`.
    """
    right, left, nose, mouth_right, mouth_left = points
    eyes, mouth = (right + left) / 2, (mouth_right + mouth_left) / 2
    along = left - right
    along = along / max(float(np.hypot(*along)), 1e-6)
    down = np.array([-along[1], along[0]])
    d = max(float(np.hypot(*(left - right))), 0.6 * float(np.hypot(*(mouth - eyes))), 1.0)
    row, column = np.mgrid[:size, :size] + 0.5
    pixels = np.stack([column, row], axis=-1)

    def local(centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offset = (pixels - centre) / d
        return offset @ along, offset @ down

    found = np.zeros((size, size), np.uint8)
    x, y = local(nose)
    oval = (x / 1.1) ** 2 + ((y - 0.1) / 1.45) ** 2
    # A ring of 0.9 d around the face, above the line of the nose, is hair.
    ring = (x / 2.0) ** 2 + ((y - 0.1) / 2.35) ** 2
    found[(ring <= 1) & (y < 0)] = _ID["hair"]
    found[oval <= 1] = _ID["skin"]
    for name, centre in (("right_eye", right), ("left_eye", left)):
        x, y = local(centre)
        found[(np.abs(x) <= 0.175) & (np.abs(y) <= 0.175)] = _ID[name]
    for name, centre in (("right_brow", right), ("left_brow", left)):
        x, y = local(centre)
        found[(np.abs(x) <= 0.175) & (np.abs(y + 0.3) <= 0.125)] = _ID[name]
    x, y = local(nose)
    top = min(float((eyes - nose) @ down) / d, -0.1)  # of the triangle, at the line of the eyes
    share = np.clip((y - top) / (0.12 - top), 0, 1)
    found[(y >= top + 0.15) & (y <= 0.12) & (np.abs(x) <= 0.25 * share + 0.03)] = _ID["nose"]
    x, y = local(mouth)
    width = max(float((mouth_left - mouth_right) @ along) / d / 2, 0.15)
    lips = (x / width) ** 2 + (y / 0.175) ** 2 <= 1
    gap = max(0.04, 0.5 / d)  # at least a row of pixels
    found[lips & (y < -gap)] = _ID["upper_lip"]
    found[lips & (np.abs(y) <= gap)] = _ID["inner_mouth"]
    found[lips & (y > gap)] = _ID["lower_lip"]
    return found
