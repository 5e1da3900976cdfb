"""Labels that travel with tiles: a class per pixel burned on the tile's grid, a class per tile.

Dense labels come from polygons, from a label raster (one file, or one per scene in a folder) or
from an array on the scene's grid. Class labels come from a table or from folder names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ....core.errors import UsageError
from ....datasets.errors import DataError
from ....datasets.geometry import Geometry
from ....datasets.samples import UNLABELLED
from .polygons import PolygonLayer, read_polygons

_POLYGONS = (".geojson", ".json", ".gpkg", ".shp")
_RASTERS = (".tif", ".tiff", ".png")
_ARRAY_PREFIX = "npz:"


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """Where dense labels come from and what their values mean.

    Attributes:
        kind: "polygons", "raster" or "array".
        path: file, or folder with one raster per scene; "" takes the scene's own npz file.
        key: name of the array in an npz file.
        attribute: attribute of polygons that holds the class.
        values: value of each class in a raster or array.
        classes: names; a tile stores the position of a name in this list.
    """

    kind: str
    path: str
    classes: tuple[str, ...]
    key: str | None = None
    attribute: str | None = None
    values: tuple[int, ...] = ()


def plan_labels(source: str, attribute: str | None, pairs: Sequence[str]) -> LabelPlan:
    """Find out what kind of dense labels a source holds and which classes there are.

    Args:
        source: polygon file, label raster, folder of label rasters named like the scenes, .npy
            array, or "npz:KEY" for an array inside each scene's own npz file.
        attribute: attribute of polygons with the class, None to guess.
        pairs: "VALUE=NAME" for rasters and arrays; values that are not listed are unlabelled.

    Raises:
        UsageError: for a source that does not exist or whose values have no names.
    """
    if source.startswith(_ARRAY_PREFIX):
        return _valued("array", "", pairs, source, key=source.removeprefix(_ARRAY_PREFIX))
    path = Path(source).resolve()
    if not path.exists():
        raise UsageError("masks", f"{source} does not exist", "check the path")
    if path.suffix.lower() in _POLYGONS:
        classes = read_polygons(path, attribute).classes()
        return LabelPlan(kind="polygons", path=str(path), classes=classes, attribute=attribute)
    if path.suffix.lower() in (".npy", ".npz"):
        return _valued("array", str(path), pairs, source)
    if path.is_dir() or path.suffix.lower() in _RASTERS:
        return _valued("raster", str(path), pairs or _tagged_classes(path), source)
    raise UsageError("masks", f"{source} is of no known kind", "see `mimkit curate --help`")


def _valued(
    kind: str, path: str, pairs: Sequence[str], source: str, key: str | None = None
) -> LabelPlan:
    values, names = [], []
    for pair in pairs:
        value, separator, name = pair.partition("=")
        if not separator or not value.strip().isdigit() or int(value) >= UNLABELLED or not name:
            raise UsageError("mask_classes", f"{pair!r} is not VALUE=NAME", "write 1=water, ...")
        values.append(int(value))
        names.append(name.strip())
    if not names:
        reason = f"the values of {source} have no names"
        raise UsageError("mask_classes", reason, "list them, for example 0=land 1=water")
    return LabelPlan(kind=kind, path=path, classes=tuple(names), key=key, values=tuple(values))


def _tagged_classes(path: Path) -> list[str]:
    """Return "VALUE=NAME" pairs from the tag `classes` (JSON) of a label raster."""
    import rasterio

    files = sorted(p for p in path.iterdir() if p.suffix.lower() in _RASTERS) or [path]
    if path.is_dir() and files == [path]:
        raise UsageError("masks", f"{path} holds no label raster", "name the folder that does")
    with rasterio.open(files[0]) as dataset:
        text = dataset.tags().get("classes", "{}")
    return [f"{value}={name}" for value, name in sorted(json.loads(text).items())]


def mask_files(plan: LabelPlan | None) -> frozenset[Path]:
    """Return the files that hold labels and are therefore no scenes."""
    if plan is None or not plan.path:
        return frozenset()
    path = Path(plan.path)
    return frozenset(p.resolve() for p in path.rglob("*")) if path.is_dir() else frozenset([path])


class SceneLabels:
    """Dense labels of one scene.

    Args:
        plan: where labels come from.
        uri: file or product of the scene.
        geometry: position and size of the scene.
    """

    def __init__(self, plan: LabelPlan, uri: str, geometry: Geometry) -> None:
        path = uri.partition("#")[0]  # a date of an array has the labels of the array
        self.plan, self.geometry = plan, geometry
        self._codes = np.full(256, UNLABELLED, np.uint8)
        self._codes[list(plan.values)] = np.arange(len(plan.values), dtype=np.uint8)
        self._shapes: list[tuple[dict[str, Any], int, tuple[float, ...]]] = []
        self._raster: Path | None = None
        self._array: np.ndarray | None = None
        if plan.kind == "polygons":
            self._shapes = _scene_shapes(_layer(plan.path, plan.attribute), plan, geometry)
        elif plan.kind == "raster":
            self._raster = _raster_of(Path(plan.path), path)
        else:
            self._array = _array(plan.path or path, plan.key, geometry)

    def burn(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Return the labels of a window.

        Returns:
            (height, width) uint8, position in the classes or 255 for unlabelled.
        """
        if self._array is not None:
            return _window(self._codes[self._array], row, col, height, width)
        if self._raster is not None:
            return self._codes[self._read_raster(self._raster, row, col, height, width)]
        return self._burn_polygons(self.geometry.window(row, col, height, width))

    def share(self, row: int, col: int, height: int, width: int) -> float:
        """Return the share of a window's pixels that are labelled."""
        return float((self.burn(row, col, height, width) != UNLABELLED).mean())

    def _burn_polygons(self, tile: Geometry) -> np.ndarray:
        from affine import Affine
        from rasterio.features import rasterize

        left, bottom, right, top = tile.bounds()
        near = [
            (shape, code)
            for shape, code, (west, south, east, north) in self._shapes
            if west < right and east > left and south < top and north > bottom
        ]
        size = (tile.height, tile.width)
        if not near:
            return np.full(size, UNLABELLED, np.uint8)
        transform = Affine(*tile.transform)
        return rasterize(near, size, fill=UNLABELLED, transform=transform, dtype="uint8")

    def _read_raster(self, path: Path, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Read a label raster on the tile's grid; raster values beyond 255 count as 255."""
        import rasterio
        from affine import Affine
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        tile = self.geometry.window(row, col, height, width)
        with rasterio.open(path) as dataset:
            same_size = dataset.shape == (self.geometry.height, self.geometry.width)
            if dataset.crs is None or tile.crs is None:
                if not same_size:
                    reason = f"{dataset.shape} pixels and no position, the scene has another size"
                    raise DataError(path, reason, "write the labels on the scene's grid")
                return _window(_bytes(dataset.read(1)), row, col, height, width)
            with WarpedVRT(
                dataset,
                crs=tile.crs,
                transform=Affine(*tile.transform),
                height=height,
                width=width,
                resampling=Resampling.nearest,
                nodata=None if dataset.nodata is None else dataset.nodata,
                add_alpha=dataset.nodata is None,
            ) as view:
                inside = view.dataset_mask() > 0
                return np.where(inside, _bytes(view.read(1)), UNLABELLED)


def _bytes(values: np.ndarray) -> np.ndarray:
    """Return label values as uint8; what does not fit becomes 255."""
    fits = (values >= 0) & (values < UNLABELLED)
    return np.where(fits, values, UNLABELLED).astype(np.uint8)


def _window(array: np.ndarray, row: int, col: int, height: int, width: int) -> np.ndarray:
    """Cut a window; what lies beyond the array is unlabelled."""
    cut = array[row : row + height, col : col + width]
    result = np.full((height, width), UNLABELLED, np.uint8)
    result[: cut.shape[0], : cut.shape[1]] = cut
    return result


@lru_cache(maxsize=4)
def _layer(path: str, attribute: str | None) -> PolygonLayer:
    return read_polygons(Path(path), attribute)


def _scene_shapes(
    layer: PolygonLayer, plan: LabelPlan, geometry: Geometry
) -> list[tuple[dict[str, Any], int, tuple[float, ...]]]:
    """Return polygons in the scene's coordinates: shape, position of the class, bounds."""
    from rasterio.warp import transform_geom

    if geometry.crs is None:
        remedy = "polygons need a scene with a position; give the labels as an array or raster"
        raise DataError(plan.path, "polygons cannot be placed on a scene without CRS", remedy)
    shapes = []
    for polygon in layer.polygons:
        shape: Any = {"type": "Polygon", "coordinates": [list(ring) for ring in polygon.rings]}
        if layer.crs is not None and layer.crs != geometry.crs:
            shape = transform_geom(layer.crs, geometry.crs, shape)
        points = np.array([p for ring in shape["coordinates"] for p in ring], float)[:, :2]
        bounds = (*points.min(axis=0), *points.max(axis=0))
        shapes.append((shape, plan.classes.index(polygon.name), bounds))
    return shapes


def _raster_of(path: Path, scene: str) -> Path | None:
    """Return the label raster of a scene, None when a folder has none of its name."""
    if path.is_file():
        return path
    named = [p for p in sorted(path.rglob(f"{Path(scene).stem}.*")) if p.suffix.lower() in _RASTERS]
    return named[0] if named else None


@lru_cache(maxsize=2)
def _load(path: str, key: str | None) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        return np.asarray(loaded if isinstance(loaded, np.ndarray) else loaded[key or ""])
    except (OSError, ValueError, KeyError) as error:
        remedy = "name an array of the file, as in npz:KEY, or write it again without pickles"
        raise DataError(path, f"labels {key or ''} cannot be read ({error})", remedy) from error


def _array(path: str, key: str | None, geometry: Geometry) -> np.ndarray:
    array = np.squeeze(_load(path, key))
    expected = (geometry.height, geometry.width)
    if array.shape != expected:
        reason = f"labels of shape {array.shape} on a scene of {expected}"
        raise DataError(path, reason, "labels must be one value per pixel of the scene")
    return _bytes(array)
