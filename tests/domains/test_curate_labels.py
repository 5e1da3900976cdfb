"""Polygons, label rasters and tables that become labels of tiles."""

import json
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_geom
from tiny_scenes import write_scene

from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.datasets.geometry import Geometry
from mimkit.domains.curation.tables import read_table
from mimkit.domains.satellite.curate.labels import (
    SceneLabels,
    mask_files,
    plan_labels,
)
from mimkit.domains.satellite.curate.polygons import read_polygons

GRID = Geometry("EPSG:32621", (30.0, 0.0, 700_000.0, 0.0, -30.0, 7_200_000.0), 64, 64)


def square(row: int, col: int, size: int) -> list[tuple[float, float]]:
    """Return the closed ring of a square of pixels."""
    corners = [(0, 0), (0, size), (size, size), (size, 0), (0, 0)]
    return [GRID.point(row + r, col + c) for r, c in corners]


def geojson(path: Path, crs: str = "EPSG:32621") -> Path:
    shapes = [
        ("water", [square(0, 0, 32), square(8, 8, 8)]),  # with a hole
        ("forest", [square(32, 32, 32)]),
    ]
    features = [
        {
            "type": "Feature",
            "properties": {"class": name},
            "geometry": {"type": "Polygon", "coordinates": rings},
        }
        for name, rings in shapes
    ]
    crs_part = {"crs": {"properties": {"name": f"urn:ogc:def:crs:{crs.replace(':', '::')}"}}}
    path.write_text(json.dumps({"features": features, **crs_part}))
    return path


def expected() -> np.ndarray:
    labels = np.full((64, 64), 255, np.uint8)
    labels[:32, :32] = 1
    labels[8:16, 8:16] = 255
    labels[32:, 32:] = 0
    return labels


def test_polygons_are_burned_on_the_grid_of_each_tile(tmp_path: Path) -> None:
    plan = plan_labels(str(geojson(tmp_path / "a.geojson")), None, ())
    assert plan.classes == ("forest", "water")
    labels = SceneLabels(plan, "scene.tif", GRID)
    np.testing.assert_array_equal(labels.burn(0, 0, 64, 64), expected())
    np.testing.assert_array_equal(labels.burn(4, 12, 32, 32), expected()[4:36, 12:44])
    beyond = labels.burn(48, 48, 32, 32)
    assert (beyond[:16, :16] == 0).all()
    assert labels.share(0, 0, 32, 32) == pytest.approx(1 - 64 / 1024)


def test_polygons_in_another_coordinate_system_fall_on_the_same_pixels(tmp_path: Path) -> None:
    path = geojson(tmp_path / "a.geojson")
    content = json.loads(path.read_text())
    for feature in content["features"]:
        feature["geometry"] = transform_geom(
            "EPSG:32621", "EPSG:4326", feature["geometry"], precision=12
        )
    del content["crs"]
    path.write_text(json.dumps(content))
    labels = SceneLabels(plan_labels(str(path), None, ()), "scene.tif", GRID)
    assert (labels.burn(0, 0, 64, 64) != expected()).mean() < 0.03  # edges bend a little


def test_a_geopackage_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    ring = square(32, 32, 32)
    wkb = struct.pack("<BIII", 1, 3, 1, len(ring)) + b"".join(struct.pack("<2d", *p) for p in ring)
    multi = struct.pack("<BII", 1, 6, 1) + wkb
    blob = b"GP" + bytes([0, 1]) + struct.pack("<i", 32621) + multi
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id)")
        base.execute("CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, "
                     "organization_coordsys_id)")  # fmt: skip
        base.execute('CREATE TABLE "my areas" (fid, geom BLOB, kind TEXT)')
        base.execute("INSERT INTO gpkg_geometry_columns VALUES ('my areas', 'geom', 32621)")
        base.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (32621, 'EPSG', 32621)")
        base.execute('INSERT INTO "my areas" VALUES (1, ?, ?)', (blob, "forest"))
    base.close()
    layer = read_polygons(path, "kind")
    assert layer.crs == "EPSG:32621"
    labels = SceneLabels(plan_labels(str(path), "kind", ()), "scene.tif", GRID)
    np.testing.assert_array_equal(labels.burn(0, 0, 64, 64) == 0, expected() == 0)
    with pytest.raises(DataError, match=r"has no attribute class or name or label; .*kind"):
        read_polygons(path)


