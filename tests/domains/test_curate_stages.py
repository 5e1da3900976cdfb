"""Stage functions of curation that need no files: grid, units, parts, look-alikes, leakage."""

from dataclasses import replace

import numpy as np
import pytest

from mimkit.datasets.manifest import KEPT, ManifestRow
from mimkit.domains.curation.dedup import (
    DedupParams,
    Leakage,
    SplitBy,
    divide,
    measure_leakage,
)
from mimkit.domains.curation.records import StageResult
from mimkit.domains.satellite.curate.check import date_in
from mimkit.domains.satellite.curate.records import SceneFacts, SceneRef
from mimkit.domains.satellite.curate.slice import (
    SliceParams,
    main_bands,
    merge,
    plan_units,
    visible_bands,
)
from mimkit.domains.satellite.curate.tiles import tile_starts
from mimkit.domains.satellite.sensors import load_sensor

PARAMS = DedupParams(
    split_by="geography",
    fractions=(0.6, 0.2, 0.2),
    cell_km=5.0,
    buffer_km=0.0,
    seed=3,
    hash_distance=4,
    near="group",
)


def rows_on_a_grid(num: int, step_km: float = 1.0, side_km: float = 1.0) -> list[ManifestRow]:
    """Return kept tiles, num x num on the ground, each with its own pixels and look."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, num * num, dtype=np.uint64)
    return [
        ManifestRow(
            id=f"s:{r:06d}:{c:06d}",
            uri="s.tif",
            status=KEPT,
            group="s",
            sha=f"{r}-{c}",
            phash=f"{int(hashes[r * num + c]):016x}",
            lon=10 + c * step_km / 111.195,
            lat=r * step_km / 111.195,
            gsd=10.0,
            height=int(side_km * 100),
            width=int(side_km * 100),
        )
        for r in range(num)
        for c in range(num)
    ]


def status_of(rows: list[ManifestRow]) -> dict[str, str]:
    return {row.id: row.status for row in rows}


@pytest.mark.parametrize(
    ("length", "size", "stride", "expected"),
    [
        (96, 96, 96, [0]),
        (50, 96, 96, [0]),
        (97, 96, 96, [0, 96]),
        (192, 96, 48, [0, 48, 96]),
        (200, 96, 48, [0, 48, 96, 144]),
        (300, 50, 100, [0, 100, 200]),
    ],
)
def test_tiles_cover_an_axis_without_surplus(
    length: int, size: int, stride: int, expected: list[int]
) -> None:
    assert tile_starts(length, size, stride) == expected


def test_cells_stay_whole_and_parts_do_not_share_ground() -> None:
    rows = divide(rows_on_a_grid(20), {}, PARAMS)
    assert {row.split for row in rows} == {"train", "val", "test"}
    units = {(row.group, row.split) for row in rows}
    assert len(units) == len({row.group for row in rows}) > 9
    assert measure_leakage(rows, 4) == Leakage(0.0, 0.0, 0, 0)


@pytest.mark.parametrize("buffer_km", [0.0, 1.5])
def test_overlapping_tiles_at_a_border_are_left_out_of_training(buffer_km: float) -> None:
    params = replace(PARAMS, buffer_km=buffer_km)
    rows = divide(rows_on_a_grid(24, step_km=0.5), {}, params)
    left_out = [row for row in rows if row.status == "split_border"]
    assert left_out
    assert all(row.reason and row.split is None for row in left_out)
    gap = measure_leakage(rows, 4).train_test_gap_km
    assert gap is not None
    assert gap >= buffer_km - 0.05
    assert {row.split for row in rows if row.status == KEPT} >= {"train", "test"}


def test_a_copy_is_rejected_and_names_the_first() -> None:
    rows = rows_on_a_grid(4)
    rows[5] = replace(rows[5], sha=rows[2].sha, phash=rows[2].phash)
    done = divide(rows, {}, PARAMS)
    assert status_of(done)[rows[5].id] == "duplicate"
    assert done[5].reason == f"same pixels as {rows[2].id}"
    assert sum(status == KEPT for status in status_of(done).values()) == 15


def test_look_alikes_stay_in_one_part() -> None:
    rows = rows_on_a_grid(20)
    alike = list(range(0, 400, 21))
    look = int(rows[0].phash or "", 16)
    for number, i in enumerate(alike):
        rows[i] = replace(rows[i], phash=f"{look ^ (1 << number % 3):016x}")
    spread = divide(rows, {}, replace(PARAMS, near="keep"))
    assert measure_leakage(spread, 4).near_duplicate_pairs > 10
    grouped = divide(rows, {}, PARAMS)
    assert measure_leakage(grouped, 4).near_duplicate_pairs == 0
    kept = [grouped[i] for i in alike if grouped[i].status == KEPT]
    assert len(kept) > 5
    assert len({(row.cluster, row.split) for row in kept}) == 1
    single = divide(rows, {}, replace(PARAMS, near="drop"))
    assert sum(single[i].status == KEPT for i in alike) == 1


def test_official_test_tiles_stay_and_their_look_alikes_in_train_go() -> None:
    rows = rows_on_a_grid(3)
    for i in (1, 2, 8):
        rows[i] = replace(rows[i], phash=rows[0].phash)
    rows[3] = replace(rows[3], sha=rows[7].sha)
    parts = {row.id: "test" if i >= 6 else "train" for i, row in enumerate(rows)}
    done = divide(rows, parts, replace(PARAMS, split_by="table"))
    gone = {rows[i].id for i in (0, 1, 2)}
    assert {row.id for row in done if row.status == "near_duplicate"} == gone
    assert status_of(done)[rows[3].id] == "duplicate"
    assert [row.split for row in done[6:]] == ["test"] * 3
    assert measure_leakage(done, 4).near_duplicate_pairs == 0


@pytest.mark.parametrize("split_by", ["geography", "group"])
def test_tiles_without_position_are_divided_by_scene(split_by: SplitBy) -> None:
    rows = [
        replace(row, id=f"s{i % 12}:{row.id}", group=f"s{i % 12}", lon=None, lat=None)
        for i, row in enumerate(rows_on_a_grid(12))
    ]
    done = divide(rows, {}, replace(PARAMS, split_by=split_by))
    assert {row.split for row in done} == {"train", "val", "test"}
    assert len({(row.group, row.split) for row in done}) == 12
    assert measure_leakage(done, 4).train_test_gap_km is None


def test_the_order_of_rows_does_not_matter() -> None:
    rows = rows_on_a_grid(16, step_km=0.6)
    order = np.random.default_rng(1).permutation(len(rows))
    straight = divide(rows, {}, PARAMS)
    shuffled = divide([rows[i] for i in order], {}, PARAMS)
    assert [straight[i] for i in order] == shuffled


def facts(name: str, height: int, width: int) -> SceneFacts:
    return SceneFacts(
        ref=SceneRef(name, (f"{name}.tif",), (f"{name}.tif",), ((1, 2),)),
        bands=("B2", "B3"),
        names=("B2", "B3"),
        dtype="uint16",
        crs=None,
        transform=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        height=height,
        width=width,
        scale=(1.0, 1.0),
        offset=(0.0, 0.0),
    )


def test_units_of_work_are_small_for_large_scenes_and_hold_many_small_ones() -> None:
    params = SliceParams(
        size=100,
        stride=100,
        min_valid=0.5,
        max_cloud=1.0,
        min_contrast=0.0,
        main=(0, 1),
        visible=None,
        array_spec=None,
        labels=None,
        sensor="rgb",
        source=None,
        licence=None,
    )
    scenes = [facts("large", 20_000, 20_000), *(facts(f"s{i:03}", 100, 100) for i in range(300))]
    units = plan_units(scenes, params)
    tops = [t for unit in units for p in unit.pieces if p.scene.ref.id == "large" for t in p.tops]
    assert tops == list(range(0, 20_000, 100))
    assert len(units) > 10
    assert max(len(unit.pieces) for unit in units) > 100
    names = [p.scene.ref.id for unit in units for p in unit.pieces]
    assert len(set(names)) == 301


def test_quality_is_measured_on_bands_of_one_unit() -> None:
    sensor = load_sensor("landsat8-oli")
    bands = ("B10", "B2", "B3", "B4")
    assert main_bands(sensor, bands) == (1, 2, 3)
    assert visible_bands(sensor, bands, 1.0) == (0, 1, 2)
    assert main_bands(sensor, ("B10", "B11")) == (0, 1)
    assert visible_bands(sensor, ("B10", "B2"), 1.0) is None


def test_a_scene_with_an_unreadable_part_is_one_rejected_row() -> None:
    good = ManifestRow(id="a:0:0", uri="a", status=KEPT, group="a")
    half = ManifestRow(id="b:0:0", uri="b", status=KEPT, group="b")
    bad = ManifestRow(id="b", uri="b", status="unreadable", reason="truncated")
    rows = merge([StageResult((good, half)), StageResult((bad,)), StageResult((bad,))])
    assert sorted(row.id for row in rows) == ["a:0:0", "b"]


@pytest.mark.parametrize(
    ("path", "date"),
    [
        ("/x/LC08_L1TP_224078_20200518_crop1536.tif", "2020-05-18"),
        ("/x/lahinch/S2/2017-09-18.tif", "2017-09-18"),
        ("/x/LT52240631988227CUB02_B1.TIF", "1988-08-14"),
        ("/x/S2A_MSIL2A_20170617T113321_36_85/a_B01.tif", "2017-06-17"),
        ("/x/tile_20209999_00.tif", None),
        ("/x/landsat5.npz", None),
    ],
)
def test_dates_are_found_in_names(path: str, date: str | None) -> None:
    assert date_in(path) == date


def test_results_survive_being_written() -> None:
    row = rows_on_a_grid(1)[0]
    placed = replace(row, transform=(1.5, 0.0, 2.0, 0.0, -1.5, 3.0), crs="EPSG:4326")
    result = StageResult((row, placed), [{"x": 1}], {"kept": 2})
    again = StageResult.from_json(result.to_json())
    assert again == result
    assert again.to_json() == result.to_json()
