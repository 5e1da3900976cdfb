"""What `mimkit benchmark` is asked to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ...core.errors import UsageError

Part = Literal[
    "mae",
    "mae3d",
    "selective",
    "methods",
    "train",
    "loader",
    "predict",
    "encoder-memory",
    "region-masks",
    "fsfm",
    "faces",
    "sliding",
    "hi-end-mae",
    "ct-loader",
    "curate-ct",
]
FULL_SCENE = 20_000  # pixels per side for which the goal of `predict` is stated
FULL_DEPTH = 600  # slices of 512 x 512 voxels for which the goal of `sliding` is stated


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Measure speed and memory against other implementations and against ourselves.

    Everything is a ratio of things measured in one run, in turns, so that whatever else the machine
    does slows all sides alike. The exit code is 0 also when a goal is not met: the table says so.
    """

    parts: tyro.conf.Positional[tuple[Part, ...]] = ()
    """Parts to measure, all when none is named. `mae`: a training step of MAE beside the same step
    built on lightly's modules (`pip install 'mimkit[bench]'`). `mae3d`: the same of volumes beside
    MONAI's MaskedAutoEncoderViT. `selective`: a step of SelectiveMAE beside one of MAE. `methods`:
    a step of every method beside one of MAE with an equal encoder. `train`: a step with the plain
    engine, compiled, and with every stage of DeepSpeed. `loader`: random samples of a store beside
    zarr-python. `predict`: peak memory of `mimkit predict` on a large synthetic scene.
    `encoder-memory`: what the encoder keeps for its backward pass at several mask ratios.
    `region-masks`: masks that follow facial regions, beside a loop over images. `fsfm`: a step of
    FSFM beside the same losses with an encoder pass for each. `faces`: stages of curating faces.
    `sliding`: windows over a volume beside MONAI's sliding_window_inference. `hi-end-mae`: a step
    of Hi-End-MAE on volumes beside one of MAE. `ct-loader`: crops of CT volumes beside MONAI's
    PersistentDataset with RandSpatialCrop. `curate-ct`: CT volumes per minute and core."""
    seconds: float = 120.0
    """Seconds of each timed comparison; every side gets at least three turns in any case."""
    num_threads: int | None = None
    """CPU threads of torch and of the loader; torch's own choice when not given."""
    device: str = "cpu"
    """`cpu`, `cuda` or `auto`; the goals are stated for cpu."""
    batch_size: int = 16
    """Images per training step; the goals are stated for 16."""
    scene_size: int = FULL_SCENE
    """Pixels per side of the scene of `predict`; the goal is stated for 20000."""
    volume_depth: int = FULL_DEPTH
    """Slices of 512 x 512 voxels of the volume of `sliding`; the goal is stated for 600, where
    MONAI needs more than 10 GB."""
    store: Path | None = None
    """Folder of a store for `loader` (it holds store.json); a synthetic one when not given."""
    volumes: Path | None = None
    """Folder with NIfTI volumes for `ct-loader` and `curate-ct`; synthetic ones when not given."""
    out: Path | None = None
    """Folder for benchmark.json and benchmark.md; they are renewed after every part."""


def check_benchmark(config: BenchmarkConfig) -> None:
    """Raise UsageError for a number that cannot be used, naming field, value and fix."""
    if not 0 < config.seconds <= 86_400:
        raise UsageError(f"--seconds {config.seconds}", "is out of range", "use 1 to 86400")
    least = {"num_threads": 1, "batch_size": 1, "scene_size": 512, "volume_depth": 1}
    for name, smallest in least.items():
        value = getattr(config, name)
        if value is not None and value < smallest:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} {value}", "is too small", f"use {smallest} or more")
