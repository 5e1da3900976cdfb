"""The cross-attention decoder: mask tokens of wanted places read a list of encoder contexts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import flops
from ..encoders.contract import Features
from ..grid import Grid
from ..layers import CrossBlock, init_transformer
from ..masking.plan import MaskPlan
from ..positions import sincos
from .contract import Predictor


class CrossDecoder(Predictor):
    """Queries at predicted tokens only; block i reads `contexts[i]` (selectivemae.md, step 8).

    Args:
        grid: geometry of the tokens.
        encoder_dim: width of the features.
        dim: width of the decoder.
        contexts: one per block: -1 for the final features, else the zero-based index of an
            encoder block whose raw output is read.
        num_heads: attention heads.
        out_dim: numbers predicted per token.
        self_attn: let queries read each other before they read the context.
        mlp_ratio: hidden width of the MLP over the width.
    """

    pos_embed: Tensor

    def __init__(
        self,
        grid: Grid,
        encoder_dim: int,
        dim: int,
        contexts: Sequence[int],
        num_heads: int,
        out_dim: int,
        self_attn: bool = False,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.contexts, self.dim, self.mlp_ratio = tuple(contexts), dim, mlp_ratio
        self.encoder_dim, self.self_attn = encoder_dim, self_attn
        self.taps = tuple(sorted({c for c in contexts if c >= 0}))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", sincos(grid.shape, dim)[None])
        self.blocks = nn.ModuleList(
            CrossBlock(dim, encoder_dim, num_heads, mlp_ratio, self_attn=self_attn)
            for _ in contexts
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, out_dim)
        init_transformer(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for the tokens at `index` (by default those the plan asks for)."""
        index = plan.predict if index is None else index
        x = self.mask_token + self.pos_embed[0][index]
        queries = None if plan.absent is None else ~plan.absent.gather(1, index)
        for block, context in zip(self.blocks, self.contexts, strict=True):
            x = block(x, features.context(context), features.readable, queries)
        return self.head(self.norm(x))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one sample's forward; tokens that are not asked cost nothing."""
        one = flops.cross_block(
            num_predict, num_context, self.dim, self.encoder_dim, self.mlp_ratio, self.self_attn
        )
        head = flops.linear(num_predict, self.dim, self.head.out_features)
        return len(self.blocks) * one + head
