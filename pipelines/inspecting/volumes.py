"""Volumes: grid, numbers and headers of NIfTI, NRRD and DICOM, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.errors import DataError
from ...datasets.readers.volume import (
    OpenVolume,
    VolumeSource,
    discover_series,
    discover_volumes,
    open_volume,
)
from ...datasets.readers.volume_labels import read_labels
from ...domains.ct.curate.layouts import is_label, label_names
from ...domains.ct.hounsfield import WINDOW, hounsfield_problem
from ..progress import track
from .description import Description, Table

MAX_OPENED = 500
"""Volumes of a folder whose headers are read."""

_QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)
_VALUES = ("min", "1 %", "median", "99 %", "max")
_MAX_PROBLEMS = 20
_LABEL_OBJECTS = ("rtstruct", "seg")


def describe_volumes(path: Path) -> Description | None:
    """Describe the volumes of a file or folder.

    Args:
        path: existing file or folder.

    Returns:
        None when there is no volume.

    Raises:
        DataError: when the path cannot be searched, or a single volume not be read.
    """
    found = discover_volumes(path)
    labels = [s for s in found if not s.is_dicom and is_label(s.paths[0], path, ())]
    images = [source for source in found if source not in labels]
    objects = _label_objects(path) if any(source.is_dicom for source in images) else []
    if len(images) == 1 and not labels:
        return _one(path, images[0], objects)
    if len(labels) == 1 and not images:
        return _labels(path, labels[0].paths[0])
    return _many(path, images, [s.paths[0] for s in labels], objects) if found else None


def _label_objects(path: Path) -> list[str]:
    """Return the RTSTRUCT and SEG objects of a folder, as text."""
    series = discover_series(path).series
    return [
        f"{s.kind.upper()} {file.path}"
        for s in series
        if s.kind in _LABEL_OBJECTS
        for file in s.files
    ]


def _one(path: Path, source: VolumeSource, objects: Sequence[str]) -> Description:
    volume = open_volume(source, sheared=True)
    array = volume.read().array
    facts = volume_facts(volume)
    facts["files"] = len(source.paths)
    if objects:
        facts["label objects"] = list(objects)
    problem = hounsfield_problem(array.ravel(), WINDOW)
    problems = [] if problem is None else [problem.reason]
    quantiles = np.quantile(array, _QUANTILES).tolist()
    table = Table("values (HU, when this is a CT)", _VALUES, (tuple(quantiles),))
    size, spacing = facts["voxels"], facts["mm between voxels"]
    summary = f"{path}: a volume ({facts['format']}) of {size} voxels, {spacing} mm apart."
    notes = (*volume.info.doubts, *_names_of_people(volume))
    return Description("volume", path, summary, facts, (table,), notes, tuple(problems))


def volume_facts(volume: OpenVolume) -> dict[str, Any]:
    """Return what there is one of in a volume; headers that may name a person stay out."""
    info, geometry = volume.info, volume.geometry
    facts: dict[str, Any] = {
        "format": info.format,
        "voxels": _times(volume.shape),
        "mm between voxels": _times(volume.spacing),
        "mm in all": _times(n * mm for n, mm in zip(volume.shape, volume.spacing, strict=True)),
        "axes": volume.codes,
        "numbers": f"{info.stored_dtype} in the file, read as {info.dtype}",
        "modality": info.modality,
    }
    if geometry.shear > 0.01:
        facts["degrees off a right angle"] = float(geometry.shear)
    if info.format == "dicom":
        facts["headers that may name someone"] = sorted(info.identifying)
    return facts


def _times(numbers: Any) -> str:
    return " x ".join(f"{number:.5g}" for number in numbers)


def _names_of_people(volume: OpenVolume) -> tuple[str, ...]:
    if not volume.info.identifying:
        return ()
    names = ", ".join(sorted(volume.info.identifying))
    return (f"headers may name someone ({names}): de-identify, or curate with --allow-identified",)


def _labels(path: Path, file: Path) -> Description:
    """Describe a label map alone."""
    labels = read_labels(file, names=dict(label_names(file) or ()) or None)
    grid = labels.volume.geometry
    names = {segment.value: segment.name for segment in labels.segments}
    values, counts = np.unique(labels.volume.array, return_counts=True)
    millilitres = float(np.prod(grid.spacing)) / 1000
    rows = tuple(
        (
            int(value),
            names.get(int(value), "background" if value == 0 else None),
            int(n),
            n * millilitres,
        )
        for value, n in zip(values, counts, strict=True)
    )
    table = Table("labels", ("number", "name", "voxels", "ml"), rows)
    facts = {
        "voxels": _times(grid.shape),
        "mm between voxels": _times(grid.spacing),
        "axes": grid.codes,
    }
    summary = f"{path}: a label map of {_times(grid.shape)} voxels with {len(rows)} numbers."
    return Description("labels", path, summary, facts, (table,))


def _many(
    path: Path, images: Sequence[VolumeSource], labels: Sequence[Path], objects: Sequence[str]
) -> Description:
    """Describe a folder by the headers of its volumes; no voxel is read."""
    rows, problems, doubts = [], [], Counter[str]()
    for source in track(images[:MAX_OPENED], "volumes"):
        try:
            volume = open_volume(source, sheared=True)
        except DataError as error:
            problems.append(str(error))
            continue
        doubts.update({*volume.info.doubts, *_names_of_people(volume)})
        facts = volume_facts(volume)
        row = ("format", "voxels", "mm between voxels", "axes")
        rows.append((source.id, *(facts[name] for name in row), volume.info.stored_dtype))
    notes = [f"{doubt} ({number} volumes)" for doubt, number in sorted(doubts.items())]
    if len(images) > MAX_OPENED:
        notes.append(f"only the first {MAX_OPENED} of them were opened")
    if len(problems) > _MAX_PROBLEMS:
        more = f"{len(problems) - _MAX_PROBLEMS} more volumes cannot be opened"
        problems = [*problems[:_MAX_PROBLEMS], more]
    columns = ("volume", "format", "voxels", "mm between voxels", "axes", "numbers")
    table = Table("volumes, by their headers", columns, tuple(rows))
    facts = {"volumes": len(images), "label maps": len(labels), "label objects": len(objects)}
    summary = (
        f"{path}: a folder of {len(images)} volumes and {len(labels) + len(objects)} label files."
    )
    return Description("volumes", path, summary, facts, (table,), tuple(notes), tuple(problems))
