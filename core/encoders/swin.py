"""Swin and SwinV2: windows that shift, patches that merge; any rank, grid and number of channels.

Liu et al., ICCV 2021 and CVPR 2022. Names and layouts of the weights are those of the published
code: `patch_embed.{proj,norm}`, `layers.s.blocks.b`, `layers.s.downsample` at the end of a stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from .. import flops
from ..errors import UsageError
from ..grid import Grid, subdivide
from ..recompute import checkpointed
from ..tokens import take
from .contract import Encoder, Features, Pass
from .swin_blocks import (
    CosineAttention,
    Neighbourhood,
    PatchMerging,
    Stem,
    SwinBlock,
    TableAttention,
    WholeWindows,
    WindowAttention,
    any_part,
    init_blocks,
)
from .swin_sparse import SeenCells, attention_flops
from .windows import Windows


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Swin or SwinV2, whose small patches lie inside the tokens that a mask hides."""

    name: Literal["swin"] = "swin"
    """Kind of encoder."""
    patch_size: int = 32
    """Pixels per side of a token, which a mask hides as a whole: the encoder's stride or less."""
    stem_size: int = 4
    """Pixels per side of the patches that are embedded."""
    embed_dim: int = 96
    """Width of the first stage; each later one is twice as wide."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks per stage."""
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    """Attention heads per stage."""
    window_size: int = 6
    """Cells per side of a window; a stage with a smaller grid uses one window."""
    square_windows: bool = False
    """On long grids shrink windows by the shorter side and then shift no axis, as released; else
    every axis on its own."""
    version: Literal[1, 2] = 1
    """2 for SwinV2: cosine attention, continuous position bias, norms behind the branches."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width."""
    qkv_bias: bool = True
    """Bias of queries, keys and values."""
    patch_norm: bool = True
    """Normalise embedded patches."""
    pretrained_windows: tuple[int, ...] | None = None
    """Window per stage of the pre-training, when a SwinV2 goes on with another one."""
    extra_norm_period: int = 0
    """Normalise the output of every n-th block of a stage; 0 for none."""
    extra_norm_stage: bool = False
    """Normalise the output of the last block of every stage."""
    drop_path: float = 0.0
    """Rate at which residual branches of the last block are dropped; rises linearly from zero."""
    checkpoint: bool = False
    """Recompute blocks in the backward: less memory, about a third more time."""
    eps: float = 1e-5
    """Added to variances by the norms."""

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def stride(self) -> int:
        """Pixels per side of a cell of the last stage."""
        return self.stem_size * 2 ** (len(self.depths) - 1)

    def build(self, grid: Grid) -> Swin:
        """Return the encoder for a grid.

        Raises:
            UsageError: when numbers do not fit each other, see `check`.
        """
        return Swin(grid, self)

    def check(self, token_size: Sequence[int]) -> None:
        """Raise UsageError unless the numbers fit each other and the tokens of a grid."""
        stages = len(self.depths)
        if stages < 1 or len(self.num_heads) != stages or min(self.depths) < 1:
            raise UsageError(
                f"depths {self.depths} and num_heads {self.num_heads}",
                "do not say one positive number per stage",
                "give as many heads as depths",
            )
        for stage, heads in enumerate(self.num_heads):
            if self.embed_dim * 2**stage % heads:
                raise UsageError(
                    f"width {self.embed_dim * 2**stage} of stage {stage}",
                    f"is not a multiple of its {heads} heads",
                    "change embed_dim or num_heads",
                )
        for size in token_size:
            if size % self.stem_size or self.stride % size:
                raise UsageError(
                    f"patch_size {size}",
                    f"does not lie between the {self.stem_size} pixels of an embedded patch and "
                    f"the encoder's stride of {self.stride}, dividing one another",
                    f"use {self.stride}, or half of it, down to {self.stem_size}",
                )


