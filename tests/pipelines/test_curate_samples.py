"""Curation of real scenes: one test per way of delivery."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimkit.datasets.manifest import KEPT, kept_rows, manifest_rows, read_manifest
from mimkit.datasets.store import Store
from mimkit.pipelines.curate.run import CurateConfig, run

S2_BANDS = [*(f"B{i:02d}" for i in range(1, 9)), "B8A", "B09", "B10", "B11", "B12"]
SPECS: dict[str, dict[str, Any]] = {
    "cloudmask": {
        "array": "img",
        "layout": "hwc",
        "bands": ["blue", "green", "red", "nir", "swir16", "swir22"],
    },
    "s2_l1c_lulc": {
        "layout": "thwc",
        "bands": S2_BANDS,
        "crs": "EPSG:32633",
        "transform": [10, 0, 465181.05, 0, -10, 5080254.63],
    },
}


def curate(samples: Path, out: Path, folder: str, **changes: Any) -> tuple[str, int]:
    """Curate a folder of the samples; returns name and length of its only store."""
    source = samples / "satellite" / folder
    if "masks" in changes and not changes["masks"].startswith("npz:"):
        changes["masks"] = str(source / changes["masks"])
    if folder in SPECS:
        spec = out.parent / "spec.json"
        spec.write_text(json.dumps(SPECS[folder]))
        changes["array_spec"] = spec
    report = run(CurateConfig(sources=(source,), out=out, workers=0, **changes))
    assert report.num_broken == 0
    ((name, number),) = report.groups.items()
    return name, number


def labelled_pixels(out: Path, group: str) -> dict[str, int]:
    store = Store(out / group)
    labels = store.read(np.arange(len(store)), labels=True).labels
    assert labels is not None
    return {name: int((labels == i).sum()) for i, name in enumerate(store.meta.classes)}


def test_a_product_of_one_file_per_band_with_polygons(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    name, number = curate(
        samples,
        out,
        "landsat5_tm_product",
        size=64,
        min_valid=0.01,
        masks="training_polygons.geojson",
        exclude=("training_labels.tif",),
    )
    assert (name, number) == ("landsat5-tm-7x64x64-uint8", 25)
    expected = {"cleared": 1124, "fallen_dry": 220, "forest": 2271, "water": 795}
    assert labelled_pixels(out, name) == expected
    assert {r.acquired for r in manifest_rows(read_manifest(out / "manifest.parquet"))} == {
        "1988-08-14"
    }


def test_a_scene_with_a_zero_border(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    polygons = "landcover_polygons.gpkg"
    name, number = curate(samples, out, "landsat8_oli_crop", masks=polygons)
    assert name == "landsat8-oli-3x96x96-uint16"
    rows = manifest_rows(read_manifest(out / "manifest.parquet"))
    assert len(rows) == 256
    share = float(np.mean([row.valid or 0.0 for row in rows]))
    assert share == pytest.approx(0.956, abs=0.002)
    assert number == sum((row.valid or 0) >= 0.5 for row in rows)
    assert min(labelled_pixels(out, name).values()) > 50
    assert {row.split for row in rows if row.status == KEPT} == {"train", "val", "test"}


def test_arrays_with_labels_inside(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    name, number = curate(
        samples,
        out,
        "cloudmask",
        size=64,
        masks="npz:msk",
        mask_classes=("0=shadow", "1=water", "3=land", "4=cloud"),
    )
    assert (name, number) == ("reflectance-6-6x64x64-float32", 128)
    scene = np.load(samples / "satellite" / "cloudmask" / "landsat5.npz")
    rows = manifest_rows(kept_rows(read_manifest(out / "manifest.parquet"), name))
    row = next(row for row in rows if row.id == "landsat5:000064:000128")
    read = Store(out / name).read(np.array([row.row]), labels=True)
    cut = (slice(64, 128), slice(128, 192))
    np.testing.assert_array_equal(read.pixels[0], np.moveaxis(scene["img"][cut], -1, 0))
    codes = np.select([scene["msk"][..., 0] == v for v in (0, 1, 3, 4)], [0, 1, 2, 3], 255)
    assert read.labels is not None
    np.testing.assert_array_equal(read.labels[0], codes[cut])
    assert {row.split for row in rows} == {"train", "test"}  # by scene: they have no position


def test_dates_of_one_array(samples: Path, tmp_path: Path) -> None:
    name, number = curate(
        samples,
        tmp_path / "out",
        "s2_l1c_lulc",
        size=50,
        sensor="sentinel2-l1c@reflectance",
        pattern="REFERENCE_SCENES.npy",
        masks="LULC.npy",
        mask_classes=("1=cultivated", "2=forest", "3=grassland"),
    )
    assert (name, number) == ("sentinel2-l1c@reflectance-13x50x50-float32", 20)
    assert labelled_pixels(tmp_path / "out", name)["forest"] > 5 * 7000


def test_dates_of_one_place_stay_together(samples: Path, tmp_path: Path) -> None:
    name, number = curate(
        samples,
        tmp_path / "out",
        "s2_l1c_flood/lahinch",
        size=48,
        sensor="sentinel2-l1c",
        cell_km=0.6,
        masks="segmentation",
        mask_classes=("1=land", "2=water", "3=cloud"),
    )
    assert name == "sentinel2-l1c-13x48x48-float32"
    rows = manifest_rows(kept_rows(read_manifest(tmp_path / "out" / "manifest.parquet"), name))
    assert len(rows) == number > 50
    parts = {(row.top, row.left, row.split) for row in rows}
    assert len(parts) == len({(row.top, row.left) for row in rows})
    assert {row.split for row in rows} >= {"train", "test"}
    assert min(labelled_pixels(tmp_path / "out", name).values()) > 100


def test_a_patch_of_three_resolutions(samples: Path, tmp_path: Path) -> None:
    name, number = curate(samples, tmp_path / "out", "bigearthnet_patch", size=120)
    assert (name, number) == ("sentinel2-l2a-12x120x120-uint16", 1)


def test_photographs_with_a_table(samples: Path, tmp_path: Path) -> None:
    table = samples / "satellite" / "rsscn7_128" / "index.csv"
    out = tmp_path / "out"
    pattern = "images/a00*.jpg"
    name, number = curate(samples, out, "rsscn7_128", size=128, labels=str(table), pattern=pattern)
    assert (name, number) == ("rgb-3x128x128-uint8", 9)
    rows = manifest_rows(read_manifest(out / "manifest.parquet"))
    assert {(row.label, row.split) for row in rows} == {("Grass", "train")}
