"""Sensors as data, and what they say about real files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.domains.satellite.sensors import (
    Sensor,
    band_key,
    check_values,
    find_bands,
    guess_sensor,
    load_sensor,
    match_bands,
    sensor_names,
)

SENTINEL2 = tuple(f"B{i}" for i in (*range(1, 9), "8A", *range(9, 13)))


@pytest.mark.parametrize("name", sensor_names(variants=True))
def test_every_sensor_is_complete(name: str) -> None:
    sensor = load_sensor(name)
    assert sensor.name == name
    assert sensor.title
    assert sensor.units
    assert sensor.dtypes
    low, high = sensor.plausible
    assert -20 < low < high < 1000
    wavelengths = [band.wavelength for band in sensor.bands]
    assert all(w is not None and 400 < w < 13000 for w in wavelengths)
    assert all(band.scale > 0 for band in sensor.bands)
    assert {"red", "green", "blue"} <= {band.common for band in sensor.bands}
    for band in sensor.bands:
        for alias in (band.name, band.common, *band.aliases):
            found = find_bands(sensor, [str(alias)])
            assert found == {band.name: alias}
        if name != "rgb":
            assert band.gsd is not None
        for pattern in sensor.files:
            re.compile(pattern)


@pytest.mark.parametrize("name", sensor_names())
def test_common_names_agree_on_their_colour(name: str) -> None:
    """A band's common name and its wavelength were typed separately; they must tell the same."""
    ranges = {
        "coastal": (430, 455),
        "blue": (450, 515),
        "green": (525, 600),
        "red": (630, 680),
        "nir": (760, 900),
        "nir08": (850, 880),
        "cirrus": (1360, 1390),
        "swir16": (1550, 1750),
        "swir22": (2080, 2350),
    }
    for band in load_sensor(name).bands:
        low, high = ranges.get(band.common or "", (400, 13000))
        assert low <= (band.wavelength or 0) <= high, band


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("B1", "b1"),
        ("B01", "b1"),
        ("b08", "b8"),
        ("B8A", "b8a"),
        ("SR_B4", "b4"),
        ("ST_B10", "b10"),
        ("band 5 reflectance", "b5"),
        ("Band_11", "b11"),
        ("7", "b7"),
        ("Blue", "blue"),
        ("SWIR 1", "swir1"),
        ("QA60", "qa60"),
        ("B6_VCID_2", "b6vcid2"),
    ],
)
def test_spelling_does_not_matter(name: str, key: str) -> None:
    assert band_key(name) == key


def test_processing_baseline_offset_is_a_variant() -> None:
    for level in ("l1c", "l2a"):
        old = load_sensor(f"sentinel2-{level}").bands[3]
        new = load_sensor(f"sentinel2-{level}@n0400").bands[3]
        assert (old.scale, old.offset) == (1e-4, 0.0)
        assert 1500 * old.scale + old.offset == pytest.approx(2500 * new.scale + new.offset)


def test_thermal_bands_have_their_own_scale_and_units() -> None:
    red, *_, thermal = load_sensor("landsat8-oli@c2-l2").select(["B4", "B10"])
    assert red.scale * 7273 + red.offset == pytest.approx(0.0, abs=1e-4)
    assert thermal.units == "kelvin"
    assert thermal.scale * 44000 + thermal.offset == pytest.approx(299.4, abs=0.1)


def test_unknown_names_are_answers() -> None:
    with pytest.raises(UsageError, match="did you mean 'landsat8-oli'"):
        load_sensor("landsat8")
    with pytest.raises(UsageError, match="no variant 'n0500'; use one of n0400, reflectance"):
        load_sensor("sentinel2-l2a@n0500")
    with pytest.raises(UsageError, match=r"none.yaml: cannot be read"):
        load_sensor("none.yaml")
    with pytest.raises(UsageError, match="has no band 'B8'"):
        load_sensor("landsat8-oli").select(["B8"])


