"""Read labels of volumes, whatever their format, on the grid of their volume if one is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..label_map import LabelMap, names_beside, segments_of
from ..volume_geometry import VolumeGeometry
from ..volumes import Volume
from .dicom import read_dicom
from .dicom_seg import read_seg
from .nifti import is_nifti, open_nifti
from .nrrd import is_nrrd
from .nrrd_segments import read_nrrd_labels
from .rtstruct import read_rtstruct


def read_labels(
    path: str | Path,
    *,
    grid: VolumeGeometry | None = None,
    names: Mapping[int, str] | None = None,
    segments: Sequence[str] | None = None,
) -> LabelMap:
    """Read a label map or contours.

    Args:
        path: NIfTI, NRRD, 3D Slicer's .seg.nrrd, DICOM SEG or DICOM RTSTRUCT.
        grid: grid of the volume that was labelled; contours need it, other labels are turned to
            its axes and must lie on it.
        names: names by number for formats that have none; without them `NAME.labels.json` beside a
            NIfTI file, as `write_label_map` leaves it, is read.
        segments: names of those wanted, which then get the numbers 1, 2, ... in this order; needed
            where segments overlap, since a voxel holds one number. None takes all.

    Returns:
        The labels, on exactly `grid` when it is given.

    Raises:
        DataError: when the file cannot be read, holds fractions, lies on another grid, has no such
            segment, or segments overlap.
    """
    path = Path(path)
    if is_nifti(path):
        labels = _with_names(open_nifti(path, sheared=True).read(), path, names)
    elif is_nrrd(path):
        read = read_nrrd_labels(path, segments)
        if isinstance(read, LabelMap):
            # 3D Slicer may save the box around the segments alone.
            return read if grid is None else read.on(grid, path, part=True)
        labels = _with_names(read, path, names)
    else:
        return _from_dicom(path, grid, segments)
    if segments is not None:
        labels = labels.only(segments, path)
    return labels if grid is None else labels.on(grid, path)


def _from_dicom(
    path: Path, grid: VolumeGeometry | None, segments: Sequence[str] | None
) -> LabelMap:
    if path.is_dir():
        raise DataError(path, "is a folder", "name the file of labels in it")
    kind = read_dicom(path).kind
    if kind == "seg":
        return read_seg(path, grid, segments)
    if kind != "rtstruct":
        raise DataError(path, "is no label map", "give NIfTI, NRRD, DICOM SEG or RTSTRUCT")
    if grid is None:
        raise DataError(path, "holds contours, which need a grid", "give `grid` of its volume")
    return read_rtstruct(path, grid, segments)


def _with_names(read: Volume, path: Path, names: Mapping[int, str] | None) -> LabelMap:
    """Return numbers as labels, named by the caller or by a file beside them."""
    array = read.array
    if array.dtype.kind == "f":
        whole = array.astype(np.int32)
        if (whole != array).any():
            reason = "holds fractions, so it is no label map"
            raise DataError(path, reason, "give the file of labels, not the image")
        array = whole
    if int(array.min()) < 0:
        reason = f"holds the negative label {int(array.min())}"
        raise DataError(path, reason, "give the file of labels, not the image")
    array = array.astype(np.min_scalar_type(int(array.max())), copy=False)
    colours = None
    if names is None:
        names, colours = names_beside(path)
    return LabelMap(read.with_array(array), segments_of(array, names, colours))
