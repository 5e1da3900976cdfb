"""A manifest has the same bytes for every order of its rows, and refuses what does not belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimkit.datasets import DataError
from mimkit.datasets.geometry import Geometry
from mimkit.datasets.manifest import (
    KEPT,
    ManifestRow,
    count_by,
    kept_rows,
    manifest_rows,
    manifest_schema,
    read_manifest,
    write_manifest,
)

ROWS = [
    ManifestRow(
        id=f"scene/{i:03d}",
        uri="a.tif",
        status="kept" if i % 3 else "cloudy",
        reason=None if i % 3 else "0.9 under cloud",
        store_group="x" if i % 3 else None,
        row=40 - i if i % 3 else None,
        transform=(30.0, 0.0, float(i), 0.0, -30.0, 0.0),
        crs="EPSG:32633",
        height=96,
        width=64,
        valid=0.25,
    )
    for i in range(20)
]


def written(path: Path, rows: list[ManifestRow]) -> bytes:
    write_manifest(path, rows)
    return path.read_bytes()


def test_bytes_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    expected = written(tmp_path / "a.parquet", ROWS)
    assert written(tmp_path / "b.parquet", ROWS[::-1]) == expected
    assert written(tmp_path / "c.parquet", ROWS[7:] + ROWS[:7]) == expected
    write_manifest(tmp_path / "d.parquet", read_manifest(tmp_path / "a.parquet"))
    assert (tmp_path / "d.parquet").read_bytes() == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{c}.parquet" for c in "abcd"]


texts = st.none() | st.text(max_size=5)
numbers = st.none() | st.floats(allow_nan=False)


@given(st.lists(st.tuples(texts, numbers, st.none() | st.integers(0, 2**62)), max_size=9))
def test_rows_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[tuple[str | None, float | None, int | None]],
) -> None:
    rows = [
        ManifestRow(id=f"{i}", uri="", status="kept", label=text, cloud=number, top=top)
        for i, (text, number, top) in enumerate(values)
    ]
    path = tmp_path_factory.mktemp("manifest") / "m.parquet"
    write_manifest(path, iter(rows))
    assert manifest_rows(read_manifest(path)) == rows


def test_kept_rows_come_in_the_order_of_the_store(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.parquet", ROWS)
    table = read_manifest(tmp_path / "m.parquet")
    kept = kept_rows(table, "x")
    assert kept["row"].to_pylist() == sorted(40 - i for i in range(20) if i % 3)
    assert kept_rows(table, "y").num_rows == 0
    assert kept_rows(table).num_rows == kept.num_rows


def test_counts_name_every_combination(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.parquet", ROWS)
    table = read_manifest(tmp_path / "m.parquet")
    assert count_by(table, "status") == {("cloudy",): 7, ("kept",): 13}
    assert count_by(table, "status", "reason") == {
        ("cloudy", "0.9 under cloud"): 7,
        ("kept", None): 13,
    }


def test_geometry_needs_transform_and_size() -> None:
    expected = Geometry("EPSG:32633", (30.0, 0.0, 0.0, 0.0, -30.0, 0.0), 96, 64)
    assert ROWS[0].geometry() == expected
    assert replace(ROWS[0], transform=None).geometry() is None


def test_a_sample_or_a_place_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    with pytest.raises(DataError, match=r"id scene/001 occurs 2 times"):
        write_manifest(path, [*ROWS, ROWS[1]])
    twin = replace(ROWS[1], id="other")
    with pytest.raises(DataError, match=r"store x row 39 occurs 2 times"):
        write_manifest(path, [*ROWS, twin])
    assert not path.exists()


def test_foreign_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    with pytest.raises(DataError, match="there is no manifest"):
        read_manifest(path)
    path.write_text("id,uri\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(path)
    for table, reason in [
        ({"id": ["a"], "uri": ["b"], "status": ["c"], "colour": ["d"]}, "unknown columns colour"),
        ({"id": ["a"], "status": ["c"]}, "column uri is missing"),
        ({"id": ["a"], "uri": [None], "status": ["c"]}, "column uri"),
        ({"id": ["a"], "uri": ["b"], "status": ["c"], "row": ["first"]}, "column row is string"),
    ]:
        pq.write_table(pa.table(table), path)
        with pytest.raises(DataError, match=reason):
            read_manifest(path)


def test_missing_optional_columns_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"status": ["c"], "uri": ["b"], "id": ["a"]}), path)
    table = read_manifest(path)
    assert table.schema == manifest_schema()
    assert manifest_rows(table) == [ManifestRow(id="a", uri="b", status="c")]


def test_every_column_has_a_meaning() -> None:
    documented = ManifestRow.__doc__ or ""
    for name in manifest_schema().names:
        assert f" {name}: " in documented


def test_what_only_some_domains_know_survives(tmp_path: Path) -> None:
    affine = (1.0, 0.0, 0.0, -5.0, 0.0, 1.0, 0.0, 7.0, 0.0, 0.0, 3.27, 9.0)
    volume = ManifestRow(id="v", uri="v.nii", status=KEPT, affine=affine, front=2, depth=8)
    face = ManifestRow(
        id="f", uri="f.jpg", status=KEPT, measures={"blur": 0.5}, facts={"consent": "signed"}
    )
    path = tmp_path / "manifest.parquet"
    write_manifest(path, [volume, face])
    assert manifest_rows(read_manifest(path)) == [face, volume]
    older = pq.read_table(path).drop(["affine", "measures", "facts"])
    pq.write_table(older, path)
    assert [row.measures for row in manifest_rows(read_manifest(path))] == [{}, {}]
