"""A volume in memory: an array that never travels without its geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from .volume_geometry import NETWORK_CODES, VolumeGeometry, orientation_change


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
    from scipy.ndimage import affine_transform

    # Both grids are turned alike first, so that the matrix is nearly diagonal and flips are exact.
    source = volume.turned_like(geometry) or volume.reoriented(geometry.codes)
    change = np.linalg.inv(source.geometry.affine) @ geometry.affine
    kind = volume.array.dtype
    whole = kind.kind in "iub"
    array = source.array.astype(np.float32) if whole and order > 0 else source.array
    # "nearest" extends the outermost voxels; what lies beyond their outer faces is filled after.
    matrix, offset = change[:3, :3], change[:3, 3]
    moved = affine_transform(
        array,
        matrix,
        offset,  # pyright: ignore[reportArgumentType]  # scipy's stub knows numbers only
        geometry.shape,
        order=order,
        mode="nearest",
    )
    if whole and order > 0:
        limits = (False, True) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
        np.clip(np.rint(moved, out=moved), *limits, out=moved)
    result = moved.astype(kind, copy=False)
    _fill_outside(result, change, source.geometry.shape, fill)
    return Volume(result, geometry)


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
