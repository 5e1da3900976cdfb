"""The real sample scenes: products, resolutions, borders without data, arrays."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from mimkit.datasets.readers.raster import ArraySpec, discover_scenes, open_scene


def test_a_landsat_product_is_one_scene_of_seven_bands(samples: Path) -> None:
    folder = samples / "satellite" / "landsat5_tm_product"
    (source,) = discover_scenes(folder, exclude=("training_*",))
    with open_scene(source) as scene:
        assert scene.bands == tuple(f"B{i}" for i in range(1, 8))
        assert (scene.dtype, scene.nodata, scene.geometry.crs) == ("uint8", 255, "EPSG:32622")
        assert scene.tags["SUN_ELEVATION"] == "49.75588889"
        tile = scene.read(10, 20, 50, 60)
    for band, path in enumerate(source.paths):
        with rasterio.open(path) as dataset:
            window = ((10, 60), (20, 80))
            np.testing.assert_array_equal(tile.pixels[band], dataset.read(1, window=window))
    assert tile.geometry.transform == (30.0, 0.0, 619995.0, 0.0, -30.0, -410505.0)


def test_three_resolutions_become_one_scene(samples: Path) -> None:
    (source,) = discover_scenes(samples / "satellite" / "bigearthnet_patch")
    assert source.id == "S2A_MSIL2A_20170617T113321_36_85"
    with open_scene(source) as scene:
        assert scene.bands[:3] == ("B01", "B02", "B03")
        assert scene.bands[-4:] == ("B8A", "B09", "B11", "B12")
        assert scene.geometry.height == scene.geometry.width == 120
        assert scene.geometry.gsd() == pytest.approx(10)
        pixels = scene.read(0, 0, 120, 120).pixels
    for band, path in enumerate(source.paths):
        with rasterio.open(path) as dataset:
            own = dataset.read(1).astype(np.float64)
        step = 120 // len(own)
        mean = pixels[band].reshape(len(own), step, len(own), step).mean(axis=(1, 3))
        # Interpolation smooths, but keeps what is where.
        assert np.corrcoef(mean.ravel(), own.ravel())[0, 1] > 0.95
        assert pixels[band].mean() == pytest.approx(own.mean(), rel=0.01)


def test_borders_of_nan_are_invalid(samples: Path) -> None:
    sources = discover_scenes(samples / "satellite" / "s2_l1c_flood", "**/S2/*")
    assert len(sources) == 5
    with open_scene(sources[0]) as scene:
        assert len(scene.bands) == 15
        tile = scene.read(0, 0, 158, 214, bands=("B4", "B3", "B2"))
    assert 0.98 < tile.valid.mean() < 0.99
    assert np.isfinite(tile.pixels[:, tile.valid]).all()
    assert np.isnan(tile.pixels[:, ~tile.valid]).any(axis=0).all()


def test_a_border_of_zeros_is_invalid_when_zero_is_named(samples: Path) -> None:
    folder = samples / "satellite" / "landsat8_oli_crop"
    path = folder / "LC08_L1TP_224078_20200518_crop1536.tif"
    with open_scene(path) as scene:
        assert scene.read(0, 0, 1536, 1536).valid.all()
    with open_scene(path, nodata=0) as scene:
        tile = scene.read(0, 0, 1536, 1536)
    assert 1 - tile.valid.mean() == pytest.approx(0.044, abs=0.001)
    assert not tile.pixels[:, ~tile.valid].any()


def test_stacks_with_descriptions(samples: Path) -> None:
    folder = samples / "satellite" / "landsat7_etm"
    with open_scene(folder / "LE70220491999322EDC01_stack.tif") as scene:
        assert scene.bands[0] == "band 1 reflectance"
        assert scene.bands[-1] == "band_8"
        assert scene.nodata == -9999


def test_arrays_with_a_description_given_and_beside(samples: Path, tmp_path: Path) -> None:
    path = samples / "satellite" / "cloudmask" / "landsat5.npz"
    bands = ("blue", "green", "red", "nir", "swir16", "swir22")
    with open_scene(path, spec=ArraySpec(array="img", bands=bands)) as scene:
        tile = scene.read(500, 500, 20, 20, bands=("nir", "red"))
        assert (scene.dtype, scene.geometry.crs) == ("float32", None)
    expected = np.load(path)["img"][500:, 500:, [3, 2]].transpose(2, 0, 1)
    np.testing.assert_array_equal(tile.pixels[:, :12, :12], expected)
    assert tile.valid.sum() == 144
    link = tmp_path / "landsat5.npz"
    link.symlink_to(path)
    link.with_suffix(".json").write_text(json.dumps({"array": "img", "bands": bands}))
    (source,) = discover_scenes(tmp_path)
    with open_scene(source) as scene:
        assert scene.bands == bands


def test_five_dates_of_one_place(samples: Path) -> None:
    folder = samples / "satellite" / "s2_l1c_lulc"
    bands = tuple(json.loads((folder / "meta.json").read_text())["bands"])
    spec = ArraySpec(layout="thwc", bands=bands)
    sources = discover_scenes(folder, "REFERENCE*", spec=spec)
    assert [source.id for source in sources] == [f"REFERENCE_SCENES-t{i}" for i in range(5)]
    array = np.load(folder / "REFERENCE_SCENES.npy", mmap_mode="r")
    with open_scene(sources[2], spec=spec) as scene:
        tile = scene.read(0, 0, 101, 100, bands=("B8A", "B02"))
    np.testing.assert_array_equal(tile.pixels, array[2][..., [8, 1]].transpose(2, 0, 1))


def test_photographs(samples: Path) -> None:
    sources = discover_scenes(samples / "satellite" / "rsscn7_128")
    assert len(sources) == 2100
    assert sources[0].id == "images/a001"
    with open_scene(sources[0]) as scene:
        assert (scene.bands, scene.dtype) == (("red", "green", "blue"), "uint8")
        assert scene.read(0, 0, 128, 128).valid.all()
