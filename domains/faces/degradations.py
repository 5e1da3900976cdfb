"""What happens to pictures on their way: JPEG, resizing, blur, noise, exposure.

Each is a function of one strength, so that a detector's score can be drawn over it. The first
strength of every list changes nothing or next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8

from ...core.errors import UsageError
from .attacks import Image, as_bytes


def jpeg(image: Image, quality: float, rng: np.random.Generator) -> Image:
    """Return a picture that was stored as JPEG with a quality from 1 to 100 (4:2:0)."""
    del rng
    import simplejpeg

    content = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), int(quality), "RGB", colorsubsampling="420"
    )
    return simplejpeg.decode_jpeg(content, "RGB")


def resize(image: Image, share: float, rng: np.random.Generator) -> Image:
    """Return a picture made smaller to a share of its sides and enlarged again (bicubic)."""
    del rng
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    small = (max(1, round(width * share)), max(1, round(height * share)))
    picture = Pillow.fromarray(image).resize(small, Pillow.Resampling.BICUBIC)
    return np.asarray(picture.resize((width, height), Pillow.Resampling.BICUBIC))


def blur(image: Image, share: float, rng: np.random.Generator) -> Image:
    """Return a picture under a Gaussian whose deviation is a share of the width."""
    del rng
    from scipy.ndimage import gaussian_filter

    deviation = share * image.shape[1]
    return as_bytes(gaussian_filter(image / 255.0, (deviation, deviation, 0)))


def noise(image: Image, deviation: float, rng: np.random.Generator) -> Image:
    """Return a picture with Gaussian noise of a deviation in grey values of 0 to 255."""
    return as_bytes((image + rng.normal(0.0, 1.0, image.shape) * deviation) / 255.0)


def brightness(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """Return a picture whose values are multiplied; what gets too bright is clipped."""
    del rng
    return as_bytes(image / 255.0 * factor)


@dataclass(frozen=True)
class Degradation:
    """A way to harm pictures.

    Args:
        apply: (image, strength, rng) -> image.
        strengths: from harmless to strong.
        unit: of the strengths, for axes and tables.
    """

    apply: Callable[[Image, float, np.random.Generator], Image]
    strengths: tuple[float, ...]
    unit: str


DEGRADATIONS: Mapping[str, Degradation] = {
    "jpeg": Degradation(jpeg, (100, 90, 75, 50, 30, 10), "JPEG quality"),
    "resize": Degradation(resize, (1.0, 0.75, 0.5, 0.35, 0.25), "share of the side"),
    "blur": Degradation(blur, (0.0, 0.005, 0.01, 0.02, 0.04), "deviation, share of the width"),
    "noise": Degradation(noise, (0.0, 4.0, 8.0, 16.0, 32.0), "deviation of 255"),
    "brightness": Degradation(brightness, (1.0, 0.8, 0.6, 0.4, 1.3, 1.6), "factor"),
}
"""Degradation by name."""


def degrade(
    name: str,
    strength: float,
    images: Shaped[np.ndarray, "b c h w"],
    seeds: np.ndarray,
) -> UInt8[np.ndarray, "b c h w"]:
    """Return degraded pictures.

    Args:
        name: of `DEGRADATIONS`.
        strength: see its unit.
        images: RGB, or grey with one channel, channels first.
        seeds: (b,) a whole number per image: equal numbers give equal noise.

    Raises:
        UsageError: for an unknown name, or pictures that are not of bytes in one or three channels.
    """
    if name not in DEGRADATIONS:
        known = ", ".join(DEGRADATIONS)
        raise UsageError(f"degradation {name!r}", "is not known", f"use some of {known}")
    channels = images.shape[1]
    if images.dtype != np.uint8 or channels not in (1, 3):
        reason = f"are {images.dtype} in {channels} channels"
        raise UsageError("images", reason, "degrade photographs of 8 bits, grey or RGB")
    made = [
        DEGRADATIONS[name].apply(
            np.ascontiguousarray(np.moveaxis(image, 0, -1)).repeat(3 // channels, axis=-1),
            strength,
            np.random.default_rng(int(seed)),
        )
        for image, seed in zip(images, seeds, strict=True)
    ]
    return np.moveaxis(np.stack(made), -1, 1)[:, :channels] if made else images
