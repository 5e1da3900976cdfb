"""A decoder that sums an image up: one vector of its seen and hidden tokens (fsfm.md, step 6)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .. import flops
from ..layers import KeyMask, attend, init_transformer
from .joint import decoder_blocks


class PooledDecoder(nn.Module):
    """Self-attention over encoded tokens and mask tokens without positions, then their mean.

    Hidden tokens all have the same vector and no position, so they stay alike through all blocks:
    one of them is computed and counts as often as there are hidden tokens, which gives exactly
    what a decoder of the whole grid gives. The last linear layer is applied to the mean, which is
    the mean of what it makes of each token.

    Args:
        dim: width of the features and of the mask token.
        depth: blocks.
        num_heads: attention heads; must divide the width.
        mlp_ratio: hidden width of the MLP over the width.

    Raises:
        UsageError: for a depth below one.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.dim, self.mlp_ratio = dim, mlp_ratio
        self.embed = nn.Linear(dim, dim)
        self.blocks = decoder_blocks(dim, depth, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, dim)
        init_transformer(self)

    def forward(
        self,
        sequence: Float[Tensor, "b t d"],
        readable: Bool[Tensor, "b t"] | None = None,
        mask_token: Float[Tensor, "b 1 d"] | None = None,
        num_hidden: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b d"]:
        """Return the mean over all tokens that hold data, prefix tokens included.

        Args:
            sequence: encoded tokens, prefix tokens in front.
            readable: true for those that hold data; None when all do.
            mask_token: stands for each hidden token; None when nothing is hidden.
            num_hidden: hidden tokens of each sample that hold data, with `mask_token`.
        """
        x = self.embed(sequence)
        times = torch.ones(x.shape[:2], device=x.device)
        times = times if readable is None else times * readable
        if mask_token is None or num_hidden is None:
            for block in self.blocks:
                x = block(x, readable)
        else:
            x = torch.cat([x, mask_token.to(x.dtype)], dim=1)
            times = torch.cat([times, num_hidden[:, None]], dim=1)
            for block in self.blocks:
                x = block(x, times > 0, reading=_Multiple(times))
        weight = times / times.sum(dim=1, keepdim=True).clamp_min(1.0)
        return self.head((self.norm(x) * weight[..., None]).sum(dim=1))

    def forward_flops(self, num_context: int, *, masked: bool) -> int:
        """Return the FLOP of one sample's forward.

        Args:
            num_context: encoded tokens, prefix tokens included.
            masked: whether some tokens are hidden.
        """
        num_tokens = num_context + masked
        blocks = len(self.blocks) * flops.block(num_tokens, self.dim, self.mlp_ratio)
        return flops.linear(num_context + 1, self.dim, self.dim) + blocks


class _Multiple:
    """Attention in which a key counts as several equal ones: the logarithm of how many is added."""

    def __init__(self, times: Float[Tensor, "b k"]) -> None:
        self.bias = times.clamp_min(1.0).log()[:, None, None, :]

    def __call__(
        self,
        q: Float[Tensor, "b h q e"],
        k: Float[Tensor, "b h k e"],
        v: Float[Tensor, "b h k e"],
        key_mask: KeyMask | None,
    ) -> Float[Tensor, "b q w"]:
        """Attend in float32: with eight bits the logarithm of a count is off by percents."""
        with torch.autocast(q.device.type, enabled=False):
            return attend(q.float(), k.float(), v.float(), key_mask, self.bias)
