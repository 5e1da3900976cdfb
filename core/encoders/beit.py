"""The BEiT-style ViT: relative positions in the attention, layer scale, keys without a bias."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from .. import flops
from ..errors import UsageError
from ..grid import Grid
from ..layers import Attention, DropPath, KeyMask, Mlp
from ..positions import resize
from ..tokens import take
from .contract import Encoder, Features, Pass
from .vit import PatchEmbed
from .windows import offset_index

RelativePositions = Literal["shared", "block", "none"]
NUM_CLASS_ROWS = 3
"""Rows of a bias table for class to token, token to class and class to class, in this order."""


def _growth(old: int, new: int) -> float:
    """Return the ratio at which 1 + q + q^2 + ... of old - 1 terms is new - 1."""
    low, high = 0.0, float(max(new, 2))
    for _ in range(60):
        middle = (low + high) / 2
        reach = sum(middle**power for power in range(old - 1))
        low, high = (middle, high) if reach < new - 1 else (low, middle)
    return (low + high) / 2


def _offset_weights(old: int, new: int) -> Float[Tensor, "m n"]:
    """Return how the bias of each new offset is made of those of the old ones along an axis."""
    wanted = torch.arange(1 - new, new, dtype=torch.float64)
    if old == 1:
        return torch.ones(len(wanted), 1)
    growth = _growth(old, new)
    steps = torch.tensor([growth**power for power in range(old - 1)], dtype=torch.float64)
    reach = steps.cumsum(0)
    known = torch.cat([-reach.flip(0), torch.zeros(1, dtype=torch.float64), reach])
    right = torch.searchsorted(known, wanted.contiguous()).clamp(1, len(known) - 1)
    gap = (known[right] - known[right - 1]).clamp_min(1e-12)
    share = ((wanted - known[right - 1]) / gap).clamp(0.0, 1.0)
    weights = torch.zeros(len(wanted), len(known), dtype=torch.float64)
    weights.scatter_(1, right[:, None] - 1, (1 - share)[:, None])
    return weights.scatter_add_(1, right[:, None], share[:, None]).float()


def resize_offsets(
    table: Float[Tensor, "n h"], old: Sequence[int], new: Sequence[int]
) -> Float[Tensor, "m h"]:
    """Interpolate a table of relative position biases to another grid; class rows are kept.

    Old offsets are spread in a geometric progression, so that those near zero keep their meaning
    and the farthest of both grids meet (simmim.md, "Data"). Between them it is linear; the
    published fine-tuning code uses splines.

    Args:
        table: prod(2 n - 1) rows of offsets in raster order, then the class rows.
        old: grid of the table.
        new: grid wanted.
    """
    if tuple(old) == tuple(new):
        return table
    body = table[:-NUM_CLASS_ROWS].unflatten(0, tuple(2 * n - 1 for n in old))
    for axis, (before, after) in enumerate(zip(old, new, strict=True)):
        weights = _offset_weights(before, after).to(body)
        body = (body.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return torch.cat([body.flatten(0, -2), table[-NUM_CLASS_ROWS:]])


def offset_pairs(shape: Sequence[int], device: torch.device) -> Int[Tensor, "t t"]:
    """Return which row of a bias table each pair (query, key) uses, the class token first."""
    first = prod(2 * n - 1 for n in shape)
    pairs = functional.pad(offset_index(shape, shape, device), (1, 0, 1, 0))
    pairs[0], pairs[:, 0], pairs[0, 0] = first, first + 1, first + 2
    return pairs


class PositionBias(nn.Module):
    """A bias per head for every offset of two tokens; zero at first (`rel_pos_bias` in timm)."""

    def __init__(self, shape: Sequence[int], num_heads: int) -> None:
        super().__init__()
        rows = prod(2 * n - 1 for n in shape) + NUM_CLASS_ROWS
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))


class BiasAttention(Attention):
    """Self-attention whose queries and values have a bias, while keys have none.

    Args:
        dim: width.
        num_heads: attention heads.
        qkv_bias: give queries and values a bias.
        shape: grid for a table of relative positions of its own; None without.
    """

    q_bias: Tensor | None
    v_bias: Tensor | None
    relative_position_bias_table: Tensor | None

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool = True, shape: Sequence[int] | None = None
    ) -> None:
        super().__init__(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        for name in ("q_bias", "v_bias"):
            self.register_parameter(name, nn.Parameter(torch.zeros(dim)) if qkv_bias else None)
        table = None if shape is None else PositionBias(shape, num_heads)
        self.register_parameter(
            "relative_position_bias_table",
            None if table is None else table.relative_position_bias_table,
        )

    def project(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n p"]:
        """Return each token's query, key and value side by side."""
        if self.q_bias is None or self.v_bias is None:
            return self.qkv(x)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return functional.linear(x, self.qkv.weight, bias)


