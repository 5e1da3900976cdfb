"""Fusion of several layers in front of the final norm (mff.md, "Pre-training algorithm")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import flops
from ..errors import UsageError
from ..layers import init_transformer


class TapFusion(nn.Module):
    """A weighted sum of projected early layers and of the last one as it is.

    It is a neck: part of the method and not of the encoder, so that the encoder stays a plain one.
    Nothing flows back into later blocks.

    Args:
        dim: width of the encoder.
        depth: blocks of the encoder.
        blocks: which are fused, zero-based and rising; the last block has to be the last of them.

    Raises:
        UsageError: for other blocks.
    """

    proj_weights: Tensor

    def __init__(self, dim: int, depth: int, blocks: Sequence[int]) -> None:
        super().__init__()
        *early, last = blocks or [-1]
        if last != depth - 1 or sorted(set(blocks)) != list(blocks) or min(blocks) < 0:
            raise UsageError(
                f"fused_blocks {tuple(blocks)}",
                f"are not rising blocks that end with the last of {depth}",
                f"use numbers from 0 that end with {depth - 1}",
            )
        self.taps, self.last, self.dim = tuple(early), last, dim
        self.projections = nn.ModuleList(nn.Linear(dim, dim) for _ in early)
        start = torch.ones(len(blocks), 1, 1, 1)
        if early:
            self.proj_weights = nn.Parameter(start)
        else:  # one layer has nothing to be weighed against
            self.register_buffer("proj_weights", start)
        init_transformer(self)

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """Share of each layer in the sum."""
        return self.proj_weights.flatten().softmax(dim=0)

    def scalars(self) -> dict[str, Tensor]:
        """Return the shares by the number of the block, for the log (mff.md, step 6)."""
        blocks = (*self.taps, self.last)
        shares = zip(blocks, self.weights.detach(), strict=True)
        return {f"fusion/{block}": share for block, share in shares}

    def forward(
        self, last: Float[Tensor, "b t d"], taps: Mapping[int, Tensor]
    ) -> Float[Tensor, "b t d"]:
        """Return the fused tokens, prefix tokens fused like the others."""
        early = (
            project(taps[tap]) for tap, project in zip(self.taps, self.projections, strict=True)
        )
        weights = self.weights
        fused = weights[-1] * last
        for weight, tokens in zip(weights, early, strict=False):
            fused = fused + weight * tokens
        return fused

    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP of fusing the tokens of one sample."""
        return len(self.taps) * flops.linear(num_tokens, self.dim, self.dim)
