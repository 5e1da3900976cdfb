"""Labelled polygons from GeoJSON, GeoPackage and Shapefile, read without a vector library.

Only what labels need: rings, one attribute and the coordinate system. Points and lines are left
out, because they have no area to burn.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....datasets.errors import DataError

Ring = list[tuple[float, float]]
Attributes = dict[str, Any]
Feature = tuple[Attributes, list[Ring]]

_ENVELOPE_BYTES = (0, 32, 48, 48, 64)  # by the indicator in the GeoPackage geometry header


@dataclass(frozen=True)
class LabelledPolygon:
    """An area of one class.

    Attributes:
        name: class.
        rings: outer rings and holes in any order; a point inside an odd number of rings is inside.
    """

    name: str
    rings: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class PolygonLayer:
    """Labelled polygons in one coordinate system.

    Attributes:
        crs: "EPSG:n", WKT or None when the file does not say.
        polygons: in the order of the file; where they overlap the later one counts.
    """

    crs: str | None
    polygons: tuple[LabelledPolygon, ...]

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, sorted."""
        return tuple(sorted({polygon.name for polygon in self.polygons}))


def read_polygons(path: Path, attribute: str | None = None) -> PolygonLayer:
    """Read labelled polygons.

    Args:
        path: GeoJSON, GeoPackage (first layer of features) or Shapefile.
        attribute: attribute with the class; None takes "class", "name" or "label".

    Raises:
        DataError: when the file cannot be read, has no polygons, or lacks the attribute.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        wanted = ", ".join(_READERS)
        raise DataError(path, "is not a known polygon format", f"use one of {wanted}")
    try:
        crs, features = reader(path)
    except DataError:
        raise
    except (OSError, ValueError, TypeError, LookupError, struct.error, sqlite3.Error) as error:
        reason = f"the polygons cannot be read ({error})"
        raise DataError(path, reason, "check that the file is complete") from error
    features = [(attributes, rings) for attributes, rings in features if rings]
    if not features:
        raise DataError(path, "has no polygons", "points and lines cannot be burned; draw areas")
    name = _attribute(path, features, attribute)
    polygons = tuple(
        LabelledPolygon(str(values[name]), tuple(tuple(ring) for ring in rings))
        for values, rings in features
        if values.get(name) is not None
    )
    if not polygons:
        raise DataError(path, f"attribute {name} is empty everywhere", "name another attribute")
    return PolygonLayer(crs, polygons)


def _attribute(path: Path, features: list[Feature], wanted: str | None) -> str:
    present = sorted({key for values, _ in features for key in values})
    choices = [wanted] if wanted else ["class", "name", "label"]
    found = [name for name in choices if name in present]
    if not found:
        reason = f"has no attribute {' or '.join(choices)}"
        raise DataError(path, reason, f"name one of its attributes: {', '.join(present)}")
    return found[0]


def _read_geojson(path: Path) -> tuple[str | None, list[Feature]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    crs = content.get("crs", {}).get("properties", {}).get("name", "EPSG:4326")
    if "CRS84" in crs:
        crs = "EPSG:4326"
    elif crs.lower().startswith("urn:ogc:def:crs:epsg"):
        crs = f"EPSG:{crs.rsplit(':', 1)[1]}"
    whole = content.get("features", [{"geometry": content}])
    return crs, [(f.get("properties") or {}, _geojson_rings(f.get("geometry"))) for f in whole]


def _geojson_rings(geometry: dict[str, Any] | None) -> list[Ring]:
    kind = (geometry or {}).get("type")
    if geometry is None or kind not in ("Polygon", "MultiPolygon"):
        return []
    parts = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    return [[(float(x), float(y)) for x, y, *_ in ring] for part in parts for ring in part]


def _read_geopackage(path: Path) -> tuple[str | None, list[Feature]]:
    # Immutable: a GeoPackage on a read-only disk cannot be opened otherwise.
    uri = f"{path.resolve().as_uri()}?immutable=1"
    connection = sqlite3.connect(uri, uri=True)
    try:
        query = "SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns"
        table, column, srs = connection.execute(query).fetchone() or (None, None, None)
        if table is None:
            raise DataError(path, "has no layer of features", "give a GeoPackage with polygons")
        query = "SELECT organization, organization_coordsys_id FROM gpkg_spatial_ref_sys"
        authority, code = connection.execute(f"{query} WHERE srs_id = ?", (srs,)).fetchone()
        quoted = str(table).replace('"', '""')
        cursor = connection.execute(f'SELECT * FROM "{quoted}"')
        names = [item[0] for item in cursor.description]
        rows = [dict(zip(names, values, strict=True)) for values in cursor]
    finally:
        connection.close()
    features = [(row, _geopackage_rings(row.pop(column))) for row in rows]
    return (None if authority.upper() == "NONE" else f"{authority}:{code}"), features


def _geopackage_rings(blob: bytes | None) -> list[Ring]:
    if blob is None:
        return []
    if blob[:2] != b"GP":
        raise ValueError("a geometry without GeoPackage header")
    start = 8 + _ENVELOPE_BYTES[blob[3] >> 1 & 7]
    return list(_wkb_rings(blob, start)[0])


def _wkb_rings(blob: bytes, at: int) -> tuple[list[Ring], int]:
    """Return the rings of a well-known-binary geometry and where it ends."""
    order = "<" if blob[at] else ">"
    (code,) = struct.unpack_from(f"{order}I", blob, at + 1)
    at += 5
    kind, extra = code % 1000, (0, 1, 1, 2)[code // 1000 % 4]
    if kind == 6:  # multi-polygon: geometries, each with its own header
        (num_parts,) = struct.unpack_from(f"{order}I", blob, at)
        at, rings = at + 4, []
        for _ in range(num_parts):
            part, at = _wkb_rings(blob, at)
            rings.extend(part)
        return rings, at
    if kind != 3:
        return [], len(blob)
    (num_rings,) = struct.unpack_from(f"{order}I", blob, at)
    at, rings = at + 4, []
    for _ in range(num_rings):
        (num_points,) = struct.unpack_from(f"{order}I", blob, at)
        size = num_points * (2 + extra)
        values = struct.unpack_from(f"{order}{size}d", blob, at + 4)
        rings.append(list(zip(values[:: 2 + extra], values[1 :: 2 + extra], strict=True)))
        at += 4 + 8 * size
    return rings, at


def _read_shapefile(path: Path) -> tuple[str | None, list[Feature]]:
    projection = path.with_suffix(".prj")
    crs = projection.read_text(encoding="utf-8").strip() if projection.exists() else None
    rows = list(_dbf_rows(path.with_suffix(".dbf")))
    # The index decides: the main file may keep records that an editor has deleted.
    index = path.with_suffix(".shx").read_bytes()[100:]
    starts = [2 * words for words, _ in struct.iter_unpack(">2i", index)]
    shapes = list(_shp_rings(path.read_bytes(), starts))
    if len(rows) != len(shapes):
        raise DataError(
            path, f"{len(shapes)} shapes but {len(rows)} attribute rows", "export the file again"
        )
    return crs, list(zip(rows, shapes, strict=True))


def _shp_rings(blob: bytes, starts: list[int]) -> Iterator[list[Ring]]:
    if struct.unpack_from(">i", blob)[0] != 9994:
        raise ValueError("this is no Shapefile")
    for start in (at + 8 for at in starts):
        if struct.unpack_from("<i", blob, start)[0] not in (5, 15, 25):  # polygon, with Z, with M
            yield []
            continue
        num_parts, num_points = struct.unpack_from("<2i", blob, start + 36)
        parts = struct.unpack_from(f"<{num_parts}i", blob, start + 44)
        values = struct.unpack_from(f"<{2 * num_points}d", blob, start + 44 + 4 * num_parts)
        points = list(zip(values[::2], values[1::2], strict=True))
        ends = (*parts[1:], num_points)
        yield [points[a:b] for a, b in zip(parts, ends, strict=True)]


def _dbf_rows(path: Path) -> Iterator[Attributes]:
    blob = path.read_bytes()
    num_rows, header, width = struct.unpack_from("<IHH", blob, 4)
    columns, at, start = [], 32, 1
    while blob[at] != 0x0D:
        name = blob[at : at + 11].split(b"\0")[0].decode("latin-1")
        columns.append((name, start, blob[at + 16]))
        start, at = start + blob[at + 16], at + 32
    for index in range(num_rows):
        record = blob[header + index * width : header + (index + 1) * width]
        texts = {n: record[s : s + w].decode("utf-8", "replace").strip() for n, s, w in columns}
        yield {name: text or None for name, text in texts.items()}


_READERS = {
    ".geojson": _read_geojson,
    ".json": _read_geojson,
    ".gpkg": _read_geopackage,
    ".shp": _read_shapefile,
}
