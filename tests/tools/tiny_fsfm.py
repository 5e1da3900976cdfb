"""FSFM at its smallest, on drawn faces."""

from __future__ import annotations

import torch
from tiny_methods import tiny
from torch import Tensor

from mimkit.core.batch import Batch, Progress
from mimkit.core.grid import Grid
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.method import Method, Output
from mimkit.core.methods import FSFMConfig, build
from mimkit.core.noise import Noise
from mimkit.core.tokens import membership
from mimkit.pipelines.benchmarks.region_masks import face_maps

GRID = Grid.for_image((32, 32), 4, 3)


def fsfm_config(**options) -> FSFMConfig:
    """Return the smallest configuration."""
    made = tiny("fsfm", **options)
    assert isinstance(made, FSFMConfig)
    return made


def make_fsfm(**options) -> Method:
    """Return the method for images of 32 pixels, the same weights each time."""
    torch.manual_seed(0)
    return build(fsfm_config(**options), GRID)


def faces(num: int = 4, seed: int = 1, regions: bool = True) -> Batch:
    """Return noise with maps of drawn faces."""
    images = torch.randn(num, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    maps = face_maps(num, 32, seed) if regions else None
    return Batch(images, None, torch.arange(num), regions=maps)


def step(method: Method, batch: Batch, plan: MaskPlan | None = None) -> Output:
    """Run one forward at the start of a run."""
    return method(batch, Progress(0.0, 10), Noise(3), plan)


def maps_of(batch: Batch) -> Tensor:
    """Return the maps of regions."""
    assert batch.regions is not None
    return batch.regions


def hidden(output: Output) -> Tensor:
    """Return which tokens of each image are hidden."""
    return membership(output.plan.predict, GRID.num_tokens)
