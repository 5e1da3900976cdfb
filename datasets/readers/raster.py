"""Open a scene, whatever its files are, and find scenes in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .array_spec import ArraySpec
from .arrays import is_array, open_array
from .discover import SceneSource, discover_scenes
from .scene import Scene, Tile

__all__ = ["ArraySpec", "Scene", "SceneSource", "Tile", "discover_scenes", "open_scene"]


def open_scene(
    source: str | Path | SceneSource | Sequence[str | Path],
    *,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    spec: ArraySpec | str | Path | None = None,
) -> Scene:
    """Open a scene; only what describes it is read, pixels come window by window.

    Args:
        source: GeoTIFF, JPEG, PNG or JPEG 2000; several such files of the same ground, whose bands
            become one scene on the finest of their grids; a .npy or .npz array, with "#t=3" after
            its name for the fourth date; or what `discover_scenes` found.
        bands: names of the bands wanted, in order; None takes all. Files without any of them do not
            decide the grid.
        nodata: stored number that means "no data", instead of what the files say.
        spec: describes an array that has no JSON file of its own; also the path of such a file.

    Returns:
        The scene, to be used in a `with` statement. A missing coordinate system is None, no error.

    Raises:
        DataError: when a file cannot be opened, holds no real numbers, lacks a band, or does not
            fit the others.
    """
    uris = _uris(source)
    if any(map(is_array, uris)):
        if len(uris) > 1:
            raise DataError(uris[0], "an array is a scene of its own", "open one at a time")
        return open_array(uris[0], bands, nodata, spec)
    from .gdal import open_files  # rasterio takes a moment

    return open_files(uris, bands, nodata)


def _uris(source: str | Path | SceneSource | Sequence[str | Path]) -> list[str]:
    if isinstance(source, SceneSource):
        return list(source.uris)
    uris = [str(source)] if isinstance(source, str | Path) else [str(part) for part in source]
    if not uris:
        raise DataError("scene", "has no files", "name at least one")
    return uris
