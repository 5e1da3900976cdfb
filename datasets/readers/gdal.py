"""Image files that rasterio opens: GeoTIFF, JPEG, PNG, JPEG 2000; one or several for a scene."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from ..errors import DataError
from ..geometry import Geometry
from .grids import GridMap, bilinear, finest, relate
from .names import name_bands, name_files
from .products import product_name, product_tags
from .scene import Scene, SceneInfo, band_places

_DRIVERS = ("GTiff", "COG", "JPEG", "PNG", "JP2OpenJPEG", "HFA")
CACHE_BYTES = 256 << 20
"""Memory for blocks of files; GDAL's default is a twentieth of a machine, per process."""
_WHOLE = ("JPEG", "PNG")  # decoded from the top, so that a window costs what lies above it
_MAX_WHOLE_PIXELS = 1 << 28
_MAX_BLOCK_BYTES = 1 << 30
_COLOURS = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}
_REWRITE = "write it again, or leave it out"

_Window = tuple[tuple[int, int], tuple[int, int]]  # (first, stop) of rows and columns

_opening = threading.Lock()  # filters of warnings belong to the whole process


@contextmanager
def gdal_options(**options: Any) -> Iterator[None]:
    """Set options of GDAL for a block, and the one memory for blocks that all of us share."""
    if "GDAL_CACHEMAX" not in os.environ:
        options["GDAL_CACHEMAX"] = CACHE_BYTES  # rasterio hands an integer on as bytes
    with rasterio.Env(**options):
        yield


def _gdal() -> AbstractContextManager[None]:
    """Set what GDAL needs to be quick in large folders and strict about broken files."""
    return gdal_options(
        GDAL_DISABLE_READDIR_ON_OPEN="TRUE",  # companions are asked for by name
        GDAL_ERROR_ON_LIBJPEG_WARNING="TRUE",  # a truncated JPEG is grey otherwise
    )


@dataclass(frozen=True)
class _File:
    """An open file of a scene.

    Attributes:
        dataset: rasterio's handle.
        path: what was opened.
        geometry: its own grid.
        indexes: numbers of its bands, counted from 1, without transparency.
        masked: whether it has a mask of its own, or transparency.
    """

    dataset: Any
    path: str
    geometry: Geometry
    indexes: tuple[int, ...]
    masked: bool


@dataclass(frozen=True)
class _Place:
    """Where one band of a scene is: position of its file, number of the band in it."""

    file: int
    index: int


