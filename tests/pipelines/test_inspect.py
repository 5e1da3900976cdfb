"""Inspect says what is at a path, whatever it is, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import noise, write
from inspected import META, Look, Refused
from safetensors.torch import save_file

from mimkit.datasets.manifest import ManifestRow, write_manifest
from mimkit.datasets.samples import Sample
from mimkit.datasets.store import StoreMeta, StoreWriter
from mimkit.domains.domain import get_domain
from mimkit.pipelines.cli import main
from mimkit.pipelines.inspecting.description import as_text


def band(found: dict[str, Any], number: int) -> dict[str, Any]:
    (table,) = found["tables"].values()
    return table[number]


def test_a_scene_with_position_and_sensor(look: Look, tmp_path: Path) -> None:
    pixels = np.full((3, 40, 30), 7000, np.uint16)
    pixels[:, :4] = 0  # outside of the swath
    path = write(tmp_path / "LC08_L1TP_x.tif", pixels, 30.0, bands=("B2", "B3", "B4"))
    code, found = look(path)
    facts = found["facts"]
    assert code == 0
    assert found["kind"] == "scene"
    assert facts["bands"] == ["B2", "B3", "B4"]
    assert (facts["width"], facts["height"], facts["dtype"]) == (30, 40, "uint16")
    assert facts["crs"] == "EPSG:32629"
    assert facts["metres per pixel"] == pytest.approx(30)
    assert facts["sensor"] == "landsat8-oli"
    assert facts["nodata"] == 0  # the sensor's, the file states none
    assert facts["share with data"] == pytest.approx(0.9)
    blue = band(found, 0)
    assert (blue["min"], blue["median"], blue["max"]) == (7000, 7000, 7000)
    assert blue["known as"] == "blue"
    assert blue["median, reflectance"] == pytest.approx(7000 * 2e-5 - 0.1)


def test_a_large_scene_is_read_in_a_few_windows(look: Look, tmp_path: Path) -> None:
    pixels = np.zeros((1, 1000, 1000), np.uint8)
    pixels[:, 300:350] = 200  # between the windows
    pixels[:, :, -1] = 9
    path = write(tmp_path / "a.tif", pixels, tiled=True, compress="deflate", nodata=255)
    found = look(path)[1]
    assert band(found, 0)["max"] == 9
    assert found["facts"]["nodata"] == 255
    assert found["facts"]["sensor"] is None
    assert "the sensor is not clear; `mimkit curate` needs --sensor" in found["notes"]


def test_a_scene_without_data_or_position(look: Look, tmp_path: Path) -> None:
    pixels = np.full((2, 8, 8), np.nan, np.float32)
    path = write(tmp_path / "empty.tif", pixels, crs=None)
    code, found = look(path)
    assert code == 0
    assert found["facts"]["crs"] is None
    assert found["facts"]["share with data"] == 0
    assert band(found, 1)["median"] is None
    assert "none of the pixels that were looked at holds data" in found["notes"]
    assert any("no coordinate system" in note for note in found["notes"])


def test_numbers_of_another_kind_are_noticed(look: Look, tmp_path: Path) -> None:
    dark = np.ones((3, 16, 16), np.uint16)  # Landsat numbers of reflectance 0 are about 5000
    path = write(tmp_path / "LC08_L1TP_x.tif", dark, 30.0, bands=("B2", "B3", "B4"))
    code, found = look(path)
    assert code == 0
    assert found["facts"]["sensor"] is None
    assert "sensor is not clear" in found["notes"][0]


def test_an_array_of_dates_needs_a_description(
    look: Look, refused: Refused, tmp_path: Path
) -> None:
    path, spec = tmp_path / "a.npy", tmp_path / "spec.txt"
    np.save(path, np.arange(3 * 4 * 5 * 2, dtype=np.float32).reshape(3, 4, 5, 2))
    assert "nothing says what its axes and bands are; write a.json" in refused(path)
    spec.write_text('{"layout": "thwc", "bands": ["red", "nir"], "nodata": -1}')
    found = look(path, "--array-spec", str(spec))[1]
    assert found["facts"]["dates"] == 3
    assert (found["facts"]["width"], found["facts"]["height"]) == (5, 4)
    assert [row["max"] for row in found["tables"].popitem()[1]] == [38, 39]


def test_a_folder_of_scenes_counts_kinds_and_names_broken_files(look: Look, tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "in" / f"{name}.tif", noise(2, 8, 8), bands=("red", "nir"))
    write(tmp_path / "in" / "c.tif", noise(1, 8, 8, dtype="uint8"))
    code, found = look(tmp_path / "in")
    kinds = found["tables"]["kinds of scenes"]
    assert code == 0
    assert found["facts"] == {"scenes": 3, "files": 3}
    assert [(row["scenes"], row["bands"], row["for example"]) for row in kinds] == [
        (2, "red, nir", "a"),
        (1, "band_1", "c"),
    ]
    (tmp_path / "in" / "text.tif").write_text("this is no image")
    code, found = look(tmp_path / "in")
    assert code == 1
    assert len(found["problems"]) == 1
    assert "text.tif: cannot be opened as an image" in found["problems"][0]


def test_one_product_of_several_files_is_one_scene(look: Look, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(tmp_path / f"LT05_x_B{number}.TIF", noise(1, 8, 8, dtype="uint8"), 30.0)
    found = look(tmp_path)[1]
    assert found["kind"] == "scene"
    assert found["facts"]["files"] == 3
    assert found["facts"]["bands"] == ["B1", "B2", "B3"]


def curated(out: Path, num_written: int = 2, meta: StoreMeta = META) -> Path:
    """Write a curated folder, or one whose writer was killed after some shards."""
    writer = StoreWriter(out / "a", meta)
    for shard in range(num_written):
        rows = writer.shard_rows(shard)
        writer.write_shard(shard, [Sample(np.full((2, 8, 8), row, np.uint8)) for row in rows])
    if num_written < writer.num_shards:
        (out / "stages").mkdir()
        return out
    writer.finalise()
    domain = get_domain("satellite")
    pixels = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(1, 2, 8, 8)
    normaliser = domain.fit(meta, [(pixels, None)]).to_dict()
    (out / "a" / "normaliser.json").write_text(json.dumps(normaliser))
    kept = [
        ManifestRow(
            id=f"{row}",
            uri="a.tif",
            status="kept",
            stage="pack",
            split=("train", "train", "val", "test")[row],
            label=("sea", "land")[row % 2],
            store_group="a",
            row=row,
        )
        for row in range(4)
    ]
    lost = ManifestRow(id="x", uri="b.tif", status="too_cloudy", stage="slice", reason="0.9 cloud")
    write_manifest(out / "manifest.parquet", [*kept, lost])
    card = {
        "scenes": {"found": 2, "broken": 1},
        "leakage": {
            "train_test_gap_km": 12.5,
            "train_val_gap_km": None,
            "near_duplicate_pairs": 3,
            "shared_checksums": 0,
        },
        "licences": {"not stated": 4},
        "sources": {},
        "notes": ["no licence given; --licence records it"],
    }
    (out / "card.json").write_text(json.dumps(card))
    return out


def test_a_store_with_its_reasons_and_leakage(look: Look, tmp_path: Path) -> None:
    code, found = look(curated(tmp_path))
    facts, tables = found["facts"], found["tables"]
    assert code == 0
    assert found["kind"] == "store"
    assert "toy, 2 bands (red, nir) in reflectance, 4 tiles of 8 x 8 pixels" in found["summary"]
    assert (facts["samples"], facts["rows of the manifest"]) == (4, 5)
    assert facts["scenes"] == "2 found, 1 broken"
    assert facts["km from train to test"] == 12.5
    assert facts["look-alikes across splits"] == 3
    assert facts["MB on disk"] > 0
    assert tables["stores"][0]["state"] == "whole"
    assert [tuple(row.values()) for row in tables["rows of the manifest"]] == [
        ("kept", "pack", 4, None),
        ("too cloudy", "slice", 1, "b.tif: 0.9 cloud"),
    ]
    assert [tuple(row.values()) for row in tables["kept samples"]] == [
        ("a", "test", "land", 1),
        ("a", "train", "land", 1),
        ("a", "train", "sea", 1),
        ("a", "val", "sea", 1),
    ]
    (red, nir) = tables["normaliser of a (reflectance)"]
    assert (red["band"], red["scale"], nir["band"]) == ("red", 0.5, "nir")
    assert nir["mean"] > red["mean"]
    assert found["notes"] == ["no licence given; --licence records it"]
    assert look(tmp_path / "a")[1]["tables"] == tables


def test_a_half_written_store_says_how_far_it_is(look: Look, tmp_path: Path) -> None:
    code, found = look(curated(tmp_path, num_written=1))
    assert code == 1
    assert found["tables"]["stores"][0]["state"] == "1 of 2 shards"
    assert found["facts"]["samples"] == 0
    assert "half written; run the command" in found["problems"][0]
    assert look(tmp_path / "a")[0] == 1


def test_a_curation_that_kept_nothing_says_why(look: Look, tmp_path: Path) -> None:
    row = ManifestRow(id="x", uri="b.tif", status="too_cloudy", reason="0.9 under cloud")
    write_manifest(tmp_path / "manifest.parquet", [row])
    code, found = look(tmp_path)
    assert code == 1
    assert "no sample was kept (1 too_cloudy)" in found["problems"][0]
    assert found["tables"]["rows of the manifest"][0]["for example"] == "b.tif: 0.9 under cloud"


def test_a_broken_manifest_or_card_is_said(look: Look, refused: Refused, tmp_path: Path) -> None:
    curated(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    assert "card.json cannot be read" in look(tmp_path)[1]["notes"][0]
    (tmp_path / "a" / "store.json").write_text("{")
    code, found = look(tmp_path)
    assert code == 1
    assert "cannot be read" in found["tables"]["stores"][0]["state"]
    (tmp_path / "manifest.parquet").write_text("no parquet")
    assert "the manifest cannot be read" in refused(tmp_path)


def test_what_is_nothing_is_one_sentence(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "text.tif").write_text("this is no image")
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "w.safetensors").write_bytes(b"\x00" * 20)
    (tmp_path / "folder").mkdir()
    assert "nowhere: does not exist; check the path." in refused(tmp_path / "nowhere")
    assert "can be described; give a scene" in refused(tmp_path / "note.txt")
    assert "can be described; give a scene" in refused(tmp_path / "folder")
    (tmp_path / "recipe.yaml").write_text("epochs: 3")
    assert "`mimkit recipe show`" in refused(tmp_path / "recipe.yaml")
    curated(tmp_path)
    assert f"a part of {tmp_path}: inspect that" in refused(tmp_path / "manifest.parquet")
    assert "text.tif: cannot be opened as an image" in refused(tmp_path / "text.tif")
    assert "empty.tif: is empty" in refused(tmp_path / "empty.tif")
    assert "not a whole safetensors file" in refused(tmp_path / "w.safetensors")
    assert "rows 0: is below 1" in refused(tmp_path / "note.txt", "--rows", "0", code=2)


def test_tables_are_cut_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({f"t{i:02d}": torch.ones(1) for i in range(9)}, tmp_path / "w.safetensors")
    assert main(["inspect", str(tmp_path / "w.safetensors"), "--rows", "4"]) == 0
    page = capsys.readouterr().out
    assert "t03" in page
    assert "t04" not in page
    assert "and 5 more rows" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (0.123456789, "0.12346"),
        ([1, 2.5, "a"], "1, 2.5, a"),
        ({"a": 1}, "a 1"),
        ([], "none"),
    ],
)
def test_values_are_written_for_people(value: object, text: str) -> None:
    assert as_text(value) == text


def test_a_real_scene(samples: Path, look: Look) -> None:
    code, found = look(samples / "satellite" / "bigearthnet_patch")
    assert code == 0
    assert found["facts"]["sensor"] == "sentinel2-l2a"
    assert found["facts"]["files"] == 12
    assert found["facts"]["metres per pixel"] == pytest.approx(10)
