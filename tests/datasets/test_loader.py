"""Batches are the same for any number of threads, and the loader ends cleanly whatever happens."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimkit.datasets import DataError
from mimkit.datasets.loader import Loader
from mimkit.datasets.order import epoch_order
from mimkit.datasets.samples import Sample, Samples
from mimkit.datasets.store import Store, StoreMeta, StoreWriter

META = StoreMeta(
    domain="satellite",
    sensor="toy",
    bands=("red",),
    size=(4, 6),
    dtype="int16",
    scale=(1.0,),
    offset=(0.0,),
    num_samples=50,
    shard=16,
    classes=("water",),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store whose pixels are the number of their row."""
    writer = StoreWriter(tmp_path_factory.mktemp("store"), META)
    for shard in writer.missing():
        rows = writer.shard_rows(shard)
        writer.write_shard(shard, [Sample(np.full((1, 4, 6), row, np.int16)) for row in rows])
    return writer.finalise()


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("mimkit-loader")]


def batches(loader: Loader, epoch: int = 0, start_step: int = 0) -> list[list[int]]:
    found = []
    for samples in loader.epoch(epoch, start_step):
        assert (samples.pixels == samples.rows[:, None, None, None]).all()
        found.append(samples.rows.tolist())
    return found


@settings(max_examples=25)
@given(
    num_threads=st.integers(1, 5),
    prefetch=st.integers(1, 6),
    num_rows=st.integers(12, 50),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_threads_and_prefetch_change_no_batch(
    store: Store, num_threads: int, prefetch: int, num_rows: int, drop_last: bool, epoch: int
) -> None:
    rows = np.arange(50)[::-1][:num_rows]
    loader = Loader(
        store, rows, 12, 7, num_threads=num_threads, prefetch=prefetch, drop_last=drop_last
    )
    found = batches(loader, epoch)
    visited = rows[epoch_order(7, epoch, num_rows)].tolist()
    assert [row for batch in found for row in batch] == (
        visited[: num_rows // 12 * 12] if drop_last else visited
    )
    assert len(found) == loader.num_steps
    assert not loader_threads()


def test_resuming_gives_the_rest_of_the_epoch(store: Store) -> None:
    loader = Loader(store, np.arange(50), 8, 3)
    whole = batches(loader, 2)
    for start in range(7):
        assert batches(Loader(store, np.arange(50), 8, 3), 2, start) == whole[start:]
    with pytest.raises(ValueError, match="start_step 7"):
        loader.epoch(2, 7)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_share_every_batch(store: Store, world: int) -> None:
    whole = batches(Loader(store, np.arange(50), 10, 3))
    shares = [
        batches(Loader(store, np.arange(50), 10, 3, rank=r, world=world)) for r in range(world)
    ]
    for step, batch in enumerate(whole):
        together = [row for share in shares for row in share[step]]
        assert sorted(together) == sorted(batch)
        assert len(set(together)) == len(batch)


def test_a_method_may_choose_the_order(store: Store) -> None:
    rows = np.arange(10, 30)
    loader = Loader(store, rows, 4, 3)
    order = np.array([5, 0, 19, 3, 3, 2, 1, 0, 7])
    found = [samples.rows.tolist() for samples in loader.epoch(0, order=order)]
    assert found == [[15, 10, 29, 13], [13, 12, 11, 10]]
    with pytest.raises(ValueError, match="outside 0 to 19"):
        loader.epoch(0, order=np.array([20]))


def test_labels_come_when_asked_for(store: Store) -> None:
    with_labels = next(Loader(store, np.arange(8), 4, 0, labels=True).epoch(0))
    assert with_labels.labels is not None
    assert (with_labels.labels == 255).all()
    assert next(Loader(store, np.arange(8), 4, 0).epoch(0)).labels is None


def test_leaving_early_stops_the_threads(store: Store) -> None:
    loader = Loader(store, np.arange(50), 2, 0, num_threads=3, prefetch=4)
    for step, _ in enumerate(loader.epoch(0)):
        if step == 2:
            assert len(loader_threads()) == 3
            break
    assert not loader_threads()
    iterator = loader.epoch(0)
    next(iterator)
    del iterator
    assert not loader_threads()


class Slow(Store):
    """A store on a slow disk, which counts what was asked of it."""

    seconds, num_reads = 0.0, 0

    def read(self, rows: np.ndarray, labels: bool = False) -> Samples:
        self.num_reads += 1
        time.sleep(self.seconds)
        return super().read(rows, labels)


def test_reading_ahead_is_bounded(store: Store) -> None:
    slow = Slow(store.path)
    loader = Loader(slow, np.arange(50), 1, 0, num_threads=2, prefetch=5)
    before = slow.num_reads
    iterator = loader.epoch(0)
    next(iterator)
    time.sleep(0.2)
    assert slow.num_reads - before <= 5
    next(iterator)
    time.sleep(0.2)
    assert slow.num_reads - before == 6
    assert loader.num_steps == 50


def test_waiting_is_measured(store: Store) -> None:
    slow = Slow(store.path)
    loader = Loader(slow, np.arange(50), 10, 0, num_threads=1, prefetch=1)
    slow.seconds = 0.05
    for _ in loader.epoch(0):
        pass
    assert loader.wait_seconds >= 0.2
    before = loader.wait_seconds
    patient = loader.epoch(0)
    next(patient)
    assert loader.wait_seconds > before


def test_a_read_that_hangs_is_named(store: Store) -> None:
    slow = Slow(store.path)
    loader = Loader(slow, np.arange(50), 2, 0, timeout_seconds=0.1)
    slow.seconds = 1.5
    first = epoch_order(0, 0, 50)[:2]
    with pytest.raises(DataError, match=rf"rows {first[0]}, {first[1]}: mimkit-loader-\d has been"):
        next(loader.epoch(0))


def test_a_damaged_sample_is_named(store: Store, tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, replace(META, num_samples=20, shard=1, classes=()))
    for shard in writer.missing():
        writer.write_shard(shard, [Sample(np.full((1, 4, 6), shard, np.int16))])
    broken = writer.finalise()
    (tmp_path / "pixels" / "c.13.0.0.0").write_bytes(b"")
    loader = Loader(broken, np.arange(20), 2, 0, num_threads=3)
    iterator = loader.epoch(0)
    for _ in range(epoch_order(0, 0, 20).tolist().index(13) // 2):
        next(iterator)  # the batches before arrive
    with pytest.raises(DataError, match="pixels row 13: "):
        next(iterator)
    assert not loader_threads()


def test_impossible_requests_are_refused_at_once(store: Store) -> None:
    rows = np.arange(50)
    with pytest.raises(DataError, match="50 samples do not fill a batch of 51"):
        Loader(store, rows, 51, 0)
    with pytest.raises(DataError, match="there is no row 77"):
        Loader(store, np.array([77]), 1, 0)
    with pytest.raises(ValueError, match="batch_size 0 must be at least 1"):
        Loader(store, rows, 0, 0)
    with pytest.raises(ValueError, match="num_threads 0 must be at least 1"):
        Loader(store, rows, 1, 0, num_threads=0)
    with pytest.raises(ValueError, match="rank 2"):
        Loader(store, rows, 1, 0, rank=2, world=2)
