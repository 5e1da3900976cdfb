"""Arrays as scenes: layouts, dates, descriptions, and files that are broken."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimkit.datasets.errors import DataError
from mimkit.datasets.readers.raster import ArraySpec, open_scene

CUBE = np.random.default_rng(0).integers(1, 9999, (4, 3, 20, 30)).astype(np.uint16)  # t c h w


def save(path: Path, array: np.ndarray, spec: dict[str, Any] | None, **others: Any) -> Path:
    if path.suffix == ".npz":
        np.savez_compressed(path, allow_pickle=False, img=array, **others)
    else:
        np.save(path, array)
    if spec is not None:
        path.with_suffix(".json").write_text(json.dumps(spec))
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    ("layout", "time", "expected"),
    [
        ("tchw", 2, CUBE[2]),
        ("thwc", 1, CUBE[1]),
        ("chw", None, CUBE[0]),
        ("hwc", None, CUBE[0]),
        ("hw", None, CUBE[0, :1]),
        ("thw", 3, CUBE[3, :1]),
    ],
)
@given(
    row=st.integers(-5, 25),
    col=st.integers(-5, 35),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
)
def test_every_layout_gives_the_same_windows(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    layout: str,
    time: int | None,
    expected: np.ndarray,
    row: int,
    col: int,
    height: int,
    width: int,
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"{layout}{suffix[1:]}"
    path = folder / f"scene{suffix}"
    if not path.exists():
        folder.mkdir()
        first = tuple(0 if axis not in layout else slice(None) for axis in "tchw")
        axes = [axis for axis in "tchw" if axis in layout]
        array = CUBE[first].transpose([axes.index(axis) for axis in layout])
        save(path, array, {"layout": layout})
    with open_scene(str(path) if time is None else f"{path}#t={time}") as scene:
        tile = scene.read(row, col, height, width)
    padded = np.zeros((len(expected), 120, 120), np.uint16)
    padded[:, 40:60, 40:70] = expected
    window = slice(row + 40, row + 40 + height), slice(col + 40, col + 40 + width)
    np.testing.assert_array_equal(tile.pixels, padded[:, *window])
    np.testing.assert_array_equal(tile.valid, padded[0][window] > 0)


def test_the_description_is_carried(tmp_path: Path) -> None:
    spec = {
        "array": "img",
        "layout": "chw",
        "bands": ["red", "nir", "swir"],
        "crs": "epsg:32633",
        "transform": [10, 0, 5e5, 0, -10, 5e6],
        "nodata": 7,
        "scale": [0.5, 1, 2],
        "offset": -1,
    }
    array = CUBE[0].copy()
    array[0, 0, 0] = 7
    path = save(tmp_path / "a.npz", array, spec, other=np.zeros(3))
    with open_scene(path, bands=("swir", "red")) as scene:
        assert scene.bands == ("swir", "red")
        assert (scene.scale, scene.offset) == ((2.0, 0.5), (-1.0, -1.0))
        assert scene.nodata == 7
        assert scene.geometry.crs == "EPSG:32633"
        assert scene.geometry.bounds() == (5e5, 5e6 - 200, 5e5 + 300, 5e6)
        tile = scene.read(0, 0, 20, 30)
        np.testing.assert_array_equal(tile.pixels, array[[2, 0]])
        np.testing.assert_array_equal(tile.valid, (array[[2, 0]] != 7).all(axis=0))
    with open_scene(path, nodata=float(array[0, 1, 1])) as scene:
        assert not scene.read(1, 1, 1, 1).valid.any()


def test_dates(tmp_path: Path) -> None:
    spec = {"layout": "tchw", "times": ["2015-08-20", "2015-07-31", "2015-09-09", "2015-08-30"]}
    path = save(tmp_path / "a.npy", CUBE, spec)
    with open_scene(f"{path}#t=1") as scene:
        assert scene.tags == {"TIME": "2015-07-31"}
        assert scene.uri == f"{path}#t=1"
    with pytest.raises(DataError, match=r"holds 4 dates.*choose one, as in a.npy#t=3"):
        open_scene(path)
    with pytest.raises(DataError, match="holds 4 dates"):
        open_scene(f"{path}#t=4")
    single = save(tmp_path / "one.npy", CUBE[:1], {"layout": "tchw"})
    with open_scene(single) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 20, 30).pixels, CUBE[0])
    flat = save(tmp_path / "flat.npy", CUBE[0], {"layout": "chw"})
    with pytest.raises(DataError, match="has no axis of dates"):
        open_scene(f"{flat}#t=0")


def test_an_own_description_wins_over_one_given(tmp_path: Path) -> None:
    spec = ArraySpec(layout="chw", bands=("a", "b", "c"))
    with open_scene(save(tmp_path / "a.npy", CUBE[0], None), spec=spec) as scene:
        assert scene.bands == ("a", "b", "c")
    (tmp_path / "common.txt").write_text('{"layout": "chw", "bands": null}')
    with open_scene(tmp_path / "a.npy", spec=tmp_path / "common.txt") as scene:
        assert scene.bands == ("band_1", "band_2", "band_3")
    own = save(tmp_path / "b.npy", CUBE[0], {"layout": "chw", "bands": ["x", "y", "z"]})
    with open_scene(own, spec=spec) as scene:
        assert scene.bands == ("x", "y", "z")


def test_foreign_byte_order_and_column_order(tmp_path: Path) -> None:
    array = np.asfortranarray(CUBE[0].astype(">u2"))
    with open_scene(save(tmp_path / "a.npy", array, {"layout": "chw"})) as scene:
        tile = scene.read(0, 0, 20, 30)
    assert scene.dtype == "uint16"
    assert tile.pixels.dtype == np.uint16
    np.testing.assert_array_equal(tile.pixels, CUBE[0])


def test_an_array_is_mapped_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.npy"
    shape = (3, 200_000, 200_000)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=shape)
    array[1, 150_000, 100_000] = 5  # a file with holes: 240 GB in name only
    del array
    path.with_suffix(".json").write_text('{"layout": "chw"}')
    with open_scene(path) as scene:
        assert scene.read(150_000, 100_000, 2, 2).pixels[1, 0, 0] == 5


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def damaged(folder: Path) -> Path:
    path = save(folder / "a.npz", CUBE[0], {})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))
    return path


def objects(folder: Path) -> Path:
    array = np.array([[[{}]]], dtype=object)
    np.save(folder / "a.npy", array, allow_pickle=True)
    (folder / "a.json").write_text("{}")
    return folder / "a.npy"


def objects_in_archive(folder: Path) -> Path:
    np.savez(folder / "a.npz", allow_pickle=True, img=np.array([[[{}]]], dtype=object))
    (folder / "a.json").write_text("{}")
    return folder / "a.npz"


def plain_pickle(folder: Path) -> Path:
    (folder / "a.npy").write_bytes(pickle.dumps([1, 2]))
    (folder / "a.json").write_text("{}")
    return folder / "a.npy"


def empty(folder: Path) -> Path:
    (folder / "a.npy").write_bytes(b"")
    (folder / "a.json").write_text("{}")
    return folder / "a.npy"


def bomb(folder: Path) -> Path:
    head = io.BytesIO()
    shape = (100_000, 100_000, 3)
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<u2", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("img.npy", head.getvalue() + bytes(10_000))
    (folder / "a.json").write_text("{}")
    return folder / "a.npz"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: save(f / "a.npy", CUBE[0], None), "nothing says what its axes and bands are"),
        (lambda f: cut(save(f / "a.npy", CUBE[0], {}), 0.5), "cannot be read"),
        (lambda f: cut(save(f / "a.npz", CUBE[0], {}), 0.5), "cannot be read"),
        (damaged, "cannot be read"),
        (empty, "cannot be read"),
        (objects, "holds Python objects"),
        (objects_in_archive, "holds Python objects|holds object"),
        (plain_pickle, "cannot be read|holds Python objects"),
        (bomb, "takes 55.9 GiB"),
        (lambda f: save(f / "a.npy", CUBE[0] * 1j, {}), "holds complex128 instead of real numbers"),
        (lambda f: save(f / "a.npy", CUBE[0] > 9, {}), "holds bool instead"),
        (lambda f: save(f / "a.npy", CUBE[0, 0], {}), r"has shape \(20, 30\), which is not hwc"),
        (lambda f: save(f / "a.npy", CUBE[0][:, :0], {}), "has shape"),
        (lambda f: save(f / "a.npy", CUBE[0], {"bands": ["x"]}), "has 30 bands, .* names 1"),
        (lambda f: save(f / "a.npy", CUBE[0], {"scale": [1, 2]}), "2 numbers as scale"),
        (lambda f: save(f / "a.npz", CUBE[0], {"array": "x"}), "has no array 'x'; .* has img"),
        (lambda f: save(f / "a.npz", CUBE[0], {}, b=CUBE), "does not say which array"),
        (lambda f: f / "missing.npy", "nothing says|does not exist"),
    ],
)
def test_broken_arrays_say_what_is_wrong_and_what_to_do(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(DataError, match=message) as caught, open_scene(path) as scene:
        scene.read(0, 0, scene.geometry.height, scene.geometry.width)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON file"),
        ("[1]", "unknown entry"),
        ('{"band": ["x"]}', "has the unknown entry 'band'; its entries are array, layout, bands"),
        ('{"layout": "cwh"}', "layout is cwh; use one of hwc"),
        ('{"bands": ["x", "x"]}', "bands is .*; list distinct names"),
        ('{"bands": "xyz"}', "bands is xyz"),
        ('{"scale": "1e-4"}', "scale is 1e-4"),
        ('{"scale": [1, NaN]}', "scale is"),
        ('{"nodata": true}', "nodata is True"),
        ('{"transform": [1, 0, 0, 0, 1]}', "transform is"),
        ('{"transform": [0, 0, 0, 0, 0, 0]}', "transform is"),
        ('{"array": 3}', "array is 3"),
        ('{"times": [1]}', "times is"),
        ('{"crs": "EPSG:0", "transform": [1, 0, 0, 0, -1, 0]}', "crs 'EPSG:0' is not known"),
    ],
)
def test_wrong_descriptions_name_the_entry(tmp_path: Path, text: str, message: str) -> None:
    path = save(tmp_path / "a.npy", CUBE[0], None)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_scene(path)


def test_arrays_are_not_joined(tmp_path: Path) -> None:
    paths = [save(tmp_path / name, CUBE[0], {}) for name in ("B1.npy", "B2.npy")]
    with pytest.raises(DataError, match="an array is a scene of its own"):
        open_scene(paths)
