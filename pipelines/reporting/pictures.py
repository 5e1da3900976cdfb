"""Arrays and diagrams as data URIs, never larger than a page needs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SIDE = 512
"""Pixels a side above which a picture is reduced."""

_PIXEL_ART = 160  # side up to which a picture is stored without loss: pixels are looked at singly
_DPI = 144
_NO_VERSION: Any = {"Software": None}  # without it equal numbers give equal bytes everywhere
HIDDEN = (118, 118, 124)
"""Colour of what the encoder did not see."""

Rgb = UInt8[np.ndarray, "h w 3"]


def picture_uri(image: Rgb) -> str:
    """Return a picture as a data URI: PNG when it is small, else JPEG of at most `MAX_SIDE`."""
    image = np.ascontiguousarray(shrink(image))
    if max(image.shape[:2]) <= _PIXEL_ART:
        return _uri("png", png(image))
    import simplejpeg

    return _uri("jpeg", simplejpeg.encode_jpeg(image, quality=88, colorspace="RGB"))


def shrink(image: Rgb, max_side: int = MAX_SIDE) -> UInt8[np.ndarray, "p q 3"]:
    """Return a picture reduced by a whole factor, by averaging, so that no side is too long."""
    factor = -(-max(image.shape[:2]) // max_side)
    if factor == 1:
        return image
    height, width = (n // factor * factor for n in image.shape[:2])
    blocks = image[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def figure_uri(figure: Figure) -> str:
    """Return a diagram as a PNG with a transparent background."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, transparent=True, metadata=_NO_VERSION)
    return _uri("png", buffer.getvalue())


def overlay(
    image: Rgb,
    classes: UInt8[np.ndarray, "h w"],
    colours: dict[int, tuple[int, int, int]],
    strength: float = 0.6,
) -> Rgb:
    """Return a picture in grey with the pixels of known classes in their colours.

    Args:
        image: what lies below.
        classes: class of every pixel; numbers without a colour stay as they are.
        colours: by class number.
        strength: share of the colour.
    """
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    result = grey.copy()
    for number, colour in colours.items():
        where = classes == number
        result[where] = (1 - strength) * grey[where] + strength * np.array(colour)
    return result.round().astype(np.uint8)


def painted(image: Rgb, where: Bool[np.ndarray, "h w"], colour: tuple[int, int, int]) -> Rgb:
    """Return a copy with some pixels in one colour."""
    result = image.copy()
    result[where] = colour
    return result


def heat(values: Float[np.ndarray, "h w"], top: float) -> Rgb:
    """Return numbers as colours from black (0) over red to pale yellow (`top` and above)."""
    from matplotlib import colormaps

    shares = np.clip(np.nan_to_num(values) / max(top, 1e-12), 0, 1)
    return (colormaps["inferno"](shares)[..., :3] * 255).round().astype(np.uint8)


def components_rgb(values: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 3"]:
    """Return three numbers each as colours, every one stretched over its own range."""
    low, high = np.quantile(values, (0.02, 0.98), axis=0)
    scaled = (values - low) / np.maximum(high - low, 1e-12)
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8)


def tiled(
    rows: Sequence[Sequence[Rgb]], factor: int = 2, gap: int = 4
) -> UInt8[np.ndarray, "p q 3"]:
    """Return pictures of one size as rows and columns of one picture, white between them.

    Args:
        rows: from top to bottom, each from left to right.
        factor: how many pixels a side a pixel becomes.
        gap: white pixels between two pictures.
    """
    first = rows[0][0]
    height, width = (factor * n + gap for n in first.shape[:2])
    shape = (height * len(rows) - gap, width * len(rows[0]) - gap, 3)
    page = np.full(shape, 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
            page[i * height :, j * width :][: len(large), : large.shape[1]] = large
    return page


def png(image: Rgb) -> bytes:
    """Return a picture as the content of a PNG file; equal pixels give equal bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
