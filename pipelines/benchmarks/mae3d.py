"""A training step of MAE on volumes, ours beside MONAI's."""

from __future__ import annotations

import torch

from ...core.methods import DecoderConfig, MAEConfig
from ...core.methods.config import SMALL
from .compare import compare, number, volumes
from .config import BenchmarkConfig
from .mae import READING
from .monai_mae import Monai
from .steps import Ours, Side
from .table import Goal, Table

# The decoder of MONAI's class, as wide and deep as its defaults.
METHOD = MAEConfig(encoder=SMALL, decoder=DecoderConfig(dim=384, depth=4, num_heads=12))
FASTER, LESS = 1.1, 0.8


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Compare forward, backward and update of a 3-D ViT-S with MONAI's decoder."""
    work, encoder, decoder = volumes(config, device), METHOD.encoder, METHOD.decoder
    sides: list[Side] = [Ours("mimkit", METHOD), Monai("MONAI", METHOD)]
    rows, turns = compare(sides, work, config.seconds, "mae3d")
    ratio = turns.speedup("mimkit", "MONAI")
    peak = number(rows, 0, "peak memory, MB") / number(rows, 1, "peak memory, MB")
    return Table(
        "MAE of volumes: a training step beside MONAI's MaskedAutoEncoderViT",
        tuple(rows),
        (
            Goal(f"at least {FASTER} times as fast as MONAI", f"{ratio:.3f}", ratio >= FASTER),
            Goal(f"at most {LESS} of MONAI's peak memory", f"{peak:.2f}", peak <= LESS),
        ),
        (
            f"ViT of {encoder.embed_dim} x {encoder.depth} with {encoder.num_heads} heads, decoder "
            f"{decoder.depth} x {decoder.dim} with {decoder.num_heads} heads, volumes of "
            f"{work.image_size} voxels per side, patch {encoder.patch_size}, batch "
            f"{work.batch_size}, float32; forward, backward and update, with torch's fused AdamW "
            "on both sides.",
            "MONAI's network gives predictions; its loss is that of the MAE paper, on standardised "
            "masked patches, as ours.",
            *READING,
            f"Median of {turns.num_turns} turns; peak of a large float32 product in the same turns "
            f"{turns.peak / 1e9:.0f} GFLOP/s.",
        ),
    )
