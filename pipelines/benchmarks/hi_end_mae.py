"""A training step of Hi-End-MAE on volumes beside one of MAE, both ours, with their arithmetic."""

from __future__ import annotations

import torch

from ...core.methods import DecoderConfig, HiEndMAEConfig
from . import mae3d
from .compare import compare, number, volumes
from .config import BenchmarkConfig
from .mae import READING
from .steps import Ours, Side
from .table import Table

# As wide as MAE's; two blocks of its own and three that read the encoder, as published.
DECODER = DecoderConfig(dim=384, depth=2, num_heads=12)
NEW, BASE = "Hi-End-MAE", "MAE"


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Compare forward, backward and update with equal encoders."""
    work, base = volumes(config, device), mae3d.METHOD
    method = HiEndMAEConfig(encoder=base.encoder, decoder=DECODER)
    sides: list[Side] = [Ours(NEW, method), Ours(BASE, base)]
    rows, turns = compare(sides, work, config.seconds, "hi-end-mae")
    more = number(rows, 0, "GFLOP per image") / number(rows, 1, "GFLOP per image")
    rows[0]["times the GFLOP"], rows[1]["times the GFLOP"] = more, None
    longer = turns.wall(NEW) / turns.wall(BASE)
    encoder, decoder = base.encoder, base.decoder
    return Table(
        "Hi-End-MAE: a training step on volumes beside MAE",
        tuple(rows),
        notes=(
            f"A step takes {longer:.2f} times as long as MAE's and has {more:.2f} times its "
            "arithmetic: what is above that ratio is lost to smaller operations.",
            f"ViT of {encoder.embed_dim} x {encoder.depth} with {encoder.num_heads} heads, volumes "
            f"of {work.image_size} voxels per side, patch {encoder.patch_size}, batch "
            f"{work.batch_size}, 25% of the tokens encoded, float32. Decoders: MAE "
            f"{decoder.depth} x {decoder.dim}; Hi-End-MAE {DECODER.depth} blocks of "
            f"self-attention and {len(method.reads)} that also read blocks "
            f"{', '.join(map(str, method.reads))} of the encoder, {DECODER.dim} wide.",
            *READING,
            f"Median of {turns.num_turns} turns; peak of a large float32 product in the same turns "
            f"{turns.peak / 1e9:.0f} GFLOP/s.",
        ),
    )
