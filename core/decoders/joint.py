"""The MAE decoder: mask tokens take the places of hidden tokens and all attend to all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import flops
from ..encoders.contract import Features
from ..errors import UsageError
from ..grid import Grid
from ..layers import Block, init_transformer
from ..masking.plan import MaskPlan
from ..positions import sincos
from ..tokens import all_tokens, put
from .contract import Predictor


def decoder_blocks(dim: int, depth: int, num_heads: int, mlp_ratio: float) -> nn.ModuleList:
    """Return the blocks of a decoder that predicts from its last one.

    Raises:
        UsageError: for a depth below one.
    """
    if depth < 1:
        raise UsageError(f"decoder.depth {depth}", "is below 1", "use 8, or at least 1")
    return nn.ModuleList(Block(dim, num_heads, mlp_ratio) for _ in range(depth))


class JointDecoder(Predictor):
    """Self-attention over visible tokens and mask tokens together (mae.md, step 6).

    Args:
        grid: geometry of the tokens.
        encoder_dim: width of the features.
        dim: width of the decoder.
        depth: blocks.
        num_heads: attention heads.
        out_dim: numbers predicted per token.
        num_prefix: class and register tokens of the encoder; they take part without position.
        mlp_ratio: hidden width of the MLP over the width.
        shared_token: take the mask token from the method's trunk, a `SharedMaskToken`, and narrow
            it like an encoded token, instead of owning one.

    Raises:
        UsageError: for a depth below one.
    """

    pos_embed: Tensor

    def __init__(
        self,
        grid: Grid,
        encoder_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        out_dim: int,
        num_prefix: int = 1,
        mlp_ratio: float = 4.0,
        shared_token: bool = False,
    ) -> None:
        super().__init__()
        self.num_tokens, self.dim, self.mlp_ratio = grid.num_tokens, dim, mlp_ratio
        self.num_prefix = num_prefix
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = None if shared_token else nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", sincos(grid.shape, dim, num_prefix=num_prefix)[None])
        self.blocks = decoder_blocks(dim, depth, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, out_dim)
        init_transformer(self)
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)

    def token(self, features: Features) -> Float[Tensor, "1 1 w"]:
        """Return the mask token."""
        if self.mask_token is not None:
            return self.mask_token
        assert features.trunk is not None, "a shared mask token is that of a trunk"
        return self.embed(features.trunk[:1])

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for the tokens at `index` (by default those the plan asks for)."""
        prefix, batch = features.num_prefix, len(plan.visible)
        leading = all_tokens(batch, prefix, plan.visible.device)
        places = torch.cat([leading, plan.visible + prefix], dim=1)
        known = self.embed(features.sequence) + self.pos_embed[0][places]
        hidden = self.token(features) + self.pos_embed
        first = self.blocks[0]
        assert isinstance(first, Block)

        def everywhere(function: Callable[[Tensor], Tensor]) -> Tensor:
            # Before tokens read each other, hidden ones are the same in all samples.
            return put(function(hidden).expand(batch, -1, -1), places, function(known))

        x, qkv = everywhere(lambda tokens: tokens), everywhere(first.project)
        readable = plan.present(prefix)
        wanted = prefix + (plan.predict if index is None else index)
        for number, block in enumerate(self.blocks, 1):
            last = number == len(self.blocks)
            x, qkv = block(x, readable, wanted if last else None, qkv), None
        return self.head(self.norm(x))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one sample's forward.

        All tokens take part in every block, but the last one answers for those that are asked, and
        the first one's projections of hidden tokens, which a batch shares, are left out.
        """
        num_tokens = self.num_tokens + self.num_prefix
        one = flops.block(num_tokens, self.dim, self.mlp_ratio)
        last = flops.block(num_tokens, self.dim, self.mlp_ratio, num_predict)
        last -= flops.linear(num_tokens - num_context, self.dim, 3 * self.dim)
        edges = flops.linear(num_context, self.embed.in_features, self.dim)
        edges += flops.linear(num_predict, self.dim, self.head.out_features)
        return edges + (len(self.blocks) - 1) * one + last
