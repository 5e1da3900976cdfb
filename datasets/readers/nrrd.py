"""NRRD volumes (.nrrd, .nhdr): header checked before anything is unpacked."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ..errors import DataError
from ..volume_geometry import Triple, VolumeGeometry
from .nifti import reading
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

NRRD_SUFFIXES = (".nrrd", ".nhdr")
_MAX_HEADER_BYTES = 2**20
_MAX_LISTED = 64
_SIGNS = {  # first two coordinates in RAS+
    "left-posterior-superior": (-1, -1),
    "lps": (-1, -1),
    "right-anterior-superior": (1, 1),
    "ras": (1, 1),
    "left-anterior-superior": (-1, 1),
    "las": (-1, 1),
}
_TYPES = {  # the format's names of number types, https://teem.sourceforge.net/nrrd/format.html
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        "longlong", "long long", "long long int", "signed long long", "signed long long int",
        "int64", "int64_t",
    ),
    "u8": (
        "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t",
    ),
    "f4": ("float",),
    "f8": ("double",),
}  # fmt: skip
_GZIP = ("gzip", "gz")


@dataclass(frozen=True)
class NrrdHeader:
    """What an NRRD header says.

    Attributes:
        path: file of the header.
        data_path: file of the numbers, usually the same.
        offset: where they start in it.
        compressed: whether they are packed with gzip.
        dtype: number type, with its byte order.
        listed: how many numbers a voxel has: layers of a segmentation, usually 1.
        geometry: position and size.
        fields: all fields of the header as pynrrd gives them.
    """

    path: Path
    data_path: Path
    offset: int
    compressed: bool
    dtype: np.dtype
    listed: int
    geometry: VolumeGeometry
    fields: dict[str, Any]


def is_nrrd(path: str | Path) -> bool:
    """Return whether a file's name is that of an NRRD volume."""
    return str(path).lower().endswith(NRRD_SUFFIXES)


def open_nrrd(path: str | Path, *, sheared: bool = False) -> OpenVolume:
    """Open an NRRD volume with one number per voxel; only its header is read.

    Args:
        path: .nrrd file, or .nhdr with its data in one file of the same folder.
        sheared: accept axes that are not at right angles.

    Raises:
        DataError: when it is no NRRD file, is cut off, is not 3-D, has an encoding other than raw
            and gzip, does not say how it lies, or claims an impossible size.
    """
    header = nrrd_header(path)
    if header.listed > 1:
        reason = f"holds {header.listed} numbers per voxel"
        raise DataError(path, reason, "read it with `read_labels` if it is a segmentation")
    if not sheared:
        refuse_shear(str(path), header.geometry)
    kind = header.dtype.newbyteorder("=").name
    info = VolumeInfo(
        uri=str(path),
        format="nrrd",
        geometry=header.geometry,
        dtype=kind,
        stored_dtype=kind,
        doubts=hounsfield_doubts(header.dtype, 1.0, 0.0),
    )
    return OpenVolume(info, _Voxels(header))


@dataclass(frozen=True)
class _Voxels:
    header: NrrdHeader

    def read(self, window: Window) -> np.ndarray:
        return read_listed(self.header, window)[0]


def nrrd_header(path: str | Path) -> NrrdHeader:
    """Read and check the header of an NRRD file; for errors see `open_nrrd`."""
    import nrrd

    path = Path(path)
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"NRRD":
                raise DataError(path, "is no NRRD file", "convert it, or rename it to what it is")
            stream.seek(0)
            fields = dict(nrrd.read_header(_lines(stream)))
            offset = stream.tell()
    except (nrrd.NRRDError, ValueError, KeyError, IndexError, UnicodeError) as error:
        raise DataError(path, f"its NRRD header is wrong ({error})", "write it again") from error
    except OSError as error:
        raise DataError(path, f"cannot be opened ({error.strerror})", "check the path") from error
    data_path, offset = _data_file(path, fields, offset)
    dtype = _number_type(path, fields)
    listed, shape, affine = _axes(path, fields)
    num_bytes = int(np.prod(shape, dtype=object)) * listed * dtype.itemsize
    compressed = fields.get("encoding") in _GZIP
    check_size(data_path, num_bytes + (0 if compressed else offset), compressed=compressed)
    geometry = checked_geometry(str(path), affine, shape)
    return NrrdHeader(path, data_path, offset, compressed, dtype, listed, geometry, fields)


def _lines(stream: BufferedIOBase) -> Iterator[bytes]:
    """Yield the header's lines, as many bytes as a header may have."""
    left = _MAX_HEADER_BYTES
    while left > 0:
        line = stream.readline(left)
        left -= len(line)
        if not line:
            return
        yield line
    raise ValueError(f"longer than {_MAX_HEADER_BYTES} bytes")


