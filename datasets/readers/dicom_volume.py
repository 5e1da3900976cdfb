"""A DICOM series as a volume: slices are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from .dicom import Frame, decode
from .dicom_identity import identifying_headers
from .dicom_series import DicomFolder, DicomSeries, Stack, discover_series, grouped, stacked
from .scaling import scaled, scaled_dtype
from .volume_source import (
    OpenVolume,
    VolumeInfo,
    Window,
    checked_shape,
    hounsfield_doubts,
    refuse_shear,
)

SERIES_MARK = "#series="


def open_dicom(
    paths: str | Path | Sequence[Path], *, series: str | None = None, sheared: bool = False
) -> OpenVolume:
    """Open a series as a volume; headers are read, pixels are not.

    Axes are column, row, slice along the slices' normal. Rescale slope and intercept are applied
    slice by slice, in integers where they are whole.

    Args:
        paths: a folder with one series of images (surveys and other objects do not count), or the
            files of a series, or a file of several frames. "#series=UID" after a folder is one of
            its series.
        series: SeriesInstanceUID, where a folder holds several; "/1" after it is its second stack.
        sheared: accept a tilted gantry.

    Raises:
        DataError: for files that are no images, several series or patients, damaged, missing,
            repeated or unevenly spaced slices, a tilted gantry.
    """
    uri, found = find_series(paths, series)
    return _opened(uri, found, sheared)


def open_stack(paths: str | Path | Sequence[Path], *, series: str | None = None) -> Stack:
    """Return the slices of a series in order, for writers that refer to them; see `open_dicom`."""
    uri, found = find_series(paths, series)
    return stacked(uri, found)


def find_series(
    paths: str | Path | Sequence[Path], series: str | None = None
) -> tuple[str, DicomSeries]:
    """Return the one series of images that is meant, and its name; see `open_dicom`."""
    if isinstance(paths, str | Path):
        name, _, marked = str(paths).partition(SERIES_MARK)
        root, series = Path(name), series or marked or None
        found = discover_series(root)
    else:
        files: list[Path] = list(paths)
        if not files:
            raise DataError("series", "has no files", "name at least one")
        root = files[0] if len(files) == 1 else files[0].parent
        found = grouped(files)
    if found.broken:
        first, *others = found.broken
        if not others and not found.series:
            raise first
        more = f" (and {len(others)} more files)" if others else ""
        reason = f"{first.subject} {first.reason}{more}"
        raise DataError(root, reason, "remove or replace the damaged files")
    chosen = _only_series(root, found, series)
    return f"{root}{SERIES_MARK}{chosen.uid}" if chosen.uid and root.is_dir() else str(root), chosen


def _only_series(root: Path, found: DicomFolder, wanted: str | None) -> DicomSeries:
    images = [s for s in found.series if s.kind == "image"]
    if wanted is not None:
        named = [s for s in images if wanted in (s.uid, f"{s.uid}/{s.part}")]
        images = [s for s in named if wanted != s.uid or s.part == 0]
    elif len(images) > 1:
        images = [s for s in images if not s.is_localizer] or images
    if not images:
        what = "has no series of images" if wanted is None else f"has no series {wanted!r}"
        raise DataError(root, what, "check the path and the identifier")
    if len(images) > 1:
        patients = {patient for s in images for patient in s.patients}
        of = f" of {len(patients)} patients" if len(patients) > 1 else ""
        names = "; ".join(map(str, images[:5]))
        reason = f"holds {len(images)} stacks of images{of}: {names}"
        raise DataError(root, reason, f"name one with {str(root) + SERIES_MARK}UID")
    return images[0]


def _opened(uri: str, series: DicomSeries, sheared: bool) -> OpenVolume:
    stack = stacked(uri, series)
    checked_shape(uri, stack.geometry.shape)
    if not sheared:
        refuse_shear(uri, stack.geometry)
    frames, file = stack.frames, series.files[0]
    slices = tuple(_Slice(frame, *_scale(frame)) for frame in frames)
    dtype = np.result_type(*{s.dtype for s in slices})
    info = VolumeInfo(
        uri=uri,
        format="dicom",
        geometry=stack.geometry,
        dtype=dtype.name,
        stored_dtype=frames[0].dtype,
        modality=file.modality or None,
        patient=file.patient or None,
        headers=file.headers,
        doubts=(*stack.doubts, *_doubts(stack, file.modality, file.headers.get("RescaleType"))),
        identifying=identifying_headers(file.path),
    )
    return OpenVolume(info, _Voxels(slices, dtype))


@dataclass(frozen=True)
class _Slice:
    frame: Frame
    slope: float
    intercept: float

    @property
    def dtype(self) -> np.dtype:
        kind = np.dtype(self.frame.dtype)
        return scaled_dtype(kind, self.slope, self.intercept, self.frame.bits)


@dataclass(frozen=True)
class _Voxels:
    slices: tuple[_Slice, ...]
    dtype: np.dtype

    def read(self, window: Window) -> np.ndarray:
        columns, rows, chosen = window
        parts = self.slices[chosen]
        size = [s.stop - s.start for s in (columns, rows)]
        # Slices are written as they come from the file, so that each is one run of memory.
        array = np.empty((len(parts), size[1], size[0]), self.dtype)
        for target, part in zip(array, parts, strict=True):
            stored = decode(part.frame)
            _check_bits(part, stored)
            target[:] = scaled(stored[rows, columns], part.slope, part.intercept, self.dtype)
        return array.transpose(2, 1, 0)


def _scale(frame: Frame) -> tuple[float, float]:
    return (
        1.0 if frame.slope is None or frame.slope == 0 else frame.slope,
        0.0 if frame.intercept is None else frame.intercept,
    )


def _check_bits(part: _Slice, stored: np.ndarray) -> None:
    """Refuse numbers beyond BitsStored, which would wrap around in the type chosen by it."""
    bits = part.frame.bits
    if bits < stored.itemsize * 8:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if stored.dtype.kind == "i" else (
            0, 2**bits - 1,
        )  # fmt: skip
        if int(stored.min()) < low or int(stored.max()) > high:
            reason = f"holds numbers beyond the {bits} bits that its header states"
            raise DataError(part.frame.path, reason, "remove overlays or correct BitsStored")


def _doubts(stack: Stack, modality: str, rescale_type: str | None) -> tuple[str, ...]:
    first = stack.frames[0]
    slope, intercept = _scale(first)
    doubts = list(hounsfield_doubts(np.dtype(first.dtype), slope, intercept))
    if modality == "CT":
        if first.slope is None:
            doubts.append("its headers have no rescale; stored numbers are taken as they are")
        if rescale_type not in (None, "HU"):
            doubts.append(f"its numbers are {rescale_type!r} and not Hounsfield units")
        if first.dtype.startswith("u") and intercept >= 0 and not doubts:
            doubts.append("its numbers cannot be negative, so they are no Hounsfield units")
    return tuple(doubts)
