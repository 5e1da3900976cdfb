"""HiViT: a hierarchy inside each token, so that tokens never mix before the main stage.

A token (a unit of 16 pixels) is kept as 4 x 4 cells, then 2 x 2, then one vector. The first two
stages have no attention, so a mask may drop whole units at the very start (itpn.md, "Backbone").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from .. import flops
from ..errors import UsageError
from ..grid import Grid
from ..layers import Attention, DropPath, Mlp, init_transformer
from ..positions import resize, sincos
from ..tokens import take
from .contract import Encoder, Features, Pass
from .swin_blocks import PatchMerging
from .vit import PatchEmbed
from .windows import offset_index

CELLS = 4
"""Cells of a unit along each axis in the first stage."""


class CellEmbed(nn.Module):
    """Cuts units into cells and embeds each (`proj` has the layout of a strided convolution)."""

    def __init__(self, grid: Grid, dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.cell = tuple(length // CELLS for length in grid.patch)
        shape = tuple(CELLS * n for n in grid.shape)
        self.proj = PatchEmbed(Grid(shape, self.cell, grid.channels), dim).proj
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, patches: Float[Tensor, "b v p"]) -> Float[Tensor, "b v c d"]:
        """Return the cells of each unit in raster order."""
        rank = self.grid.ndim
        split = [n for pixels in self.cell for n in (CELLS, pixels)]
        x = patches.unflatten(-1, (*split, self.grid.channels))
        order = [0, 1, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2), 2 + 2 * rank]
        x = x.permute(order).flatten(2 + rank).flatten(2, 1 + rank)
        weight = self.proj.weight.movedim(1, -1).flatten(1)
        return self.norm(functional.linear(x, weight, self.proj.bias))


class UnitMerging(PatchMerging):
    """Two cells of a unit per axis become one of twice the width; nothing leaves a unit."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank, post_norm=False, eps=1e-6)
        self.rank = rank

    def forward(self, x: Float[Tensor, "b v c d"]) -> Float[Tensor, "b v e f"]:
        """Merge the cells of every unit."""
        side = round(x.shape[2] ** (1 / self.rank))
        units = x.flatten(0, 1).unflatten(1, (side,) * self.rank)
        return super().forward(units).flatten(1, -2).unflatten(0, x.shape[:2])


class TableAttention(Attention):
    """Self-attention with a learned bias for every difference of two places, per head."""

    def __init__(self, dim: int, num_heads: int, reach: Sequence[int]) -> None:
        super().__init__(dim, num_heads)
        self.reach = tuple(reach)
        rows = prod(2 * n - 1 for n in self.reach)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))

    def bias(
        self, shape: Sequence[int], index: Int[Tensor, "b v"] | None
    ) -> Float[Tensor, "#b h v v"]:
        """Return the bias between the tokens at `index` of a grid; None for all of them."""
        table = self.relative_position_bias_table
        if tuple(shape) != self.reach:
            old, new = ([2 * n - 1 for n in sides] for sides in (self.reach, shape))
            table = resize(table, old, new)
        pairs = offset_index(shape, shape, table.device)[None]
        if index is not None:
            pairs = pairs[0][index[:, :, None], index[:, None, :]]
        return table[pairs].permute(0, 3, 1, 2)


