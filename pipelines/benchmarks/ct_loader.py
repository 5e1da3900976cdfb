"""Crops per second out of a store beside MONAI's PersistentDataset with RandSpatialCrop."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...datasets.loader import Loader
from ...domains.ct.normalise import Normaliser
from ...domains.domain import get_domain
from ..curate.ct import run as curate
from ..progress import say
from ..stores import OpenGroup, open_group
from .config import BenchmarkConfig
from .ct_files import CROP, curation, described, volume_files
from .table import Cell, Goal, Table
from .turns import Turns, take_turns

FASTER = 5.0
BATCH, NUM_CROPS = 8, 32  # crops of a batch and of a turn
PER_VOLUME = 8  # crops that Hi-End-MAE's recipe takes of a volume at a time
OURS, ONE, SEVERAL = "mimkit", "MONAI, a crop per volume", f"MONAI, {PER_VOLUME} crops per volume"


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Compare how many normalised crops a second come out of the same volumes.

    Raises:
        UsageError: when `--volumes` holds none.
        DataError: when they cannot be read.
    """
    del device
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = volume_files(config, folder / "volumes")
        say(f"ct-loader: curating {len(files)} volumes, and filling MONAI's cache")
        with redirect_stdout(io.StringIO()):
            curate(curation(files, folder / "store"))
        group = open_group(folder / "store", None)
        used = sorted(set(group.column("uri")))
        normaliser = get_domain("ct").normaliser(group.normaliser_dict)
        assert isinstance(normaliser, Normaliser)
        sides = {
            OURS: our_crops(group, normaliser, torch.get_num_threads()),
            ONE: monai_crops(used, folder / "cache", normaliser, 1),
            SEVERAL: monai_crops(used, folder / "cache", normaliser, PER_VOLUME),
        }
        say(f"ct-loader: {NUM_CROPS} crops in turns for {config.seconds:.0f} s")
        turns = take_turns(sides, config.seconds, torch.device("cpu"), "ct-loader")
        sizes = dict.fromkeys(sides, _bytes(folder / "cache")) | {OURS: _bytes(folder / "store")}
    ratio, other = (turns.speedup(OURS, side, cpu=True) for side in (ONE, SEVERAL))
    return Table(
        "CT: crops per second beside MONAI's PersistentDataset with RandSpatialCrop",
        tuple(_row(side, turns, size) for side, size in sizes.items()),
        (
            Goal(
                f"at least {FASTER:.0f} times as many crops as MONAI in the same processor time",
                f"{ratio:.1f}, and {other:.1f} when MONAI takes {PER_VOLUME} crops of each volume "
                "that it reads",
                ratio >= FASTER,
            ),
        ),
        (
            f"{described(files, config)}; crops of {' x '.join(map(str, CROP))} voxels, window "
            f"{normaliser.window[0]:g} to {normaliser.window[1]:g} HU as 0 to 1, float32; "
            f"{len(group.store)} crops in the store, {len(used)} volumes in the cache.",
            "MONAI caches volumes that are read, turned and windowed, as float32 without "
            "metadata; a read brings a whole volume. Ours hold crops that curation chose inside of "
            "the body, as int16; windowing is part of reading. MONAI's crops begin at any voxel and"
            " may be air, ours begin where curation put them.",
            f"One process on each side, threads: {torch.get_num_threads()}. Ours reads ahead in a "
            "thread beside them, which a clock on the wall favours where a core is idle; so the "
            "goal is about processor time. Files are in the memory of the system. Median of "
            f"{turns.num_turns} turns.",
        ),
    )


def our_crops(
    group: OpenGroup, normaliser: Normaliser, num_threads: int
) -> Callable[[], list[Tensor]]:
    """Return a function that gives batches of crops from a store, in another order each time."""
    domain, random = get_domain("ct"), np.random.default_rng(0)
    rows = np.arange(len(group.store))
    loader = Loader(group.store, rows, BATCH, 0, num_threads=num_threads, drop_last=False)

    def read() -> list[Tensor]:
        order = random.integers(len(rows), size=NUM_CROPS)
        batches = loader.epoch(0, order=order)
        return [domain.to_batch(samples, group.meta, normaliser).images for samples in batches]

    return read


def monai_crops(
    files: Sequence[str], cache: Path, normaliser: Normaliser, per_volume: int
) -> Callable[[], list[Tensor]]:
    """Return a function that gives batches of crops by MONAI; its cache is filled before."""
    from monai.data.dataset import PersistentDataset
    from monai.transforms.compose import Compose
    from monai.transforms.croppad.dictionary import RandSpatialCropSamplesd, SpatialPadd
    from monai.transforms.intensity.dictionary import ScaleIntensityRanged
    from monai.transforms.io.dictionary import LoadImaged
    from monai.transforms.spatial.dictionary import Orientationd

    low, high = normaliser.window
    steps = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", axcodes=normaliser.orientation, labels=None),
            ScaleIntensityRanged("image", low, high, 0.0, 1.0, clip=True),
            SpatialPadd("image", CROP),
            RandSpatialCropSamplesd("image", CROP, num_samples=per_volume, random_size=False),
        ]
    )
    data: list[Any] = [{"image": file} for file in files]
    dataset = PersistentDataset(data, steps, cache_dir=cache, track_meta=False)
    for place in range(len(data)):
        dataset[place]
    random = np.random.default_rng(0)

    def read() -> list[Tensor]:
        crops: list[Tensor] = []
        for place in random.integers(len(data), size=-(-NUM_CROPS // per_volume)).tolist():
            item: Any = dataset[place]
            crops += [torch.as_tensor(crop["image"]) for crop in item]
        return [torch.stack(crops[i : i + BATCH]) for i in range(0, NUM_CROPS, BATCH)]

    return read


def _row(side: str, turns: Turns, num_bytes: int) -> dict[str, Cell]:
    other = side != OURS
    return {
        "reader": side,
        "crops/s": NUM_CROPS / turns.wall(side),
        "CPU ms per crop": 1000 * turns.cpu(side) / NUM_CROPS,
        "mimkit is times as fast": turns.speedup(OURS, side) if other else None,
        "in CPU time": turns.speedup(OURS, side, cpu=True) if other else None,
        "on disk, MB": num_bytes / 1e6,
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