def _data_file(path: Path, fields: dict[str, Any], offset: int) -> tuple[Path, int]:
    if fields.get("encoding") not in ("raw", *_GZIP):
        reason = f"has the encoding {fields.get('encoding')!r}"
        raise DataError(path, reason, "write it with raw or gzip encoding")
    if int(fields.get("line skip", 0)):
        raise DataError(path, "has lines of text before its numbers", "write it again")
    name = fields.get("data file", fields.get("datafile"))
    skip = int(fields.get("byte skip", 0))
    if name is None:
        return path, offset + max(skip, 0)
    # A header may name any file of the machine; only its neighbours are taken.
    target = path.parent / str(name)
    if target.parent.resolve() != path.parent.resolve() or not target.is_file():
        reason = f"its data file {str(name)!r} is not beside it"
        raise DataError(path, reason, "put header and data into one folder, in one file each")
    return target, max(skip, 0)


def _number_type(path: Path, fields: dict[str, Any]) -> np.dtype:
    name = str(fields.get("type"))
    code = next((code for code, names in _TYPES.items() if name in names), None)
    if code is None:
        raise DataError(path, f"holds {name!r} instead of real numbers", "convert it first")
    kind = np.dtype(code)
    order = str(fields.get("endian", "")).lower()
    if kind.itemsize == 1:
        return kind
    if order not in ("little", "big"):
        raise DataError(path, "does not say its byte order (endian)", "write it again")
    return kind.newbyteorder(order)  # pyright: ignore[reportArgumentType]


def _axes(path: Path, fields: dict[str, Any]) -> tuple[int, list[int], np.ndarray]:
    """Return how many numbers a voxel has, the shape and the affine in RAS+."""
    sizes = [int(n) for n in fields.get("sizes", ())]
    space = str(fields.get("space", "")).lower()
    directions = fields.get("space directions")
    if space not in _SIGNS or directions is None or fields.get("space origin") is None:
        raise DataError(
            path,
            "does not say how it lies in the patient (space, space directions, space origin)",
            "write it again from its source, with its position",
        )
    directions = np.asarray(
        [[np.nan] * 3 if row is None else row for row in directions], np.float64
    )
    origin = np.asarray(fields["space origin"], np.float64)
    if directions.shape != (len(sizes), 3) or origin.shape != (3,):
        raise DataError(path, "its directions do not fit its axes", "write it again")
    in_space = [bool(np.isfinite(row).all()) for row in directions]
    listed = 1
    if len(sizes) == 4 and in_space == [False, True, True, True]:
        listed, sizes, directions = sizes[0], sizes[1:], directions[1:]
        if not 1 <= listed <= _MAX_LISTED:
            reason = f"has {listed} numbers per voxel; at most {_MAX_LISTED} are read"
            raise DataError(path, reason, "split it")
    shape = list(checked_shape(str(path), sizes))
    columns = np.column_stack([directions[:3].T, origin])
    signs = np.array([*_SIGNS[space], 1.0])[:, None]
    return listed, shape, columns * signs


def read_listed(header: NrrdHeader, window: Window) -> Shaped[np.ndarray, "listed i j k"]:
    """Read a window of all numbers of each voxel; memory is that of the window and one plane.

    Raises:
        DataError: when the file is cut off or damaged.
    """
    i, j, k = header.geometry.shape
    plane = (header.listed, i, j)
    first, second, third = (part.indices(n) for part, n in zip(window, (i, j, k), strict=True))
    size: Triple = (first[1] - first[0], second[1] - second[0], third[1] - third[0])
    result = np.empty((size[2], size[1], size[0], header.listed), header.dtype.newbyteorder("="))
    num_bytes = int(np.prod(plane)) * header.dtype.itemsize
    with reading(header.path), _numbers(header) as stream:
        stream.seek(third[0] * num_bytes, 1)
        for target in result:
            block = _exactly(stream, num_bytes)
            numbers = np.frombuffer(block, header.dtype).reshape(plane, order="F")
            target[:] = numbers[:, window[0], window[1]].T
    return result.T


@contextmanager
def _numbers(header: NrrdHeader) -> Iterator[BufferedIOBase]:
    """Open the file where its numbers start, unpacked."""
    with header.data_path.open("rb") as stream:
        stream.seek(header.offset)
        if not header.compressed:
            yield stream
            return
        with gzip.GzipFile(fileobj=stream) as unpacked:
            yield unpacked


def _exactly(stream: BufferedIOBase, num_bytes: int) -> bytes:
    block = stream.read(num_bytes)
    if len(block) < num_bytes:
        raise EOFError("the file ends before its last voxel")
    return block
