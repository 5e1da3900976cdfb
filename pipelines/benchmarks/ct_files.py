"""The volumes that parts of the benchmark read: a user's own, or bodies of water in air."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from ...core.errors import UsageError
from ...datasets.volume_geometry import VolumeGeometry
from ...datasets.volumes import Volume
from ...datasets.writers.nifti import write_nifti
from ...domains.ct.curate.scan import ScanParams, scan_sources
from ..curate.ct_config import CurateCtConfig
from .config import BenchmarkConfig

CROP = (32, 96, 96)
SHAPE, SPACING = (512, 512, 96), (0.8, 0.8, 2.5)  # a chest in slices of the clinic, without labels
NUM_SYNTHETIC = 3


def volume_files(config: BenchmarkConfig, folder: Path) -> list[Path]:
    """Return the NIfTI files of `--volumes`, label files left out, or of volumes made here.

    Args:
        config: of the benchmark.
        folder: where volumes are made when none are given.

    Raises:
        UsageError: when the folder holds none.
    """
    if config.volumes is None:
        folder.mkdir(parents=True)
        files = [folder / f"synthetic-{seed}.nii.gz" for seed in range(NUM_SYNTHETIC)]
        for seed, file in enumerate(files):
            write_nifti(file, synthetic(seed))
        return files
    found = scan_sources(
        [config.volumes], ScanParams(pattern=None, exclude=(), masks=(), labels=False)
    )
    files = [Path(ref.paths[0]) for ref in found.refs]
    files = [file for file in files if file.name.endswith((".nii", ".nii.gz"))]
    if not files:
        remedy = "give a folder with .nii or .nii.gz, or leave it out"
        raise UsageError(f"--volumes {config.volumes}", "holds no NIfTI volume", remedy)
    return files


def synthetic(seed: int) -> Volume:
    """Return a body of soft tissue with two lungs and noise, in air, in LPS."""
    random = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE]
    x, y = np.meshgrid(*axes[:2], indexing="ij")
    plane = np.full(SHAPE[:2], -1000.0, np.float32)
    plane[(x / 0.8) ** 2 + (y / 0.6) ** 2 < 1] = random.uniform(30, 60)
    for side in (-0.35, 0.35):
        plane[((x - side) / 0.25) ** 2 + (y / 0.4) ** 2 < 1] = -850
    array = np.empty(SHAPE, np.int16)
    for k in range(SHAPE[2]):
        array[:, :, k] = _noisy(plane, random)
    grid = VolumeGeometry.from_axes(np.diag([-1.0, -1.0, 1.0]), SPACING, (0.0, 0.0, 0.0), SHAPE)
    return Volume(array, grid)


def _noisy(plane: np.ndarray, random: np.random.Generator) -> Int16[np.ndarray, "i j"]:
    """Return a slice with the noise of a scanner; whole HU, none below -1024."""
    noise = random.standard_normal(plane.shape, dtype=np.float32) * 20
    return np.rint(np.maximum(plane + noise, -1024)).astype(np.int16)


def curation(files: Sequence[Path], out: Path) -> CurateCtConfig:
    """Return how the benchmark curates: everything is kept, in one process."""
    return CurateCtConfig(
        sources=tuple(files),
        out=out,
        size=CROP,
        labels="none",
        near_duplicates="keep",
        allow_identified=True,
        max_broken_share=1.0,
        workers=1,
    )


def described(files: Sequence[Path], config: BenchmarkConfig) -> str:
    """Say in words which volumes were read."""
    if config.volumes is None:
        size = " x ".join(map(str, SHAPE))
        return f"{len(files)} synthetic bodies of {size} voxels, int16, compressed NIfTI"
    return f"{len(files)} NIfTI volumes of {config.volumes}"
