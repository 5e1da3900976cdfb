"""NIfTI-1 and NIfTI-2 volumes (.nii, .nii.gz): header checked before anything is unpacked."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..volume_geometry import Triple
from .scaling import scaled, scaled_dtype
from .volume_source import (
    OpenVolume,
    VolumeInfo,
    Window,
    check_size,
    checked_geometry,
    checked_shape,
    hounsfield_doubts,
    refuse_shear,
)

NIFTI_SUFFIXES = (".nii", ".nii.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI1_SIZE, _NIFTI2_SIZE = 348, 540
_MM = {1: 1000.0, 3: 0.001}  # the format's codes of metre and micrometre; all else is millimetre
_LENGTH_BITS = 7  # of the header's units; the others are of time
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error)


def is_nifti(path: str | Path) -> bool:
    """Return whether a file's name is that of a NIfTI volume."""
    return str(path).lower().endswith(NIFTI_SUFFIXES)


def open_nifti(path: str | Path, *, sheared: bool = False) -> OpenVolume:
    """Open a NIfTI volume; only its header is read.

    The affine is the sform if it is set, otherwise the qform, as in nibabel; metres and micrometres
    become millimetres. Axes of length 1 after the third are dropped.

    Args:
        path: .nii or .nii.gz file.
        sheared: accept axes that are not at right angles.

    Raises:
        DataError: when it is no NIfTI file, is cut off, is not 3-D, holds colours or complex
            numbers, does not say how it lies, or claims an impossible size.
    """
    path = Path(path)
    header = _header(path)
    shape = checked_shape(str(path), header.get_data_shape())
    stored = header.get_data_dtype()
    if stored.kind not in "iufb" or stored.itemsize > 8:
        raise DataError(path, f"holds {stored} instead of real numbers", "convert it first")
    offset, compressed = header.get_data_offset(), path.suffix.lower() == ".gz"
    check_size(path, offset + int(np.prod(shape)) * stored.itemsize, compressed=compressed)
    affine, doubts = _affine(path, header)
    geometry = checked_geometry(str(path), affine, shape)
    if not sheared:
        refuse_shear(str(path), geometry)
    slope, intercept = _scale(header)
    dtype = scaled_dtype(stored, slope, intercept)
    info = VolumeInfo(
        uri=str(path),
        format="nifti",
        geometry=geometry,
        dtype=dtype.name,
        stored_dtype=stored.name,
        doubts=(*doubts, *hounsfield_doubts(stored, slope, intercept)),
    )
    return OpenVolume(info, _Voxels(path, shape, stored, offset, slope, intercept, dtype))


@dataclass(frozen=True)
class _Voxels:
    path: Path
    shape: Triple
    stored: np.dtype
    offset: int
    slope: float
    intercept: float
    dtype: np.dtype

    def read(self, window: Window) -> np.ndarray:
        from nibabel.arrayproxy import ArrayProxy

        with reading(self.path):
            spec = (self.shape, self.stored, self.offset, 1.0, 0.0)
            # Without a map of the file, so that it is closed after, and errors come from here.
            array = np.asarray(ArrayProxy(str(self.path), spec, mmap=False)[window])
            return scaled(array, self.slope, self.intercept, self.dtype)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of a broken file into ours."""
    try:
        yield
    except _UNREADABLE as error:
        remedy = "it is cut off or damaged; copy it again"
        raise DataError(path, f"cannot be read to its end ({error})", remedy) from error


@contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """Open a plain or gzip file by its content, whatever its name says.

    Raises:
        DataError: when it does not exist, or its name and content disagree about gzip.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(2)
    except OSError as error:
        raise DataError(path, f"cannot be opened ({error.strerror})", "check the path") from error
    if not start:
        raise DataError(path, "is empty", "copy it again")
    named, packed = path.suffix.lower() == ".gz", start == _GZIP_MAGIC
    if named and not packed:
        raise DataError(path, "is named .gz and is no gzip file", "rename it, or copy it again")
    if packed and not named:
        raise DataError(path, "is a gzip file and is not named .gz", "rename it to .nii.gz")
    with gzip.GzipFile(path) if packed else path.open("rb") as stream:
        yield stream


def _header(path: Path) -> Any:
    """Return nibabel's header, made from its bytes alone: extensions are not read."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    with opened(path) as stream, reading(path):
        block = stream.read(_NIFTI2_SIZE)
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    kind, size = (
        (Nifti2Header, _NIFTI2_SIZE) if _NIFTI2_SIZE in sizes else (Nifti1Header, _NIFTI1_SIZE)
    )
    if size not in sizes or len(block) < size or b"n+" not in block[:size]:
        raise DataError(path, "is no NIfTI file", "convert it, or rename it to what it is")
    try:
        header = kind(block[:size])
        header.get_data_shape()
        header.get_data_dtype()
        if not kind(block[:size], check=False)["pixdim"][1:4].all() and not header["sform_code"]:
            # nibabel sets such spacings to 1.
            raise DataError(path, "an axis has a spacing of zero", "write it again from its source")
    except (HeaderDataError, WrapStructError, ValueError, KeyError) as error:
        raise DataError(path, f"its NIfTI header is wrong ({error})", "write it again") from error
    return header


def _scale(header: Any) -> tuple[float, float]:
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError:  # a finite slope with an intercept that is not: no scaling is meant
        return 1.0, 0.0
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept))


def _affine(path: Path, header: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the affine in mm and what is doubtful about it."""
    try:
        sform, _ = header.get_sform(coded=True)
        qform, _ = header.get_qform(coded=True)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise DataError(path, f"its qform is wrong ({error})", "write it again") from error
    affine = qform if sform is None else sform
    if affine is None:
        raise DataError(
            path,
            "does not say how it lies in the patient (qform_code and sform_code are 0)",
            "write it again from its source, or set its sform if you know it",
        )
    doubts = []
    if sform is not None and qform is not None:
        apart = float(np.abs(sform - qform).max())
        if apart > 0.01:
            doubts.append(f"its sform and qform differ by {apart:.3g} mm; the sform is used")
    sizes = np.asarray(header.get_zooms()[:3], np.float64)
    steps = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    if np.abs(sizes - steps).max() > 0.01 * max(float(steps.max()), 1e-6):
        said = ", ".join(f"{x:.4g}" for x in sizes)
        doubts.append(f"its pixdim says {said} mm and its affine another spacing, which is used")
    scale = _MM.get(int(header["xyzt_units"]) & _LENGTH_BITS, 1.0)
    return np.asarray(affine, np.float64)[:3] * scale, tuple(doubts)
