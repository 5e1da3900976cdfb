"""What every volume can do, whatever its files are: say what it is, read a window."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from ..errors import DataError
from ..volume_geometry import Spacing, Triple, VolumeGeometry
from ..volumes import Volume

MAX_VOXELS = 2**31
"""More is taken for a broken or hostile header; 4 GiB of int16, a CT of 512 x 512 x 8192."""

MAX_DEFLATE_RATIO = 1032
"""What deflate can compress at most, so that a header's claim is checked without unpacking."""

MAX_SHEAR_DEGREES = 0.1
"""More shear than this is no rounding: at the edge of a body it moves voxels by a millimetre."""

Window = tuple[slice, slice, slice]


@dataclass(frozen=True, kw_only=True)
class VolumeInfo:
    """What is known about a volume before a voxel is read.

    Attributes:
        uri: its file, or the folder of a series with "#series=UID".
        format: "nifti", "nrrd" or "dicom".
        geometry: position and size; shear is kept as the file has it.
        dtype: number type of `OpenVolume.read`, in numpy's words, after scaling.
        stored_dtype: number type in the file.
        modality: DICOM's word, such as "CT"; None when the format does not say.
        patient: patient's identifier as the file has it, for splits by patient; None where the
            format has none. It may identify a person.
        headers: further facts of the acquisition, such as the convolution kernel; among them
            identifiers (UIDs) that lead back to the patient only through the archive.
        doubts: sentences on what reads well and may still be wrong.
        identifying: headers of the first slice that may tell who the patient is: keyword to
            "patient", "staff", "place", "number" or "picture"; see `identifying_headers`.
    """

    uri: str
    format: str
    geometry: VolumeGeometry
    dtype: str
    stored_dtype: str
    modality: str | None = None
    patient: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    identifying: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class VoxelSource(Protocol):
    """Where the voxels of a volume come from."""

    def read(self, window: Window) -> np.ndarray:
        """Read a window that lies inside, in `VolumeInfo.dtype`; a new array.

        Raises:
            DataError: when the file cannot be read there.
        """
        ...


class OpenVolume:
    """An open volume: facts at once, voxels when they are asked for.

    Files are open only while they are read, so that there is nothing to close.

    Args:
        info: what is known about it.
        source: where its voxels come from.

    Attributes:
        info: all facts.
        uri: its file, or the folder of a series with "#series=UID".
        geometry: position and size.
        dtype: number type of `read`.
    """

    def __init__(self, info: VolumeInfo, source: VoxelSource) -> None:
        self.info, self.uri, self.geometry = info, info.uri, info.geometry
        self.dtype = info.dtype
        self._source = source

    @property
    def shape(self) -> Triple:
        """Number of voxels along each axis of the file, slices last."""
        return self.geometry.shape

    @property
    def spacing(self) -> Spacing:
        """Distance of voxel centres along each axis in mm."""
        return self.geometry.spacing

    @property
    def codes(self) -> str:
        """Orientation codes of the file's axes, such as "LPS"."""
        return self.geometry.codes

    @property
    def modality(self) -> str | None:
        """DICOM's word for what measured it, None when the format does not say."""
        return self.info.modality

    def read(self, window: Window | None = None, *, nan: float | None = None) -> Volume:
        """Read voxels in physical numbers: Hounsfield units where the file's rescale gives them.

        Memory is that of the window, for compressed NIfTI and NRRD too; but there the file is
        unpacked from its start, so that slabs along the last axis should be read in order, or all
        at once. A DICOM series decodes the slices of the window.

        Args:
            window: slices with step 1 inside the volume, in the file's axes; None reads all.
            nan: number for voxels that are not finite; without it they are an error.

        Returns:
            Voxels and their geometry in the file's own axes.

        Raises:
            DataError: when the file cannot be read there, or holds numbers that are not finite.
            ValueError: for a window that is empty, has steps, or reaches over the edges.
        """
        window = window or (slice(None), slice(None), slice(None))
        start, size = _extent(window, self.shape)
        parts = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        array = self._source.read((parts[0], parts[1], parts[2]))
        if array.dtype.kind == "f":
            array = _finite(self.uri, array, nan)
        return Volume(array, self.geometry.crop(start, size))

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"OpenVolume({self.uri!r}, {size} {self.dtype}, {self.codes})"


