"""Write label maps in any of the formats, on the grid of the volume that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..label_map import NAMED_SUFFIXES, LabelMap, write_names
from ..volume_geometry import VolumeGeometry
from .dicom_seg import write_dicom_seg
from .nifti import write_nifti_labels
from .nrrd import write_seg_nrrd

LABEL_SUFFIXES = (*NAMED_SUFFIXES, ".seg.nrrd", ".dcm")


def write_label_map(
    path: str | Path,
    labels: LabelMap,
    *,
    grid: VolumeGeometry | None = None,
    series: str | Path | Sequence[Path] | None = None,
) -> tuple[Path, ...]:
    """Write a label map in the format that its name says.

    Args:
        path: .nii or .nii.gz, with names and colours in `NAME.labels.json` beside it; .seg.nrrd of
            3D Slicer; .dcm for a DICOM SEG.
        labels: numbers and their meaning, in any order of axes.
        grid: grid of the volume that was labelled; the labels are turned to its axes and must lie
            on it. The file then has exactly this grid. Without it the labels' own grid is written.
        series: DICOM series that a SEG refers to, as `open_volume` takes it; other formats need
            none.

    Returns:
        The files written.

    Raises:
        DataError: for an unknown suffix, a SEG without a series, or labels that do not lie on the
            grid.
    """
    path = Path(path)
    if grid is not None:
        labels = labels.on(grid, path)
    name = path.name.lower()
    if name.endswith(NAMED_SUFFIXES):
        write_nifti_labels(path, labels)
        return path, write_names(path, labels.segments)
    if name.endswith(".seg.nrrd"):
        write_seg_nrrd(path, labels)
    elif name.endswith(".dcm"):
        if series is None:
            reason = "a DICOM SEG refers to a DICOM series, and there is none"
            raise DataError(path, reason, "write .seg.nrrd or .nii.gz, or give `series`")
        write_dicom_seg(path, labels, series)
    else:
        remedy = f"use one of {', '.join(LABEL_SUFFIXES)}"
        raise DataError(path, "has no suffix of a label map", remedy)
    return (path,)