def test_real_polygon_files_of_three_formats(samples) -> None:
    folder = samples / "satellite"
    found = {
        name: (layer.crs or "")[:10]
        for file, name in [
            ("landsat8_oli_crop/landcover_polygons.gpkg", "name"),
            ("landsat5_tm_product/training_polygons.geojson", "class"),
            ("landsat7_etm/training_data.shp", "id"),
        ]
        for layer in [read_polygons(folder / file, name)]
    }
    assert found == {"name": "EPSG:32621", "class": "EPSG:32622", "id": 'PROJCS["WG'}
    shapes = read_polygons(folder / "landsat7_etm" / "training_data.shp", "class")
    assert shapes.classes() == ("barren", "forest", "herbaceous", "urban", "water")


def test_burned_polygons_are_those_of_the_reference_raster(samples) -> None:
    folder = samples / "satellite" / "landsat5_tm_product"
    with rasterio.open(folder / "training_labels.tif") as dataset:
        reference = dataset.read(1)
        geometry = Geometry(str(dataset.crs), tuple(dataset.transform)[:6], *dataset.shape)
    plan = plan_labels(str(folder / "training_polygons.geojson"), None, ())
    burned = SceneLabels(plan, "x.tif", geometry).burn(0, 0, *reference.shape)
    assert (np.where(burned == 255, 0, burned + 1) == reference).mean() > 0.999


@pytest.mark.parametrize("crs", ["EPSG:32621", None])
def test_label_rasters_with_and_without_position(tmp_path: Path, crs: str | None) -> None:
    values = np.random.default_rng(0).integers(0, 4, (1, 64, 64), dtype=np.uint8)
    write_scene(tmp_path / "masks" / "scene.tif", values, bands=None, crs=crs)
    plan = plan_labels(str(tmp_path / "masks"), None, ("1=land", "3=water"))
    geometry = Geometry(crs, GRID.transform, 64, 64)
    burned = SceneLabels(plan, str(tmp_path / "scene.tif"), geometry).burn(16, 40, 32, 32)
    wanted = np.select([values[0] == 1, values[0] == 3], [0, 1], 255)[16:48, 40:]
    np.testing.assert_array_equal(burned[:, :24], wanted)
    assert (burned[:, 24:] == 255).all()
    other = SceneLabels(plan, str(tmp_path / "unknown.tif"), geometry)
    assert (other.burn(0, 0, 64, 64) == 255).all()
    assert tmp_path / "masks" / "scene.tif" in mask_files(plan)


def test_arrays_inside_and_beside_a_scene(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3, (64, 64, 1), dtype=np.uint8)
    np.savez(tmp_path / "scene.npz", msk=values)
    np.save(tmp_path / "lulc.npy", values)
    wanted = np.select([values[..., 0] == 2, values[..., 0] == 0], [0, 1], 255)
    for source in ("npz:msk", str(tmp_path / "lulc.npy")):
        plan = plan_labels(source, None, ("2=cloud", "0=shadow"))
        labels = SceneLabels(plan, str(tmp_path / "scene.npz"), GRID)
        np.testing.assert_array_equal(labels.burn(0, 0, 64, 64), wanted)
    plan = plan_labels("npz:other", None, ("2=cloud",))
    with pytest.raises(DataError, match="name an array of the file"):
        SceneLabels(plan, str(tmp_path / "scene.npz"), GRID)


@pytest.mark.parametrize(
    ("source", "pairs", "message"),
    [
        ("nowhere.gpkg", (), "does not exist"),
        ("npz:msk", (), "have no names"),
        ("npz:msk", ("water",), "not VALUE=NAME"),
        ("npz:msk", ("300=water",), "not VALUE=NAME"),
        (__file__, (), "of no known kind"),
    ],
)
def test_sources_that_cannot_be_used(source: str, pairs: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_labels(source, None, pairs)


def test_points_have_no_area(samples) -> None:
    path = samples / "satellite" / "landsat8_oli_crop" / "landcover_points.gpkg"
    with pytest.raises(DataError, match="points and lines cannot be burned"):
        read_polygons(path)


def test_a_table_names_files_by_the_end_of_their_path(tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    path.write_text("file,class,split\na/x.jpg,Grass,train\nb/x.jpg,Field,test\n")
    table = read_table(path)
    assert table.labels[table.key("/data/b/x.jpg") or ""] == "Field"
    assert table.splits[table.key("/data/a/x.jpg") or ""] == "train"
    assert table.key("/data/c/x.jpg") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,class\nx,y\n", "needs file"),
        ("file,kind\nx,y\n", "needs file"),
        ("file,class,split\nx,y,dev\n", "'dev'"),
        ("", "columns none"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "index.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_table(path)
