"""Volumes per minute and core that curation of CT takes in, and where its time goes."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import count
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ...datasets.readers.volume import open_volume
from ...domains.ct.curate.records import VolumeRef
from ...domains.ct.curate.scan import ScanParams, scan_sources
from ...domains.ct.curate.volumes import ReadParams, VolumeRejectedError, load
from ..curate.ct import read_params, run
from ..progress import say
from .config import BenchmarkConfig
from .ct_files import CROP, curation, described, volume_files
from .table import Cell, Table
from .turns import take_turns

WHOLE = "mimkit curate ct, all of it"


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Time reading, preparing and curating the same volumes in turns.

    Raises:
        UsageError: when `--volumes` holds none.
        DataError: when they cannot be read.
    """
    del device
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = volume_files(config, folder / "volumes")
        found = scan_sources(files, ScanParams(pattern=None, exclude=(), masks=(), labels=False))
        params = read_params(curation(files, folder))
        refs = [ref for ref in found.refs if is_ct(ref, params)]
        files, numbers = [Path(ref.paths[0]) for ref in refs], count()

        def whole() -> None:
            with redirect_stdout(io.StringIO()):  # what it says is no news after the first time
                run(curation(files, folder / f"store-{next(numbers)}"))

        stages: dict[str, Callable[[], object]] = {
            "read the file": lambda: [open_volume(ref.source).read() for ref in refs],
            "the same, check, turn, find the body": lambda: [load(ref, params) for ref in refs],
            WHOLE: whole,
        }
        say(f"curate-ct: {len(refs)} volumes in turns for {config.seconds:.0f} s")
        turns = take_turns(stages, config.seconds, torch.device("cpu"), "curate-ct")
        opened = [open_volume(ref.source) for ref in refs]
    num, voxels = len(opened), sum(prod(volume.geometry.shape) for volume in opened)

    def row(stage: str) -> dict[str, Cell]:
        seconds = turns.cpu(stage)
        return {
            "work": stage,
            "CPU s per volume": seconds / num,
            "volumes per minute and core": 60 * num / seconds,
            "million voxels per s and core": voxels / seconds / 1e6,
        }

    return Table(
        "CT: volumes that curation takes in per minute and core",
        tuple(map(row, stages)),
        notes=(
            f"{described(files, config)}, {voxels / num / 1e6:.1f} million voxels each on the mean;"
            f" crops of {' x '.join(map(str, CROP))} voxels, the volumes' own spacing, no labels.",
            "Curation reads each volume twice: once to choose its crops, once to pack them, so that"
            " a killed run never leaves half a volume in memory or on disk.",
            f"Processor time of one process; median of {turns.num_turns} turns.",
        ),
    )


def is_ct(ref: VolumeRef, params: ReadParams) -> bool:
    """Say whether curation takes a file; label files with names of their own are none."""
    try:
        load(ref, params)
    except VolumeRejectedError:
        return False
    return True
