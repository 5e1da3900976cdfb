"""Swin and SwinV2: windows that shift, patches that merge; any rank, grid and number of channels.

Liu et al., ICCV 2021 and CVPR 2022. Names and layouts of the weights are those of the published
code: `patch_embed.{proj,norm}`, `layers.s.blocks.b`, `layers.s.downsample` at the end of a stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import flops
from ..errors import UsageError
from ..grid import Grid, subdivide
from ..tokens import take
from .contract import Encoder, Features, Pass
from .swin_blocks import (
    CosineAttention,
    PatchMerging,
    SwinBlock,
    TableAttention,
    WindowAttention,
    group_pairs,
)
from .vit import PatchEmbed
from .windows import Windows


@dataclass(frozen=True, kw_only=True)
class SwinShape:
    """Architecture of a Swin.

    Args:
        embed_dim: width of the first stage; each later one is twice as wide.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window_size: cells per side of a window; stages with a smaller grid use one window.
        stem_size: pixels per side of the patches that are embedded.
        version: 2 for SwinV2: cosine attention, continuous position bias, norms after branches.
        mlp_ratio: hidden width of the MLP over the width.
        qkv_bias: bias of queries, keys and values (version 2 has none for keys).
        patch_norm: normalise embedded patches.
        pretrained_windows: window per stage of the pre-training, when a model of version 2 goes on
            with another one; None for its own.
        extra_norm_period: normalise the output of every n-th block of a stage; 0 for none.
        extra_norm_stage: normalise the output of the last block of every stage.
        drop_path: rate of the last block; earlier ones rise linearly from zero.
        checkpoint: recompute blocks in the backward instead of keeping what they computed.
        eps: of the norms.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    stem_size: int = 4
    version: int = 1
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    patch_norm: bool = True
    pretrained_windows: tuple[int, ...] | None = None
    extra_norm_period: int = 0
    extra_norm_stage: bool = False
    drop_path: float = 0.0
    checkpoint: bool = False
    eps: float = 1e-5

    @property
    def stride(self) -> int:
        """Pixels per side of a cell of the last stage."""
        return self.stem_size * 2 ** (len(self.depths) - 1)

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


class Stem(PatchEmbed):
    """Patch embedding and its norm."""

    def __init__(self, grid: Grid, shape: SwinShape) -> None:
        super().__init__(grid, shape.embed_dim)
        self.norm = nn.LayerNorm(shape.embed_dim, eps=shape.eps) if shape.patch_norm else None

    def forward(self, patches: Float[Tensor, "b v p"]) -> Float[Tensor, "b v d"]:
        """Embed patches in `patchify`'s order."""
        x = super().forward(patches)
        return x if self.norm is None else self.norm(x)


