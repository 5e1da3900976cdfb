"""Image files as scenes: windows, several resolutions, masks, and files that are broken."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from image_files import CRS, noise, write
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from mimkit.datasets.errors import DataError
from mimkit.datasets.readers.raster import Scene, Tile, open_scene


def whole(scene: Scene, margin: int = 0) -> Tile:
    height, width = scene.geometry.height, scene.geometry.width
    return scene.read(-margin, -margin, height + 2 * margin, width + 2 * margin)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three files of 10, 20 and 60 m, the coarse ones with pixels without data."""
    folder = tmp_path_factory.mktemp("product")
    coarse = noise(1, 15, 12, seed=1)
    coarse[0, 4:7, 3:9] = 0
    coarsest = noise(1, 5, 4, dtype="float32", seed=2)
    coarsest[0, 2, 1] = np.nan
    return [
        write(folder / "x_B02.tif", noise(1, 30, 24)),
        write(folder / "x_B05.tif", coarse, 20.0, nodata=0),
        write(folder / "x_B8A.tif", coarsest, 60.0),
    ]


@given(st.integers(-9, 35), st.integers(-9, 30), st.integers(1, 40), st.integers(1, 40))
def test_a_window_equals_the_same_part_of_the_whole(
    product: list[Path], row: int, col: int, height: int, width: int
) -> None:
    margin = 80
    for source in (product, product[0], product[1]):
        with open_scene(source) as scene:
            tile, full = scene.read(row, col, height, width), whole(scene, margin)
        rows = slice(row + margin, row + margin + height)
        cols = slice(col + margin, col + margin + width)
        np.testing.assert_array_equal(tile.pixels, full.pixels[:, rows, cols])
        np.testing.assert_array_equal(tile.valid, full.valid[rows, cols])
        assert tile.geometry == scene.geometry.window(row, col, height, width)


def test_what_lies_beyond_the_edges_is_zero_and_invalid(product: list[Path]) -> None:
    with open_scene(product[0]) as scene:
        tile = whole(scene, 3)
        outside = scene.read(100, 0, 2, 2)
    inside = tile.valid[3:-3, 3:-3]
    assert inside.all()
    assert tile.valid.sum() == inside.sum()
    assert not tile.pixels[:, ~tile.valid].any()
    assert not outside.valid.any()
    assert outside.pixels.shape == (1, 2, 2)


def test_bands_in_the_order_asked_for(product: list[Path]) -> None:
    with open_scene(product) as scene:
        assert scene.bands == ("B02", "B05", "B8A")
        full = whole(scene)
        some = scene.read(3, 4, 5, 6, bands=("B8A", "B02"))
        np.testing.assert_array_equal(some.pixels, full.pixels[[2, 0], 3:8, 4:10])
        with pytest.raises(DataError, match="has no band 'B99'; its bands are B02, B05, B8A"):
            scene.read(0, 0, 1, 1, bands=("B99",))
    with open_scene(product, bands=("B05", "B02")) as scene:
        np.testing.assert_array_equal(whole(scene).pixels, np.rint(full.pixels[[1, 0]]))
    with open_scene(product, bands=("B05",)) as scene:
        assert (scene.geometry.height, scene.geometry.gsd()) == (15, pytest.approx(20))
    with pytest.raises(DataError, match="has no band 'red'"):
        open_scene(product, bands=("red",))


def test_the_finest_grid_is_kept_and_others_are_interpolated(product: list[Path]) -> None:
    with open_scene(product) as scene:
        tile = whole(scene)
        assert scene.geometry.gsd() == pytest.approx(10)
        assert scene.dtype == "float32"  # of uint16 and float32, the type that holds both
    with rasterio.open(product[0]) as dataset:
        np.testing.assert_array_equal(tile.pixels[0], dataset.read(1))
    with rasterio.open(product[1]) as dataset:
        coarse = dataset.read(1).astype(np.float64)
    # A fine pixel's centre lies a quarter of a coarse pixel from the nearest coarse centre.
    near, far = coarse[10, 2:4], coarse[11, 2:4]
    expected = 0.75 * (0.75 * near[0] + 0.25 * near[1]) + 0.25 * (0.75 * far[0] + 0.25 * far[1])
    assert tile.pixels[1, 21, 5] == pytest.approx(np.rint(expected), abs=0.5)