class Stage(nn.Module):
    """Blocks on one grid, and the merging into the next.

    Args:
        config: architecture.
        number: which stage, from zero.
        grid: cells per axis that it is made for; larger windows are shrunk to it.
        rates: drop-path rate of each block.
    """

    def __init__(
        self, config: SwinConfig, number: int, grid: tuple[int, ...], rates: Sequence[float]
    ) -> None:
        super().__init__()
        self.dim, self.mlp_ratio = config.embed_dim * 2**number, config.mlp_ratio
        self.square = config.square_windows
        sides = (min(grid),) * len(grid) if self.square else grid
        self.reach = tuple(min(config.window_size, n) for n in sides)
        self.checkpoint, depth = config.checkpoint, config.depths[number]
        new = config.version == 2
        self.blocks = nn.ModuleList(
            SwinBlock(
                self._attention(config, number),
                self.dim,
                config.mlp_ratio,
                post_norm=new,
                extra_norm=_extra_norm(config, index, depth),
                drop_path=rates[index],
                eps=config.eps,
            )
            for index in range(depth)
        )
        last = number == len(config.depths) - 1
        self.downsample = (
            None if last else PatchMerging(self.dim, len(grid), post_norm=new, eps=config.eps)
        )

    def _attention(self, config: SwinConfig, number: int) -> WindowAttention:
        heads = config.num_heads[number]
        if config.version == 1:
            return TableAttention(self.dim, self.reach, heads, config.qkv_bias)
        trained = config.pretrained_windows
        reach = None if trained is None else (trained[number],) * len(self.reach)
        return CosineAttention(self.dim, self.reach, heads, config.qkv_bias, reach)

    def windows(self, cells: tuple[int, ...]) -> list[Windows]:
        """Return how even and odd blocks cut a grid into windows."""
        may_shift = not self.square or min(cells) > self.reach[0]
        return [Windows.fit(cells, self.reach, shifted=shift) for shift in (False, may_shift)]

    def forward(
        self, x: Float[Tensor, "b *s d"], around: Sequence[Neighbourhood]
    ) -> Float[Tensor, "b *s d"]:
        """Run the blocks; who reads whom differs between even and odd ones. Merging is not done."""
        for number, block in enumerate(self.blocks):
            if self.checkpoint and self.training and torch.is_grad_enabled():
                x = checkpointed(block, x, around[number % 2])
            else:
                x = block(x, around[number % 2])
        return x

    def forward_flops(self, grid: tuple[int, ...], num_seen: int | None = None) -> int:
        """Return the FLOP of one sample; padded cells take part in attention, not in the MLP.

        Args:
            grid: cells per axis.
            num_seen: visible cells, where the others are not computed.
        """
        windows = self.windows(grid)[0]
        if num_seen is None:
            num, merged = prod(grid), prod(-(-n // 2) for n in grid)
            one = windows.num_windows * flops.self_attention(windows.num_cells, self.dim)
        else:
            num, merged = num_seen, num_seen // 2 ** len(grid)
            one = attention_flops(num_seen, windows.num_cells, self.dim)
        total = len(self.blocks) * (one + flops.mlp(num, self.dim, self.mlp_ratio))
        if self.downsample is not None:
            total += flops.linear(merged, 2 ** len(grid) * self.dim, 2 * self.dim)
        return total


class Swin(Encoder):
    """Hierarchical transformer on the small patches inside a plan's tokens.

    Hidden tokens are replaced by a corruption, or dropped and never computed. The last map has one
    cell per `stride` pixels, so a cell may hold several tokens, unless hidden ones are dropped.
    Taps are stages, their maps taken after merging. Cells without any data are never read by
    others, whatever is in them.

    Args:
        grid: geometry of the tokens, for which windows are chosen.
        config: architecture.
        released_places: see `SeenCells.released`.

    Raises:
        UsageError: when numbers do not fit each other, see `SwinConfig.check`.
    """

    def __init__(self, grid: Grid, config: SwinConfig, *, released_places: bool = False) -> None:
        super().__init__()
        config.check(grid.patch)
        self.grid, self.config, self.depth = grid, config, len(config.depths)
        self.released_places = released_places
        self.embed_dim = config.embed_dim * 2 ** (self.depth - 1)
        self.num_heads = config.num_heads
        self.split = tuple(size // config.stem_size for size in grid.patch)
        stem = Grid(self.stem_shape(grid.shape), (config.stem_size,) * grid.ndim, grid.channels)
        norm = nn.LayerNorm(config.embed_dim, eps=config.eps) if config.patch_norm else None
        self.patch_embed = Stem(stem, config.embed_dim, norm)
        count = sum(config.depths)
        rates = iter([config.drop_path * i / max(count - 1, 1) for i in range(count)])
        cells = self.stage_shapes(grid.shape)
        self.layers = nn.ModuleList(
            Stage(config, number, cells[number], [next(rates) for _ in range(depth)])
            for number, depth in enumerate(config.depths)
        )
        self.norm = nn.LayerNorm(self.embed_dim, eps=config.eps)
        init_blocks(self.layers, post_norm=config.version == 2)
        self.patch_embed.proj.reset_parameters()

    @property
    def stages(self) -> Iterator[Stage]:
        """The stages, first one first."""
        return (cast("Stage", layer) for layer in self.layers)

    def parts_in_order(self) -> list[tuple[str, ...]]:
        """Return the names of parts in order; a merging belongs to the block in front of it."""
        order: list[tuple[str, ...]] = [("patch_embed",)]
        for number, depth in enumerate(self.config.depths):
            order += [(f"layers.{number}.blocks.{block}",) for block in range(depth)]
            order[-1] = (*order[-1], f"layers.{number}.downsample")
        return order

    def stem_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the small patches per axis of a grid of tokens."""
        return tuple(n * k for n, k in zip(shape, self.split, strict=True))

    def stage_shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the cells per axis in front of every stage, and behind the last."""
        cells = [self.stem_shape(shape)]
        for _ in range(self.depth - 1):
            cells.append(tuple(-(-n // 2) for n in cells[-1]))
        return [*cells, cells[-1]]

    def map_shape(self, shape: Sequence[int], tap: int = -1) -> tuple[int, ...]:
        """Return the cells per axis of a stage's output (-1: of the final features)."""
        return self.stage_shapes(shape)[tap + 1 if tap >= 0 else -1]

    def tap_dim(self, tap: int = -1) -> int:
        """Return the width of a stage's output (-1: of the final features)."""
        return self.config.embed_dim * 2 ** (
            self.depth - 1 if tap < 0 else min(tap + 1, self.depth - 1)
        )

    def cut(self, patches: Float[Tensor, "b n p"], shape: Sequence[int]) -> Float[Tensor, "b *s q"]:
        """Return the small patches of all tokens on the grid that they form."""
        return subdivide(patches, replace(self.grid, shape=tuple(shape)), self.split)

    def spread(self, mask: Shaped[Tensor, "b n"], shape: Sequence[int]) -> Shaped[Tensor, "b *s"]:
        """Repeat what is true of a token for each of its small patches."""
        cells = mask.reshape(mask.shape[0], *shape)
        for axis, times in enumerate(self.split, 1):
            cells = cells.repeat_interleave(times, dim=axis)
        return cells

    def embed(
        self,
        patches: Float[Tensor, "b n p"],
        index: Int[Tensor, "b v"] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Return the mean of the embedded patches inside every token, or those at `index`.

        There are no positions, so a token is embedded alike in a grid of any shape.
        """
        tokens = patches if index is None else take(patches, index)
        return self.embed_cells(tokens).unflatten(1, (tokens.shape[1], -1)).mean(dim=2)

    def embed_cells(self, tokens: Float[Tensor, "b v p"]) -> Float[Tensor, "b n d"]:
        """Embed the small patches of tokens, those of a token side by side."""
        alone = self.cut(tokens.flatten(0, 1)[:, None], (1,) * self.grid.ndim)
        return self.patch_embed(alone.flatten(1, -2)).unflatten(0, tokens.shape[:2]).flatten(1, 2)

    def run(self, patches: Float[Tensor, "b n p"], wanted: Pass) -> Features:
        """Encode the whole grid, or visible tokens alone.

        The maps of visible tokens have the cells of one token side by side, tokens in the plan's
        order.

        Raises:
            UsageError: when tokens that are smaller than a cell of the last map are to be dropped.
        """
        if wanted.index is not None:
            return self._run_seen(patches, wanted, wanted.index)
        shape, readable = wanted.shape, None
        if wanted.readable is not None:
            # What a token without data holds must not reach its neighbours through merging.
            patches = patches.masked_fill(~wanted.readable[..., None], 0.0)
            readable = self.spread(wanted.readable, shape)
        x = self.patch_embed(self.cut(patches, shape).flatten(1, -2))
        hidden = None if wanted.hidden is None else self.spread(wanted.hidden, shape)
        x = wanted.corrupted_map(0, x.unflatten(1, self.stem_shape(shape)), hidden)
        kept = {}
        for number, stage in enumerate(self.stages):
            ways = stage.windows(tuple(x.shape[1:-1]))
            around = [WholeWindows(way, way.allowed(readable, x.device)) for way in ways]
            x = stage(wanted.corrupted_map(number + 1, x, hidden), around)
            if stage.downsample is not None:
                x = stage.downsample(x)
                readable = None if readable is None else any_part(readable)
                hidden = None if hidden is None else ~any_part(~hidden)
            if number in wanted.taps:
                kept[number] = x.flatten(1, -2)
        x = x.flatten(1, -2)
        x = x if wanted.neck is None else wanted.neck(x, kept)
        return Features(self.norm(x), 0, kept, None if readable is None else readable.flatten(1))

    def check_dropping(self) -> None:
        """Raise UsageError when tokens are too small to be dropped."""
        if self.grid.patch != (self.config.stride,) * self.grid.ndim:
            raise UsageError(
                f"patch_size {self.config.patch_size}",
                f"is less than the encoder's stride of {self.config.stride}, so its last stage "
                "would mix visible and hidden tokens, and hidden ones cannot be dropped",
                "use the stride as patch_size, or give the method a corruption such as MaskToken",
            )

    def _run_seen(
        self, patches: Float[Tensor, "b n p"], wanted: Pass, index: Int[Tensor, "b v"]
    ) -> Features:
        self.check_dropping()
        tokens, kept = take(patches, index), {}
        if wanted.readable is not None:
            tokens = tokens.masked_fill(~wanted.readable[..., None], 0.0)
        seen = SeenCells(index, wanted.shape, self.split, wanted.readable, self.released_places)
        x, shapes = self.embed_cells(tokens), self.stage_shapes(wanted.shape)
        for number, stage in enumerate(self.stages):
            ways = stage.windows(shapes[number])
            x = stage(x, [seen.neighbours(windows, stage.reach, number) for windows in ways])
            if stage.downsample is not None:
                x = seen.merge(stage.downsample, x, number)
            if number in wanted.taps:
                kept[number] = x
        x = x if wanted.neck is None else wanted.neck(x, kept)
        return Features(self.norm(x), 0, kept, wanted.readable)

    def embed_flops(self, num_tokens: int) -> int:
        """Return the FLOP of embedding tokens of one sample."""
        grid, stem = self.grid, self.config.stem_size**self.grid.ndim
        return flops.linear(
            num_tokens * prod(self.split), stem * grid.channels, self.config.embed_dim
        )

    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP of encoding one sample, in proportion for grids of another size."""
        cells = self.stage_shapes(self.grid.shape)
        body = sum(stage.forward_flops(cells[i]) for i, stage in enumerate(self.stages))
        return self.embed_flops(num_tokens) + body * num_tokens // self.grid.num_tokens

    def visible_flops(self, num_visible: int) -> int:
        """Return the FLOP of encoding visible tokens of one sample and no others."""
        shapes, total = self.stage_shapes(self.grid.shape), self.embed_flops(num_visible)
        for number, stage in enumerate(self.stages):
            num_cells = num_visible * prod(n >> number for n in self.split)
            total += stage.forward_flops(shapes[number], num_cells)
        return total


def _extra_norm(config: SwinConfig, index: int, depth: int) -> bool:
    """Return whether a block's output is normalised too (satvision-toa.md, step 7)."""
    periodic = config.extra_norm_period > 0 and (index + 1) % config.extra_norm_period == 0
    return periodic or (config.extra_norm_stage and index == depth - 1)
