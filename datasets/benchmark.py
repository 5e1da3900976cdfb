"""How many random samples a second our reader delivers, next to zarr-python on the same store.

Both read the same rows one at a time and hand over the same arrays, in turns of a fraction of a
second, so that a busy machine slows both. The files are in the page cache after the first turn:
what is compared is the work of the reader, not the disk.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DataError
from .loader import Loader
from .samples import Sample
from .store import Store, StoreMeta, StoreWriter

_NUM_TURNS = 8
_BATCH = 32


@dataclass(frozen=True)
class LoaderBenchmark:
    """Samples per second; the median over turns, one thread unless it says otherwise.

    Attributes:
        ours: random single samples with their valid mask, `Store.read`.
        zarr: the same with zarr-python's default pipeline, its arrays already open.
        ours_pixels: pixels alone.
        zarr_pixels: pixels alone.
        loader: batches of 32 through `Loader`.
        num_threads: of the loader.
        sample_bytes: size of a sample's pixels.
        num_samples: samples of the store.
    """

    ours: float
    zarr: float
    ours_pixels: float
    zarr_pixels: float
    loader: float
    num_threads: int
    sample_bytes: int
    num_samples: int

    @property
    def ratio(self) -> float:
        """How many times as many samples ours reads, pixels and valid mask."""
        return self.ours / self.zarr

    @property
    def ratio_pixels(self) -> float:
        """How many times as many samples ours reads, pixels alone."""
        return self.ours_pixels / self.zarr_pixels


def loader_benchmark(
    store_path: str | Path | None = None,
    seconds: float = 10.0,
    *,
    num_threads: int = 2,
    seed: int = 0,
) -> LoaderBenchmark:
    """Measure a store, or a synthetic one of 512 samples of 6 x 96 x 96 uint16.

    Args:
        store_path: folder of a store; None writes the synthetic one into a temporary folder.
        seconds: how long to measure.
        num_threads: of the loader.
        seed: of the order of reading.

    Raises:
        DataError: when there is no store, it is empty, or the two readers differ.
    """
    if store_path is not None:
        return _measure(Store(store_path), seconds, num_threads, seed)
    with tempfile.TemporaryDirectory(prefix="mimkit-benchmark-") as folder:
        return _measure(_synthetic(Path(folder)), seconds, num_threads, seed)


def _measure(store: Store, seconds: float, num_threads: int, seed: int) -> LoaderBenchmark:
    import zarr

    if not len(store):
        raise DataError(store.path, "the store is empty", "give one with samples")
    group = zarr.open_group(store.path, mode="r")
    pixels, valid = group["pixels"], group["valid"]
    assert isinstance(pixels, zarr.Array)
    assert isinstance(valid, zarr.Array)
    width = store.meta.size[-1]
    loader = Loader(
        store, np.arange(len(store)), min(_BATCH, len(store)), seed, num_threads=num_threads
    )

    def with_zarr(row: int) -> list[np.ndarray]:
        bits = np.unpackbits(np.asarray(valid[row]), axis=-1, count=width)
        return [np.asarray(pixels[row]), bits.view(np.bool_)]

    def with_ours(row: int) -> list[np.ndarray]:
        samples = store.read(np.array([row]))
        assert samples.valid is not None
        return [samples.pixels[0], samples.valid[0]]

    readers: list[Callable[[int], object]] = [
        with_ours,
        with_zarr,
        lambda row: store.read_pixels(np.array([row])),
        lambda row: np.asarray(pixels[row]),
    ]
    rows = _endless_rows(seed, len(store))
    for row in range(min(len(store), _BATCH)):  # also warms up
        _compare(store, row, with_ours(row), with_zarr(row))
    turn = seconds / _NUM_TURNS / (len(readers) + 1)
    rates = [[_rate(read, rows, turn) for read in readers] for _ in range(_NUM_TURNS)]
    medians = [statistics.median(column) for column in zip(*rates, strict=True)]
    return LoaderBenchmark(
        *medians,
        loader=_loader_rate(loader, turn * _NUM_TURNS),
        num_threads=num_threads,
        sample_bytes=store.meta.sample_bytes,
        num_samples=len(store),
    )


def _endless_rows(seed: int, num_samples: int) -> Iterator[int]:
    random = np.random.default_rng(seed)
    while True:
        yield from random.integers(0, num_samples, 4096).tolist()


def _rate(read: Callable[[int], object], rows: Iterator[int], seconds: float) -> float:
    """Return calls per second."""
    start = time.perf_counter()
    count, passed = 0, 0.0
    while passed < seconds or not count:
        read(next(rows))
        count += 1
        passed = time.perf_counter() - start
    return count / passed


def _loader_rate(loader: Loader, seconds: float) -> float:
    start = time.perf_counter()
    count, epoch, passed = 0, 0, 0.0
    while passed < seconds or not count:
        for samples in loader.epoch(epoch):
            count += len(samples)
            passed = time.perf_counter() - start
            if passed >= seconds:
                break
        epoch += 1
    return count / passed


def _compare(store: Store, row: int, ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    if any(a.tobytes() != b.tobytes() for a, b in zip(ours, theirs, strict=True)):
        raise DataError(
            f"{store.path} row {row}", "zarr-python reads other bytes", "report this as a fault"
        )


def _synthetic(folder: Path) -> Store:
    """Write a store whose samples compress like satellite scenes: smooth, with sensor noise."""
    meta = StoreMeta(
        domain="satellite",
        sensor="synthetic",
        bands=("blue", "green", "red", "nir", "swir1", "swir2"),
        size=(96, 96),
        dtype="uint16",
        scale=(1e-4,) * 6,
        offset=(0.0,) * 6,
        num_samples=512,
        shard=128,
    )
    writer = StoreWriter(folder, meta)
    for shard in range(writer.num_shards):
        writer.write_shard(shard, map(_scene, writer.shard_rows(shard)))
    return writer.finalise()


def _scene(row: int) -> Sample:
    random = np.random.default_rng(row)
    smooth = random.normal(0, 3, (6, 96, 96)).cumsum(1).cumsum(2)
    noisy = 2000 + smooth + random.normal(0, 20, smooth.shape)
    valid = np.ones((96, 96), np.bool_)
    valid[: 16 * (row % 4 == 0)] = False  # a quarter lies at the edge of its scene
    return Sample(noisy.clip(0, 10000).astype(np.uint16), valid)
