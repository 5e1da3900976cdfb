"""Scenes: what a file or folder of images holds, and which sensor took it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UsageError
from ...datasets.errors import DataError
from ...datasets.readers.raster import Scene, SceneSource, discover_scenes, open_scene
from ...datasets.readers.scene import data_mask
from ...domains.satellite.sensors import Sensor, check_values, find_bands, guess_sensor
from ..progress import track
from .description import Description, Table

MAX_OPENED = 2000
"""Scenes of a folder that are opened."""

_SIDE = 256  # pixels of a window that is looked at
_PLACES = 3  # windows along each axis
_MAX_PROBLEMS = 20
_QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)


def describe_scenes(path: Path, spec: Path | None = None) -> Description | None:
    """Describe the scenes of a file or folder.

    Args:
        path: existing file or folder.
        spec: JSON file that says what is in an array without one of its own.

    Returns:
        None when a folder holds no scene.

    Raises:
        DataError: when a single scene cannot be read.
    """
    found = discover_scenes(path, spec=spec)
    if not found:
        return None
    if len(found) == 1 or path.is_file():
        return _one(path, found, spec)
    return _many(path, found, spec)


def _one(path: Path, found: list[SceneSource], spec: Path | None) -> Description:
    with open_scene(found[0], spec=spec) as scene:
        pixels, valid = look(scene)
        sensor, names, notes = recognise(scene, pixels, valid)
        if scene.nodata is None and sensor is not None:
            valid = valid & data_mask(pixels, [sensor.nodata] * len(pixels))
        facts = scene_facts(scene, sensor)
        facts["files"] = len(found[0].paths)
        if len(found) > 1:
            facts["dates"] = len(found)
            notes.append(f"values are those of the first of {len(found)} dates")
        facts["share with data"] = float(valid.mean())
        if not valid.any():
            notes.append("none of the pixels that were looked at holds data")
        if scene.geometry.crs is None:
            notes.append("no coordinate system: maps of it will have no position")
        table = band_table(scene, pixels, valid, sensor, names)
    size = f"{facts['width']} x {facts['height']} pixels of {len(scene.bands)} bands"
    taken_by = f" by {sensor.title}" if sensor else ""
    summary = f"{path}: a scene{taken_by}, {size} as {scene.dtype}."
    return Description("scene", path, summary, facts, (table,), tuple(notes))


def scene_facts(scene: Scene, sensor: Sensor | None) -> dict[str, Any]:
    """Return what there is one of in a scene."""
    geometry = scene.geometry
    centre = geometry.center_lonlat()
    facts: dict[str, Any] = {
        "bands": list(scene.bands),
        "dtype": scene.dtype,
        "width": geometry.width,
        "height": geometry.height,
        "crs": geometry.crs,
        "metres per pixel": geometry.gsd(),
        "centre (lon, lat)": None if centre is None else [round(x, 5) for x in centre],
        "nodata": scene.nodata if scene.nodata is not None or not sensor else sensor.nodata,
        "sensor": None if sensor is None else sensor.name,
    }
    if any((one, two) != (1.0, 0.0) for one, two in zip(scene.scale, scene.offset, strict=True)):
        facts |= {"scale": list(scene.scale), "offset": list(scene.offset)}
    return facts


def look(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Read a few windows spread over a scene.

    Returns:
        (c, n) stored numbers and (n,) bool, true where there is data.
    """
    height, width = scene.geometry.height, scene.geometry.width
    rows, cols = _starts(height), _starts(width)
    tiles = [
        scene.read(row, col, min(_SIDE, height), min(_SIDE, width)) for row in rows for col in cols
    ]
    pixels = [tile.pixels.reshape(len(scene.bands), -1) for tile in tiles]
    return np.concatenate(pixels, axis=1), np.concatenate([tile.valid.ravel() for tile in tiles])


def _starts(length: int) -> list[int]:
    last = max(length - _SIDE, 0)
    return sorted({round(i * last / (_PLACES - 1)) for i in range(_PLACES)})


