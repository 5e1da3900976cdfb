"""Write label maps in any of the formats, on the grid of the volume that they belong to."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from ..files import write_json
from ..label_map import LabelMap
from ..volume_geometry import VolumeGeometry
from .nifti import write_nifti_labels

LABEL_SUFFIXES = (".nii.gz", ".nii")


def write_label_map(
    path: str | Path, labels: LabelMap, *, grid: VolumeGeometry | None = None
) -> tuple[Path, ...]:
    """Write a label map in the format that its name says.

    Args:
        path: .nii, .nii.gz with names and colours in a JSON file beside it.
        labels: numbers and their meaning.
        grid: grid of the volume that was labelled; the labels are turned to its axes.

    Returns:
        The files written.

    Raises:
        DataError: for an unknown suffix, or when the labels do not lie on the grid.
    """
    path = Path(path)
    if grid is not None:
        labels = labels.on(grid, path)
    if not path.name.lower().endswith(LABEL_SUFFIXES):
        raise DataError(path, "has no suffix of a label map", f"use {', '.join(LABEL_SUFFIXES)}")
    write_nifti_labels(path, labels)
    names = names_file(path)
    table = {str(s.value): {"name": s.name, "colour": list(s.colour)} for s in labels.segments}
    write_json(names, {"labels": table})
    return path, names


def names_file(path: Path) -> Path:
    """Return where names and colours of a NIfTI label map are: `NAME.labels.json`."""
    suffix = next(s for s in LABEL_SUFFIXES if path.name.lower().endswith(s))
    return path.with_name(f"{path.name[: -len(suffix)]}.labels.json")
