"""Pictures with boxes and scores drawn on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from ...core.files import replacing

if TYPE_CHECKING:
    from .predict import FaceScore

MAX_SIDE = 1280  # pixels; larger pictures are made smaller after drawing
_FAKE, _GENUINE, _OTHER = (230, 60, 50), (40, 170, 90), (60, 120, 230)


def annotate(pixels: UInt8[np.ndarray, "h w 3"], faces: Sequence[FaceScore], folder: Path) -> Path:
    """Write a picture with its faces marked and return its file.

    Args:
        pixels: the picture.
        faces: its lines, at least one; those without a box are not drawn.
        folder: where it goes; the name is that of the file, with the frame and four letters of the
            path's checksum, so that files of equal name in several folders do not collide.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    width = max(2, round(min(image.size) / 150))
    height = max(12, round(min(image.size) / 22))
    font = ImageFont.load_default(size=height)
    for face in faces:
        if face.box is None:
            continue
        colour = {"fake": _FAKE, "genuine": _GENUINE}.get(face.called or "", _OTHER)
        left, top, right, bottom = face.box
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=width)
        text = face.called or ""
        if face.score is not None:
            text += f" {face.score:.2f}"
        place = (max(left, 0), max(top - height - 4, 0))
        draw.rectangle(draw.textbbox(place, text, font=font), fill=colour)
        draw.text(place, text, fill=(255, 255, 255), font=font)
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE))
    path = Path(faces[0].uri.partition("#")[0])
    frame = "" if faces[0].frame is None else f"-{faces[0].frame:06d}"
    mark = hashlib.sha256(str(path.parent).encode()).hexdigest()[:4]
    target = folder / f"{path.stem}-{mark}{frame}.jpg"
    with replacing(target) as temporary:
        image.save(temporary, format="JPEG", quality=88)
    return target
