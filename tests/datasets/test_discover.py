"""Which scenes are found in folders, and under which names."""

import pickle
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from mimkit.datasets.errors import DataError
from mimkit.datasets.readers.names import band_file
from mimkit.datasets.readers.raster import ArraySpec, SceneSource, discover_scenes, open_scene


def image(path: Path, count: int = 1, size: int = 8, driver: str = "GTiff") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 99, (count, size, size), np.uint8)
    place = from_origin(5e5, 6e6, 80 / size, 80 / size)
    options = {"driver": driver, "crs": "EPSG:32629", "transform": place, "dtype": "uint8"}
    with rasterio.open(path, "w", count=count, height=size, width=size, **options) as dataset:
        dataset.write(pixels)
    return path


def found(root: Path, *patterns: str, **options: object) -> dict[str, list[str]]:
    scenes = discover_scenes(root, *patterns, **options)  # type: ignore[arg-type]
    assert [scene.id for scene in scenes] == sorted({scene.id for scene in scenes})
    return {scene.id: [path.name for path in scene.paths] for scene in scenes}


def test_landsat_products_are_one_scene_each(tmp_path: Path) -> None:
    name = "LC08_L1TP_224078_20200518_02_T1"
    for band in ("B1", "B2", "B8", "B10", "B11", "BQA", "QA_PIXEL", "SAA"):
        image(tmp_path / f"{name}_{band}.TIF", size=16 if band == "B8" else 8)
    image(tmp_path / f"{name}_crop.TIF", count=3)
    (tmp_path / f"{name}_MTL.txt").write_text("END")
    bands = [f"{name}_{band}.TIF" for band in ("B1", "B2", "B10", "B11")]
    assert found(tmp_path) == {name: bands, f"{name}_crop": [f"{name}_crop.TIF"]}
    with open_scene(discover_scenes(tmp_path)[0]) as scene:
        assert scene.bands == ("B1", "B2", "B10", "B11")
        assert scene.geometry.gsd() == pytest.approx(10)


def test_level_2_and_espa_names(tmp_path: Path) -> None:
    for band in ("SR_B1", "SR_B2", "ST_B10", "SR_QA_AEROSOL", "ST_ATRAN"):
        image(tmp_path / f"LC09_L2SP_{band}.TIF")
    for band in ("sr_band1", "sr_band2", "sr_atmos_opacity"):
        image(tmp_path / f"LE07_x_{band}.tif")
    scenes = found(tmp_path)
    assert [len(names) for names in scenes.values()] == [3, 2]
    assert list(scenes) == ["LC09_L2SP", "LE07_x"]


