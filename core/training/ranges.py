"""What every transformer block puts out, in a few numbers: where a loss stopped being finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .engine_parts import block_lists


@contextmanager
def recording_ranges(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect (3,) tensors by block while a model runs: smallest, largest, number not finite."""
    ranges: dict[str, Tensor] = {}
    hooks = []

    def record(name: str, output: Tensor) -> None:
        values = output.detach().float()
        finite = torch.isfinite(values)
        low = torch.where(finite, values, torch.inf).amin()
        high = torch.where(finite, values, -torch.inf).amax()
        now = torch.stack([low, high, (~finite).sum().float()])
        before = ranges.get(name, now.new_tensor([torch.inf, -torch.inf, 0.0]))
        merged = torch.stack(
            [torch.minimum(before[0], low), torch.maximum(before[1], high), before[2] + now[2]]
        )
        ranges[name] = merged

    for name, block in block_lists(model):
        hooks.append(
            block.register_forward_hook(
                lambda _module, _inputs, output, name=name: (
                    record(name, output) if isinstance(output, Tensor) else None
                )
            )
        )
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()


def readable(ranges: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return ranges as plain data."""
    names = ("smallest", "largest", "num_not_finite")
    return {
        block: dict(zip(names, values.tolist(), strict=True)) for block, values in ranges.items()
    }
