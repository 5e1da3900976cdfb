"""Where the voxels of a volume lie in the patient: affine, size, and what follows from them.

Conventions, the same in the whole suite:

- Axis n of an array is axis n of its geometry: `array[i, j, k]` lies at `world((i, j, k))`.
- An index is the centre of a voxel; the first voxel reaches from -0.5 to 0.5.
- World coordinates are millimetres in RAS+ (to the patient's right, front and head), as in NIfTI
  and nibabel. DICOM, ITK and NRRD mostly use LPS+; `flip_lps` goes from one to the other.
- Orientation codes say where an axis points as its index grows: "RAS" is nibabel's canonical order.
- Networks and stores use `NETWORK_CODES`, that is (depth, height, width) = towards the head, the
  back and the patient's left: slice axis first, and each slice as a radiologist sees it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float64, Shaped

from .geometry import Affine

NETWORK_CODES = "SPL"
_ENDS = ("LR", "PA", "IS")
_SAME_AXIS = 0.02
"""By which share of a voxel's step the step of another grid may differ."""

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class VolumeGeometry:
    """Position of a volume; a plain value that can be compared, hashed and stored.

    Attributes:
        rows: three rows of the affine, one after the other: voxel index to mm in RAS+.
        shape: number of voxels along each axis.
    """

    rows: Affine
    shape: Triple

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"a volume of {self.shape} voxels")
        if not np.isfinite(self.rows).all():
            raise ValueError("an affine with numbers that are not finite")
        if abs(self._unit_determinant()) < 1e-6:
            raise ValueError("an affine that flattens the volume: two axes have one direction")

    @staticmethod
    def from_affine(affine: Shaped[np.ndarray, "_ 4"], shape: Sequence[int]) -> VolumeGeometry:
        """Return the geometry of a (3, 4) or (4, 4) affine and a shape.

        Raises:
            ValueError: when an axis has no length, or two have one direction.
        """
        values = [float(x) for x in np.asarray(affine, np.float64)[:3].ravel()]
        num_i, num_j, num_k = (int(n) for n in shape)
        return VolumeGeometry(tuple(values), (num_i, num_j, num_k))  # pyright: ignore[reportArgumentType]

    @staticmethod
    def from_axes(
        directions: Shaped[np.ndarray, "3 3"],
        spacing: Sequence[float],
        origin: Sequence[float],
        shape: Sequence[int],
    ) -> VolumeGeometry:
        """Return the geometry of unit axes (one a column), spacing in mm and first voxel centre."""
        steps = np.asarray(directions, np.float64) * np.asarray(spacing, np.float64)
        return VolumeGeometry.from_affine(np.column_stack([steps, np.asarray(origin)]), shape)

    @property
    def affine(self) -> Float64[np.ndarray, "4 4"]:
        """Voxel index to mm in RAS+, as nibabel has it; a new array."""
        return np.vstack([np.reshape(self.rows, (3, 4)), [0.0, 0.0, 0.0, 1.0]])

    @property
    def spacing(self) -> Spacing:
        """Distance in mm between neighbouring voxel centres along each axis."""
        a, b, c = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return a, b, c

    @property
    def directions(self) -> Float64[np.ndarray, "3 3"]:
        """Unit direction of each axis in RAS+, one a column."""
        return self.affine[:3, :3] / np.asarray(self.spacing)

    @property
    def origin(self) -> Spacing:
        """Centre of the first voxel, mm in RAS+."""
        x, y, z = self.affine[:3, 3].tolist()
        return x, y, z

    @property
    def codes(self) -> str:
        """Orientation codes of the nearest upright grid, such as "LPS"; all three differ."""
        # The best of all six assignments: nibabel takes axis by axis, so that its answer for an
        # oblique volume depends on the order of axes.
        strength = np.abs(self.directions)
        best = max(permutations(range(3)), key=lambda rows: strength[list(rows), range(3)].sum())
        signs = self.directions[list(best), range(3)]
        return "".join(_ENDS[row][int(sign > 0)] for row, sign in zip(best, signs, strict=True))

    @property
    def obliqueness(self) -> float:
        """Largest angle in degrees between an axis and the nearest axis of the patient."""
        from nibabel.affines import obliquity

        return math.degrees(float(np.max(obliquity(self.affine))))

    @property
    def shear(self) -> float:
        """Largest deviation in degrees of two axes from a right angle; 0 for a proper grid."""
        directions = self.directions
        cosines = np.abs((directions.T @ directions)[np.triu_indices(3, 1)])
        return math.degrees(math.asin(min(float(cosines.max()), 1.0)))

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm^3."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    def world(self, points: Shaped[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
        """Return positions in mm (RAS+) of voxel indices, which may be fractions."""
        affine = self.affine
        return np.asarray(points, np.float64) @ affine[:3, :3].T + affine[:3, 3]

    def voxel(self, points: Shaped[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
        """Return voxel indices, as fractions, of positions in mm (RAS+)."""
        affine = self.affine
        offsets = np.asarray(points, np.float64) - affine[:3, 3]
        return offsets @ np.linalg.inv(affine[:3, :3]).T

    def crop(self, start: Sequence[int], size: Sequence[int]) -> VolumeGeometry:
        """Return the geometry of a window, which may reach over the edges."""
        affine = self.affine
        affine[:3, 3] = self.world(np.asarray(start))
        return VolumeGeometry.from_affine(affine, size)

    def reoriented(self, codes: str) -> VolumeGeometry:
        """Return the same voxels with axes permuted and flipped so that `codes` holds."""
        return self.turned(orientation_change(self.codes, codes))

    def turned(self, change: Float64[np.ndarray, "3 2"]) -> VolumeGeometry:
        """Return the same voxels with axes permuted and flipped as nibabel describes it."""
        from nibabel.orientations import inv_ornt_aff

        affine = self.affine @ np.asarray(inv_ornt_aff(change, self.shape))
        shape = [0, 0, 0]
        for axis, target in enumerate(change[:, 0].astype(int)):
            shape[target] = self.shape[axis]
        return VolumeGeometry.from_affine(affine, shape)

    def change_to(self, other: VolumeGeometry) -> Float64[np.ndarray, "3 2"] | None:
        """Return how to permute and flip axes to get the axes of another grid, None if none does.

        Unlike codes it has no doubtful case for oblique volumes.
        """
        change = np.linalg.inv(other.affine[:3, :3]) @ self.affine[:3, :3]
        whole = np.rint(change)
        each_once = (np.abs(whole).sum(axis=0) == 1).all() and (
            np.abs(whole).sum(axis=1) == 1
        ).all()
        if not each_once or np.abs(change - whole).max() > _SAME_AXIS:
            return None
        targets = np.abs(whole).argmax(axis=0)
        return np.stack([targets, whole[targets, range(3)]], axis=1).astype(np.float64)

    def resampled(self, spacing: Sequence[float]) -> VolumeGeometry:
        """Return a grid over the same ground with another spacing in mm.

        The outer corner of the first voxel stays where it is, and the number of voxels is rounded;
        so the far edge moves by half a new voxel at most.
        """
        ratio = np.asarray(spacing, np.float64) / np.asarray(self.spacing)
        shape = [max(1, round(n / r)) for n, r in zip(self.shape, ratio.tolist(), strict=True)]
        affine = self.affine
        affine[:3, 3] = self.world(ratio / 2 - 0.5)
        affine[:3, :3] *= ratio
        return VolumeGeometry.from_affine(affine, shape)

    def unsheared(self) -> VolumeGeometry:
        """Return an upright grid that holds all voxels of a sheared one, of nearly its spacing.

        The first two axes of the slices stay; the third becomes their normal. A gantry tilt is
        corrected by resampling to this grid.
        """
        first = self.directions[:, 0]
        second = self.directions[:, 1] - first * (first @ self.directions[:, 1])
        second /= np.linalg.norm(second)
        normal = np.cross(first, second)
        normal *= math.copysign(1.0, float(normal @ self.directions[:, 2]))
        axes = np.column_stack([first, second, normal])
        step = abs(float(normal @ self.affine[:3, 2]))
        spacing = np.asarray([*self.spacing[:2], step])
        corners = self.world(corner_indices(self.shape)) @ axes / spacing
        low = corners.min(axis=0)
        shape = np.ceil(corners.max(axis=0) - low - 1e-6).astype(int) + 1
        origin = axes @ (low * spacing)
        return VolumeGeometry.from_axes(axes, spacing.tolist(), origin.tolist(), shape.tolist())

    def distance(self, other: VolumeGeometry) -> float:
        """Return by how many mm the same voxel lies apart at most; infinite for other shapes."""
        if self.shape != other.shape:
            return math.inf
        corners = corner_indices(self.shape)
        apart = np.linalg.norm(self.world(corners) - other.world(corners), axis=1)
        return float(apart.max())

    def _unit_determinant(self) -> float:
        """Return the determinant of the unit axes, 0 when the volume is flat."""
        axes = self.affine[:3, :3]
        lengths = np.linalg.norm(axes, axis=0)
        return 0.0 if lengths.min() == 0 else float(np.linalg.det(axes / lengths))


def orientation_change(codes: str, wanted: str) -> Float64[np.ndarray, "3 2"]:
    """Return nibabel's description of how axes are permuted and flipped between two orders.

    Raises:
        ValueError: when codes are not three letters of three different directions.
    """
    from nibabel.orientations import axcodes2ornt, ornt_transform

    for text in (codes, wanted):
        if sorted(ends for ends in _ENDS for letter in text if letter in ends) != sorted(_ENDS):
            raise ValueError(f"orientation {text!r}; it is three letters such as 'RAS' or 'LPS'")
    return np.asarray(ornt_transform(axcodes2ornt(codes), axcodes2ornt(wanted)), np.float64)


def corner_indices(shape: Triple) -> Float64[np.ndarray, "8 3"]:
    """Return the indices of the eight voxels in the corners."""
    ends = [(0.0, n - 1.0) for n in shape]
    return np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(8, 3)


def flip_lps(matrix: Shaped[np.ndarray, "3 *n"]) -> Float64[np.ndarray, "3 *n"]:
    """Turn LPS+ coordinates, one point or direction a column, into RAS+ ones, or back."""
    flipped = np.array(matrix, np.float64)
    flipped[:2] *= -1.0
    return flipped