def test_a_safe_folder_gives_each_band_at_its_finest_resolution(tmp_path: Path) -> None:
    folder = tmp_path / "S2A.SAFE" / "GRANULE" / "L2A" / "IMG_DATA"
    for metres, bands in ((10, "B02 B08"), (20, "B02 B8A SCL"), (60, "B01 B02 B8A")):
        for band in bands.split():
            name = f"T31_2017_{band}_{metres}m.tif"
            image(folder / f"R{metres}m" / name, size=120 // metres)
    scenes = discover_scenes(tmp_path)
    assert [scene.id for scene in scenes] == ["S2A.SAFE/GRANULE/L2A/IMG_DATA/T31_2017"]
    with open_scene(scenes[0]) as scene:
        assert scene.bands == ("B01", "B02", "B08", "B8A")
        assert scene.geometry.height == 12
        assert scene.read(0, 0, 12, 12).valid.all()


def test_bare_band_names_are_a_scene_per_folder(tmp_path: Path) -> None:
    for folder in ("b", "a/x"):
        for band in ("B02", "B10", "B3", "red"):
            image(tmp_path / folder / f"{band}.tif")
    scenes = found(tmp_path)
    assert list(scenes) == ["a/x", "a/x/red", "b", "b/red"]
    assert scenes["b"] == ["B02.tif", "B3.tif", "B10.tif"]
    assert list(found(tmp_path / "b")) == ["b", "red"]


def test_one_band_alone_and_stacks_called_like_bands_stay_files(tmp_path: Path) -> None:
    image(tmp_path / "x_B1.tif")
    for block in ("B1", "B2"):
        image(tmp_path / f"block_{block}.tif", count=3)
    assert list(found(tmp_path)) == ["block_B1", "block_B2", "x_B1"]


def test_plain_files_in_any_depth(tmp_path: Path) -> None:
    for name in ("b.tif", "a/b.TIFF", "a/c.jpg", "a/.hidden.tif", ".git/d.tif"):
        image(tmp_path / name)
    for name in ("a/b.json", "a/b.tif.aux.xml", "notes.txt", "x.tif.partial"):
        (tmp_path / name).write_text("")
    assert found(tmp_path) == {"a/b": ["b.TIFF"], "a/c": ["c.jpg"], "b": ["b.tif"]}
    assert found(tmp_path / "a" / "c.jpg") == {"c": ["c.jpg"]}


def test_names_that_differ_in_the_suffix_only(tmp_path: Path) -> None:
    image(tmp_path / "a.tif")
    image(tmp_path / "a.png", driver="PNG")
    assert found(tmp_path) == {"a-png": ["a.png"], "a-tif": ["a.tif"]}


def test_patterns_choose_and_exclude(tmp_path: Path) -> None:
    for name in ("a.tif", "s/b.tif", "s/b_mask.tif", "masks/b.tif"):
        image(tmp_path / name)
    assert list(found(tmp_path, "**/*b.tif")) == ["masks/b", "s/b"]
    assert list(found(tmp_path, "**/a.tif")) == ["a"]
    assert list(found(tmp_path, "a.*", "s/*")) == ["a", "s/b", "s/b_mask"]
    assert list(found(tmp_path, exclude=("masks/*", "**/*_mask.*"))) == ["a", "s/b"]


def test_broken_files_are_found_too(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"")
    (tmp_path / "b.npy").write_bytes(b"")
    for band in ("B1", "B2"):
        (tmp_path / f"c_{band}.tif").write_bytes(b"")
    assert list(found(tmp_path)) == ["a", "b", "c"]
    for scene in discover_scenes(tmp_path):
        with pytest.raises(DataError):
            open_scene(scene)


def test_every_date_of_an_array_is_a_scene(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).integers(0, 99, (11, 4, 5, 2), np.uint8)
    np.save(tmp_path / "a.npy", cube)
    np.save(tmp_path / "plain.npy", cube[0])
    (tmp_path / "plain.json").write_text('{"layout": "hwc"}')
    assert list(found(tmp_path)) == ["a", "plain"]
    scenes = discover_scenes(tmp_path, spec=ArraySpec(layout="thwc"))
    assert [scene.id for scene in scenes] == [*(f"a-t{i:02}" for i in range(11)), "plain"]
    assert scenes[3].uris == (f"{tmp_path / 'a.npy'}#t=3",)
    with open_scene(scenes[3], spec=ArraySpec(layout="thwc")) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 4, 5).pixels, cube[3].transpose(2, 0, 1))


def test_links_that_lead_in_circles_end(tmp_path: Path) -> None:
    image(tmp_path / "a" / "x.tif")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "linked.tif").symlink_to(tmp_path / "a" / "x.tif")
    assert list(found(tmp_path)) == ["a/x", "linked"]


def test_folders_that_cannot_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="does not exist"):
        discover_scenes(tmp_path / "nowhere")

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)  # rights do not stop every user that tests run as
    with pytest.raises(DataError, match=r"cannot be searched \(Permission denied\)"):
        discover_scenes(tmp_path)


def test_sources_travel_between_processes(tmp_path: Path) -> None:
    source = SceneSource("a", (image(tmp_path / "a.tif"),))
    assert pickle.loads(pickle.dumps(source)) == source


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("LT52240631988227CUB02_B1.TIF", ("LT52240631988227CUB02", "B1", None)),
        ("LE07_B6_VCID_2.TIF", ("LE07", "B6_VCID_2", None)),
        ("T31UFS_20170617T113321_B8A.jp2", ("T31UFS_20170617T113321", "B8A", None)),
        ("T31UFS_20170617T113321_B02_10m.jp2", ("T31UFS_20170617T113321", "B02", 10)),
        ("B12.tif", ("", "B12", None)),
        ("scene-B3.tif", ("scene", "B3", None)),
        ("ABB3.tif", None),
        ("a001.jpg", None),
        ("2017-09-18.tif", None),
        ("x_b1.tif", None),
    ],
)
def test_bands_in_file_names(name: str, parts: tuple[str, str, int | None] | None) -> None:
    result = band_file(PurePosixPath(name))
    assert (result and (result.product, result.band, result.metres)) == parts
