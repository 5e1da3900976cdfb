"""The plain ViT: any rank, any grid, any number of channels, timm's weight names and layouts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import flops
from ..errors import UsageError
from ..grid import Grid
from ..layers import Block, init_transformer
from ..positions import resize, sincos
from ..tokens import take
from .contract import EMBEDDED, Encoder, Features, Pass


class PatchEmbed(nn.Module):
    """Linear patch embedding whose weight has the layout of a strided convolution (`proj`)."""

    def __init__(self, grid: Grid, embed_dim: int) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[grid.ndim]
        self.proj = conv(grid.channels, embed_dim, kernel_size=grid.patch, stride=grid.patch)
        nn.init.xavier_uniform_(self.proj.weight.data.flatten(1))
        nn.init.zeros_(self.proj.bias)

    def forward(self, patches: Float[Tensor, "b v p"]) -> Float[Tensor, "b v d"]:
        """Embed tokens in `patchify`'s order; equals the convolution on whole images."""
        # The permuted weight is small next to the pixels that a permuted input would copy.
        weight = self.proj.weight.movedim(1, -1).flatten(1)
        return nn.functional.linear(patches, weight, self.proj.bias)


class ViT(Encoder):
    """Vision transformer that embeds and encodes only the tokens it is asked to.

    Parameter names and layouts are timm's (`cls_token`, `pos_embed`, `patch_embed.proj`,
    `blocks.i`, `norm`). The position table is a buffer: it is stored, never trained.

    Args:
        grid: geometry for which the position table is made.
        embed_dim: width.
        depth: blocks.
        num_heads: attention heads; must divide the width.
        mlp_ratio: hidden width of the MLP over the width.
        class_token: put a learned token without position in front.
        drop_path: rate of the last block; earlier ones rise linearly from zero.
    """

    pos_embed: Tensor
    follows_rules = True

    def __init__(
        self,
        grid: Grid,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        class_token: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise UsageError(
                f"embed_dim {embed_dim}",
                f"is not a multiple of num_heads {num_heads}",
                f"use {embed_dim // num_heads * num_heads or num_heads}",
            )
        self.grid, self.embed_dim, self.depth, self.num_heads = grid, embed_dim, depth, num_heads
        self.mlp_ratio, self.num_prefix_tokens = mlp_ratio, int(class_token)
        self.patch_embed = PatchEmbed(grid, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        table = sincos(grid.shape, embed_dim, num_prefix=self.num_prefix_tokens)
        self.register_buffer("pos_embed", table[None])
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, drop_path=rate) for rate in rates
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        init_transformer(self.blocks)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)

    def positions(self, shape: Sequence[int]) -> Float[Tensor, "n d"]:
        """Return the position code of every token of a grid, prefix rows left out."""
        table = self.pos_embed[0]
        if tuple(shape) != self.grid.shape:
            table = resize(table, self.grid.shape, shape, num_prefix=self.num_prefix_tokens)
        return table[self.num_prefix_tokens :]

    def embed(
        self,
        patches: Float[Tensor, "b n p"],
        index: Int[Tensor, "b v"] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Embed tokens with their positions; only those at `index`, gathered before embedding."""
        table = self.positions(shape or self.grid.shape)
        if index is None:
            return self.patch_embed(patches) + table
        return self.patch_embed(take(patches, index)) + table[index]

    def run(self, patches: Float[Tensor, "b n p"], wanted: Pass) -> Features:
        """Embed and encode the tokens that are wanted, behind the class token."""
        kept = {}
        if wanted.corrupt is None:
            x = self.embed(patches, wanted.index, wanted.shape)
        else:
            x = wanted.corrupted(0, self.patch_embed(patches))
            if EMBEDDED in wanted.taps:
                kept[EMBEDDED] = x
            x = x + self.positions(wanted.shape)
        readable = wanted.readable
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
            if readable is not None:
                readable = torch.cat([readable.new_ones(x.shape[0], 1), readable], dim=1)
        for number, block in enumerate(self.blocks):
            if wanted.corrupt is not None:
                x = self._corrupt_body(wanted, number + 1, x)
            reading = None if wanted.rule is None else wanted.rule(number, x)
            x = block(x, readable, reading=reading)
            if number in wanted.taps:
                kept[number] = x
        x = x if wanted.neck is None else wanted.neck(x, kept)
        return Features(self.norm(x), self.num_prefix_tokens, kept, readable)

    def _corrupt_body(
        self, wanted: Pass, layer: int, x: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b t d"]:
        """Let the corruption see all tokens but the prefix."""
        body = x[:, self.num_prefix_tokens :]
        changed = wanted.corrupted(layer, body)
        if changed is body:
            return x
        return torch.cat([x[:, : self.num_prefix_tokens], changed], dim=1)

    def embed_flops(self, num_tokens: int) -> int:
        """Return the FLOP of embedding tokens of one sample."""
        return flops.linear(num_tokens, self.grid.patch_dim, self.embed_dim)

    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP of encoding tokens of one sample, embedding included."""
        one = flops.block(num_tokens + self.num_prefix_tokens, self.embed_dim, self.mlp_ratio)
        return self.embed_flops(num_tokens) + self.depth * one
