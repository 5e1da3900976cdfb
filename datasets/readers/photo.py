"""Photographs as RGB in 8 bits: JPEG, PNG, WebP, GIF, PGM and their like, turned upright.

Files are not trusted: the size in the header is compared with a limit before anything is decoded, a
truncated file is an error and never half a picture, and colour profiles are not run. What was
changed on the way (bits, colours, orientation) is said in notes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from ..errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

PHOTO_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".pgm", ".ppm", ".bmp", ".tif", ".tiff")
)
"""Endings, in lower case, of files that are taken for photographs."""

MAX_PIXELS = 150_000_000
"""Largest photograph that is decoded; a file of some kilobytes can claim to be far larger."""

MAX_FRAMES = 10_000
"""Largest number of frames of an animation."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "PPM", "BMP", "TIFF")
_ORIENTATION, _UPRIGHT = 0x0112, 1  # the EXIF tag and its usual value

# Luminance table of quality 50 (ITU-T T.81, table K.1), in any order: only its sum is used.
_K1_SUM = 3688


@dataclass(frozen=True)
class Photo:
    """A decoded photograph.

    Attributes:
        pixels: (h, w, 3) uint8, red, green, blue, upright.
        format: of the file, such as "JPEG".
        grey: whether the file has one channel, which is repeated.
        num_frames: frames of an animation, 1 for a still picture.
        quality: of a JPEG file, 1 to 100 after its quantisation table; None for other formats.
        notes: what was changed, in words.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    format: str
    grey: bool
    num_frames: int = 1
    quality: float | None = None
    notes: tuple[str, ...] = ()


def read_photo(path: str | Path, frame: int = 0) -> Photo:
    """Read a photograph, or one frame of an animation.

    Orientation after EXIF is applied. Numbers of 16 bits become 8 by division with 257, so that the
    full range stays the full range; one channel is repeated; transparency is laid on black; a
    colour profile is left unused.

    Args:
        path: the file.
        frame: number of the frame, from 0.

    Raises:
        DataError: when it is missing, empty, truncated, too large, or no photograph.
    """
    path = Path(path)
    with _opened(path) as image:
        num_frames = _num_frames(image)
        if not 0 <= frame < num_frames:
            reason = f"has {num_frames} frames and no frame {frame}"
            raise DataError(path, reason, "curate again: the file has changed")
        notes = []
        if num_frames > 1:
            notes.append(f"animated: frame {frame} of {num_frames}")
            image.seek(frame)
        image.load()  # a truncated file is noticed here
        if image.info.get("icc_profile"):
            notes.append("colour profile left unused")
        grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
        pixels, said = _eight_bits(image, path)
        notes += said
        pixels, said = _upright(pixels, image)
        notes += said
        quality = _jpeg_quality(image)
        return Photo(pixels, image.format or "", grey, num_frames, quality, tuple(notes))


def count_frames(path: str | Path) -> int:
    """Return the number of frames of an animation, 1 for a still picture; reads the header alone.

    Raises:
        DataError: as `read_photo`.
    """
    with _opened(Path(path)) as image:
        return _num_frames(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """Open a file, check its size before decoding, and turn what goes wrong into a sentence."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise DataError(path, "there is no such file", "check the path")
    if path.stat().st_size == 0:
        raise DataError(path, "is empty (0 bytes)", "copy it again from its source")
    Image.init()  # formats beside the commonest are known only after it
    again = "copy it again from its source, or leave it out"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit is stricter, and metadata may be odd
            with Image.open(path, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    reason = f"claims {width} x {height} pixels, more than {MAX_PIXELS}"
                    raise DataError(path, reason, "make a smaller copy of it")
                yield image
    except UnidentifiedImageError as error:
        reason = "is no photograph in a known format"
        raise DataError(path, reason, f"give {', '.join(sorted(PHOTO_SUFFIXES))}") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(path, f"cannot be read to its end ({error})", again) from error


def _num_frames(image: Image) -> int:
    if image.format == "MPO":  # further views of a camera, not an animation
        return 1
    return min(int(getattr(image, "n_frames", 1)), MAX_FRAMES)


def _eight_bits(image: Image, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return (h, w, 3) uint8 and what was done to get there."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        wide = np.asarray(image)
        if not np.isfinite(wide).all() or wide.min() < 0 or wide.max() > 65535:
            reason = f"holds numbers from {wide.min():g} to {wide.max():g}"
            raise DataError(path, reason, "convert it to 8 or 16 bits")
        grey = np.round(wide.astype(np.float64) / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), ["16 bits scaled to 8"]
    notes = []
    if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        notes.append("transparency laid on black")
        from PIL import Image

        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return np.array(Image.alpha_composite(black, rgba).convert("RGB")), notes
    if mode not in ("RGB", "L", "P", "1"):
        notes.append(f"colour mode {mode} converted")
    return np.array(image.convert("RGB")), notes


def _upright(pixels: np.ndarray, image: Image) -> tuple[np.ndarray, list[str]]:
    """Turn and mirror as EXIF says; 2 to 8 are the values of the tag."""
    value = image.getexif().get(_ORIENTATION, _UPRIGHT)
    if value not in range(2, 9):
        return pixels, []
    if value >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if value in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if value in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels), [f"turned upright (EXIF orientation {value})"]


def _jpeg_quality(image: Image) -> float | None:
    """Estimate the quality that the IJG encoder would call the luminance table's."""
    tables = getattr(image, "quantization", None)
    if image.format not in ("JPEG", "MPO") or not tables or 0 not in tables:
        return None
    scale = 100.0 * sum(tables[0]) / _K1_SUM
    return round(5000 / scale if scale > 100 else (200 - scale) / 2, 1)
