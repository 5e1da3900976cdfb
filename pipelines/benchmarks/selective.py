"""A training step of SelectiveMAE beside one of MAE, both ours."""

from __future__ import annotations

import torch

from ...core.methods import DecoderConfig, MAEConfig, SelectiveMAEConfig
from ...core.methods.config import SMALL
from .compare import compare, number, workload
from .config import BenchmarkConfig
from .mae import READING
from .steps import Ours, Side
from .table import Goal, Table

FASTER = 2.0
BASE = MAEConfig(encoder=SMALL)
# The decoder of ViT-S, selectivemae.md, "Architecture numbers".
PUBLISHED = SelectiveMAEConfig(encoder=SMALL, decoder=DecoderConfig(dim=256, depth=12, num_heads=8))
WIDE = SelectiveMAEConfig(encoder=SMALL, decoder=BASE.decoder)


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Compare forward, backward and update of ViT-S at equal batch."""
    work = workload(config, device)
    wide, base = "SelectiveMAE, MAE's decoder size", "MAE"
    sides: list[Side] = [
        Ours("SelectiveMAE", PUBLISHED),
        Ours(wide, WIDE),
        Ours(base, BASE),
    ]
    rows, turns = compare(sides, work, config.seconds, "selective")
    for place, row in enumerate(rows):
        fewer = number(rows, 2, "GFLOP per image") / number(rows, place, "GFLOP per image")
        row["times less GFLOP"] = fewer if place < 2 else None
    ratios = [turns.speedup(side.name, base) for side in sides[:2]]
    measured = f"{ratios[0]:.2f}, and {ratios[1]:.2f} with MAE's decoder size"
    return Table(
        "SelectiveMAE: a training step beside MAE",
        tuple(rows),
        (Goal(f"at least {FASTER:.0f} times as fast as MAE", measured, min(ratios) >= FASTER),),
        (
            f"ViT-S, {work.image_size} px, patch {work.patch_size}, batch {work.batch_size}, "
            "float32; MAE with 25% of the tokens encoded and its decoder 8 x 512 with 16 heads; "
            "SelectiveMAE with 15% encoded, 25% predicted and its published decoder 12 x 256 with "
            "8 heads, and once more with a decoder of MAE's size.",
            "What is faster because less is computed shows in GFLOP, what is faster because it is "
            "computed better shows in MFU. The choice of tokens is part of the step.",
            *READING,
            f"Median of {turns.num_turns} turns; peak {turns.peak / 1e9:.0f} GFLOP/s.",
        ),
    )
