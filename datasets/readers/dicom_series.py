"""DICOM series: files that belong together, in order, with what is wrong among them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ..errors import DataError
from ..volume_geometry import VolumeGeometry, flip_lps
from .dicom import DicomFile, Frame, decode, is_dicom, read_dicom
from .folders import find_files

UNEVEN_SHARE = 0.05
"""By which share of their distance slices may lie off an even stack; headers are rounded."""


@dataclass(frozen=True)
class DicomSeries:
    """Files that belong together.

    Attributes:
        uid: SeriesInstanceUID, empty where it was removed.
        part: 0, or 1, 2, ... for further stacks of one series: other size, direction, acquisition.
        files: the files, in the order of their instance numbers.
    """

    uid: str
    part: int
    files: tuple[DicomFile, ...]

    @property
    def kind(self) -> str:
        """Return "image", "rtstruct", "seg" or "other"."""
        return self.files[0].kind

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the files' paths."""
        return tuple(file.path for file in self.files)

    @property
    def frames(self) -> list[Frame]:
        """Return all slices in the order of their files."""
        return [frame for file in self.files for frame in file.frames]

    @property
    def patients(self) -> tuple[str, ...]:
        """Return the different PatientIDs, one if all is well."""
        return tuple(sorted({file.patient for file in self.files}))

    @property
    def is_localizer(self) -> bool:
        """Whether it is a survey picture for planning."""
        return self.files[0].is_localizer

    def __str__(self) -> str:
        what = f"{self.files[0].modality or '?'} {self.files[0].description!r}"
        return f"{self.uid or 'no UID'}{f'/{self.part}' if self.part else ''} ({what})"


@dataclass(frozen=True)
class DicomFolder:
    """What is in a folder of DICOM files.

    Attributes:
        series: all series, images and others.
        broken: files that call themselves DICOM and cannot be read, with the error of each.
    """

    series: tuple[DicomSeries, ...]
    broken: tuple[DataError, ...]


def discover_series(root: str | Path) -> DicomFolder:
    """Group the DICOM files below a folder, whatever their names, by series.

    A series with slices of several sizes, spacings or directions is several stacks; so is one that
    visits each position more than once in several acquisitions.

    Raises:
        DataError: when the folder does not exist or cannot be searched.
    """
    paths = [path for path in find_files(root, lambda name: True) if is_dicom(path)]
    return grouped(paths)


def grouped(paths: Iterable[Path]) -> DicomFolder:
    """Read the headers of files and group them by series."""
    files: dict[tuple[str, ...], list[DicomFile]] = defaultdict(list)
    broken = []
    for path in paths:
        try:
            file = read_dicom(path)
        except DataError as error:
            broken.append(error)
            continue
        # Where identifiers were removed, a folder is the best guess at what belongs together.
        place = "" if file.series else str(path.parent)
        files[file.series, file.kind, place].append(file)
    series = [
        DicomSeries(key[0], part, tuple(stack))
        for key, members in files.items()
        for part, stack in enumerate(_stacks(members))
    ]
    return DicomFolder(tuple(series), tuple(broken))


def _stacks(files: Sequence[DicomFile]) -> list[list[DicomFile]]:
    """Split a series into stacks of one size and direction, the largest first."""
    if files[0].kind != "image":
        return [[file] for file in files]
    ordered = sorted(files, key=lambda file: (file.number, str(file.path)))
    by_shape: dict[tuple[object, ...], list[DicomFile]] = defaultdict(list)
    for file in ordered:
        by_shape[_shape_key(file)].append(file)
    stacks = [part for stack in by_shape.values() for part in _by_acquisition(stack)]
    return sorted(stacks, key=lambda stack: -sum(len(file.frames) for file in stack))


