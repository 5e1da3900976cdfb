"""Random samples from a store, ours beside zarr-python."""

from __future__ import annotations

import torch

from ...datasets.benchmark import loader_benchmark
from ..progress import say
from .config import BenchmarkConfig
from .table import Cell, Goal, Table

FASTER = 5.0


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Compare how many random samples a second come out of one store.

    Raises:
        DataError: when the store cannot be read.
    """
    del device
    num_threads = torch.get_num_threads()
    say(f"loader: random samples in turns for {config.seconds:.0f} s")
    found = loader_benchmark(config.store, config.seconds, num_threads=num_threads)
    megabytes = found.sample_bytes / 1e6

    def row(what: str, rate: float, base: float | None) -> dict[str, Cell]:
        return {
            "reader": what,
            "samples/s": rate,
            "MB/s": rate * megabytes,
            "times as fast": None if base is None else rate / base,
        }

    return Table(
        "Loader: random single samples beside zarr-python",
        (
            row("mimkit, pixels and valid mask", found.ours, found.zarr),
            row("zarr-python, pixels and valid mask", found.zarr, None),
            row("mimkit, pixels", found.ours_pixels, found.zarr_pixels),
            row("zarr-python, pixels", found.zarr_pixels, None),
            row(f"mimkit, batches of 32, threads: {num_threads}", found.loader, found.zarr),
        ),
        (
            Goal(
                f"at least {FASTER:.0f} times as many samples as zarr-python",
                f"{found.ratio:.1f}",
                found.ratio >= FASTER,
            ),
        ),
        (
            f"{found.num_samples} samples of {found.sample_bytes / 1e3:.0f} kB, one chunk each, "
            "in one sharded store; zarr-python with its default pipeline and open arrays.",
            "Both give the same bytes (compared before measuring). The files are in the memory of "
            "the system: this compares readers, not disks.",
        ),
    )