def test_interpolation_does_not_mix_data_with_nodata(tmp_path: Path) -> None:
    coarse = np.full((1, 6, 6), 200, np.uint16)
    coarse[0, 2:4, 2:4] = 0
    paths = [write(tmp_path / "B1.tif", noise(1, 12, 12)), tmp_path / "B2.tif"]
    write(paths[1], coarse, 20.0, nodata=0)
    with open_scene(paths, bands=("B2", "B1")) as scene:
        tile = whole(scene)
        alone = scene.read(0, 0, 12, 12, bands=("B2",))
    assert set(np.unique(tile.pixels[0])) == {0, 200}
    assert not alone.valid[5:7, 5:7].any()
    assert alone.valid[:4].all()
    np.testing.assert_array_equal(alone.valid, tile.pixels[0] == 200)


def test_a_linear_ramp_stays_linear(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32) * 20, (1, 8, 8))
    paths = [write(tmp_path / "B1.tif", noise(1, 16, 16)), tmp_path / "B2.tif"]
    write(paths[1], ramp, 20.0)
    with open_scene(paths) as scene:
        line = whole(scene).pixels[1, 5]
    np.testing.assert_allclose(line[1:-1], np.arange(1, 15) * 10 - 5, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crs": "EPSG:32630"}, "has coordinate system EPSG:32630, .* has EPSG:32629"),
        ({"crs": None}, "has coordinate system none"),
        ({"transform": from_origin(5e5 + 40, 6e6, 20, 20)}, "edges are 2.0 pixels apart"),
        ({"transform": from_origin(5e5, 6e6, 24, 24)}, "covers other ground"),
        ({"transform": from_origin(5e5, 6e6, 20, 20) @ rasterio.Affine.rotation(5)}, "is turned"),
    ],
)
def test_files_that_do_not_fit_together(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    paths = [write(tmp_path / "B1.tif", noise(1, 12, 12)), tmp_path / "B2.tif"]
    write(paths[1], noise(1, 6, 6), 20.0, **change)
    with pytest.raises(DataError, match=message):
        open_scene(paths)


def test_a_panchromatic_grid_shifted_by_half_a_pixel_is_joined(tmp_path: Path) -> None:
    place = from_origin(5e5 + 7.5, 6e6 - 7.5, 15, 15)  # as Landsat delivers it
    paths = [write(tmp_path / "B1.tif", noise(1, 10, 10), 30.0), tmp_path / "B8.tif"]
    write(paths[1], noise(1, 19, 19), transform=place)
    with open_scene(paths) as scene, rasterio.open(paths[0]) as dataset:
        # This fine pixel has its centre where a coarse one has its own.
        assert whole(scene).pixels[0, 4, 6] == dataset.read(1)[2, 3]


def test_bands_with_one_name_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / d / "image.tif", noise(1, 4, 4)) for d in "ab"]
    with pytest.raises(DataError, match="two bands are called 'image'"):
        open_scene(paths)


@pytest.mark.parametrize(
    ("nodata", "dtype", "one_band_is_enough"),
    [
        (-9999, "int16", True),
        (0, "uint16", False),
        (255, "uint8", False),
        (7, "uint8", True),
        (float(np.finfo(np.float32).min), "float32", True),
        (np.nan, "float32", True),
    ],
)
def test_nodata_that_may_be_a_measurement_counts_when_all_bands_have_it(
    tmp_path: Path, nodata: float, dtype: str, one_band_is_enough: bool
) -> None:
    pixels = noise(2, 4, 4, dtype=dtype) + np.asarray(8, dtype)
    pixels[pixels == nodata] = 9
    pixels[0, 0, :2] = nodata
    pixels[1, 0, 1] = nodata
    path = write(tmp_path / "a.tif", pixels, nodata=nodata)
    with open_scene(path) as scene:
        tile = whole(scene)
        assert scene.nodata == pytest.approx(nodata, nan_ok=True)
    expected = np.ones((4, 4), bool)
    expected[0, 1] = False
    expected[0, 0] = not one_band_is_enough
    np.testing.assert_array_equal(tile.valid, expected)
    np.testing.assert_array_equal(tile.pixels, pixels)


