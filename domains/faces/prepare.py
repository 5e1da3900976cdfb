"""What happens between a picture and a store, and again between a picture and a served model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from ...core.errors import UsageError
from ...datasets.geometry import Transform
from .crop import CropConfig, cut_crop
from .normalise import Colour
from .quality import luminance


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a face becomes pixels; equal for all faces that are compared.

    Attributes:
        crop: transform and size.
        colour: as it was, or grey.
        equalise: "jpeg:Q" codes every crop as JPEG of quality Q and decodes it, so that the coding
            of the source tells less about its class; None leaves pixels as they are.
    """

    crop: CropConfig = field(default_factory=CropConfig)
    colour: Colour = "rgb"
    equalise: str | None = None

    def facts(self) -> dict[str, Any]:
        """Return plain data for the facts of a store."""
        return {"crop": self.crop.to_dict(), "colour": self.colour, "equalised": self.equalise}


def jpeg_quality(equalise: str | None) -> int | None:
    """Return the quality that "jpeg:Q" names, None without one.

    Raises:
        UsageError: for anything else.
    """
    if equalise is None:
        return None
    kind, _, quality = equalise.partition(":")
    if kind != "jpeg" or not quality.isdigit() or not 1 <= int(quality) <= 100:
        raise UsageError("equalise", f"is {equalise!r}", "use jpeg:Q with a quality of 1 to 100")
    return int(quality)


def prepare_face(
    image: UInt8[np.ndarray, "h w 3"], transform: Transform, how: Preparation
) -> tuple[UInt8[np.ndarray, "3 s s"], Bool[np.ndarray, "s s"]]:
    """Return the pixels of a face as a store holds them, and where the picture has pixels."""
    pixels, valid = cut_crop(image, transform, how.crop)
    if how.colour == "grey":
        grey = np.round(luminance(pixels)).astype(np.uint8)
        pixels = np.repeat(grey[..., None], 3, axis=2)
    quality = jpeg_quality(how.equalise)
    if quality is not None:
        pixels = recode(pixels, quality, grey=how.colour == "grey")
    # Coding smears into what is beyond the picture, which means nothing.
    pixels = np.where(valid[..., None], pixels, 0).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), valid


def recode(
    pixels: UInt8[np.ndarray, "h w 3"], quality: int, *, grey: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Return what is left of pixels after JPEG, with half the resolution of colour (4:2:0)."""
    import simplejpeg

    pixels = np.ascontiguousarray(pixels)
    if grey:
        coded = simplejpeg.encode_jpeg(pixels[..., :1].copy(), quality=quality, colorspace="GRAY")
        return np.repeat(simplejpeg.decode_jpeg(coded, colorspace="GRAY"), 3, axis=2)
    coded = simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")
    return simplejpeg.decode_jpeg(coded)


def pixel_hash(pixels: UInt8[np.ndarray, "3 s s"], valid: Bool[np.ndarray, "s s"]) -> str:
    """Return a checksum of a crop."""
    return hashlib.sha256(pixels.tobytes() + np.packbits(valid).tobytes()).hexdigest()
