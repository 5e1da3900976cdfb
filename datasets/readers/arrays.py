"""Scenes in .npy and .npz files."""

from __future__ import annotations

import math
import re
import threading
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .array_spec import ArraySpec, find_spec, locate
from .scene import Scene, SceneInfo, band_places

ARRAY_SUFFIXES = (".npy", ".npz")
_URI = re.compile(r"^(?P<path>.*\.np[yz])(?:#t=(?P<time>\d+))?$", re.IGNORECASE)
_MAX_BYTES = 2 << 30  # of an array in a compressed file, which can only be read as a whole


def is_array(uri: str) -> bool:
    """Return whether a path or uri is that of an array file."""
    return _URI.match(uri) is not None


def split_uri(uri: str) -> tuple[Path, int | None]:
    """Take "scene.npy#t=3" apart into path and date."""
    found = _URI.match(uri)
    if found is None:
        return Path(uri), None
    return Path(found["path"]), None if found["time"] is None else int(found["time"])


def num_times(path: Path, fallback: ArraySpec | str | Path | None = None) -> int | None:
    """Return the number of dates of an array, None without such an axis or when it is broken."""
    try:
        spec = find_spec(path, fallback)
        return _Stored(path, spec.array).shape[0] if "t" in spec.layout else None
    except DataError:
        return None


def open_array(
    uri: str,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    spec: ArraySpec | str | Path | None = None,
) -> Scene:
    """Open an array as a scene.

    Args:
        uri: .npy or .npz file; "#t=3" after it chooses the fourth date.
        bands: names of the bands wanted, in order; None takes all.
        nodata: number that means "no data" instead of the described one.
        spec: description, or JSON file with it, for an array without a JSON file of its own.

    Raises:
        DataError: when it cannot be read or is not as described.
    """
    path, time = split_uri(uri)
    spec = find_spec(path, spec)
    stored = _Stored(path, spec.array)
    axes = _axes(path, spec, stored)
    time = _chosen_time(path, axes.get("t"), time)
    info = _info(uri, path, spec, axes, stored.dtype, nodata, time)
    places = None if bands is None else band_places(uri, info.bands, bands)
    return Scene(
        info if bands is None else info.select(bands),
        ArrayPixels(stored, spec.layout, time),
        places,
    )


def _axes(path: Path, spec: ArraySpec, stored: _Stored) -> dict[str, int]:
    if len(stored.shape) != len(spec.layout) or 0 in stored.shape:
        reason = f"has shape {stored.shape}, which is not {spec.layout}"
        raise DataError(path, reason, "correct the layout in its description")
    return dict(zip(spec.layout, stored.shape, strict=True))


def _chosen_time(path: Path, count: int | None, time: int | None) -> int | None:
    if count is None and time is not None:
        raise DataError(path, "has no axis of dates", "leave out #t=")
    if count is None or (time is None and count == 1):
        return None if count is None else 0
    if time is None or time >= count:
        remedy = f"choose one, as in {path.name}#t={count - 1}"
        raise DataError(path, f"holds {count} dates, #t=0 to #t={count - 1}", remedy)
    return time


def _info(
    uri: str,
    path: Path,
    spec: ArraySpec,
    axes: dict[str, int],
    dtype: np.dtype,
    nodata: float | None,
    time: int | None,
) -> SceneInfo:
    num_bands = axes.get("c", 1)
    names = spec.bands or tuple(f"band_{i}" for i in range(1, num_bands + 1))
    if len(names) != num_bands:
        reason = f"has {num_bands} bands, its description names {len(names)}"
        raise DataError(path, reason, "correct bands or layout in its description")
    number = spec.nodata if nodata is None else nodata
    named = time is not None and time < len(spec.times)
    return SceneInfo(
        uri=uri,
        bands=names,
        dtype=dtype.name,
        geometry=locate(path, spec, axes["h"], axes["w"]),
        nodata=(None if number is None else float(number),) * num_bands,
        scale=_per_band(path, "scale", spec.scale, num_bands),
        offset=_per_band(path, "offset", spec.offset, num_bands),
        tags={"TIME": spec.times[time]} if named and time is not None else {},
    )