class ScaledBlock(nn.Module):
    """Pre-norm block whose branches are scaled per channel (`gamma_1`, `gamma_2` as in timm).

    Args:
        dim: width.
        attn: its attention.
        mlp_ratio: hidden width of the MLP over the width.
        drop_path: rate at which a branch is dropped.
        layer_scale: value at which the scales start; None for branches without scale.
    """

    gamma_1: Tensor | None
    gamma_2: Tensor | None

    def __init__(
        self,
        dim: int,
        attn: BiasAttention,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        layer_scale: float | None = 0.1,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        for name in ("gamma_1", "gamma_2"):
            start = None if layer_scale is None else torch.full((dim,), layer_scale)
            self.register_parameter(name, None if start is None else nn.Parameter(start))

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        key_mask: KeyMask | None = None,
        bias: Float[Tensor, "#b h n n"] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """Self-attention with a bias on the logits, then the MLP, each with a residual."""
        seen = self.attn.read(self.attn.project(self.norm1(x)), key_mask, bias=bias)
        x = x + self.drop_path(seen if self.gamma_1 is None else self.gamma_1 * seen)
        out = self.mlp(x, self.norm2)
        return x + self.drop_path(out if self.gamma_2 is None else self.gamma_2 * out)


class BEiT(Encoder):
    """Vision transformer with timm's BEiT names: a class token, relative positions, layer scale.

    Bao et al., "BEiT", ICLR 2022; the variants of simmim.md, ropim.md and a2mim.md differ in the
    options. It computes hidden tokens only when a corruption asks for the whole grid.

    Args:
        grid: geometry for which the tables are made.
        embed_dim: width.
        depth: blocks.
        num_heads: attention heads; must divide the width.
        mlp_ratio: hidden width of the MLP over the width.
        relative_positions: one table for all blocks, one per block, or none.
        absolute_positions: add a learned table to embedded tokens.
        layer_scale: start of the scales of residual branches; None for none.
        qkv_bias: give queries and values a bias.
        drop_path: rate of the last block; earlier ones rise linearly from zero.

    Raises:
        UsageError: when the heads do not divide the width.
    """

    pos_embed: Tensor | None

    def __init__(
        self,
        grid: Grid,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        relative_positions: RelativePositions = "shared",
        absolute_positions: bool = False,
        layer_scale: float | None = 0.1,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            reason = f"is not a multiple of num_heads {num_heads}"
            raise UsageError(f"embed_dim {embed_dim}", reason, "choose heads that divide it")
        self.grid, self.embed_dim, self.depth, self.num_heads = grid, embed_dim, depth, num_heads
        self.mlp_ratio, self.num_prefix_tokens = mlp_ratio, 1
        self.patch_embed = PatchEmbed(grid, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        table = torch.zeros(1, grid.num_tokens + 1, embed_dim)
        self.register_parameter("pos_embed", nn.Parameter(table) if absolute_positions else None)
        shared = relative_positions == "shared"
        self.rel_pos_bias = PositionBias(grid.shape, num_heads) if shared else None
        own = grid.shape if relative_positions == "block" else None
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            ScaledBlock(
                embed_dim,
                BiasAttention(embed_dim, num_heads, qkv_bias, own),
                mlp_ratio,
                rate,
                layer_scale,
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw weights from a normal cut at one deviation of 0.02; deep outputs are smaller.

        The cut and the division by sqrt(2 * layer number) are BEiT's (simmim.md).
        """
        weights = [part.weight for part in self.modules() if isinstance(part, nn.Linear)]
        tokens = [self.cls_token, *([] if self.pos_embed is None else [self.pos_embed])]
        for weight in (*weights, self.patch_embed.proj.weight, *tokens):
            nn.init.trunc_normal_(weight, std=0.02, a=-0.02, b=0.02)
        for part in self.modules():
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
        for number, block in enumerate(self.blocks, 1):
            assert isinstance(block, ScaledBlock)
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.div_((2.0 * number) ** 0.5)

    def positions(self, shape: Sequence[int]) -> Float[Tensor, "t d"]:
        """Return what is added to the class token and to every token of a grid."""
        if self.pos_embed is None:
            return self.cls_token.new_zeros(prod(shape) + 1, self.embed_dim)
        return resize(self.pos_embed[0], self.grid.shape, shape, num_prefix=1)

    def embed(
        self,
        patches: Float[Tensor, "b n p"],
        index: Int[Tensor, "b v"] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Embed tokens with their absolute positions; only those at `index`."""
        table = self.positions(shape or self.grid.shape)[1:]
        if index is None:
            return self.patch_embed(patches) + table
        return self.patch_embed(take(patches, index)) + table[index]

    def run(self, patches: Float[Tensor, "b n p"], wanted: Pass) -> Features:
        """Embed and encode the tokens that are wanted, behind the class token."""
        table = self.positions(wanted.shape)
        if wanted.corrupt is None:
            x = self.embed(patches, wanted.index, wanted.shape)
        else:
            x = wanted.corrupted(0, self.patch_embed(patches)) + table[1:]
        x = torch.cat([(self.cls_token + table[:1]).expand(len(x), -1, -1), x], dim=1)
        readable = wanted.readable
        if readable is not None:
            readable = functional.pad(readable, (1, 0), value=True)
        pairs = self.pairs(wanted, x.device)
        shared = self.rel_pos_bias
        common = None
        if shared is not None:
            common = self.biases(shared.relative_position_bias_table, pairs, wanted.shape)
        kept = {}
        for number, block in enumerate(self.blocks):
            assert isinstance(block, ScaledBlock)
            changed = wanted.corrupted(number + 1, x[:, 1:])
            own = block.attn.relative_position_bias_table
            bias = common if own is None else self.biases(own, pairs, wanted.shape)
            x = block(torch.cat([x[:, :1], changed], dim=1), readable, bias)
            if number in wanted.taps:
                kept[number] = x
        x = x if wanted.neck is None else wanted.neck(x, kept)
        return Features(self.norm(x), 1, kept, readable)

    def pairs(self, wanted: Pass, device: torch.device) -> Int[Tensor, "#b t t"]:
        """Return which row of a bias table each pair of computed tokens uses."""
        pairs = offset_pairs(wanted.shape, device)
        if wanted.index is None:
            return pairs[None]
        places = functional.pad(wanted.index + 1, (1, 0))
        return pairs[places[:, :, None], places[:, None, :]]

    def biases(
        self, table: Float[Tensor, "n h"], pairs: Int[Tensor, "#b t t"], shape: Sequence[int]
    ) -> Float[Tensor, "#b h t t"]:
        """Return the bias on every logit."""
        return resize_offsets(table, self.grid.shape, shape)[pairs].permute(0, 3, 1, 2)

    def embed_flops(self, num_tokens: int) -> int:
        """Return the FLOP of embedding tokens of one sample."""
        return flops.linear(num_tokens, self.grid.patch_dim, self.embed_dim)

    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP of encoding tokens of one sample, embedding included."""
        one = flops.block(num_tokens + 1, self.embed_dim, self.mlp_ratio)
        return self.embed_flops(num_tokens) + self.depth * one
