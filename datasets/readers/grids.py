"""Bands of several resolutions on the finest of their grids.

Written here and not left to a library, because a window must equal the same part of the whole:
every value depends on its absolute position only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..geometry import Geometry

_TOLERANCE = 0.01  # pixels, for grids that are the same
_EDGE = 0.55  # coarse pixels that extents may differ by: grids of one product are shifted by half


@dataclass(frozen=True)
class AxisMap:
    """Positions along one axis of the fine grid, in pixels of another: scale * x + shift.

    Attributes:
        scale: other pixels per fine pixel.
        shift: where the fine grid begins, in other pixels.
        size: number of the other pixels.
    """

    scale: float
    shift: float
    size: int

    def samples(self, start: int, count: int) -> AxisSamples:
        """Return what to read for fine pixels start to start + count, and how to mix it."""
        centers = self.scale * (np.arange(start, start + count) + 0.5) + self.shift - 0.5
        centers = centers.clip(0, self.size - 1)
        lower = np.floor(centers).astype(np.int64)
        upper = np.minimum(lower + 1, self.size - 1)
        first = int(lower[0])
        return AxisSamples(first, int(upper[-1]) + 1, lower - first, upper - first, centers - lower)


@dataclass(frozen=True)
class AxisSamples:
    """Linear interpolation along one axis.

    Attributes:
        first: first pixel to read.
        stop: pixel after the last.
        lower: for each result the pixel below its centre, counted from `first`.
        upper: the pixel above.
        weight: share of the pixel above, 0 to 1.
    """

    first: int
    stop: int
    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class GridMap:
    """Where the pixels of the fine grid lie on another.

    Attributes:
        rows: along rows.
        cols: along columns.
    """

    rows: AxisMap
    cols: AxisMap


def finest(geometries: Sequence[Geometry]) -> Geometry:
    """Return the grid with the most pixels; the first one of several."""
    return max(geometries, key=lambda geometry: geometry.height * geometry.width)


def relate(fine: Geometry, other: Geometry, subject: object, than: object) -> GridMap | None:
    """Return how to get from one grid to the other, None when they are the same.

    Args:
        fine: the grid that results are wanted on.
        other: the grid that pixels are on.
        subject: file of the other grid, for messages.
        than: file of the fine grid, for messages.

    Raises:
        DataError: when the two do not cover the same ground in the same direction.
    """
    remedy = "warp them onto one grid, or read them as separate scenes"
    if fine.crs != other.crs:
        reason = f"has coordinate system {_name(other.crs)}, {than} has {_name(fine.crs)}"
        raise DataError(subject, reason, remedy)
    corner = other.pixel(*fine.point(0, 0))
    down = other.pixel(*fine.point(fine.height, 0))
    right = other.pixel(*fine.point(0, fine.width))
    if max(abs(down[1] - corner[1]), abs(right[0] - corner[0])) > _TOLERANCE:
        raise DataError(subject, f"is turned against {than}", remedy)
    ends = (down[0] - other.height, right[1] - other.width)
    gap = max(map(abs, (*corner, *ends)))
    if gap > _EDGE:
        reason = f"covers other ground than {than}: their edges are {gap:.1f} pixels apart"
        raise DataError(subject, reason, remedy)
    if gap < _TOLERANCE and (fine.height, fine.width) == (other.height, other.width):
        return None
    rows = AxisMap((down[0] - corner[0]) / fine.height, corner[0], other.height)
    return GridMap(rows, AxisMap((right[1] - corner[1]) / fine.width, corner[1], other.width))


def _name(crs: str | None) -> str:
    return "none" if crs is None else crs.splitlines()[0][:40]


def bilinear(
    pixels: np.ndarray, known: np.ndarray, rows: AxisSamples, cols: AxisSamples
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate between the four nearest pixels, leaving out those without data.

    Args:
        pixels: (c, h, w) of any real number type.
        known: (c, h, w) bool, False where there is no data.
        rows: what to mix along rows.
        cols: what to mix along columns.

    Returns:
        Values (c, H, W) of the same number type, integers rounded; and (c, H, W) bool, True where
        at least half of the weight was on pixels with data.
    """
    exact = pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32
    work = np.float32 if exact else np.float64
    weight = _mix(known.astype(work), rows, cols)
    values = _mix(np.where(known, pixels, 0).astype(work), rows, cols)
    values /= np.where(weight > 0, weight, 1)
    if pixels.dtype.kind != "f":
        values = np.rint(values)
    return values.astype(pixels.dtype), weight >= 0.5


def _mix(values: np.ndarray, rows: AxisSamples, cols: AxisSamples) -> np.ndarray:
    # a + w (b - a) gives exactly a where a equals b: known pixels weigh exactly 1.
    share = rows.weight.astype(values.dtype)[:, None]
    low = values[:, rows.lower]
    tall = low + share * (values[:, rows.upper] - low)
    low = tall[:, :, cols.lower]
    return low + cols.weight.astype(values.dtype) * (tall[:, :, cols.upper] - low)
