"""What every scene can do, whatever its files are: read a window, say where it has data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np

from ..errors import DataError
from ..geometry import Geometry


@dataclass(frozen=True)
class Tile:
    """A window of a scene.

    Attributes:
        pixels: (c, h, w) stored numbers in the scene's number type; 0 beyond the scene's edges.
        valid: (h, w) bool, True where there is data.
        geometry: position of the window.
    """

    pixels: np.ndarray
    valid: np.ndarray
    geometry: Geometry


@dataclass(frozen=True, kw_only=True)
class SceneInfo:
    """What is known about a scene before a pixel is read.

    Attributes:
        uri: its file, or the folder and name of a product of several files.
        bands: distinct names.
        dtype: number type, in numpy's words.
        geometry: position and size.
        nodata: stored number that means "no data", for each band; None when none does.
        scale: factor to physical units that the file states, for each band.
        offset: summand after scaling, for each band.
        tags: further words of the file.
    """

    uri: str
    bands: tuple[str, ...]
    dtype: str
    geometry: Geometry
    nodata: tuple[float | None, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    tags: Mapping[str, str]

    def select(self, bands: Sequence[str]) -> SceneInfo:
        """Return the same scene with some of its bands, in the order asked for.

        Raises:
            DataError: when it has no such band.
        """
        places = band_places(self.uri, self.bands, bands)
        return replace(
            self,
            bands=tuple(bands),
            nodata=tuple(self.nodata[i] for i in places),
            scale=tuple(self.scale[i] for i in places),
            offset=tuple(self.offset[i] for i in places),
        )


@runtime_checkable
class PixelSource(Protocol):
    """Where the pixels of a scene come from; safe to use from several threads."""

    def read(
        self, row: int, col: int, height: int, width: int, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Read a window that lies inside the scene.

        Args:
            row: first row.
            col: first column.
            height: number of rows, at least 1.
            width: number of columns, at least 1.
            bands: positions of bands, in the order wanted.

        Returns:
            Pixels (c, height, width) in the scene's number type, and (height, width) bool that is
            False where the file says by other means than a number that there is no data.

        Raises:
            DataError: when the file cannot be read there.
        """
        ...

    def close(self) -> None:
        """Close all files."""
        ...


class Scene:
    """An open scene; use it in a `with` statement. Pixels are read when they are asked for.

    A pixel is invalid where the file masks it, where a band is not a finite number, and where bands
    hold the nodata number: one band is enough, except for 0 and for the largest number of an
    unsigned type, which are also measured (dark, saturated) and count only when all bands hold it.

    Args:
        info: what is known about it.
        source: where its pixels come from.
        places: for each band of `info` its position in `source`; None means all in order.

    Attributes:
        uri: its file, or the folder and name of a product of several files.
        bands: names.
        dtype: number type, in numpy's words.
        geometry: position and size.
        nodata: stored number that means "no data", None when none does.
        scale: factor to physical units that the file states, for each band (1.0 where it does not).
        offset: summand after scaling, for each band.
        tags: further words of the file.
    """

    def __init__(
        self, info: SceneInfo, source: PixelSource, places: Sequence[int] | None = None
    ) -> None:
        self.info = info
        self.uri, self.bands, self.dtype = info.uri, info.bands, info.dtype
        self.geometry = info.geometry
        self.nodata = next((number for number in info.nodata if number is not None), None)
        self.scale, self.offset, self.tags = info.scale, info.offset, dict(info.tags)
        self._source, self._closed = source, False
        self._places = tuple(range(len(info.bands)) if places is None else places)

    def read(
        self, row: int, col: int, height: int, width: int, *, bands: Sequence[str] | None = None
    ) -> Tile:
        """Read a window, which may reach over the edges or lie beyond them.

        Args:
            row: first row, may be negative.
            col: first column, may be negative.
            height: number of rows.
            width: number of columns.
            bands: names of bands; None reads all.

        Returns:
            The window; what lies beyond the edges is 0 and invalid.

        Raises:
            DataError: when there is no such band, or the file cannot be read there.
            ValueError: for a window without pixels, or when the scene is closed.
        """
        if self._closed:
            raise ValueError(f"{self.uri} is closed")
        if height < 1 or width < 1:
            raise ValueError(f"a window of {height} x {width} pixels")
        chosen = (
            range(len(self.bands)) if bands is None else band_places(self.uri, self.bands, bands)
        )
        top, left = max(row, 0), max(col, 0)
        rows = min(row + height, self.geometry.height) - top
        cols = min(col + width, self.geometry.width) - left
        geometry = self.geometry.window(row, col, height, width)
        if (rows, cols) == (height, width):
            return Tile(*self._inside(top, left, rows, cols, chosen), geometry)
        pixels = np.zeros((len(chosen), height, width), self.dtype)
        valid = np.zeros((height, width), np.bool_)
        if rows > 0 and cols > 0:
            inside = slice(top - row, top - row + rows), slice(left - col, left - col + cols)
            pixels[:, *inside], valid[inside] = self._inside(top, left, rows, cols, chosen)
        return Tile(pixels, valid, geometry)

    def _inside(
        self, row: int, col: int, height: int, width: int, chosen: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        places = [self._places[i] for i in chosen]
        pixels, mask = self._source.read(row, col, height, width, places)
        valid = data_mask(pixels, [self.info.nodata[i] for i in chosen])
        return pixels, valid if mask is None else valid & mask

    def close(self) -> None:
        """Close all files; reading is over."""
        self._closed = True
        self._source.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        size = f"{len(self.bands)} x {self.geometry.height} x {self.geometry.width} {self.dtype}"
        return f"Scene({self.uri!r}, {size})"


def band_places(uri: str, have: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the positions of bands by name.

    Raises:
        DataError: when one is not there.
    """
    for name in wanted:
        if name not in have:
            raise DataError(uri, f"has no band {name!r}", f"its bands are {', '.join(have)}")
    return [have.index(name) for name in wanted]


def data_mask(pixels: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray:
    """Return where pixels hold data, judged by their numbers alone.

    Args:
        pixels: (c, h, w) of any real number type.
        nodata: number that means "no data" for each band.

    Returns:
        (h, w) bool by the rule that `Scene` states.
    """
    real = pixels.dtype.kind == "f"
    valid = np.ones(pixels.shape[1:], np.bool_)
    if real:
        valid &= np.isfinite(pixels).all(axis=0)
    possible = [i for i, number in enumerate(nodata) if can_be_measured(number, pixels.dtype)]
    for i, number in enumerate(nodata):
        if number is not None and i not in possible:
            valid &= pixels[i] != number
    if possible:
        some = np.zeros_like(valid)
        for i in possible:
            some |= pixels[i] != nodata[i]
        valid &= some
    return valid


def can_be_measured(nodata: float | None, dtype: np.dtype) -> bool:
    """Return whether a nodata number may also be a measurement: dark, or saturated."""
    if nodata is None or math.isnan(nodata):
        return False
    return nodata == 0 or (dtype.kind == "u" and nodata == np.iinfo(dtype).max)
