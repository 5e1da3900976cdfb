"""What the encoder keeps for its backward pass grows with what it sees, and with nothing else."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...core.masking.plan import MaskPlan, count
from ...core.methods.config import SMALL, EncoderConfig
from ...core.tokens import all_tokens
from .compare import workload
from .config import BenchmarkConfig
from .memory import saved_bytes
from .steps import Workload
from .table import Goal, Table

RATIOS = (0.0, 0.25, 0.5, 0.6, 0.75, 0.85, 0.9)
_BATCH = 4


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Measure a ViT-S at several mask ratios of one image size."""
    work = replace(workload(config, device), batch_size=_BATCH)
    visible = [count(work.grid.num_tokens, 1 - ratio) for ratio in RATIOS]
    kept = [encoder_bytes(SMALL, work, num) for num in visible]
    apart = farthest_from_line(visible, kept)
    rows = tuple(
        {
            "mask ratio": f"{ratio:.0%}",
            "visible tokens": num,
            "kept per image, MB": size / _BATCH / 1e6,
            "kB per visible token": size / _BATCH / num / 1e3,
            "share of unmasked": f"{size / kept[0]:.1%}",
            "share of tokens": f"{num / visible[0]:.1%}",
        }
        for ratio, num, size in zip(RATIOS, visible, kept, strict=True)
    )
    return Table(
        "Encoder memory: what is kept for the backward pass",
        rows,
        (
            Goal(
                "linear in the number of visible tokens",
                f"farthest from one straight line {apart} bytes",
                apart == 0,
            ),
        ),
        (
            f"ViT-S, {work.image_size} px, patch {work.patch_size}, float32; exact bytes of what "
            "the backward pass reads, weights left out. The class token, which is always there, "
            "is the constant part of the line.",
        ),
    )


def encoder_bytes(config: EncoderConfig, work: Workload, num_visible: int) -> int:
    """Return the bytes that an encoder keeps when it sees so many tokens of each image."""
    torch.manual_seed(0)
    encoder = config.build(work.grid).to(work.device)
    device = torch.device(work.device)
    tokens = all_tokens(work.batch_size, work.grid.num_tokens, device)
    plan = MaskPlan(tokens[:, :num_visible].clone(), tokens[:, num_visible:])
    patches = torch.zeros(*tokens.shape, work.grid.patch_dim, device=device)
    given = [*encoder.state_dict().values(), patches]
    return saved_bytes(lambda: encoder.encode_patches(patches, plan).sequence, given)


def farthest_from_line(places: list[int], values: list[int]) -> int:
    """Return how far a value lies from the line through the first and the last, rounded up."""
    run, rise = places[-1] - places[0], values[-1] - values[0]
    above = [
        abs((value - values[0]) * run - (place - places[0]) * rise)
        for place, value in zip(places, values, strict=True)
    ]
    return -(-max(above) // abs(run))
