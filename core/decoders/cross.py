"""The cross-attention decoder: mask tokens of wanted places read a list of encoder contexts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .. import flops
from ..encoders.contract import Features
from ..grid import Grid
from ..layers import Block, CrossBlock, init_transformer
from ..masking.plan import MaskPlan
from ..positions import sincos
from .contract import Predictor
from .trunk import JointTrunk


class QueryStem(nn.Module):
    """Queries for all tokens: mask tokens and encoded ones read each other first.

    Args:
        grid: geometry of the tokens.
        encoder_dim: width of the features.
        dim: width of the queries.
        depth: self-attention blocks.
        num_heads: attention heads.
        num_prefix: class and register tokens of the encoder; they take part without position.
        mlp_ratio: hidden width of the MLP over the width.
    """

    def __init__(
        self,
        grid: Grid,
        encoder_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        num_prefix: int = 1,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.num_tokens, self.num_prefix = grid.num_tokens + num_prefix, num_prefix
        self.dim, self.mlp_ratio = dim, mlp_ratio
        self.trunk = JointTrunk(grid, encoder_dim, dim, num_prefix)
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio) for _ in range(depth))
        init_transformer(self.blocks)

    def forward(
        self, features: Features, plan: MaskPlan, readable: Bool[Tensor, "b n"] | None
    ) -> Float[Tensor, "b n w"]:
        """Return all queries in raster order, prefix tokens in front."""
        x = self.trunk(features, plan)
        for block in self.blocks:
            x = block(x, readable)
        return x

    def forward_flops(self, num_context: int) -> int:
        """Return the FLOP of one sample's forward."""
        one = flops.block(self.num_tokens, self.dim, self.mlp_ratio)
        return self.trunk.forward_flops(num_context) + len(self.blocks) * one


class CrossDecoder(Predictor):
    """Queries read one encoder context per block: block i reads `contexts[i]`.

    Without a stem there are queries at predicted tokens only (selectivemae.md, step 8). With one
    there are queries for all tokens, and each context is first mapped to the decoder's width
    (hi-end-mae.md, steps 4 and 5); the last block answers for those that are asked alone.

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
        stem: makes the queries; None for mask tokens at predicted places.
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
        stem: QueryStem | None = None,
    ) -> None:
        super().__init__()
        self.contexts, self.dim, self.mlp_ratio = tuple(contexts), dim, mlp_ratio
        self.encoder_dim, self.self_attn = encoder_dim, self_attn
        self.taps = tuple(sorted({c for c in contexts if c >= 0}))
        self.stem, context_dim = stem, encoder_dim if stem is None else dim
        if stem is None:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
            self.register_buffer("pos_embed", sincos(grid.shape, dim)[None])
        else:
            self.memories = nn.ModuleList(nn.Linear(encoder_dim, dim) for _ in contexts)
        self.blocks = nn.ModuleList(
            CrossBlock(dim, context_dim, num_heads, mlp_ratio, self_attn=self_attn)
            for _ in contexts
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, out_dim)
        init_transformer(self)
        if stem is None:
            nn.init.normal_(self.mask_token, std=0.02)

    def memory(self, number: int, features: Features) -> Float[Tensor, "b t c"]:
        """Return what a block reads."""
        context = features.context(self.contexts[number])
        return context if self.stem is None else self.memories[number](context)

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for the tokens at `index` (by default those the plan asks for)."""
        index = plan.predict if index is None else index
        wanted = None
        if self.stem is None:
            x = self.mask_token + self.pos_embed[0][index]
            queries = None if plan.absent is None else ~plan.absent.gather(1, index)
        else:
            queries, wanted = plan.present(self.stem.num_prefix), index + self.stem.num_prefix
            x = self.stem(features, plan, queries)
        for number, block in enumerate(self.blocks):
            last = number == len(self.blocks) - 1
            memory = self.memory(number, features)
            x = block(x, memory, features.readable, queries, wanted if last else None)
        return self.head(self.norm(x))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one sample's forward; tokens that are not asked cost nothing.

        With a stem they take part in all blocks but the last.
        """
        stem, depth = self.stem, len(self.blocks)
        num_queries = num_predict if stem is None else stem.num_tokens
        context_dim, total = (
            self.encoder_dim,
            flops.linear(num_predict, self.dim, self.head.out_features),
        )
        if stem is not None:
            context_dim = self.dim
            total += stem.forward_flops(num_context)
            total += depth * flops.linear(num_context, self.encoder_dim, self.dim)
        for wanted in (*(num_queries,) * (depth - 1), num_predict):
            total += flops.cross_block(
                num_queries,
                num_context,
                self.dim,
                context_dim,
                self.mlp_ratio,
                self.self_attn,
                wanted,
            )
        return total
