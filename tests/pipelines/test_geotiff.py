"""Map files: what is written is read back, in the layout that servers want, or nothing is there."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import rasterio
from maps import check_cloud_optimised

from mimkit.datasets.geometry import Geometry
from mimkit.pipelines.geotiff import NODATA, MapSpec, class_colours, writing_map

UTM = Geometry("EPSG:32621", (30.0, 0.0, 7e5, 0.0, -30.0, 7.2e6), 700, 900)


def write(path: Path, spec: MapSpec, values: np.ndarray) -> None:
    with writing_map(path, spec) as out:
        for row in range(0, values.shape[1], 150):
            for col in (600, 0):  # strips in any order
                part = values[:, row : row + 150, col : col + 600 if col == 0 else None]
                out.write(row, col, part)


def test_classes_come_back_with_place_palette_and_layout(tmp_path: Path) -> None:
    classes = np.random.default_rng(0).integers(0, 3, (1, 700, 900)).astype(np.uint8)
    classes[0, :100] = NODATA
    spec = MapSpec(UTM, colours=class_colours(["water", "forest", "x"]), tags={"CLASS_0": "water"})
    write(tmp_path / "map.tif", spec, classes)
    check_cloud_optimised(tmp_path / "map.tif")
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), classes)
        assert dataset.crs == rasterio.CRS.from_epsg(32621)
        assert tuple(dataset.transform)[:6] == UTM.transform
        assert dataset.nodata == NODATA
        assert dataset.colormap(1)[0] == (38, 110, 200, 255)
        assert dataset.colormap(1)[NODATA] == (0, 0, 0, 0)
        assert dataset.tags()["CLASS_0"] == "water"
        half = dataset.read(1, out_shape=(350, 450))
        assert set(np.unique(half)) <= {0, 1, 2, NODATA}
        assert (half[:49] == NODATA).all()


@pytest.mark.parametrize(("dtype", "num_bands"), [("float32", 3), ("uint8", 70), ("float32", 100)])
def test_many_bands_keep_their_names_scale_and_nodata(
    tmp_path: Path, dtype: Literal["uint8", "float32"], num_bands: int
) -> None:
    random = np.random.default_rng(1)
    geometry = Geometry("EPSG:4326", (0.1, 0.01, 5.0, 0.02, -0.1, 50.0), 160, 210)
    names = [f"dim{i}" for i in range(num_bands)]
    spec = MapSpec(
        geometry, names, dtype=dtype, scale=[i + 1.0 for i in range(num_bands)], offset=(-2.5,)
    )
    values = random.integers(0, 250, (num_bands, 160, 210)).astype(dtype)
    values[:, :7] = spec.nodata
    write(tmp_path / "map.tif", spec, values)
    check_cloud_optimised(tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), values)
        assert dataset.descriptions == tuple(names)
        assert dataset.scales == tuple(i + 1.0 for i in range(num_bands))
        assert dataset.offsets == (-2.5,) * num_bands
        assert tuple(dataset.transform)[:6] == geometry.transform  # also when it is turned
        assert not dataset.read_masks(1)[:7].any()
        assert dataset.read_masks(1)[7:].all()
        block = dataset.block_shapes[0]
        assert block[0] * block[1] * num_bands * np.dtype(dtype).itemsize <= 4 << 20


def test_what_is_never_written_is_nodata(tmp_path: Path) -> None:
    with writing_map(tmp_path / "deep" / "map.tif", MapSpec(UTM)) as out:
        out.write(10, 20, np.ones((1, 5, 5), np.uint8))
    with rasterio.open(tmp_path / "deep" / "map.tif") as dataset:
        values = dataset.read(1)
    assert (values == 1).sum() == 25
    assert (values == NODATA).sum() == values.size - 25


def test_a_map_without_a_place_gives_no_warning(tmp_path: Path, recwarn) -> None:
    write(
        tmp_path / "map.tif", MapSpec(Geometry.unknown(700, 900)), np.ones((1, 700, 900), np.uint8)
    )
    assert not recwarn.list
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.crs is None
        assert dataset.transform.is_identity


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    target.write_text("the old map")
    (tmp_path / ".map.tif.partial").mkdir()
    (tmp_path / ".map.tif.partial" / "rows.tif").write_text("left by a killed run")
    with pytest.raises(ValueError, match="shape"), writing_map(target, MapSpec(UTM)) as out:
        out.write(0, 0, np.ones((2, 5, 5), np.uint8))
    assert target.read_text() == "the old map"
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]


def test_palettes_tell_classes_apart() -> None:
    names = ["Cloud", "cloud shadow", "water", "river", "thing", "other thing"]
    colours = class_colours(names)
    assert len(set(colours.values())) == len(names) + 1
    assert colours[0][:3] == (240, 240, 255)
    assert colours[1][:3] == (64, 64, 96)
    assert len(set(class_colours([f"c{i}" for i in range(255)]).values())) > 200
