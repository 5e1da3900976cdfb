"""Write label maps as DICOM SEG that refers to the series they were made on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import whole_file
from ..label_map import LabelMap, Segment
from ..readers.dicom import Frame, parsing, read_dataset
from ..readers.dicom_volume import open_stack

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_MAY_BE_EMPTY = (  # of type 2: a segmentation repeats them from its series, empty ones too
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


def write_dicom_seg(
    path: str | Path,
    labels: LabelMap,
    series: str | Path | Sequence[Path],
    *,
    description: str = "Segmentation by mimkit",
) -> None:
    """Write a label map as a binary segmentation object; each segment is a stack of masks.

    Frames have the position of the slices they belong to, also in a tilted series. Slices without
    a segment have no frame. Identifiers of patient and study are those of the series.

    Args:
        path: .dcm file, written whole or not at all.
        labels: numbers and their meaning, on the grid of the series. Segments are numbered
            1, 2, ... in the order of their numbers, as the format demands.
        series: the series of images, as in `open_dicom`; its headers are read.
        description: SeriesDescription.

    Raises:
        DataError: when the labels do not lie on the series, no voxel is labelled, a number has no
            segment, or the series has no identifiers to refer to.
    """
    path = Path(path)
    stack = open_stack(series)
    array = np.asarray(labels.on(stack.geometry, path).volume.array)
    table = _numbering(path, labels, array)
    sources, order = _sources(stack.frames)
    masks = table[array].transpose(2, 1, 0)[order]
    with parsing(path):
        seg = _segmentation(sources, np.ascontiguousarray(masks), labels.segments)
        seg.SeriesDescription = description
    with whole_file(path) as stream:
        seg.save_as(stream, enforce_file_format=True)


def _numbering(path: Path, labels: LabelMap, array: np.ndarray) -> np.ndarray:
    """Return segment number by label, counted from 1 without gaps."""
    present = {int(value) for value in np.unique(array)} - {0}
    unknown = sorted(present - set(labels.names))
    if not present or unknown:
        reason = f"label {unknown[0]} has no name" if unknown else "no voxel is labelled"
        raise DataError(path, reason, "a DICOM SEG needs a named segment for every label")
    table = np.zeros(int(array.max()) + 1, np.min_scalar_type(len(labels.segments)))
    for number, segment in enumerate(labels.segments, 1):
        if segment.value < len(table):
            table[segment.value] = number
    return table


def _sources(frames: Sequence[Frame]) -> tuple[list[Any], list[int]]:
    """Return the headers that a segmentation refers to, and the order of slices in them."""
    if frames[0].index is None:
        return [_source(frame) for frame in frames], list(range(len(frames)))
    order = sorted(range(len(frames)), key=lambda i: frames[i].index or 0)
    return [_source(frames[0])], order


def _source(frame: Frame) -> Any:
    data = read_dataset(frame.path)
    missing = [name for name in _UIDS if not data.get(name)]
    if missing:
        reason = f"has no {missing[0]}, so that a segmentation cannot refer to it"
        raise DataError(frame.path, reason, "write .seg.nrrd or .nii.gz instead")
    for name in _MAY_BE_EMPTY:
        if name not in data:
            setattr(data, name, "")
    return data


def _segmentation(sources: list[Any], masks: np.ndarray, segments: Sequence[Segment]) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    method = highdicom.AlgorithmIdentificationSequence(
        name="mimkit", version=version("mimkit"), family=codes.DCM.ArtificialIntelligence
    )
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.name[:64],  # the longest that the type LO allows
            # Names are free text here, so that the kind of tissue stays open.
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="AUTOMATIC",
            algorithm_identification=method,
            display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
        )
        for number, segment in enumerate(segments, 1)
    ]
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=masks,
        segmentation_type="BINARY",
        segment_descriptions=described,
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="mimkit",
        manufacturer_model_name="mimkit",
        software_versions=version("mimkit"),
        device_serial_number="none",
    )
