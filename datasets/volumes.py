"""A volume in memory: an array that never travels without its geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from .volume_geometry import NETWORK_CODES, Triple, VolumeGeometry, orientation_change

_STRAIGHT = 1e-3
"""By how many voxels positions may be off when grids are taken as parallel."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Numbers on a grid in the patient; for the axes see `volume_geometry`.

    Attributes:
        array: (i, j, k) real numbers, or labels; `array[i, j, k]` lies at
            `geometry.world((i, j, k))`.
        geometry: position, of the same shape.
    """

    array: Shaped[np.ndarray, "i j k"]
    geometry: VolumeGeometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(f"an array of {self.array.shape} voxels on {self.geometry.shape}")

    def reoriented(self, codes: str = NETWORK_CODES) -> Volume:
        """Return the same voxels with axes permuted and flipped, array and affine at once.

        Args:
            codes: orientation wanted; without it (depth, height, width) of networks and stores.

        Returns:
            The volume; its array is a view. The way back is `turned_like(volume.geometry)` and
            gives exactly the array that was given.
        """
        return self._turned(orientation_change(self.geometry.codes, codes))

    def turned_like(self, grid: VolumeGeometry) -> Volume | None:
        """Return the same voxels with the axes of another grid, None if its axes are no others.

        Size and place may still differ.
        """
        change = self.geometry.change_to(grid)
        return None if change is None else self._turned(change)

    def _turned(self, change: Shaped[np.ndarray, "3 2"]) -> Volume:
        from nibabel.orientations import apply_orientation

        return Volume(
            np.asarray(apply_orientation(self.array, change)), self.geometry.turned(change)
        )

    def crop(self, start: Sequence[int], size: Sequence[int]) -> Volume:
        """Return a window that lies inside, as a view.

        Raises:
            ValueError: when it reaches over the edges.
        """
        ends = [a + n for a, n in zip(start, size, strict=True)]
        inside = zip(start, size, ends, self.geometry.shape, strict=True)
        if any(a < 0 or n < 1 or end > have for a, n, end, have in inside):
            raise ValueError(
                f"window {tuple(start)} + {tuple(size)} of {self.geometry.shape} voxels"
            )
        part = tuple(slice(a, end) for a, end in zip(start, ends, strict=True))
        return Volume(self.array[part], self.geometry.crop(start, size))

    def with_array(self, array: Shaped[np.ndarray, "i j k"]) -> Volume:
        """Return other numbers on the same grid."""
        return Volume(array, self.geometry)


def resample(
    volume: Volume, geometry: VolumeGeometry, *, order: int = 1, fill: float = 0.0
) -> Volume:
    """Interpolate a volume on another grid, whatever the orientation and shear of both.

    Args:
        volume: numbers; integers are rounded and stay of their type.
        geometry: the grid wanted.
        order: 1 linear, 0 nearest (labels), 3 cubic.
        fill: number of voxels whose centre lies outside the volume by more than half a voxel.

    Returns:
        The volume on that grid, in its number type. Memory: the result and, for integers and an
        order above 0, a float32 copy of both.
    """
    # Both grids are turned alike first, so that the matrix is nearly diagonal and flips are exact.
    source = volume.turned_like(geometry) or volume.reoriented(geometry.codes)
    change = np.linalg.inv(source.geometry.affine) @ geometry.affine
    kind = volume.array.dtype
    whole = kind.kind in "iub"
    array = source.array.astype(np.float32) if whole and order > 0 else source.array
    moved = _interpolated(array, change, geometry.shape, order)
    if whole and order > 0:
        limits = (False, True) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
        np.clip(np.rint(moved, out=moved), *limits, out=moved)
    result = moved.astype(kind, copy=False)
    _fill_outside(result, change, source.geometry.shape, fill)
    return Volume(result, geometry)


def _interpolated(array: np.ndarray, change: np.ndarray, shape: Triple, order: int) -> np.ndarray:
    """Interpolate at `change` of each index; beyond the edges the outermost voxels go on."""
    matrix, offset = change[:3, :3], change[:3, 3]
    steps = np.diag(matrix)
    # How far another axis moves a position from one end of its own to the other.
    slant = (np.abs(matrix - np.diag(steps)) @ np.array(shape)).max()
    if order <= 1 and slant < _STRAIGHT:
        # Axis by axis is several times as fast; those that shrink come first.
        for axis in np.argsort(np.divide(shape, array.shape)).tolist():
            places = steps[axis] * np.arange(shape[axis]) + offset[axis]
            array = _along(array, axis, places.clip(0, array.shape[axis] - 1), order)
        return array
    from scipy.ndimage import affine_transform

    return affine_transform(
        array,
        matrix,
        offset,  # pyright: ignore[reportArgumentType]  # scipy's stub knows numbers only
        shape,
        order=order,
        mode="nearest",
    )


def _along(array: np.ndarray, axis: int, places: np.ndarray, order: int) -> np.ndarray:
    """Interpolate along one axis at places that lie inside."""
    if order == 0:
        return array.take(np.floor(places + 0.5).astype(np.int64), axis)
    low = np.minimum(np.floor(places).astype(np.int64), max(array.shape[axis] - 2, 0))
    high = np.minimum(low + 1, array.shape[axis] - 1)
    share = (places - low).astype(array.dtype).reshape([-1 if i == axis else 1 for i in range(3)])
    result = array.take(high, axis)
    start = array.take(low, axis)
    result -= start
    result *= share
    result += start
    return result


def _fill_outside(
    array: np.ndarray, change: np.ndarray, shape: tuple[int, ...], fill: float
) -> None:
    """Overwrite voxels whose centre is outside a grid, a plane at a time to save memory."""
    axes = [np.arange(n, dtype=np.float64) for n in array.shape]
    for plane in range(array.shape[0]):
        outside = np.zeros(array.shape[1:], np.bool_)
        for row, num in zip(change[:3], shape, strict=True):
            place = row[0] * plane + row[1] * axes[1][:, None] + row[2] * axes[2] + row[3]
            outside |= (place < -0.5 - 1e-6) | (place > num - 0.5 + 1e-6)
        array[plane][outside] = fill