def test_nodata_given_by_the_caller(tmp_path: Path) -> None:
    pixels = noise(2, 4, 4)
    pixels[:, 2] = 17
    path = write(tmp_path / "a.tif", pixels, nodata=3)
    with open_scene(path, nodata=17) as scene:
        assert scene.nodata == 17
        np.testing.assert_array_equal(whole(scene).valid, (pixels != 17).all(axis=0))


def test_numbers_that_are_not_finite_are_invalid(tmp_path: Path) -> None:
    pixels = noise(3, 4, 4, dtype="float32")
    pixels[0, 0, 0], pixels[1, 1, 1], pixels[2, 2, 2] = np.nan, np.inf, -np.inf
    with open_scene(write(tmp_path / "a.tif", pixels)) as scene:
        np.testing.assert_array_equal(whole(scene).valid, np.isfinite(pixels).all(axis=0))
        assert whole(scene).valid.sum() == 13


@pytest.mark.parametrize("internal", [True, False])
def test_masks_inside_and_beside_the_file(tmp_path: Path, internal: bool) -> None:
    mask = np.random.default_rng(0).random((8, 8)) < 0.5
    path = write(tmp_path / "a.tif", noise(2, 8, 8), mask=mask if internal else None)
    if not internal:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(mask)
        assert (tmp_path / "a.tif.msk").exists()
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(2, 3, 4, 5).valid, mask[2:6, 3:8])


def test_transparency_is_a_mask_and_no_band(tmp_path: Path) -> None:
    pixels = noise(4, 6, 6, dtype="uint8")
    pixels[3, :3] = 0
    path = write(tmp_path / "a.png", pixels, driver="PNG", crs=None)
    with open_scene(path) as scene:
        tile = whole(scene)
        assert scene.bands == ("red", "green", "blue")
    np.testing.assert_array_equal(tile.pixels, pixels[:3])
    np.testing.assert_array_equal(tile.valid, pixels[3] > 0)


def test_masks_of_coarse_files(tmp_path: Path) -> None:
    mask = np.ones((6, 6), bool)
    mask[:3] = False
    paths = [write(tmp_path / "B1.tif", noise(1, 12, 12)), tmp_path / "B2.tif"]
    write(paths[1], noise(1, 6, 6), 20.0, mask=mask)
    with open_scene(paths) as scene:
        np.testing.assert_array_equal(whole(scene).valid, np.repeat(mask, 2, 0).repeat(2, 1))
        assert scene.read(0, 0, 12, 12, bands=("B1",)).valid.all()


def test_names_of_bands(tmp_path: Path) -> None:
    def names(name: str, count: int, **options: Any) -> tuple[str, ...]:
        dtype = options.pop("dtype", "uint16")
        path = write(tmp_path / name, noise(count, 4, 4, dtype=dtype), **options)
        with open_scene(path) as scene:
            return scene.bands

    assert names("a.tif", 3) == ("band_1", "band_2", "band_3")
    assert names("b.tif", 3, bands=("B2", None, "B4")) == ("B2", "band_2", "B4")
    assert names("c.tif", 3, bands=("B2", "B2", "B4")) == ("band_1", "band_2", "B4")
    assert names("T31_B8A.tif", 1) == ("B8A",)
    assert names("x_SR_B4.TIF", 1) == ("SR_B4",)
    assert names("x_B4.tif", 1, bands=("nir",)) == ("nir",)
    # GDAL calls any three 8-bit bands of a TIFF red, green, blue.
    assert names("d.tif", 3, dtype="uint8") == ("band_1", "band_2", "band_3")
    assert names("e.jpg", 3, dtype="uint8", driver="JPEG") == ("red", "green", "blue")
    assert names("f.jpg", 1, dtype="uint8", driver="JPEG") == ("band_1",)


