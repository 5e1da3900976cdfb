"""One DICOM file: the facts of its frames, and a frame's stored numbers."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ..errors import DataError
from .codestream import codestream_size

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
MAX_FRAME_PIXELS = 2**26
"""More pixels in a frame than 8192 x 8192 are taken for a broken or hostile header."""

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_PREAMBLE = 128
_PIXEL_DATA_HEAD = 12  # tag, type, reserved bytes and undefined length of encapsulated pixels

_HARMLESS = (  # facts of the acquisition that identify nobody
    "BodyPartExamined", "ContrastBolusAgent", "ConvolutionKernel", "FrameOfReferenceUID",
    "GantryDetectorTilt", "ImageType", "KVP", "Manufacturer", "PatientPosition",
    "PixelPaddingValue", "RescaleType", "SeriesInstanceUID", "SliceThickness",
    "StudyInstanceUID",
)  # fmt: skip
_READ = (
    *_HARMLESS, "AcquisitionNumber", "BitsAllocated", "BitsStored", "Columns",
    "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber", "Modality",
    "NumberOfFrames", "PatientID", "PerFrameFunctionalGroupsSequence", "PixelRepresentation",
    "PixelSpacing", "ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence",
    "RescaleIntercept", "RescaleSlope", "Rows", "SOPClassUID", "SOPInstanceUID",
    "SamplesPerPixel", "SeriesDescription", "SeriesNumber", "SharedFunctionalGroupsSequence",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A slice, which is a file or a part of one.

    Attributes:
        path: its file.
        index: its place in a file of several frames, None in a file of one.
        instance: SOPInstanceUID.
        acquisition: AcquisitionNumber, which tells scans apart that share a series.
        position: centre of the first pixel, mm in LPS+; None when not stated.
        orientation: direction of growing column index, then of growing row index, in LPS+.
        spacing: distance of rows, distance of columns in mm.
        thickness: SliceThickness in mm.
        rows: number of rows.
        columns: number of columns.
        dtype: number type as stored.
        bits: how many bits of it are in use.
        slope: factor to physical numbers; None when not stated.
        intercept: summand to physical numbers; None when not stated.
    """

    path: Path
    index: int | None
    instance: str
    acquisition: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    rows: int
    columns: int
    dtype: str
    bits: int
    slope: float | None
    intercept: float | None


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """What a file's header says.

    Attributes:
        path: the file.
        kind: "image", "rtstruct", "seg", or "other" for reports and the like.
        series: SeriesInstanceUID.
        modality: such as "CT".
        patient: PatientID; it may identify a person.
        description: SeriesDescription; free text that may identify a person.
        number: InstanceNumber.
        frames: its slices when it is an image.
        references: SeriesInstanceUIDs that labels refer to.
        headers: facts of the acquisition that identify nobody.
    """

    path: Path
    kind: str
    series: str
    modality: str
    patient: str
    description: str
    number: int
    frames: tuple[Frame, ...] = ()
    references: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_localizer(self) -> bool:
        """Whether it is a survey picture for planning, no part of a volume."""
        return "LOCALIZER" in self.headers.get("ImageType", "")