class Stage(nn.Module):
    """Blocks on one grid, and the merging into the next.

    Args:
        shape: architecture.
        number: which stage, from zero.
        grid: cells per axis that it is made for; larger windows are shrunk to it.
        rates: drop-path rate of each block.
    """

    def __init__(
        self, shape: SwinShape, number: int, grid: tuple[int, ...], rates: Sequence[float]
    ) -> None:
        super().__init__()
        self.dim, self.mlp_ratio = shape.embed_dim * 2**number, shape.mlp_ratio
        self.reach = tuple(min(shape.window_size, n) for n in grid)
        self.checkpoint, depth = shape.checkpoint, shape.depths[number]
        new = shape.version == 2
        self.blocks = nn.ModuleList(
            SwinBlock(
                self._attention(shape, number),
                self.dim,
                shape.mlp_ratio,
                post_norm=new,
                extra_norm=_extra_norm(shape, index, depth),
                drop_path=rates[index],
                eps=shape.eps,
            )
            for index in range(depth)
        )
        last = number == len(shape.depths) - 1
        self.downsample = (
            None if last else PatchMerging(self.dim, len(grid), post_norm=new, eps=shape.eps)
        )

    def _attention(self, shape: SwinShape, number: int) -> WindowAttention:
        heads = shape.num_heads[number]
        if shape.version == 1:
            return TableAttention(self.dim, self.reach, heads, shape.qkv_bias)
        trained = shape.pretrained_windows
        reach = None if trained is None else (trained[number],) * len(self.reach)
        return CosineAttention(self.dim, self.reach, heads, shape.qkv_bias, reach)

    def forward(
        self, x: Float[Tensor, "b *s d"], readable: Bool[Tensor, "b *s"] | None
    ) -> Float[Tensor, "b *s d"]:
        """Run the blocks; merging is left to the caller, who may want the map before it."""
        ways = []
        for shifted in (False, True):
            windows = Windows.fit(x.shape[1:-1], self.reach, shifted=shifted)
            ways.append((windows, windows.allowed(readable, x.device)))
        for number, block in enumerate(self.blocks):
            if self.checkpoint and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, *ways[number % 2], use_reentrant=False)
            else:
                x = block(x, *ways[number % 2])
        return x

    def forward_flops(self, grid: tuple[int, ...]) -> int:
        """Return the FLOP of one sample: padded cells take part in attention, not in the MLP."""
        windows, cells = Windows.fit(grid, self.reach, shifted=False), prod(grid)
        one = windows.num_windows * flops.self_attention(windows.num_cells, self.dim)
        total = len(self.blocks) * (one + flops.mlp(cells, self.dim, self.mlp_ratio))
        if self.downsample is not None:
            merged = prod(-(-n // 2) for n in grid)
            total += flops.linear(merged, 2 ** len(grid) * self.dim, 2 * self.dim)
        return total


class Swin(Encoder):
    """Hierarchical transformer on the whole grid of small patches inside a plan's tokens.

    Hidden tokens are replaced by a corruption; it does not drop them. The last map has one cell per
    `stride` pixels, so a cell may hold several tokens. Taps are stages, their maps taken after
    merging. Cells without any data are never read by others, whatever is in them.

    Args:
        grid: geometry of the tokens, for which windows are chosen.
        shape: architecture.

    Raises:
        UsageError: when numbers do not fit each other, see `SwinShape.check`.
    """

    def __init__(self, grid: Grid, shape: SwinShape) -> None:
        super().__init__()
        shape.check(grid.patch)
        self.grid, self.shape, self.depth = grid, shape, len(shape.depths)
        self.embed_dim = shape.embed_dim * 2 ** (self.depth - 1)
        self.num_heads = shape.num_heads
        self.split = tuple(size // shape.stem_size for size in grid.patch)
        stem = Grid(self.stem_shape(grid.shape), (shape.stem_size,) * grid.ndim, grid.channels)
        self.patch_embed = Stem(stem, shape)
        count = sum(shape.depths)
        rates = iter([shape.drop_path * i / max(count - 1, 1) for i in range(count)])
        cells = self.stage_shapes(grid.shape)
        self.layers = nn.ModuleList(
            Stage(shape, number, cells[number], [next(rates) for _ in range(depth)])
            for number, depth in enumerate(shape.depths)
        )
        self.norm = nn.LayerNorm(self.embed_dim, eps=shape.eps)
        init_swin(self, post_norm=shape.version == 2)

    @property
    def stages(self) -> Iterator[Stage]:
        """The stages, first one first."""
        return (cast("Stage", layer) for layer in self.layers)

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
        return self.shape.embed_dim * 2 ** (
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
        """Return the mean of the embedded patches inside every token, or those at `index`."""
        del shape  # there are no positions, so every token can be cut on its own
        tokens = patches if index is None else take(patches, index)
        alone = self.cut(tokens.flatten(0, 1)[:, None], (1,) * self.grid.ndim)
        return self.patch_embed(alone.flatten(1, -2)).mean(dim=1).unflatten(0, tokens.shape[:2])

    def run(self, patches: Float[Tensor, "b n p"], wanted: Pass) -> Features:
        """Encode the whole grid.

        Raises:
            UsageError: when tokens are to be dropped.
        """
        if wanted.index is not None:
            raise UsageError(
                "a plan without a corruption",
                "asks Swin to drop tokens, and its windows need the whole grid",
                "give the method a corruption such as MaskToken",
            )
        shape, readable = wanted.shape, None
        if wanted.readable is not None:
            # What a token without data holds must not reach its neighbours through merging.
            patches = patches.masked_fill(~wanted.readable[..., None], 0.0)
            readable = self.spread(wanted.readable, shape)
        x = self.patch_embed(self.cut(patches, shape).flatten(1, -2))
        hidden = None if wanted.hidden is None else self.spread(wanted.hidden, shape)
        x = _corrupted(wanted, 0, x.unflatten(1, self.stem_shape(shape)), hidden)
        kept = {}
        for number, stage in enumerate(self.stages):
            x = stage(_corrupted(wanted, number + 1, x, hidden), readable)
            if stage.downsample is not None:
                x = stage.downsample(x)
                readable = None if readable is None else any_part(readable)
                hidden = None if hidden is None else ~any_part(~hidden)
            if number in wanted.taps:
                kept[number] = x.flatten(1, -2)
        x = x.flatten(1, -2)
        x = x if wanted.neck is None else wanted.neck(x, kept)
        return Features(self.norm(x), 0, kept, None if readable is None else readable.flatten(1))

    def embed_flops(self, num_tokens: int) -> int:
        """Return the FLOP of embedding tokens of one sample."""
        grid, stem = self.grid, self.shape.stem_size**self.grid.ndim
        return flops.linear(
            num_tokens * prod(self.split), stem * grid.channels, self.shape.embed_dim
        )

    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP of encoding one sample, in proportion for grids of another size."""
        cells = self.stage_shapes(self.grid.shape)
        body = sum(stage.forward_flops(cells[i]) for i, stage in enumerate(self.stages))
        return self.embed_flops(num_tokens) + body * num_tokens // self.grid.num_tokens


def _extra_norm(shape: SwinShape, index: int, depth: int) -> bool:
    """Return whether a block's output is normalised too (satvision-toa.md, step 7)."""
    periodic = shape.extra_norm_period > 0 and (index + 1) % shape.extra_norm_period == 0
    return periodic or (shape.extra_norm_stage and index == depth - 1)


def _corrupted(
    wanted: Pass, layer: int, x: Float[Tensor, "b *s d"], hidden: Bool[Tensor, "b *s"] | None
) -> Float[Tensor, "b *s d"]:
    if hidden is None:
        return x
    changed = replace(wanted, hidden=hidden.flatten(1)).corrupted(layer, x.flatten(1, -2))
    return changed.unflatten(1, x.shape[1:-1])


def any_part(mask: Bool[Tensor, "b *s"]) -> Bool[Tensor, "b *t"]:
    """Return whether something is true of any part of a merged cell."""
    return group_pairs(mask[..., None].float()).amax(dim=-1) > 0


def init_swin(encoder: Swin, *, post_norm: bool) -> None:
    """Initialise as published: truncated normal linears, zero biases (simmim.md, "Initialisation").

    Args:
        encoder: is changed in place; its patch convolution keeps torch's default.
        post_norm: norms behind the branches start at zero, so that a new block changes nothing
            (data-scaling.md).
    """
    for part in encoder.layers.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        if isinstance(part, SwinBlock) and post_norm:
            for norm in (part.norm1, part.norm2):
                nn.init.zeros_(norm.weight)
                nn.init.zeros_(norm.bias)
    encoder.patch_embed.proj.reset_parameters()
