"""Every verb opens a store the same way, and hears in one sentence why it cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimkit.core.errors import UsageError
from mimkit.datasets import DataError
from mimkit.datasets.manifest import ManifestRow, write_manifest
from mimkit.datasets.samples import Sample
from mimkit.datasets.store import StoreMeta, StoreWriter
from mimkit.pipelines.stores import OpenGroup, open_group

META = StoreMeta(
    domain="satellite",
    sensor="toy",
    bands=("red",),
    size=(4, 4),
    dtype="uint8",
    scale=(1.0,),
    offset=(0.0,),
    num_samples=6,
    shard=4,
)
SPLITS = ["train", "train", "val", "test", "train", "test"]
LABELS = ["water", None, "forest", "water", "forest", None]


def add_group(out: Path, name: str, meta: StoreMeta = META) -> list[ManifestRow]:
    writer = StoreWriter(out / name, meta)
    for shard in range(writer.num_shards):
        rows = writer.shard_rows(shard)
        writer.write_shard(shard, [Sample(np.full((1, 4, 4), row, np.uint8)) for row in rows])
    writer.finalise()
    (out / name / "normaliser.json").write_text('{"mean": [1.0]}')
    return [
        ManifestRow(
            # The order of ids is not the order of rows.
            id=f"{name}/{9 - row}",
            uri="a.tif",
            status="kept",
            split=SPLITS[row],
            label=LABELS[row],
            labelled=row / 6,
            store_group=name,
            row=row,
        )
        for row in range(meta.num_samples)
    ]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    rows = add_group(tmp_path, "a")
    rejected = ManifestRow(id="r", uri="b.tif", status="cloudy", reason="0.9 under cloud")
    write_manifest(tmp_path / "manifest.parquet", [*rows, rejected])
    (tmp_path / "stages").mkdir()
    return tmp_path


def test_the_table_is_in_the_order_of_the_store(out: Path) -> None:
    group = open_group(out)
    assert group.meta == META
    assert group.normaliser_dict == {"mean": [1.0]}
    assert group.column("id") == [f"a/{9 - row}" for row in range(6)]
    assert group.store.read(np.array([5])).pixels.max() == 5
    assert open_group(out / "a").store.path == group.store.path
    assert open_group(out, "a").column("split") == SPLITS


def test_rows_by_split_and_label(out: Path) -> None:
    group = open_group(out)
    assert group.rows().tolist() == group.rows("all").tolist() == list(range(6))
    assert group.rows("train").tolist() == [0, 1, 4]
    assert group.rows("val", labelled=True).tolist() == [2]
    assert group.rows(labelled=True).tolist() == [0, 2, 3, 4]
    assert group.rows("test").dtype == np.int64
    with pytest.raises(UsageError, match="split 'valid': is not known; use all, test, train, val"):
        group.rows("valid")


def test_classes_of_whole_samples(out: Path) -> None:
    labels = open_group(out).tile_labels
    assert labels.classes == ("forest", "water")
    assert labels.index.tolist() == [1, -1, 0, 1, 0, -1]


def test_dense_labels_count_where_no_sample_has_a_class(tmp_path: Path) -> None:
    rows = add_group(tmp_path, "a", replace(META, classes=("water",)))
    write_manifest(tmp_path / "manifest.parquet", [replace(row, label=None) for row in rows])
    group = open_group(tmp_path)
    assert group.rows(labelled=True).tolist() == [1, 2, 3, 4, 5]
    assert group.tile_labels.classes == ()


def test_several_stores_need_a_choice(out: Path) -> None:
    rows = add_group(out, "a2") + add_group(out, "a")
    write_manifest(out / "manifest.parquet", rows)
    with pytest.raises(UsageError, match="several stores; choose one with --group: a, a2"):
        open_group(out)
    with pytest.raises(UsageError, match=r"group 'b': is not in .*; choose one of a, a2"):
        open_group(out, "b")
    found: OpenGroup = open_group(out, "a2")
    assert found.column("store_group") == ["a2"] * 6


def test_a_half_written_store_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    with pytest.raises(DataError, match=r"no store yet; run the `mimkit curate` .* continues"):
        open_group(tmp_path)
    StoreWriter(tmp_path / "a", META)
    with pytest.raises(DataError, match=r"half written; run the command .* continues"):
        open_group(tmp_path)
    rows = add_group(tmp_path, "a")
    with pytest.raises(DataError, match=r"no manifest.parquet yet; run .* continues"):
        open_group(tmp_path)
    write_manifest(tmp_path / "manifest.parquet", rows)
    (tmp_path / "a" / "normaliser.json").unlink()
    with pytest.raises(DataError, match=r"half written: it is missing; run .* continues"):
        open_group(tmp_path)
    for text in ("{", json.dumps([1])):
        (tmp_path / "a" / "normaliser.json").write_text(text)
        with pytest.raises(DataError, match="curate again"):
            open_group(tmp_path)


def test_what_is_no_store_is_refused_in_words(out: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_group(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there is no store"):
        open_group(tmp_path / "empty")
    rejected = [ManifestRow(id=f"{i}", uri="b", status="cloudy") for i in range(3)]
    write_manifest(tmp_path / "empty" / "manifest.parquet", rejected)
    with pytest.raises(DataError, match=r"no sample was kept \(3 cloudy\)"):
        open_group(tmp_path / "empty")


def test_a_manifest_of_another_run_is_refused(out: Path) -> None:
    rows = add_group(out, "a")
    write_manifest(out / "manifest.parquet", rows[:-1])
    with pytest.raises(DataError, match="come from different runs"):
        open_group(out)