def is_dicom(path: Path) -> bool:
    """Return whether a file calls itself DICOM, by its name or, without a suffix, its content."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError:
        return False


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Turn pydicom's errors into ours and keep its remarks on small faults of writers silent."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    faults = (
        InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, KeyError,
        AttributeError, TypeError, NotImplementedError, IndexError, RuntimeError, MemoryError,
        struct.error,
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except faults as error:
        if isinstance(error, InvalidDicomError):
            raise DataError(path, "is no DICOM file", "leave it out") from error
        if isinstance(error, FileNotFoundError):
            raise DataError(path, "does not exist", "check the path") from error
        text = str(error) or type(error).__name__
        remedy = "it is damaged or cut off; copy it again"
        raise DataError(path, f"cannot be read as DICOM ({text})", remedy) from error


def read_dataset(path: Path, *, tags: Sequence[str] | None = None, pixels: bool = False) -> Any:
    """Return pydicom's dataset of a file.

    Raises:
        DataError: when it is no DICOM file, is damaged, or deflated (which has no bound on memory).
    """
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info

    if not path.exists():
        raise DataError(path, "does not exist", "check the path")
    with parsing(path):
        deflated = str(read_file_meta_info(path).get("TransferSyntaxUID", "")) == _DEFLATED
    if deflated:
        reason = "is in the deflated transfer syntax, which is not read"
        raise DataError(path, reason, "convert it to explicit little endian, e.g. with dcmconv")
    with parsing(path):
        wanted = None if tags is None else list(tags)
        return dcmread(path, stop_before_pixels=not pixels, specific_tags=wanted)  # pyright: ignore[reportArgumentType]


def read_dicom(path: Path) -> DicomFile:
    """Read a file's header.

    Raises:
        DataError: when it is no DICOM file, is damaged, or claims an impossible size.
    """
    data = read_dataset(path, tags=_READ)
    with parsing(path):
        kind = _kind(data)
        return DicomFile(
            path=path,
            kind=kind,
            series=_text(data, "SeriesInstanceUID"),
            modality=_text(data, "Modality"),
            patient=_text(data, "PatientID"),
            description=_text(data, "SeriesDescription"),
            number=int(_number(data, "InstanceNumber") or 0),
            frames=_frames(path, data) if kind == "image" else (),
            references=_references(data),
            headers={name: text for name in _HARMLESS if (text := _text(data, name))},
        )


def _kind(data: Any) -> str:
    sop_class = _text(data, "SOPClassUID")
    if sop_class == RTSTRUCT_CLASS:
        return "rtstruct"
    if sop_class in SEG_CLASSES:
        return "seg"
    return "image" if "Rows" in data and "Columns" in data else "other"


def _text(data: Any, name: str) -> str:
    value = data.get(name)
    if value is None or isinstance(value, bytes):
        return ""
    many = not isinstance(value, str) and hasattr(value, "__iter__")
    return "\\".join(map(str, value)) if many else str(value).strip()


def _number(data: Any, name: str) -> float | None:
    value = data.get(name)
    if value is None or value == "":
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value}")
    return number


def numbers(data: Any, name: str, count: int) -> tuple[float, ...] | None:
    """Return the numbers of a header, None when it is absent.

    Raises:
        ValueError: for another count, or numbers that are not finite.
    """
    value = data.get(name)
    if value is None or value == "":
        return None
    found = tuple(float(x) for x in value)
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ValueError(f"{name} holds {found} instead of {count} numbers")
    return found


def _frames(path: Path, data: Any) -> tuple[Frame, ...]:
    rows, columns = int(data.Rows), int(data.Columns)
    count = int(_number(data, "NumberOfFrames") or 1)
    if rows < 1 or columns < 1 or count < 1 or rows * columns > MAX_FRAME_PIXELS:
        raise DataError(
            path, f"claims {count} frames of {rows} x {columns} pixels", "its header is wrong"
        )
    if int(data.get("SamplesPerPixel", 1)) != 1:
        raise DataError(path, "is a colour picture, no slice of a volume", "leave it out")
    groups = data.get("PerFrameFunctionalGroupsSequence")
    if groups is None:
        if count > 1:
            reason = f"holds {count} frames and does not say where they lie"
            raise DataError(path, reason, "convert it to an enhanced or a classic series")
        return (_frame(path, data, None, (data,)),)
    if len(groups) != count:
        reason = f"claims {count} frames and describes {len(groups)}"
        raise DataError(path, reason, "its header is wrong")
    shared = list(data.get("SharedFunctionalGroupsSequence") or [])
    return tuple(_frame(path, data, i, (group, *shared, data)) for i, group in enumerate(groups))


def functional(groups: Sequence[Any], sequence: str, name: str) -> Any:
    """Return the dataset that holds a header: in a functional group, or among plain headers."""
    for group in groups:
        if name in group:
            return group
        items = group.get(sequence)
        if items and name in items[0]:
            return items[0]
    return {}


def _frame(path: Path, data: Any, index: int | None, groups: Sequence[Any]) -> Frame:
    measures = functional(groups, "PixelMeasuresSequence", "PixelSpacing")
    thick = functional(groups, "PixelMeasuresSequence", "SliceThickness")
    rescale = functional(groups, "PixelValueTransformationSequence", "RescaleSlope")
    place = functional(groups, "PlanePositionSequence", "ImagePositionPatient")
    turn = functional(groups, "PlaneOrientationSequence", "ImageOrientationPatient")
    allocated = int(data.get("BitsAllocated", 16))
    letter = "i" if int(data.get("PixelRepresentation", 0)) else "u"
    if allocated not in (8, 16, 32):
        raise DataError(path, f"has {allocated} bits a pixel", "convert it to 16 bits")
    return Frame(
        path=path,
        index=index,
        instance=_text(data, "SOPInstanceUID"),
        acquisition=_text(data, "AcquisitionNumber"),
        position=numbers(place, "ImagePositionPatient", 3),
        orientation=numbers(turn, "ImageOrientationPatient", 6),
        spacing=numbers(measures, "PixelSpacing", 2),
        thickness=_number(thick, "SliceThickness"),
        rows=int(data.Rows),
        columns=int(data.Columns),
        dtype=np.dtype(f"{letter}{allocated // 8}").name,
        bits=int(data.get("BitsStored", allocated)),
        slope=_number(rescale, "RescaleSlope"),
        intercept=_number(rescale, "RescaleIntercept"),
    )


def _references(data: Any) -> tuple[str, ...]:
    found = [item.get("SeriesInstanceUID") for item in data.get("ReferencedSeriesSequence") or []]
    for frame in data.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                found.append(series.get("SeriesInstanceUID"))
    return tuple(dict.fromkeys(str(uid) for uid in found if uid))


def decode(frame: Frame) -> Shaped[np.ndarray, "rows columns"]:
    """Return the stored numbers of a slice, whatever its compression.

    Raises:
        DataError: when it is damaged, compressed in a way that nothing here decodes, or of
            another size than its header says.
    """
    from pydicom.pixels.utils import pixel_array

    _check_codestream(frame)
    with parsing(frame.path):
        array = pixel_array(frame.path, raw=True, index=frame.index)
    if array.shape != (frame.rows, frame.columns):
        reason = f"decodes to {array.shape} instead of {(frame.rows, frame.columns)} pixels"
        raise DataError(frame.path, reason, "copy it again")
    return array


def _check_codestream(frame: Frame) -> None:
    """Refuse a compressed slice that states another size inside than its header does.

    Decoders allocate what the picture inside claims, which may be any size.
    """
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    with parsing(frame.path), frame.path.open("rb") as stream:
        head = dcmread(stream, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
        syntax = head.file_meta.TransferSyntaxUID
        if not syntax.is_encapsulated:
            return
        stream.seek(_PIXEL_DATA_HEAD, 1)
        count = int(head.get("NumberOfFrames") or 1)
        inside = codestream_size(get_frame(stream, frame.index or 0, number_of_frames=count))
    if inside is not None and inside != (frame.rows, frame.columns):
        stated = f"{frame.rows} x {frame.columns}"
        reason = (
            f"holds a picture of {inside[0]} x {inside[1]} pixels where its header says {stated}"
        )
        raise DataError(frame.path, reason, "it is damaged; copy it again")