def _per_band(
    path: Path, name: str, value: float | tuple[float, ...], num_bands: int
) -> tuple[float, ...]:
    numbers = value if isinstance(value, tuple) else (value,) * num_bands
    if len(numbers) != num_bands:
        reason = f"has {num_bands} bands, its description {len(numbers)} numbers as {name}"
        raise DataError(path, reason, "give one for all or one for each")
    return tuple(float(number) for number in numbers)


class ArrayPixels:
    """Pixels of an array on disk.

    Args:
        stored: the array.
        layout: order of its axes.
        time: which date, None without such an axis.
    """

    def __init__(self, stored: _Stored, layout: str, time: int | None) -> None:
        self._stored, self._layout, self._time = stored, layout, time

    def read(
        self, row: int, col: int, height: int, width: int, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Read a window; see `PixelSource.read`."""
        array = self._stored.array()
        axes = self._layout
        if self._time is not None:
            array, axes = array[self._time], axes[1:]
        inside = slice(row, row + height), slice(col, col + width)
        if axes == "hw":
            cut = array[inside][None][list(bands)]
        elif axes == "chw":
            cut = array[:, *inside][list(bands)]
        else:
            cut = np.moveaxis(array[inside], -1, 0)[list(bands)]
        return np.ascontiguousarray(cut, dtype=self._stored.dtype), None

    def close(self) -> None:
        """Let go of the array."""
        self._stored.close()


class _Stored:
    """An array on disk whose head has been read: .npy is mapped, .npz is read when asked for."""

    def __init__(self, path: Path, name: str | None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._member: str | None = None
        self._array: np.ndarray | None = None
        try:
            if path.suffix.lower() == ".npz":
                self.shape, dtype = self._look_into(name)
            else:
                self._array = np.lib.format.open_memmap(path, mode="r")
                self.shape, dtype = self._array.shape, self._array.dtype
        except FileNotFoundError as error:
            raise DataError(path, "does not exist", "check the path") from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _broken(path, error) from error
        if dtype.kind not in "uif":
            raise DataError(path, f"holds {dtype} instead of real numbers", "save real numbers")
        self.dtype = dtype.newbyteorder("=")

    def _look_into(self, name: str | None) -> tuple[tuple[int, ...], np.dtype]:
        with zipfile.ZipFile(self._path) as archive:
            names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
            if name is None and len(names) == 1:
                name = names[0]
            if name not in names:
                asked = "does not say which array" if name is None else f"has no array {name!r}"
                have = ", ".join(names) or "none"
                raise DataError(self._path, asked, f'set "array" in its description; has {have}')
            self._member = f"{name}.npy"
            with archive.open(self._member) as stream:
                shape, dtype = _read_head(stream)
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes > _MAX_BYTES:
            reason = f"array {name} takes {num_bytes / 2**30:.1f} GiB and can only be read whole"
            raise DataError(self._path, reason, "save it as .npy, which is read in parts")
        return shape, dtype

    def array(self) -> np.ndarray:
        """Return the array.

        Raises:
            DataError: when a compressed one cannot be read to its end.
        """
        with self._lock:
            if self._array is None:
                self._array = self._unpack()
            return self._array

    def _unpack(self) -> np.ndarray:
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(self._member or "") as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise _broken(self._path, error) from error

    def close(self) -> None:
        with self._lock:
            self._array = None


def _read_head(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    return shape, dtype


def _broken(path: Path, error: Exception) -> DataError:
    text = str(error) or type(error).__name__
    if "pickle" in text.lower() or "object" in text.lower():
        return DataError(path, "holds Python objects, which may run code", "save numbers only")
    remedy = "write it again with numpy.save or numpy.savez"
    return DataError(path, f"cannot be read ({text[:150]})", remedy)