def recognise(
    scene: Scene, pixels: np.ndarray, valid: np.ndarray
) -> tuple[Sensor | None, Mapping[str, str], list[str]]:
    """Guess the sensor of a scene.

    Returns:
        the sensor, names of its bands by name in the scene, and what speaks against it.
    """
    try:
        sensor = guess_sensor(scene.bands, scene.dtype, scene.uri)
        if sensor is None:
            return None, {}, ["the sensor is not clear; `mimkit curate` needs --sensor"]
        found = find_bands(sensor, scene.bands, scene.uri)
        places = [scene.bands.index(name) for name in found.values()]
        check_values(sensor, list(found), pixels[places], valid, scene.uri)
    except UsageError as error:
        return None, {}, [str(error)]
    except DataError as error:
        return None, {}, [f"the sensor is not clear: {error}"]
    return sensor, {name: own for own, name in found.items()}, []


def band_table(
    scene: Scene,
    pixels: np.ndarray,
    valid: np.ndarray,
    sensor: Sensor | None,
    names: Mapping[str, str],
) -> Table:
    """Return the values of each band, as stored and in the sensor's units."""
    columns = ("band", "min", "1 %", "median", "99 %", "max")
    known = {band.name: band for band in sensor.bands} if sensor else {}
    if known:
        columns += ("known as", "nm", f"median, {sensor.units if sensor else ''}")
    rows = []
    for place, name in enumerate(scene.bands):
        inside = pixels[place][valid].astype(np.float64)
        values = np.quantile(inside, _QUANTILES).tolist() if inside.size else [None] * 5
        row: tuple[Any, ...] = (name, *values)
        if known:
            band = known.get(names.get(name, ""))
            middle = values[2]
            physical = None if band is None or middle is None else middle * band.scale + band.offset
            row += (band and (band.common or band.name), band and band.wavelength, physical)
        rows.append(row)
    return Table("values as stored, from a few windows", columns, tuple(rows))


def _many(path: Path, found: list[SceneSource], spec: Path | None) -> Description:
    opened = found[:MAX_OPENED]
    kinds: Counter[tuple[Any, ...]] = Counter()
    example: dict[tuple[Any, ...], str] = {}
    problems: list[str] = []
    for source in track(opened, "scenes"):
        try:
            with open_scene(source, spec=spec) as scene:
                kind = _kind(scene)
                kinds[kind] += 1
                example.setdefault(kind, source.id)
        except DataError as error:
            problems.append(str(error))
    notes = []
    if len(found) > len(opened):
        notes.append(f"only the first {len(opened)} of them were opened")
    if len(kinds) > 1:
        notes.append("scenes differ; `mimkit curate` makes one store for each kind it can keep")
    if len(problems) > _MAX_PROBLEMS:
        more = len(problems) - _MAX_PROBLEMS
        problems = [*problems[:_MAX_PROBLEMS], f"{more} more scenes cannot be opened"]
    rows = tuple((number, *kind, example[kind]) for kind, number in kinds.most_common())
    columns = ("scenes", "bands", "dtype", "sensor", "crs", "width", "height", "for example")
    table = Table("kinds of scenes", columns, rows)
    facts = {"scenes": len(found), "files": sum(len(source.paths) for source in found)}
    of = f"{len(kinds)} kinds" if kinds else "which none can be opened"
    summary = f"{path}: a folder of {len(found)} scenes of {of}."
    return Description("scenes", path, summary, facts, (table,), tuple(notes), tuple(problems))


def _kind(scene: Scene) -> tuple[Any, ...]:
    try:
        sensor = guess_sensor(scene.bands, scene.dtype, scene.uri)
    except UsageError:
        sensor = None
    bands = ", ".join(scene.bands)
    geometry = scene.geometry
    name = None if sensor is None else sensor.name
    return bands, scene.dtype, name, geometry.crs, geometry.width, geometry.height