def _shape_key(file: DicomFile) -> tuple[object, ...]:
    frame = file.frames[0]
    turn = tuple(round(x, 3) + 0.0 for x in frame.orientation or ())
    step = tuple(round(x, 4) for x in frame.spacing or ())
    # Two files of several frames are two volumes.
    alone = str(file.path) if len(file.frames) > 1 else ""
    return frame.rows, frame.columns, turn, step, file.is_localizer, alone


def _by_acquisition(stack: Sequence[DicomFile]) -> list[list[DicomFile]]:
    """Split by acquisition number where that, and only that, makes positions unique."""
    parts: dict[str, list[DicomFile]] = defaultdict(list)
    for file in stack:
        parts[file.frames[0].acquisition].append(file)
    if len(parts) > 1 and _repeats(stack) and not any(map(_repeats, parts.values())):
        return [parts[key] for key in sorted(parts, key=lambda text: (len(text), text))]
    return [list(stack)]


def _repeats(stack: Sequence[DicomFile]) -> bool:
    places = [frame.position for file in stack for frame in file.frames]
    return len(set(places)) < len(places)


@dataclass(frozen=True)
class Stack:
    """Slices in order, evenly spaced.

    Attributes:
        frames: one slice per position, along the normal of the first.
        geometry: axes are column, row, slice; sheared when the gantry was tilted.
        doubts: what reads well and may still be wrong.
    """

    frames: tuple[Frame, ...]
    geometry: VolumeGeometry
    doubts: tuple[str, ...]


def stacked(uri: str, series: DicomSeries) -> Stack:
    """Order the slices of a series and find their common grid.

    The grid runs from the first slice to the last in even steps; a slice may lie off by
    `UNEVEN_SHARE` of a step.

    Raises:
        DataError: for two patients, a survey picture, slices without position, missing, repeated
            or unevenly spaced slices.
    """
    frames = series.frames
    _check_identity(uri, series)
    first = frames[0]
    placed = all(frame.position is not None for frame in frames)
    if first.orientation is None or first.spacing is None or not placed:
        reason = "its slices do not say where they lie (position, orientation or pixel spacing)"
        raise DataError(uri, reason, "leave it out; it is no volume")
    axes = _axes(uri, first)
    positions = np.array([f.position for f in frames], np.float64)
    order = np.argsort(positions @ axes[:, 2], kind="stable")
    frames, positions = [frames[i] for i in order], positions[order]
    frames, positions, doubts = _without_copies(uri, frames, positions, axes[:, 2])
    step, notes = _step(uri, frames, positions, axes[:, 2])
    geometry = _geometry(uri, first, axes, positions[0], step, len(frames))
    return Stack(tuple(frames), geometry, (*doubts, *notes))


def _check_identity(uri: str, series: DicomSeries) -> None:
    if len(series.patients) > 1:
        reason = f"one series holds {len(series.patients)} different patient identifiers"
        raise DataError(uri, reason, "separate the patients' files")
    if series.is_localizer:
        raise DataError(uri, "is a survey picture (localizer), no volume", "leave it out")


def _axes(uri: str, frame: Frame) -> Float64[np.ndarray, "3 3"]:
    """Return unit directions in LPS+: growing column, growing row, normal; one a column."""
    along, down = np.reshape(np.array(frame.orientation, np.float64), (2, 3))
    lengths = np.linalg.norm(along), np.linalg.norm(down)
    if min(lengths) < 0.5 or abs(along @ down) > 1e-3 or min(frame.spacing or (0.0,)) <= 0:
        reason = "its orientation is not two perpendicular directions, or its pixels have no size"
        raise DataError(uri, reason, "its headers are wrong; export it again")
    along, down = along / lengths[0], down / lengths[1]
    return np.stack([along, down, np.cross(along, down)], axis=1)


