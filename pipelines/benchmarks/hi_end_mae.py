"""A training step of Hi-End-MAE on volumes beside one of MAE, both ours, with their arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...core.methods import DecoderConfig, HiEndMAEConfig
from . import mae3d
from .compare import compare, number, volumes
from .config import BenchmarkConfig
from .mae import READING
from .steps import Ours, Side
from .table import Cell, Table

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
    encoder, decoder = base.encoder, base.decoder
    return Table(
        "Hi-End-MAE: a training step on volumes beside MAE",
        tuple(rows),
        notes=(
            cost(rows),
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


def cost(rows: Sequence[dict[str, Cell]]) -> str:
    """Say what a step costs beside what it computes; processor time where it is known."""
    on_cpu = rows[0]["times as fast, CPU time"] is not None
    column, kind = ("times as fast, CPU time", "processor ") if on_cpu else ("times as fast", "")
    longer, more = 1 / number(rows, 0, column), number(rows, 0, "times the GFLOP")
    return (
        f"A step takes {longer:.2f} times the {kind}time of MAE's and has {more:.2f} times its "
        "arithmetic."
    )