def test_a_colour_table_is_named_as_such(tmp_path: Path) -> None:
    path = write(tmp_path / "classes.tif", noise(1, 4, 4, dtype="uint8"), photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {i: (i, i, 0, 255) for i in range(256)})
        assert dataset.colorinterp == (ColorInterp.palette,)
    with open_scene(path) as scene:
        assert scene.bands == ("palette_index",)


def test_scale_offset_and_tags_are_carried(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(2, 4, 4))
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.5, 2.0), (-1.0, 3.0)
        dataset.update_tags(PROCESSING="twice")
    with open_scene(path, bands=("band_2", "band_1")) as scene:
        assert (scene.scale, scene.offset) == ((2.0, 0.5), (3.0, -1.0))
        assert scene.tags["PROCESSING"] == "twice"


def test_metadata_of_a_landsat_product_becomes_tags(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"LT5_B{i}.TIF", noise(1, 4, 4)) for i in (1, 2)]
    lines = ["GROUP = L1", "  SUN_ELEVATION = 49.75", '  SENSOR_ID = "TM"', "END_GROUP = L1", "END"]
    (tmp_path / "LT5_MTL.txt").write_text("\n".join(lines))
    with open_scene(paths) as scene:
        assert scene.tags["SUN_ELEVATION"] == "49.75"
        assert scene.tags["SENSOR_ID"] == "TM"
        assert "END_GROUP" not in scene.tags
        assert scene.uri == str(tmp_path / "LT5")


def test_a_missing_place_on_earth_is_no_error_and_no_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(1, 4, 4), crs=None, transform=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_scene(path) as scene:
            assert scene.geometry.crs is None
            assert whole(scene).valid.all()
    local = 'LOCAL_CS["arbitrary",UNIT["metre",1]]'
    with open_scene(write(tmp_path / "b.tif", noise(1, 4, 4), crs=local)) as scene:
        assert scene.geometry.crs is None


def test_files_inside_an_archive(tmp_path: Path) -> None:
    import zipfile

    path = write(tmp_path / "a.tif", noise(2, 4, 4))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(path, "inner/a.tif")
    with open_scene(f"zip://{tmp_path}/x.zip!inner/a.tif") as scene:
        np.testing.assert_array_equal(whole(scene).pixels, noise(2, 4, 4))


def test_threads_share_a_scene(tmp_path: Path) -> None:
    pixels = noise(3, 256, 256)
    path = write(tmp_path / "a.tif", pixels, tiled=True, blockxsize=64, blockysize=64)
    places = [(row, col) for row in range(0, 224, 16) for col in range(0, 224, 16)]
    with open_scene(path) as scene, ThreadPoolExecutor(8) as pool:
        tiles = list(pool.map(lambda place: scene.read(place[0], place[1], 32, 32), places))
    for (row, col), tile in zip(places, tiles, strict=True):
        np.testing.assert_array_equal(tile.pixels, pixels[:, row : row + 32, col : col + 32])


def test_a_large_scene_is_not_read_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    options: dict[str, Any] = {
        "tiled": True,
        "sparse_ok": True,
        "bigtiff": "yes",
        "dtype": "uint16",
    }
    place = from_origin(5e5, 6e6, 10, 10)
    size = {"height": 400_000, "width": 400_000, "count": 1}
    with rasterio.open(
        path, "w", driver="GTiff", crs=CRS, transform=place, compress="deflate", **size, **options
    ) as dataset:
        dataset.write(noise(1, 8, 8), window=((300_000, 300_008), (200_000, 200_008)))
    with open_scene(path) as scene:
        tile = scene.read(300_000, 200_000, 8, 8)
    np.testing.assert_array_equal(tile.pixels, noise(1, 8, 8))


def test_misuse(product: list[Path]) -> None:
    with open_scene(product) as scene:
        with pytest.raises(ValueError, match="a window of 0 x 5"):
            scene.read(0, 0, 0, 5)
        assert repr(scene) == f"Scene('{product[0].parent / 'x'}', 3 x 30 x 24 float32)"
    with pytest.raises(ValueError, match="is closed"):
        scene.read(0, 0, 1, 1)
    with pytest.raises(DataError, match="has no files"):
        open_scene([])
