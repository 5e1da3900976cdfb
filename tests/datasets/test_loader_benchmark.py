"""The benchmark of the loader measures what it says, on real and on synthetic stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from mimkit.datasets import DataError
from mimkit.datasets.benchmark import loader_benchmark
from mimkit.datasets.samples import Sample
from mimkit.datasets.store import StoreMeta, StoreWriter


def small_store(path: Path, num_samples: int) -> Path:
    meta = StoreMeta(
        domain="satellite",
        sensor="toy",
        bands=("red", "nir"),
        size=(8, 12),
        dtype="uint16",
        scale=(1.0, 1.0),
        offset=(0.0, 0.0),
        num_samples=num_samples,
        shard=4,
    )
    writer = StoreWriter(path, meta)
    for shard in writer.missing():
        rows = writer.shard_rows(shard)
        writer.write_shard(shard, [Sample(np.full((2, 8, 12), row, np.uint16)) for row in rows])
    writer.finalise()
    return path


def test_all_readers_of_a_store_are_measured(tmp_path: Path) -> None:
    found = loader_benchmark(small_store(tmp_path, 9), 0.5, num_threads=1)
    assert (found.num_samples, found.sample_bytes, found.num_threads) == (9, 384, 1)
    assert min(found.ours, found.zarr, found.ours_pixels, found.zarr_pixels, found.loader) > 0
    assert found.ratio == found.ours / found.zarr
    assert found.ratio_pixels == found.ours_pixels / found.zarr_pixels


def test_without_a_store_a_synthetic_one_is_made_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = loader_benchmark(seconds=0.2)
    assert (found.num_samples, found.sample_bytes) == (512, 6 * 96 * 96 * 2)
    assert not list(tmp_path.iterdir())


def test_readers_that_differ_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_store(tmp_path, 9)
    monkeypatch.setattr(
        zarr.Array, "__getitem__", lambda array, row: np.zeros(array.shape[1:], "u1")
    )
    with pytest.raises(DataError, match=r"row 0: zarr-python reads other bytes"):
        loader_benchmark(path, 0.1)


def test_an_empty_store_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the store is empty"):
        loader_benchmark(small_store(tmp_path, 0), 0.1)
    with pytest.raises(DataError, match="there is no store"):
        loader_benchmark(tmp_path / "nowhere", 0.1)
