"""A training step of MAE, ours beside lightly's."""

from __future__ import annotations

import torch

from ...core.methods import MAEConfig
from ...core.methods.config import SMALL
from .compare import compare, number, workload
from .config import BenchmarkConfig
from .lightly_mae import Lightly
from .steps import Ours, Side
from .table import Goal, Table

METHOD = MAEConfig(encoder=SMALL)  # with its published decoder
FASTER = 1.05


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Compare forward, backward and update of ViT-S with MAE's published decoder.

    Raises:
        UsageError: when lightly is not installed.
    """
    work = workload(config, device)
    sides: list[Side] = [Ours("mimkit", METHOD), Lightly("lightly", METHOD)]
    rows, turns = compare(sides, work, config.seconds, "mae")
    ratio = turns.speedup("mimkit", "lightly")
    saved = [number(rows, 0, name) / number(rows, 1, name) for name in _MEMORY]
    memory = f"{saved[0]:.2f} of what is kept for backward, {saved[1]:.2f} of the peak"
    return Table(
        "MAE: a training step beside lightly's modules",
        tuple(rows),
        (
            Goal(f"at least {FASTER} times as fast as lightly", f"{ratio:.3f}", ratio >= FASTER),
            Goal("less memory than lightly", memory, max(saved) < 1),
        ),
        (
            f"ViT-S (384 wide, 12 deep, 6 heads), decoder 8 x 512 with 16 heads, {work.image_size} "
            f"px, patch {work.patch_size}, batch {work.batch_size}, float32; forward, backward and "
            "update, with torch's fused AdamW on both sides.",
            "Our step goes through the training engine, which also checks loss and gradient norm; "
            "lightly's has no such check.",
            *READING,
            f"Median of {turns.num_turns} turns; peak of a large float32 product in the same turns "
            f"{turns.peak / 1e9:.0f} GFLOP/s.",
        ),
    )


_MEMORY = ("kept for backward, MB", "peak memory, MB")
READING = (
    "Ratios are medians over turns of the quotient of two neighbouring measurements; CPU time "
    "leaves out what other programs of the machine took.",
    "GFLOP by formula (three forwards, where gradients flow); MFU is that arithmetic per second "
    "over the measured peak. What is kept for backward is exact, weights and images left out; "
    "the peak is by how much three steps raise the memory of a fresh process, all imports done.",
)
