"""Maps of scenes: the right class in the right place, one clear sentence where there is none."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from maps import check_cloud_optimised
from tiny_models import CLASSES, normaliser_dict, write_model
from tiny_scenes import scene_pixels, write_scene

from mimkit.core.batch import Batch
from mimkit.core.heads.task import load_task
from mimkit.domains.domain import get_domain
from mimkit.pipelines.cli import main
from mimkit.pipelines.geotiff import NODATA

CROP = "satellite/landsat8_oli_crop/LC08_L1TP_224078_20200518_crop1536.tif"
LANDSAT5 = "satellite/landsat5_tm_product"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "segment")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    pixels = scene_pixels(0, size=(90, 70))
    pixels[:, :20, :30] = 0  # outside of the swath; the file does not say so
    pixels[1, 40, 40] = 0  # a dark pixel
    return write_scene(tmp_path / "scene.tif", pixels)


def predict(model: Path, *words: object) -> int:
    return main(["predict", "--model", str(model), "--num-threads", "1", *map(str, words)])


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def test_a_map_lies_on_its_real_scene(samples: Path, model: Path, tmp_path: Path) -> None:
    with rasterio.open(samples / CROP) as dataset:
        window = ((0, 700), (936, 1536))
        stored = dataset.read(window=window)
        profile = dataset.profile | {"height": 700, "width": 600}
        profile["transform"] = dataset.window_transform(window)
        names = dataset.descriptions
    with rasterio.open(tmp_path / "part.tif", "w", **profile) as part:
        part.write(stored)
        part.descriptions = names
    out = tmp_path / "maps" / "map.tif"
    assert predict(model, tmp_path / "part.tif", "--out", out, "--window", 128) == 0
    check_cloud_optimised(out)
    with rasterio.open(out) as dataset:
        assert dataset.shape == (700, 600)
        assert dataset.crs == profile["crs"]
        assert dataset.transform == profile["transform"]
        classes = dataset.read(1)
    empty = (stored == 0).all(axis=0)
    assert 0 < empty.sum() < empty.size
    np.testing.assert_array_equal(classes == NODATA, empty)
    assert set(np.unique(classes[~empty])) <= set(range(len(CLASSES)))
    assert len(np.unique(classes[~empty])) > 1


def test_classes_are_those_of_the_model(model: Path, tmp_path: Path) -> None:
    pixels = scene_pixels(3, size=(32, 32))
    write_scene(tmp_path / "a.tif", pixels)
    assert predict(model, tmp_path / "a.tif", "--out", tmp_path / "map.tif") == 0
    task = load_task(model)
    normaliser = get_domain("satellite").normaliser(task.normaliser)
    valid = torch.ones(1, 32, 32, dtype=torch.bool)
    scores = task.model(Batch(normaliser(pixels[None]), valid, torch.zeros(1, dtype=torch.long)))
    wanted = scores.argmax(dim=1).numpy()
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), wanted)
    assert len(np.unique(wanted)) > 1


@pytest.mark.parametrize(
    "words",
    [("--batch-size", 1), ("--batch-size", 64), ("--memory-mb", 1)],
    ids=["alone", "together", "strips"],
)
def test_grouping_changes_nothing(model: Path, tmp_path: Path, words: tuple) -> None:
    pixels = scene_pixels(1, size=(60, 4000 if "--memory-mb" in words else 200))
    write_scene(tmp_path / "a.tif", pixels)
    assert predict(model, tmp_path / "a.tif", "--out", tmp_path / "one.tif") == 0
    assert predict(model, tmp_path / "a.tif", "--out", tmp_path / "two.tif", *words) == 0
    one, two = read(tmp_path / "one.tif"), read(tmp_path / "two.tif")
    assert (one != two).mean() < 1e-3  # ties of two classes may fall the other way by rounding


@pytest.mark.parametrize("window", [128, 256])
def test_a_window_may_be_larger_than_the_scene(model: Path, scene: Path, window: int) -> None:
    out = scene.parent / "map.tif"
    assert predict(model, scene, "--out", out, "--window", window) == 0
    classes = read(out)[0]
    assert classes.shape == (90, 70)
    np.testing.assert_array_equal(classes == NODATA, (read(scene) == 0).all(axis=0))


def test_bands_are_found_under_other_names_in_any_order(
    model: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, scene, "--out", scene.parent / "one.tif") == 0
    assert "bands are read as" not in capsys.readouterr().out
    pixels = read(scene)
    more = np.stack([pixels[2], np.ones_like(pixels[0]), pixels[0], pixels[1]])
    for number, names in enumerate(
        [("SR_B4", "B1", "SR_B2", "SR_B3"), ("red", "x", "blue", "green")]
    ):
        other = write_scene(scene.parent / f"other{number}.tif", more, bands=names)
        assert predict(model, other, "--out", scene.parent / "two.tif") == 0
        assert f"B2 = {names[2]}, B3 = {names[3]}, B4 = {names[0]}" in capsys.readouterr().out
        np.testing.assert_array_equal(
            read(scene.parent / "one.tif"), read(scene.parent / "two.tif")
        )
    unnamed = write_scene(scene.parent / "unnamed.tif", pixels, bands=None)
    assert predict(model, unnamed, "--out", scene.parent / "two.tif") == 0
    np.testing.assert_array_equal(read(scene.parent / "one.tif"), read(scene.parent / "two.tif"))


def test_a_product_of_one_file_per_band_is_one_scene(samples: Path, tmp_path: Path) -> None:
    bands = ("B4", "B3", "B7")
    numbers = {"mean": [60.0] * 3, "std": [20.0] * 3, "low": [5.0] * 3, "high": [200.0] * 3}
    plain = normaliser_dict(bands, "landsat5-tm", scale=[1.0] * 3, offset=[0.0] * 3, **numbers)
    folder = write_model(tmp_path / "model", plain)
    # Beside the bands lies a raster of labels, which is a scene without them.
    assert predict(folder, samples / LANDSAT5, "--out", tmp_path / "maps", "--window", 64) == 1
    assert [p.name for p in (tmp_path / "maps").iterdir()] == ["LT52240631988227CUB02.tif"]
    classes = read(tmp_path / "maps" / "LT52240631988227CUB02.tif")[0]
    stored = [read(samples / LANDSAT5 / f"LT52240631988227CUB02_{band}.TIF")[0] for band in bands]
    np.testing.assert_array_equal(classes == NODATA, (np.stack(stored) == 0).all(axis=0))


def test_probabilities_add_up_and_agree_with_the_classes(model: Path, scene: Path) -> None:
    out = scene.parent / "map.tif"
    assert predict(model, scene, "--out", out, "--probabilities") == 0
    soft = scene.parent / "map.probabilities.tif"
    check_cloud_optimised(soft)
    steps, classes = read(soft), read(out)[0]
    known = classes != NODATA
    assert (steps[:, ~known] == NODATA).all()
    assert np.abs(steps[:, known].sum(axis=0, dtype=int) - 250).max() <= 2
    chosen = np.take_along_axis(steps, np.where(known, classes, 0)[None], axis=0)[0]
    np.testing.assert_array_equal(chosen[known], steps[:, known].max(axis=0))
    with rasterio.open(soft) as dataset:
        assert dataset.descriptions == CLASSES
        assert dataset.scales == (1 / 250,) * 3


def test_a_classifier_of_images_gives_smooth_maps(scene: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", task="classify")
    assert predict(folder, scene, "--out", tmp_path / "map.tif", "--overlap", 0.5) == 0
    classes = read(tmp_path / "map.tif")[0]
    np.testing.assert_array_equal(classes == NODATA, (read(scene) == 0).all(axis=0))


def test_without_coordinates_the_map_has_none_and_it_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path / "a.tif", scene_pixels(0, size=(40, 40)), crs=None)
    assert predict(model, tmp_path / "a.tif", "--out", tmp_path / "map.tif") == 0
    assert "a.tif: has no coordinate system" in capsys.readouterr().out
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.crs is None


def broken_scene(kind: str, folder: Path) -> Path:
    """Write a scene that cannot be predicted, or nothing for "missing"."""
    path, pixels = folder / f"{kind}.tif", scene_pixels(0, size=(300, 300))
    images = {
        "truncated": pixels,
        "all_nodata": np.zeros_like(pixels),
        "bands": pixels[:2],
        "many_unnamed": np.concatenate([pixels, pixels]),
        "ambiguous": np.concatenate([pixels, pixels[:1]]),
        "reflectance": (pixels * 2e-5 - 0.1).astype(np.float32),
        "quick_look": (pixels // 80).astype(np.uint8),
        "scale": pixels,
        "complex": pixels.astype(np.complex64),
    }
    names = {
        "bands": ("B2", "B3"),
        "many_unnamed": None,
        "ambiguous": ("SR_B2", "B3", "B4", "blue"),
    }
    if kind in images:
        write_scene(path, images[kind], bands=names.get(kind, ("B2", "B3", "B4")))
    elif kind != "missing":
        path.write_text("this is no image" if kind == "text" else "")
    if kind == "truncated":  # the directory comes first, so that the file opens
        cut = path.with_name("whole.tif")
        rasterio.shutil.copy(path, cut, driver="COG")
        path.write_bytes(cut.read_bytes()[:-200_000])
        cut.unlink()
    if kind == "scale":
        with rasterio.open(path, "r+") as dataset:
            dataset.scales = (1e-4,) * 3
    return path


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("missing", 1, "does not exist"),
        ("text", 1, "cannot be opened as an image"),
        ("empty", 1, "is empty"),
        ("truncated", 1, "cannot be read to its end"),
        ("all_nodata", 1, "holds no valid pixel"),
        ("bands", 2, "lacks B4 of sensor landsat8-oli"),
        ("many_unnamed", 2, "names none of its 6 bands"),
        ("ambiguous", 2, "has SR_B2 and blue for band B2"),
        ("reflectance", 1, "look like reflectance already"),
        ("quick_look", 1, "holds numbers up to 255, too small for reflectance"),
        ("scale", 1, "states scale and offset"),
        ("complex", 1, "holds complex64 numbers"),
    ],
)
def test_what_cannot_be_predicted_gets_one_sentence(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    code: int,
    words: str,
) -> None:
    path = broken_scene(kind, tmp_path)
    before = set(tmp_path.iterdir())
    assert predict(model, path, "--out", tmp_path / "map.tif") == code
    said = capsys.readouterr().err.strip()
    assert words in said
    assert path.name in said
    assert said.count("\n") == 0
    assert said.endswith(".")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--window", "30"], "is not a multiple of patch 8; use 32"),
        (["--window", "4"], "is not a multiple of patch 8; use 8"),
        (["--overlap", "0.9"], "is outside of 0 to 0.75"),
        (["--batch-size", "0"], "--batch-size 0: is below 1"),
        (["--device", "abacus"], "'abacus': is not known"),
        (["--out", "{scene}"], "would replace a scene"),
        (["--out", "{folder}/text"], "is a file and no map"),
        (["--out", "{folder}/folder.tif"], "is a folder"),
        (["{folder}/b", "--out", "{folder}/map.tif"], "is one file for 2 scenes"),
        (["{folder}/c", "--out", "{folder}/maps"], "would both be written as scene.tif"),
    ],
)
def test_impossible_wishes_are_usage_errors(
    model: Path, scene: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    folder = scene.parent
    (folder / "text").touch()
    (folder / "folder.tif").mkdir()
    write_scene(folder / "b" / "other.tif", scene_pixels(1))
    write_scene(folder / "c" / "scene.tif", scene_pixels(1))
    content = scene.read_bytes()
    filled = [word.format(scene=scene, folder=folder) for word in words]
    out = [] if "--out" in words else ["--out", folder / "map.tif"]
    assert predict(model, scene, *out, *filled) == 2
    assert reason in capsys.readouterr().err
    assert scene.read_bytes() == content
    assert not (folder / "map.tif").exists()


def test_models_that_cannot_predict_say_why(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "map.tif"
    assert predict(write_model(tmp_path / "pre", task=None), scene, "--out", out) == 2
    assert "without a task head" in capsys.readouterr().err
    assert predict(write_model(tmp_path / "bare", {}), scene, "--out", out) == 1
    assert "bare: holds no normaliser" in capsys.readouterr().err
    assert predict(tmp_path / "nowhere", scene, "--out", out) == 1
    assert "is not a model directory" in capsys.readouterr().err
    assert main(["predict", "--model", str(tmp_path / "pre"), "--out", str(out)]) == 2
    assert "scenes: are missing" in capsys.readouterr().err
    assert not out.exists()


def test_a_product_of_another_sensor_is_refused_by_its_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its fourth band is infrared, and red in the model.
    name = "LE07_L1TP_224078_20020518.tif"
    write_scene(tmp_path / name, scene_pixels(0))
    assert predict(model, tmp_path / name, "--out", tmp_path / "map.tif") == 2
    said = capsys.readouterr().err
    assert f"{name}: is of landsat7-etm by its name, and landsat8-oli is wanted" in said
    level2 = write_scene(tmp_path / "LC08_L2SP_224078_20200518.tif", scene_pixels(0))
    assert predict(model, level2, "--out", tmp_path / "map.tif") == 2
    assert "is of landsat8-oli@c2-l2 by its name" in capsys.readouterr().err


def test_bands_without_a_name_are_not_taken_for_numbers(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.concatenate([scene_pixels(0), scene_pixels(1)[:1]])
    write_scene(tmp_path / "a.tif", pixels, bands=("B1", "B2", "B3", ""))  # the reader: band_4
    assert predict(model, tmp_path / "a.tif", "--out", tmp_path / "map.tif") == 2
    assert "lacks B4 of sensor landsat8-oli" in capsys.readouterr().err


def test_a_broken_scene_does_not_stop_the_others(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = tmp_path / "scenes"
    write_scene(scenes / "a.tif", scene_pixels(0))
    (scenes / "b.tif").write_text("no image")
    write_scene(scenes / "deep" / "c.tif", scene_pixels(1)[:2], bands=("B2", "B3"))
    write_scene(scenes / "deep" / "d.tif", scene_pixels(2))
    assert predict(model, scenes, "--out", tmp_path / "maps") == 1
    said = capsys.readouterr()
    written = sorted(
        p.relative_to(tmp_path / "maps").as_posix() for p in (tmp_path / "maps").rglob("*")
    )
    assert written == ["a.tif", "deep", "deep/d.tif"]
    assert said.out.count("left out: ") == 2
    assert "2 of 4 scenes: could not be done, the first because" in said.err
    assert said.err.count("\n") == 1


def test_a_killed_run_leaves_nothing_and_can_be_repeated(model: Path, tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", scene_pixels(0, size=(600, 600)))
    words = ["predict", "--model", str(model), str(path), "--out", str(tmp_path / "map.tif")]
    slow = ["--batch-size", "1", "--overlap", "0.75", "--num-threads", "1"]
    process = subprocess.Popen([sys.executable, "-m", "mimkit", *words, *slow])
    hidden = tmp_path / ".map.tif.partial" / "rows.tif"
    deadline = time.monotonic() + 120
    while not hidden.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "map.tif").exists()
    assert hidden.exists()
    assert main([*words, "--overlap", "0"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"a.tif", "map.tif"}
