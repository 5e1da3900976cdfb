"""Read labels of volumes, whatever their format, on the grid of their volume if one is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..label_map import LabelMap, segments_of
from ..volume_geometry import VolumeGeometry
from .nifti import is_nifti, open_nifti
from .volume_source import OpenVolume


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
        names: names by number for formats that have none.
        segments: names of those wanted, which then get the numbers 1, 2, ... in this order; needed
            where segments overlap, since a voxel holds one number. None takes all.

    Returns:
        The labels, on exactly `grid` when it is given.

    Raises:
        DataError: when the file cannot be read, holds fractions, lies on another grid, has no such
            segment, or segments overlap.
    """
    path = Path(path)
    if not is_nifti(path):
        raise DataError(path, "is no label map", "give NIfTI, NRRD, DICOM SEG or RTSTRUCT")
    labels = _whole_numbers(open_nifti(path), names)
    if segments is not None:
        labels = chosen(labels, segments, path)
    return labels if grid is None else labels.on(grid, path)


def _whole_numbers(volume: OpenVolume, names: Mapping[int, str] | None) -> LabelMap:
    read = volume.read()
    array = read.array
    if array.dtype.kind == "f":
        whole = array.astype(np.int32)
        if (whole != array).any():
            reason = "holds fractions, so it is no label map"
            raise DataError(volume.uri, reason, "give the file of labels, not the image")
        array = whole
    if int(array.min()) < 0:
        reason = f"holds the negative label {int(array.min())}"
        raise DataError(volume.uri, reason, "give the file of labels, not the image")
    array = array.astype(np.min_scalar_type(int(array.max())), copy=False)
    return LabelMap(read.with_array(array), segments_of(array, names))


def chosen(labels: LabelMap, wanted: Sequence[str], subject: object) -> LabelMap:
    """Return some segments of a label map, numbered 1, 2, ... in the order asked for.

    Raises:
        DataError: when there is no such segment.
    """
    from dataclasses import replace

    by_name = {segment.name: segment for segment in labels.segments}
    missing = [name for name in wanted if name not in by_name]
    if missing:
        have = ", ".join(by_name) or "none"
        raise DataError(subject, f"has no segment {missing[0]!r}", f"its segments are {have}")
    array = labels.volume.array
    table = np.zeros(int(array.max()) + 1, np.min_scalar_type(len(wanted)))
    segments = []
    for number, name in enumerate(wanted, 1):
        segment = by_name[name]
        if segment.value < len(table):
            table[segment.value] = number
        segments.append(replace(segment, value=number))
    return LabelMap(labels.volume.with_array(table[array]), tuple(segments))
