"""What Hounsfield units can be, and how to see that numbers are none.

Water is 0 HU and air -1000 HU by definition. Scanners write -2000 or -3024 outside of their round
field of view, which is no measurement at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

WINDOW = (-175.0, 250.0)
"""HU that become 0 and 1 in the released Hi-End-MAE (hi-end-mae.md, data processing)."""

AIR = -1000.0
PADDING = -1500.0
"""HU at and below which nothing was measured."""

_FEW = 1000  # voxels from which on the absence of fat, air and noise below water says something
_CLIPPED = 0.01  # share of voxels at the very end of the range that no tissue explains
_LEAST_STD = 2.0  # HU; noise alone is larger, so that less is a phantom of zeros
_LOST_AIR, _LOST_TISSUE = -200.0, 900.0  # HU + 1024: air is at 24, tissue around 1060
_TISSUE = -300.0  # HU above which there is at least fat


@dataclass(frozen=True)
class Problem:
    """Why numbers cannot be used.

    Attributes:
        status: code for a manifest.
        reason: in words.
    """

    status: str
    reason: str


def hounsfield_problem(
    values: Shaped[np.ndarray, " n"], window: tuple[float, float] = WINDOW
) -> Problem | None:
    """Return why measured numbers cannot be Hounsfield units, None when they can.

    Args:
        values: numbers of a volume or of a good part of it, after rescaling.
        window: HU between which nothing may be cut off.
    """
    if values.size == 0:
        return None
    low, high = float(values.min()), float(values.max())
    if values.dtype.itemsize == 1:
        reason = f"8-bit numbers from {low:g} to {high:g} cannot be Hounsfield units"
        return Problem("not_hounsfield", reason)
    if low == high or float(np.std(values, dtype=np.float64)) < _LEAST_STD:
        if high - low <= 4 and values.dtype.kind == "f" and low < high:
            reason = f"numbers from {low:g} to {high:g} look normalised already"
            return Problem("not_hounsfield", reason)
        return Problem("low_contrast", f"all voxels lie between {low:g} and {high:g}")
    if values.size >= _FEW:
        found = _not_signed(values, low, high)
        if found is not None:
            return Problem("not_hounsfield", found)
    if high < _TISSUE:
        return Problem("not_hounsfield", f"the largest number is {high:g} HU, so there is no body")
    return _truncated(values, low, high, window)


def _not_signed(values: np.ndarray, low: float, high: float) -> str | None:
    """Say what numbers without fat, air and noise below water are, None when they have them."""
    if low >= 0 and high <= 255:
        return f"numbers from {low:g} to {high:g} are those of an 8-bit picture"
    lowest, largest = np.quantile(values, (0.001, 0.9))
    if lowest > _LOST_AIR and largest > _LOST_TISSUE:
        reason = "numbers look like Hounsfield units + 1024, whose rescale intercept was lost"
        return f"{reason} (a tenth is above {largest:g}, hardly any below {lowest:g})"
    return f"no voxel is below 0, as fat and air are (largest {high:g})" if low >= 0 else None


def _truncated(
    values: np.ndarray, low: float, high: float, window: tuple[float, float]
) -> Problem | None:
    """Find a range that was cut off inside of the window."""
    at_low = float((values == low).mean())
    at_high = float((values == high).mean())
    if low > window[0] and at_low > _CLIPPED:
        reason = f"{at_low:.1%} of the voxels are cut off at {low:g} HU, above {window[0]:g}"
        return Problem("truncated_range", reason)
    if high < window[1] and at_high > _CLIPPED:
        reason = f"{at_high:.1%} of the voxels are cut off at {high:g} HU, below {window[1]:g}"
        return Problem("truncated_range", reason)
    return None