def _extent(window: Sequence[slice], shape: Triple) -> tuple[list[int], list[int]]:
    start, size = [], []
    for part, num in zip(window, shape, strict=True):
        low = 0 if part.start is None else int(part.start)
        high = num if part.stop is None else int(part.stop)
        if part.step not in (None, 1) or not 0 <= low < high <= num:
            raise ValueError(f"window {part} on an axis of {num} voxels")
        start.append(low)
        size.append(high - low)
    return start, size


def _finite(uri: str, array: np.ndarray, nan: float | None) -> np.ndarray:
    # The sum is finite only if all voxels are, and needs no array of its own.
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(array.sum(dtype=np.float64)):
            return array
    bad = ~np.isfinite(array)
    num = int(bad.sum())
    if num and nan is None:
        raise DataError(
            uri,
            f"{num} of {bad.size} voxels are not finite numbers",
            "replace them, for air with `nan=-1024`, or leave the volume out",
        )
    array[bad] = nan
    return array


def checked_geometry(uri: str, affine: np.ndarray, shape: Sequence[int]) -> VolumeGeometry:
    """Return the geometry of a file's affine.

    Raises:
        DataError: for a spacing of zero, numbers that are not finite, axes of one direction.
    """
    remedy = "write the volume again with the position its scanner gave"
    matrix = np.asarray(affine, np.float64)[:3]
    if not np.isfinite(matrix).all():
        raise DataError(uri, "its affine holds numbers that are not finite", remedy)
    if (np.linalg.norm(matrix[:, :3], axis=0) == 0).any():
        raise DataError(uri, "an axis has a spacing of zero", remedy)
    try:
        return VolumeGeometry.from_affine(matrix, shape)
    except ValueError as error:
        raise DataError(uri, f"its geometry is {error}", remedy) from error


def refuse_shear(uri: str, geometry: VolumeGeometry) -> None:
    """Refuse a grid whose axes are not at right angles.

    Raises:
        DataError: for more than `MAX_SHEAR_DEGREES`.
    """
    if geometry.shear > MAX_SHEAR_DEGREES:
        raise DataError(
            uri,
            f"its axes are {geometry.shear:.2f} degrees off a right angle (gantry tilt or shear)",
            "open it with `sheared=True` and resample it to `geometry.unsheared()`",
        )


def checked_shape(uri: str, shape: Sequence[int]) -> Triple:
    """Return the three numbers of voxels of a file; trailing axes of length 1 are dropped.

    Raises:
        DataError: for another number of axes, an empty axis, more than `MAX_VOXELS`.
    """
    numbers = [int(n) for n in shape]
    while len(numbers) > 3 and numbers[-1] == 1:
        numbers.pop()
    text = " x ".join(map(str, numbers))
    if len(numbers) != 3:
        raise DataError(
            uri,
            f"is {len(numbers)}-D ({text} voxels) instead of 3-D",
            "a time series is split into volumes first, and a picture is no volume",
        )
    if min(numbers) < 1:
        raise DataError(uri, f"has an empty axis ({text})", "leave it out")
    if math.prod(numbers) > MAX_VOXELS:
        reason = f"its header claims {text} voxels, more than {MAX_VOXELS}"
        raise DataError(uri, reason, "it is broken, or cut it into parts")
    return numbers[0], numbers[1], numbers[2]


def check_size(path: Path, num_bytes: int, *, compressed: bool) -> None:
    """Refuse a file that cannot hold what its header claims.

    Raises:
        DataError: when it is too short for `num_bytes`, also if compressed as far as possible.
    """
    have = path.stat().st_size
    if have * (MAX_DEFLATE_RATIO if compressed else 1) < num_bytes:
        raise DataError(
            path,
            f"its header claims {num_bytes} bytes of voxels, and it has {have}"
            + (" compressed ones" if compressed else ""),
            "it is cut off or its header is wrong; copy it again",
        )


def hounsfield_doubts(dtype: np.dtype, slope: float, intercept: float) -> tuple[str, ...]:
    """Return why numbers of a type cannot be Hounsfield units, judged before reading."""
    if dtype.itemsize == 1 and abs(slope) <= 1.0:
        return ("8-bit numbers cannot hold Hounsfield units; it is a picture or a label map",)
    return ()
