"""One way from a volume in its file's axes to what networks read, for curation and prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...datasets.volume_geometry import NETWORK_CODES, VolumeGeometry
from ...datasets.volumes import Volume, resample
from .hounsfield import AIR

_DTYPE = np.int16
_SAME = 1e-3  # share of the spacing below which resampling would change nothing


def network_grid(
    geometry: VolumeGeometry, spacing: Sequence[float] | None = None
) -> VolumeGeometry:
    """Return the grid on which a network reads a volume.

    Args:
        geometry: of the volume, in any axes.
        spacing: mm along depth, height and width; None keeps the volume's own.
    """
    turned = geometry.reoriented(NETWORK_CODES)
    if spacing is None or np.allclose(turned.spacing, spacing, rtol=_SAME):
        return turned
    return turned.resampled(spacing)


def prepare(
    volume: Volume, spacing: Sequence[float] | None = None, *, label: bool = False
) -> Volume:
    """Turn a volume to (depth, height, width) and, if asked for, to a spacing.

    Args:
        volume: Hounsfield units, or labels.
        spacing: mm along depth, height and width; None keeps the volume's own.
        label: labels take the nearest voxel and keep their number type; others are interpolated
            linearly and rounded to whole HU.

    Returns:
        The volume on `network_grid`; int16 unless they are labels.
    """
    grid = network_grid(volume.geometry, spacing)
    turned = volume.reoriented(NETWORK_CODES)
    if turned.geometry != grid:
        turned = resample(turned, grid, order=0 if label else 1, fill=0 if label else AIR)
    return turned if label else turned.with_array(_whole(turned.array))


def _whole(array: np.ndarray) -> np.ndarray:
    """Return rounded numbers as int16; metal beyond its range stays at its end."""
    if array.dtype == _DTYPE:
        return array
    limits = np.iinfo(_DTYPE)
    if array.dtype.kind == "f":
        array = np.rint(array)
    return np.clip(array, limits.min, limits.max).astype(_DTYPE)