class CellBlock(nn.Module):
    """A residual MLP on every cell for itself; with a layer scale where one is given.

    Args:
        dim: width.
        mlp_ratio: hidden width of the MLP over the width.
        drop_path: rate of stochastic depth.
        layer_scale: start of the learned factor of the branch; None for no factor.
        eps: of the norm.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.gamma_2 = _scale(dim, layer_scale)

    def forward(self, x: Float[Tensor, "b *c d"]) -> Float[Tensor, "b *c d"]:
        """Apply the MLP."""
        branch = self.mlp(x, self.norm2)
        return x + self.drop_path(branch if self.gamma_2 is None else self.gamma_2 * branch)


class UnitBlock(CellBlock):
    """A pre-norm transformer block over units, with layer scale and relative bias as options.

    Args:
        dim: width.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over the width.
        reach: grid of the relative bias; None for no bias.
        drop_path: rate of stochastic depth.
        layer_scale: start of the learned factors of both branches; None for no factors.
        eps: of the norms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        reach: Sequence[int] | None = None,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(dim, mlp_ratio, drop_path, layer_scale, eps)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads)
        if reach is not None:
            self.attn = TableAttention(dim, num_heads, reach)
        self.gamma_1 = _scale(dim, layer_scale)

    def attend(
        self,
        x: Float[Tensor, "b v d"],
        shape: Sequence[int],
        index: Int[Tensor, "b v"] | None = None,
        readable: Bool[Tensor, "b v"] | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Attention and MLP on the units at `index` of a grid; None for all of them."""
        bias = self.attn.bias(shape, index) if isinstance(self.attn, TableAttention) else None
        branch = self.attn.read(self.attn.qkv(self.norm1(x)), readable, bias=bias)
        branch = branch if self.gamma_1 is None else self.gamma_1 * branch
        return self(x + self.drop_path(branch))


def _scale(dim: int, start: float | None) -> nn.Parameter | None:
    return None if start is None else nn.Parameter(torch.full((dim,), start))


@dataclass(frozen=True, kw_only=True)
class HiViTConfig:
    """HiViT: two stages of cells inside each patch, then a ViT."""

    embed_dim: int = 512
    """Width of a token; the cells of the first two stages have a quarter and a half of it."""
    stem_depths: tuple[int, int] = (3, 3)
    """Attention-free blocks of the first two stages."""
    depth: int = 24
    """Attention blocks."""
    num_heads: int = 8
    """Attention heads; must divide the width."""
    patch_size: int = 16
    """Pixels per patch side, a multiple of 4."""
    stem_ratio: float = 3.0
    """Hidden width of the MLP over the width in the first two stages."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width in the attention blocks."""
    relative_bias: bool = False
    """Learn a bias for every difference of two places in each attention block."""
    layer_scale: float | None = None
    """Start of a learned factor on every residual branch; None for no factors."""

    def build(self, grid: Grid, drop_path: float = 0.0) -> HiViT:
        """Return the encoder for a grid."""
        return HiViT(grid, self, drop_path)


class HiViT(Encoder):
    """Units of 4 x 4 cells (any rank), then a ViT over them, without class token or final norm.

    `blocks` holds all stages in one list as the released files do, mergings included, and taps
    count along it. A tap of an early stage gives each unit's cells side by side: (b, v, cells * w).
    The position table is trained, from a sine-cosine start.

    Args:
        grid: geometry of the units.
        config: widths and depths.
        drop_path: rate of the last block; earlier ones rise linearly from zero.
        stretch: give units that are encoded without the others the codes of a grid larger by a
            tenth of a unit, as the released pre-training does: it takes the smaller number of units
            for another image size and interpolates (itpn.md, "Gotchas").

    Raises:
        UsageError: for a patch, a width or a head count that cannot be divided as needed.
    """

    def __init__(
        self, grid: Grid, config: HiViTConfig, drop_path: float = 0.0, *, stretch: bool = False
    ) -> None:
        super().__init__()
        _check(grid, config)
        self.stretch = stretch
        self.grid, self.config, self.embed_dim = grid, config, config.embed_dim
        self.num_heads, self.mlp_ratio = config.num_heads, config.mlp_ratio
        dim, first, second = config.embed_dim, *config.stem_depths
        self.patch_embed = CellEmbed(grid, dim // 4)
        self.pos_embed = nn.Parameter(sincos(grid.shape, dim)[None])
        reach, scale = grid.shape if config.relative_bias else None, config.layer_scale
        num = first + second + config.depth
        rates = [drop_path * i / max(num - 1, 1) for i in range(num)]

        def stem(width: int, its: Sequence[float]) -> list[nn.Module]:
            return [CellBlock(width, config.stem_ratio, rate, scale) for rate in its]

        self.blocks = nn.ModuleList(
            [
                *stem(dim // 4, rates[:first]),
                UnitMerging(dim // 4, grid.ndim),
                *stem(dim // 2, rates[first : first + second]),
                UnitMerging(dim // 2, grid.ndim),
                *(
                    UnitBlock(dim, config.num_heads, config.mlp_ratio, reach, rate, scale)
                    for rate in rates[first + second :]
                ),
            ]
        )
        self.depth = len(self.blocks)
        init_transformer(self)

    @property
    def stage_taps(self) -> tuple[int, int]:
        """Taps of the maps of the first two stages, as they are before they are merged."""
        first, second = self.config.stem_depths
        return first - 1, first + second

    def positions(self, shape: Sequence[int], *, some: bool = False) -> Float[Tensor, "n d"]:
        """Return the position code of every unit of a grid; `some` when not all are encoded."""
        table = resize(self.pos_embed[0], self.grid.shape, shape)
        if not (some and self.stretch):
            return table
        mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(shape)]
        factor = [(n + 0.1) / n for n in shape]
        maps = table.T.unflatten(1, tuple(shape))[None]
        return functional.interpolate(maps, scale_factor=factor, mode=mode)[0].flatten(1).T

    def units(
        self, patches: Float[Tensor, "b v p"], wanted: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "b v d"], dict[int, Tensor]]:
        """Run the first two stages; no unit reads another.

        Args:
            patches: units in `patchify`'s order.
            wanted: blocks whose output is kept.

        Returns:
            units without positions, and the taps.
        """
        x, kept = self.patch_embed(patches), {}
        for number, block in enumerate(self.blocks[: sum(self.config.stem_depths) + 2]):
            x = block(x)
            if number in wanted:
                kept[number] = x.flatten(2)
        return x.flatten(2), kept

    def embed(
        self,
        patches: Float[Tensor, "b n p"],
        index: Int[Tensor, "b v"] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Embed units with their positions; only those at `index`, gathered before embedding."""
        table = self.positions(shape or self.grid.shape, some=index is not None)
        if index is None:
            return self.units(patches)[0] + table
        return self.units(take(patches, index))[0] + table[index]

    def run(self, patches: Float[Tensor, "b n p"], wanted: Pass) -> Features:
        """Encode the units that are wanted; a corruption acts where units start to mix."""
        index = wanted.index
        table = self.positions(wanted.shape, some=index is not None)
        x, kept = self.units(patches if index is None else take(patches, index), wanted.taps)
        x = wanted.corrupted(0, x) + (table if index is None else table[index])
        for number in range(sum(self.config.stem_depths) + 2, self.depth):
            block = self.blocks[number]
            assert isinstance(block, UnitBlock)
            x = block.attend(wanted.corrupted(number + 1, x), wanted.shape, index, wanted.readable)
            if number in wanted.taps:
                kept[number] = x
        x = x if wanted.neck is None else wanted.neck(x, kept)
        return Features(x, 0, kept, wanted.readable)

    def embed_flops(self, num_tokens: int) -> int:
        """Return the FLOP of the product that reads the pixels of one sample."""
        cells = CELLS**self.grid.ndim
        return flops.linear(num_tokens, self.grid.patch_dim // cells, cells * self.embed_dim // 4)

    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP of encoding units of one sample, embedding included."""
        dim, rank, (first, second) = self.embed_dim, self.grid.ndim, self.config.stem_depths
        ratio, middle = self.config.stem_ratio, num_tokens * 2**rank
        total = self.embed_flops(num_tokens)
        total += first * flops.mlp(num_tokens * CELLS**rank, dim // 4, ratio)
        total += second * flops.mlp(middle, dim // 2, ratio)
        total += flops.linear(middle, 2**rank * dim // 4, dim // 2)
        total += flops.linear(num_tokens, 2**rank * dim // 2, dim)
        return total + self.config.depth * flops.block(num_tokens, dim, self.mlp_ratio)


def _check(grid: Grid, config: HiViTConfig) -> None:
    """Raise UsageError for sizes that cannot be divided as needed."""
    if any(length % CELLS for length in grid.patch):
        raise UsageError(
            f"patch {grid.patch}", f"cannot be cut into {CELLS} cells per axis", "use 16"
        )
    step = 4 * config.num_heads
    if config.embed_dim % 4 or config.embed_dim % config.num_heads:
        raise UsageError(
            f"embed_dim {config.embed_dim}",
            f"is not a multiple of 4 and of num_heads {config.num_heads}",
            f"use {config.embed_dim // step * step or step}",
        )
    if min(config.stem_depths) < 1 or config.depth < 1:
        raise UsageError(
            f"stem_depths {config.stem_depths} and depth {config.depth}",
            "leave a stage without blocks",
            "use at least 1 for each",
        )