class RasterFiles:
    """Pixels of one or several files on one grid.

    One handle per file and one reader at a time: threads that share a scene take turns.

    Args:
        files: open files.
        maps: for each file how to get from the scene's grid to its own, None where it is the same.
        places: where each band is.
        nodata: number that means "no data" for each band.
        dtype: number type of the scene.
    """

    def __init__(
        self,
        files: Sequence[_File],
        maps: Sequence[GridMap | None],
        places: Sequence[_Place],
        nodata: Sequence[float | None],
        dtype: str,
    ) -> None:
        self._files, self._maps, self._places = files, maps, places
        self._nodata, self._dtype = nodata, np.dtype(dtype)
        self._lock = threading.Lock()

    def read(
        self, row: int, col: int, height: int, width: int, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Read a window; see `PixelSource.read`."""
        pixels = np.empty((len(bands), height, width), self._dtype)
        valid: np.ndarray | None = None
        with self._lock, _gdal():
            for number in dict.fromkeys(self._places[band].file for band in bands):
                mine = [i for i, band in enumerate(bands) if self._places[band].file == number]
                chosen = [bands[i] for i in mine]
                found = self._read_file(number, row, col, height, width, chosen)
                if len(mine) == len(bands):
                    return found
                pixels[mine], mask = found
                if mask is not None:
                    valid = mask if valid is None else valid & mask
        return pixels, valid

    def _read_file(
        self, number: int, row: int, col: int, height: int, width: int, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        file, grid = self._files[number], self._maps[number]
        indexes = [self._places[band].index for band in bands]
        if grid is None:
            window = (row, row + height), (col, col + width)
            return _read_window(file, window, indexes, self._dtype)
        rows, cols = grid.rows.samples(row, height), grid.cols.samples(col, width)
        window = (rows.first, rows.stop), (cols.first, cols.stop)
        pixels, mask = _read_window(file, window, indexes, self._dtype)
        nodata = [self._nodata[band] for band in bands]
        known = np.stack([_known(*pair) for pair in zip(pixels, nodata, strict=True)])
        if mask is not None:
            known &= mask
        values, there = bilinear(pixels, known, rows, cols)
        for i, number_of_none in enumerate(nodata):
            empty = np.nan if self._dtype.kind == "f" else 0
            values[i][~there[i]] = empty if number_of_none is None else number_of_none
        return values, None if mask is None else np.asarray(there.all(axis=0))

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for file in self._files:
                file.dataset.close()


def _known(pixels: np.ndarray, nodata: float | None) -> np.ndarray:
    known = np.isfinite(pixels) if pixels.dtype.kind == "f" else np.ones(pixels.shape, np.bool_)
    return known if nodata is None else known & (pixels != nodata)


def _read_window(
    file: _File, window: _Window, indexes: Sequence[int], dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        pixels = file.dataset.read(indexes, window=window, out_dtype=dtype)
        mask = file.dataset.read_masks(indexes[0], window=window) > 0 if file.masked else None
    except (RasterioError, OSError, ValueError) as error:
        raise DataError(
            file.path, f"cannot be read to its end ({_why(error)})", _REWRITE
        ) from error
    return pixels, mask


def open_files(
    paths: Sequence[str], bands: Sequence[str] | None = None, nodata: float | None = None
) -> Scene:
    """Open image files as one scene.

    Args:
        paths: one file; or several of the same ground, whose bands are put together on the finest
            of their grids.
        bands: names of the bands wanted, in order; None takes all. The grid is the finest of the
            files that hold them.
        nodata: number that means "no data" instead of the one that the files state.

    Raises:
        DataError: when a file cannot be opened, a band is missing, or files do not fit together.
    """
    files: list[_File] = []
    try:
        for path in paths:
            files.append(_open_file(path))
        return _assemble(files, bands, nodata)
    except BaseException:
        for file in files:
            file.dataset.close()
        raise


def _assemble(files: list[_File], bands: Sequence[str] | None, nodata: float | None) -> Scene:
    uri, names = _uri(files), _band_names(files)
    places = [_Place(i, index) for i, file in enumerate(files) for index in file.indexes]
    wanted = range(len(names)) if bands is None else band_places(uri, names, bands)
    used = sorted({places[i].file for i in wanted})
    for i, file in enumerate(files):
        if i not in used:
            file.dataset.close()
    fine = finest([files[i].geometry for i in used])
    first = next(files[i] for i in used if files[i].geometry is fine)
    maps: list[GridMap | None] = [None] * len(files)
    for i in used:
        maps[i] = relate(fine, files[i].geometry, files[i].path, first.path)
    chosen = [places[i] for i in wanted]
    dtype = np.result_type(*(_of_band(files, place, "dtypes") for place in chosen)).name
    stated = tuple(_nodata(_of_band(files, place, "nodatavals"), nodata) for place in chosen)
    info = SceneInfo(
        uri=uri,
        bands=tuple(names[i] for i in wanted),
        dtype=dtype,
        geometry=fine,
        nodata=stated,
        scale=tuple(float(_of_band(files, place, "scales")) for place in chosen),
        offset=tuple(float(_of_band(files, place, "offsets")) for place in chosen),
        tags=_tags(files, used),
    )
    return Scene(info, RasterFiles(files, maps, chosen, stated, dtype))


def _tags(files: Sequence[_File], used: Sequence[int]) -> dict[str, str]:
    tags = {k: v for i in reversed(used) for k, v in files[i].dataset.tags().items()}
    return tags | product_tags(Path(files[0].path)) if len(files) > 1 else tags


def _of_band(files: Sequence[_File], place: _Place, field: str) -> Any:
    return getattr(files[place.file].dataset, field)[place.index - 1]


def _nodata(stated: float | None, override: float | None) -> float | None:
    number = stated if override is None else override
    return None if number is None else float(number)


def _uri(files: Sequence[_File]) -> str:
    return files[0].path if len(files) == 1 else product_name([Path(file.path) for file in files])


def _band_names(files: Sequence[_File]) -> tuple[str, ...]:
    words = [[_description(file, index) for index in file.indexes] for file in files]
    paths = [PurePosixPath(file.path) for file in files]
    if len(files) == 1:
        return name_bands(words[0], paths[0])
    if all(len(file.indexes) == 1 for file in files):
        names = name_files([texts[0] for texts in words], paths)
    else:
        pairs = zip(words, paths, strict=True)
        names = tuple(name for texts, path in pairs for name in name_bands(texts, path))
    for name in names:
        if names.count(name) > 1:
            remedy = "give its bands descriptions, or read the files as separate scenes"
            raise DataError(_uri(files), f"two bands are called {name!r}", remedy)
    return names


def _description(file: _File, index: int) -> str | None:
    kind = file.dataset.colorinterp[index - 1]
    if kind == ColorInterp.palette:
        return "palette_index"
    # A TIFF of three bands is called red, green, blue by default, whatever they are.
    colour = _COLOURS.get(kind) if file.dataset.driver in _WHOLE else None
    return file.dataset.descriptions[index - 1] or colour


def _open_file(path: str) -> _File:
    if "://" not in path:
        _check_file(Path(path))
    try:
        with _opening, warnings.catch_warnings(), _gdal():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path)
            try:
                return _described(dataset, path)
            except BaseException:
                dataset.close()
                raise
    except (RasterioError, OSError, ValueError) as error:
        raise DataError(path, f"cannot be opened as an image ({_why(error)})", _REWRITE) from error


def _described(dataset: Any, path: str) -> _File:
    _check_kind(dataset, path)
    colours = dataset.colorinterp
    indexes = tuple(
        i for i, kind in zip(dataset.indexes, colours, strict=True) if kind != ColorInterp.alpha
    )
    if not indexes:
        raise DataError(path, "holds no bands", _REWRITE)
    masked = any(MaskFlags.per_dataset in flags for flags in dataset.mask_flag_enums)
    return _File(dataset, path, _geometry(dataset), indexes, masked)


def _geometry(dataset: Any) -> Geometry:
    crs, transform = dataset.crs, dataset.transform
    if not crs or transform.is_identity or not (crs.is_geographic or crs.is_projected):
        crs = None  # without a place on Earth there are no coordinates to speak of
    numbers = tuple(float(number) for number in tuple(transform)[:6])
    a, b, c, d, e, f = numbers
    return Geometry(crs and crs.to_string(), (a, b, c, d, e, f), dataset.height, dataset.width)


def _check_file(path: Path) -> None:
    """Refuse what GDAL words badly or does not notice."""
    try:
        if path.is_dir():
            raise DataError(path, "is a folder", "name its files, or let mimkit look for scenes")
        if not path.stat().st_size:
            raise DataError(path, "is empty", _REWRITE)
        if path.suffix.lower() == ".png":
            _check_png(path)
    except FileNotFoundError as error:
        raise DataError(path, "does not exist", "check the path") from error
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "check its rights") from error


def _check_png(path: Path) -> None:
    """Walk from chunk to chunk to the end: rows that are missing would be read as black."""
    with path.open("rb") as stream:
        if stream.read(8) != b"\x89PNG\r\n\x1a\n":
            raise DataError(path, "is no PNG image", _REWRITE)
        while len(head := stream.read(8)) == 8:
            if head[4:] == b"IEND":
                return
            stream.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    raise DataError(path, "cannot be read to its end (it is cut off)", _REWRITE)


def _check_kind(dataset: Any, path: str) -> None:
    if dataset.driver not in _DRIVERS:
        known = "GeoTIFF, JPEG, PNG, JPEG 2000, npy or npz"
        raise DataError(path, f"is of the kind {dataset.driver}", f"convert it to {known}")
    for dtype in dataset.dtypes:
        if dtype.startswith("complex") or np.dtype(dtype).kind not in "uif":
            raise DataError(path, f"holds {dtype} numbers", "write real numbers, one band each")
    pixels = dataset.height * dataset.width
    if dataset.driver in _WHOLE and pixels > _MAX_WHOLE_PIXELS:
        reason = f"claims {dataset.width} x {dataset.height} pixels in one piece"
        raise DataError(path, reason, "convert it to a tiled GeoTIFF")
    height, width = dataset.block_shapes[0]
    num_together = dataset.count if dataset.interleaving == "PIXEL" else 1
    block = height * width * num_together * np.dtype(dataset.dtypes[0]).itemsize
    if block > _MAX_BLOCK_BYTES:
        reason = f"is stored in blocks of {block / 2**30:.1f} GiB"
        raise DataError(path, reason, "convert it to a tiled GeoTIFF")


def _why(error: BaseException) -> str:
    """Return the innermost message without the path, which the reader sees anyway."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "errmsg", None) or error)
    return " ".join(text.split()).rstrip(".")[:200] or type(error).__name__