def _without_copies(
    uri: str, frames: list[Frame], positions: np.ndarray, normal: np.ndarray
) -> tuple[list[Frame], np.ndarray, list[str]]:
    """Drop slices that are at one position and equal; different ones there are an error."""
    heights = positions @ normal
    kept, copies = [0], 0
    for i in range(1, len(frames)):
        if heights[i] - heights[kept[-1]] > 1e-3:
            kept.append(i)
        elif _equal(frames[i], frames[kept[-1]]):
            copies += 1
        else:
            reason = f"two different slices lie at one position ({heights[i]:.2f} mm)"
            raise DataError(uri, reason, "separate the phases or reconstructions of the scan")
    doubts = [f"{copies} repeated slices were left out"] if copies else []
    return [frames[i] for i in kept], positions[kept], doubts


def _equal(one: Frame, other: Frame) -> bool:
    """Return whether two slices are the same one, or copies under different names."""
    if one.instance and (one.instance, one.index) == (other.instance, other.index):
        return True
    same_scale = (one.slope, one.intercept) == (other.slope, other.intercept)
    return same_scale and np.array_equal(decode(one), decode(other))


def _step(
    uri: str, frames: list[Frame], positions: np.ndarray, normal: np.ndarray
) -> tuple[Float64[np.ndarray, "3"], list[str]]:
    """Return the way from slice to slice in LPS+ mm, and doubts about it."""
    if len(frames) == 1:
        raise DataError(uri, "is one slice and no volume", "give the folder with the whole series")
    heights = positions @ normal
    steps = np.diff(heights)
    typical = float(np.median(steps))
    _check_gaps(uri, heights, steps)
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    even = positions[0] + np.arange(len(frames))[:, None] * step
    off = float(np.linalg.norm(positions - even, axis=1).max())
    if off > UNEVEN_SHARE * typical:
        reason = (
            f"its slices are unevenly spaced ({steps.min():.3f} to {steps.max():.3f} mm, "
            f"up to {off:.3f} mm off an even stack)"
        )
        raise DataError(uri, reason, "reconstruct it evenly, or leave it out")
    thickness, doubts = frames[0].thickness, []
    if thickness and abs(thickness - typical) > 0.01 * typical:
        doubts.append(
            f"its slices are {typical:.4g} mm apart and {thickness:.4g} mm thick; "
            "the distance is the spacing"
        )
    return step, doubts


def _check_gaps(uri: str, heights: np.ndarray, steps: np.ndarray) -> None:
    """Refuse a stack in which slices are missing: steps that are a multiple of the smallest."""
    multiples = steps / steps.min()
    gaps = np.flatnonzero(multiples > 1.5)
    whole = np.abs(multiples - np.rint(multiples)).max() < 0.1
    if len(gaps) and whole:
        missing = int((np.rint(multiples[gaps]) - 1).sum())
        low, high = heights[gaps[0]], heights[gaps[0] + 1]
        reason = f"{missing} slices are missing, the first between {low:.2f} and {high:.2f} mm"
        raise DataError(uri, reason, "copy the whole series again, or leave it out")


def _geometry(
    uri: str, frame: Frame, axes: np.ndarray, start: np.ndarray, step: np.ndarray, count: int
) -> VolumeGeometry:
    if frame.spacing is None:  # `stacked` has refused it
        raise DataError(uri, "has no pixel spacing", "leave it out")
    row_step, column_step = frame.spacing
    columns = [axes[:, 0] * column_step, axes[:, 1] * row_step, step, start]
    affine = flip_lps(np.stack(columns, axis=1))
    try:
        return VolumeGeometry.from_affine(affine, (frame.columns, frame.rows, count))
    except ValueError as error:
        raise DataError(uri, f"its geometry is {error}", "leave it out") from error


def tilt_degrees(geometry: VolumeGeometry) -> float:
    """Return the angle between the stack's direction and the slices' normal, 0 without a tilt."""
    axes = geometry.directions
    normal = np.cross(axes[:, 0], axes[:, 1])
    cosine = abs(float(normal @ axes[:, 2])) / float(np.linalg.norm(normal))
    return math.degrees(math.acos(min(cosine, 1.0)))
