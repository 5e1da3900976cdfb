"""The image tower of CLIP, as a teacher: patch tokens in the space that images and texts share.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
It differs from `ViT` by a norm in front of the blocks, an approximate GELU and a projection of the
normalised tokens. Names are timm's (`vit_base_patch16_clip_224`); `head` is the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import flops
from ..errors import UsageError
from ..grid import Grid
from ..layers import Block, Mlp, init_transformer
from ..positions import resize
from ..tokens import take
from .contract import Encoder, Features, Pass
from .vit import PatchEmbed

_EPS, _SLOPE = 1e-5, 1.702


@dataclass(frozen=True, kw_only=True)
class ClipViTConfig:
    """The image tower of CLIP; the defaults are those of ViT-B/16."""

    name: Literal["clip"] = "clip"
    """Kind of encoder."""
    embed_dim: int = 768
    """Width of a token inside."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Attention heads; must divide the width."""
    patch_size: int = 16
    """Pixels per patch side."""
    out_dim: int = 512
    """Numbers per token that come out."""
    quick_gelu: bool = True
    """The approximate GELU of OpenAI's weights; most of OpenCLIP's have the exact one."""

    def build(self, grid: Grid) -> ClipViT:
        """Return the tower for a grid."""
        return ClipViT(grid, self)


class QuickMlp(Mlp):
    """Two linear layers with x * sigmoid(1.702 x) between them."""

    def forward(
        self, x: Float[Tensor, "*b w"], norm: nn.LayerNorm | None = None
    ) -> Float[Tensor, "*b w"]:
        """Apply the two layers, to normalised tokens where a norm is given."""
        hidden = self.fc1(x if norm is None else norm(x))
        return self.fc2(hidden * torch.sigmoid(_SLOPE * hidden))


class ClipViT(Encoder):
    """CLIP's ViT on the whole grid or on visible tokens; the final tokens are projected.

    The position table is a buffer. The class token's own row is part of `cls_token`.

    Args:
        grid: geometry of the tokens.
        config: widths and depth.

    Raises:
        UsageError: for heads that do not divide the width.
    """

    pos_embed: Tensor
    num_prefix_tokens = 1

    def __init__(self, grid: Grid, config: ClipViTConfig) -> None:
        super().__init__()
        dim, heads = config.embed_dim, config.num_heads
        if dim % heads:
            raise UsageError(
                f"embed_dim {dim}",
                f"is not a multiple of num_heads {heads}",
                f"use {dim // heads * heads or heads}",
            )
        self.grid, self.depth, self.num_heads = grid, config.depth, heads
        self.width, self.embed_dim = dim, config.out_dim
        self.patch_embed = PatchEmbed(grid, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", torch.zeros(1, grid.num_tokens, dim))
        self.norm_pre = nn.LayerNorm(dim, eps=_EPS)
        self.blocks = nn.ModuleList(Block(dim, heads, eps=_EPS) for _ in range(config.depth))
        if config.quick_gelu:
            for block in self.blocks:
                assert isinstance(block, Block)
                block.mlp = QuickMlp(dim, 4 * dim)
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.head = nn.Linear(dim, config.out_dim)
        init_transformer(self)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)

    def embed(
        self,
        patches: Float[Tensor, "b n p"],
        index: Int[Tensor, "b v"] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Embed tokens with their positions; only those at `index`, gathered before embedding."""
        table = resize(self.pos_embed[0], self.grid.shape, shape or self.grid.shape)
        if index is None:
            return self.patch_embed(patches) + table
        return self.patch_embed(take(patches, index)) + table[index]

    def run(self, patches: Float[Tensor, "b n p"], wanted: Pass) -> Features:
        """Encode the tokens that are wanted, behind the class token.

        Raises:
            UsageError: for a corruption: this is a teacher, which sees what there is.
        """
        if wanted.corrupt is not None:
            raise UsageError("CLIP's encoder", "has no place for mask tokens", "use a plain ViT")
        x = self.embed(patches, wanted.index, wanted.shape)
        x = self.norm_pre(torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1))
        readable, kept = wanted.readable, {}
        if readable is not None:
            readable = torch.cat([readable.new_ones(len(x), 1), readable], dim=1)
        for number, block in enumerate(self.blocks):
            x = block(x, readable)
            if number in wanted.taps:
                kept[number] = x
        x = x if wanted.neck is None else wanted.neck(x, kept)
        return Features(self.head(self.norm(x)), 1, kept, readable)

    def embed_flops(self, num_tokens: int) -> int:
        """Return the FLOP of embedding tokens of one sample."""
        return flops.linear(num_tokens, self.grid.patch_dim, self.width)

    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP of encoding tokens of one sample, embedding and projection included."""
        blocks = self.depth * flops.block(num_tokens + 1, self.width)
        projection = flops.linear(num_tokens + 1, self.width, self.embed_dim)
        return self.embed_flops(num_tokens) + blocks + projection
