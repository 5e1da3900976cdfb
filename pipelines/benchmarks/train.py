"""A training step with every engine: plain, compiled, and DeepSpeed's stages."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import torch

from ...core.methods import MAEConfig
from ...core.methods.config import BASE, SMALL
from ...core.training.deepspeed_config import Stage
from .compare import compare, workload
from .config import BenchmarkConfig
from .mae import READING
from .steps import Ours, Side
from .table import Table

IMAGE_SIZE = 128  # on a CPU; the size of `workload` on a GPU
STAGES: tuple[Stage, ...] = get_args(Stage)


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Compare forward, backward and update of MAE with the same weights and images."""
    work, encoder = workload(config, device), BASE
    if device.type == "cpu":
        work, encoder = replace(work, image_size=IMAGE_SIZE), SMALL
    method = MAEConfig(encoder=encoder)
    sides: list[Side] = [
        Ours("plain, compiled", method, compile=True),
        *(Ours(f"DeepSpeed, ZeRO {stage}", method, stage=stage) for stage in STAGES),
        Ours("plain", method),
    ]
    rows, turns = compare(sides, work, config.seconds, "train")
    return Table(
        "Engines: a training step of MAE",
        tuple(rows),
        (),
        (
            f"ViT {encoder.embed_dim} wide and {encoder.depth} deep, {work.image_size} px, patch "
            f"{encoder.patch_size}, batch {work.batch_size}, float32, one process: what DeepSpeed "
            "costs, not what sharding saves, which needs several. `plain` is the base.",
            "Compiling happens before the first turn.",
            *READING,
            f"Median of {turns.num_turns} turns; peak {turns.peak / 1e9:.0f} GFLOP/s.",
        ),
    )