OWN = """
name: drone
title: Five bands
units: reflectance
dtypes: [uint16]
scale: {default: 0.00002, edge: 0.00004}
plausible: [0, 1.5]
bands:
  - {name: blue, wavelength: 475}
  - {name: edge, aliases: [rededge, RE], wavelength: 717}
variants:
  float: {dtypes: [float32], scale: 1.0}
"""


def test_the_users_own_sensor(tmp_path: Path) -> None:
    folder = tmp_path / "me@work"
    folder.mkdir()
    path = folder / "drone.yaml"
    path.write_text(OWN)
    sensor = load_sensor(path)
    assert sensor.name == "drone"
    assert [band.scale for band in sensor.bands] == [2e-5, 4e-5]
    assert load_sensor(f"{path}@float").dtypes == ("float32",)
    assert match_bands(sensor, ["RE", "blue"]) == {"blue": "blue", "edge": "RE"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("wavelength: 475", "wavelenght: 475", "did you mean 'wavelength'"),
        ("edge: 0.00004", "egde: 0.00004", "scale of unknown band 'egde'"),
        ("{name: edge", "{name: blue", "not distinct"),
        ("units: reflectance", "units: [1]", r"bad.yaml.units: is \[1\]"),
        ("dtypes: [float32]", "dtype: [float32]", "did you mean 'dtypes'"),
        ("bands:", "bands", "cannot be read"),
    ],
)
def test_a_wrong_sensor_file_is_an_answer(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(OWN.replace(old, new))
    with pytest.raises(UsageError, match=message):
        load_sensor(f"{path}@float")


def test_missing_and_ambiguous_bands_are_named() -> None:
    sensor = load_sensor("landsat8-oli")
    found = match_bands(sensor, ["SR_B4", "SR_B2", "QA_PIXEL"], ["B2", "B4"])
    assert list(found.items()) == [("B2", "SR_B2"), ("B4", "SR_B4")]
    with pytest.raises(UsageError, match=r"a\.tif: lacks B1, B5, B6, B7"):
        match_bands(sensor, ["B2", "B3", "B4"], subject="a.tif")
    with pytest.raises(UsageError, match="has blue and B02 for band B2"):
        match_bands(sensor, ["blue", "B02", "B4"], ["B2"])
    assert match_bands(sensor, ["blue", "B2"], ["B2"]) == {"B2": "B2"}


@pytest.mark.parametrize(
    ("uri", "dtype", "names", "sensor"),
    [
        ("p/LC08_L1TP_224078_20200518_crop.tif", "uint16", ("B2", "B3"), "landsat8-oli"),
        ("LC09_L2SP_1_2_B2.TIF", "uint16", ("SR_B2",), "landsat8-oli@c2-l2"),
        ("LT52240631988227CUB02_B1.TIF", "uint8", ("B1", "B2"), "landsat5-tm"),
        ("LE70220491999322EDC01_stack.tif", "int16", ("band 1",), "landsat7-etm@sr-10000"),
        ("S2A_MSIL2A_20170617T113321_36_85/x_B02.tif", "uint16", ("B02",), "sentinel2-l2a"),
        ("S2B_MSIL1C_20170617T113321_N0205_R1", "uint16", ("B02",), "sentinel2-l1c"),
        ("S2B_MSIL2A_20230617T113321_N0509_R1", "uint16", ("B02",), "sentinel2-l2a@n0400"),
        ("a.jpg", "uint8", ("red", "green", "blue"), "rgb"),
        ("a", "float32", ("blue", "green", "red", "nir", "swir1", "swir2"), "reflectance-6"),
        ("a.tif", "uint16", SENTINEL2, None),
        ("a.tif", "uint8", ("red", "green", "blue", "nir"), None),
        ("LC08_L1TP_224078.tif", "float32", ("B2",), None),
        ("LC08_L1TP_224078.tif", "uint16", ("x",), None),
    ],
)
def test_guess_is_right_or_none(
    uri: str, dtype: str, names: tuple[str, ...], sensor: str | None
) -> None:
    guess = guess_sensor(names, dtype, uri)
    assert (guess and guess.name) == sensor


def scene(low: float, high: float, dtype: str, num: int = 2) -> np.ndarray:
    values = np.random.default_rng(0).uniform(low, high, (num, 40, 40))
    return values.astype(dtype)


def visible(sensor: Sensor) -> list[str]:
    return [band.name for band in sensor.bands if band.common in ("red", "green")]


@pytest.mark.parametrize(
    ("name", "low", "high", "dtype", "problem"),
    [
        ("sentinel2-l1c", 300, 9000, "uint16", None),
        ("sentinel2-l1c", 300, 9000, "float32", None),
        ("sentinel2-l1c", 0.03, 0.9, "float32", "physical units already"),
        ("sentinel2-l1c@reflectance", 300, 9000, "float32", "digital numbers"),
        ("sentinel2-l1c@reflectance", 0.03, 0.9, "float32", None),
        ("sentinel2-l2a@n0400", 1000, 4000, "uint16", None),
        ("reflectance-6", 300, 9000, "float32", "digital numbers"),
        ("landsat8-oli", 6000, 20000, "uint16", None),
        ("landsat8-oli@c2-l2", 7500, 20000, "uint16", None),
        ("landsat5-tm", 10, 255, "uint8", None),
        ("rgb", 0, 255, "uint8", None),
        ("rgb", 0, 1, "float32", "physical units already"),
        ("rgb", 0, 4000, "uint16", "digital numbers"),
        ("landsat8-oli@sr-10000", -9999, -9990, "int16", "half of its values are below"),
    ],
)
def test_values_of_another_scale_are_refused(
    name: str, low: float, high: float, dtype: str, problem: str | None
) -> None:
    sensor = load_sensor(name)
    pixels = scene(low, high, dtype)
    if problem is None:
        check_values(sensor, visible(sensor), pixels)
        return
    with pytest.raises(DataError, match=f"a.tif: .*{problem}"):
        check_values(sensor, visible(sensor), pixels, subject="a.tif")
    nothing = np.zeros((40, 40), bool)
    check_values(sensor, visible(sensor), pixels, nothing)


def test_values_of_other_units_are_not_compared() -> None:
    sensor = load_sensor("landsat8-oli@c2-l2")
    pixels = scene(40000, 50000, "uint16", num=1)
    check_values(sensor, ["B10"], pixels)


def test_guard_on_real_scenes(samples: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    folder = samples / "satellite"
    with rasterio.open(next((folder / "landsat8_oli_crop").glob("*.tif"))) as source:
        pixels, names = source.read(), source.descriptions
    valid = (pixels > 0).all(axis=0)
    oli = load_sensor("landsat8-oli")
    check_values(oli, list(find_bands(oli, names)), pixels, valid)
    other = load_sensor("landsat8-oli@reflectance")
    with pytest.raises(DataError, match="digital numbers"):
        check_values(other, list(find_bands(oli, names)), pixels.astype("float32"), valid)
    lulc = np.load(folder / "s2_l1c_lulc" / "REFERENCE_SCENES.npy")[0].transpose(2, 0, 1)
    good, wrong = load_sensor("sentinel2-l1c@reflectance"), load_sensor("sentinel2-l1c")
    check_values(good, good.band_names, lulc)
    with pytest.raises(DataError, match="use a sensor or variant that fits"):
        check_values(wrong, wrong.band_names, lulc)
    with rasterio.open(next((folder / "s2_l1c_flood").rglob("S2/*.tif"))) as source:
        flood, names = source.read(), source.descriptions
    found = match_bands(wrong, names)
    index = [names.index(found[band]) for band in wrong.band_names]
    check_values(wrong, wrong.band_names, flood[index])
    stacks = sorted((folder / "landsat7_etm").glob("*stack.tif"))
    with rasterio.open(stacks[0]) as source:
        etm, names = source.read(), [name or "" for name in source.descriptions]
    sensor = guess_sensor(names, "int16", str(stacks[0]))
    assert sensor is not None
    assert list(find_bands(sensor, names).values()) == [names[i] for i in (0, 1, 2, 3, 4, 6, 5)]
    check_values(sensor, sensor.band_names, etm[[0, 1, 2, 3, 4, 6, 5]])
