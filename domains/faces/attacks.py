"""Simulated presentation attacks: what a print or a screen does to a face, computed, not filmed.

They are for trying out pipelines where no filmed attacks can be had. A detector that finds them has
learned these formulas; it says nothing about real prints and screens, so every name starts with
"simulated" and every result that uses them must say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, UInt8

from ...core.errors import UsageError

Image = UInt8[np.ndarray, "h w 3"]
Attack = Callable[[Image, np.random.Generator], Image]

_FINE = 4  # points of the screen that are computed along a pixel's side
_SCREEN_ANGLES = (15.0, 75.0, 0.0)  # degrees, of cyan, magenta and yellow, as printers choose them
_PAPER, _INK = 0.93, 0.08  # reflectance


def simulated_print(image: Image, rng: np.random.Generator) -> Image:
    """Return a face as if printed with dots of three inks and photographed.

    Amplitude-modulated halftone: each ink's density is compared with a tilted cosine screen at four
    points a pixel side; the camera averages the dots and blurs a little; paper and ink limit the
    contrast, fibres add noise.

    Args:
        image: RGB.
        rng: of the pitch of the dots, the fibres and the blur.
    """
    from scipy.ndimage import gaussian_filter

    height, width = image.shape[:2]
    density = 1.0 - image.astype(np.float64) / 255.0
    fine = density.repeat(_FINE, axis=0).repeat(_FINE, axis=1)
    pitch = rng.uniform(2.2, 4.0) * _FINE
    dots = np.stack(
        [
            fine[..., ink] > screen(height * _FINE, width * _FINE, pitch, angle)
            for ink, angle in enumerate(_SCREEN_ANGLES)
        ],
        axis=-1,
    )
    seen = 1.0 - dots.reshape(height, _FINE, width, _FINE, 3).mean(axis=(1, 3))
    fibres = gaussian_filter(rng.normal(0.0, 1.0, (height, width, 1)), (1, 1, 0)) * 0.03
    paper = _INK + (_PAPER - _INK) * seen + fibres
    return as_bytes(gaussian_filter(paper, (*(rng.uniform(0.4, 0.8),) * 2, 0)))


def screen(height: int, width: int, pitch: float, angle: float) -> Float[np.ndarray, "h w"]:
    """Return the thresholds, 0 to 1, of a halftone screen: equal shares of every density.

    Args:
        height: points.
        width: points.
        pitch: points between dots.
        angle: of the rows of dots, in degrees.
    """
    turn, (y, x) = np.radians(angle), np.mgrid[:height, :width]
    first = np.cos(turn) * x + np.sin(turn) * y
    second = np.cos(turn) * y - np.sin(turn) * x
    wave = np.cos(2 * np.pi * first / pitch) + np.cos(2 * np.pi * second / pitch)
    # Of all points of the screen a share t must lie below t, or greys would come out too dark.
    order = wave.ravel().argsort(kind="stable")
    ranks = np.empty(order.size)
    ranks[order] = (np.arange(order.size) + 0.5) / order.size
    return ranks.reshape(height, width)


def simulated_moire(image: Image, rng: np.random.Generator) -> Image:
    """Return a face as if shown on a display and photographed from it.

    The stripes of red, green and blue of the display are sampled by a camera whose pixels are
    almost as large and a little turned; the beat of the two grids is the moire. Displays also glow
    bluish and never show black.

    Args:
        image: RGB.
        rng: of the ratio of the grids, the angle and the strength.
    """
    height, width = image.shape[:2]
    ratio, turn = 1.0 + rng.uniform(0.02, 0.12), np.radians(rng.uniform(-8.0, 8.0))
    strength, (y, x) = rng.uniform(0.25, 0.5), np.mgrid[:height, :width]
    across = ratio * (np.cos(turn) * x - np.sin(turn) * y)
    along = ratio * (np.sin(turn) * x + np.cos(turn) * y)
    stripes = (
        np.stack([np.cos(2 * np.pi * (across + colour / 3)) for colour in range(3)], axis=-1)
        + 0.5 * np.cos(2 * np.pi * along)[..., None]
    )
    light = (image / 255.0) ** 2.2 * (1.0 + strength * stripes / 1.5)
    light = 0.02 + 0.98 * light * np.array([0.94, 0.98, 1.06])
    return as_bytes(np.clip(light, 0.0, None) ** (1 / 2.2))


def simulated_reflection(image: Image, rng: np.random.Generator) -> Image:
    """Return a face as if a lamp or window were mirrored in the glass or glossy paper before it.

    Args:
        image: RGB.
        rng: of the place, size, tilt and brightness of two or three soft patches of light.
    """
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    y, x = y / height, x / width
    added = np.zeros((height, width))
    for _ in range(rng.integers(2, 4)):
        top, left, turn = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0, np.pi)
        first = np.cos(turn) * (x - left) + np.sin(turn) * (y - top)
        second = np.cos(turn) * (y - top) - np.sin(turn) * (x - left)
        long, short = rng.uniform(0.12, 0.35), rng.uniform(0.05, 0.15)
        edge = np.maximum(np.abs(first) / long, np.abs(second) / short)
        added += rng.uniform(0.35, 0.7) / (1.0 + np.exp(np.clip(12.0 * (edge - 1.0), -50, 50)))
    glare = np.clip(added, 0.0, 0.85)[..., None]
    return as_bytes(1.0 - (1.0 - image / 255.0 * 0.92) * (1.0 - glare))  # light adds as on a screen


ATTACKS: Mapping[str, Attack] = {
    "simulated print": simulated_print,
    "simulated moire": simulated_moire,
    "simulated reflection": simulated_reflection,
}
"""Attack by the name that results carry as the method."""


def simulate(
    name: str, images: UInt8[np.ndarray, "b 3 h w"], seeds: np.ndarray
) -> UInt8[np.ndarray, "b 3 h w"]:
    """Return simulated attacks made from genuine faces.

    Args:
        name: of `ATTACKS`.
        images: RGB, channels first.
        seeds: (b,) a whole number per image: equal numbers give equal attacks.

    Raises:
        UsageError: for an unknown name.
    """
    if name not in ATTACKS:
        raise UsageError(f"attack {name!r}", "is not known", f"use one of {', '.join(ATTACKS)}")
    place = list(ATTACKS).index(name)
    made = [
        ATTACKS[name](np.moveaxis(image, 0, -1), np.random.default_rng([place, int(seed)]))
        for image, seed in zip(images, seeds, strict=True)
    ]
    return np.moveaxis(np.stack(made), -1, 1) if made else images


def as_bytes(image: Float[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """Return numbers from 0 to 1 as bytes; what lies beyond is clipped."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
