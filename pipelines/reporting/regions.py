"""Parsing maps of faces, in colours over the face: what the masks of some methods follow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from torch import Tensor

from ...core.masking.facial import CLASSES
from .embedding import hex_colour, palette
from .pictures import Rgb, overlay

MAP = "parsing map"


def region_pictures(faces: Sequence[Rgb], regions: Int[Tensor, "b h w"]) -> list[Rgb]:
    """Return faces with the colours of their regions.

    Args:
        faces: pictures of the size of the maps.
        regions: class of every pixel, as `CLASSES` counts them.
    """
    maps = regions.cpu().numpy().astype(np.uint8)
    return [overlay(face, own, palette(CLASSES)) for face, own in zip(faces, maps, strict=True)]


def region_legend() -> tuple[tuple[str, str], ...]:
    """Return name and colour of every class."""
    colours = palette(CLASSES)
    return tuple((name.replace("_", " "), hex_colour(colours[n])) for n, name in enumerate(CLASSES))
