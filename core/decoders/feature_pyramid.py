"""A feature pyramid that is pre-trained with its encoder, and what reads it (itpn.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import flops
from ..encoders.contract import Features
from ..encoders.hivit import CELLS, CellBlock, HiViT, UnitBlock
from ..errors import UsageError
from ..layers import init_transformer
from ..masking.plan import MaskPlan
from ..positions import sincos
from ..tokens import membership, put, take
from .contract import Predictor, Trunk


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """The feature pyramid; detectors and segmenters keep it."""

    dim: int = 256
    """Width of every level."""
    depth: int = 2
    """Attention-free blocks behind each lateral connection."""
    levels: Literal[2, 3] = 3
    """Levels, of 1, 2 and 4 cells per axis of a patch; 2 leaves the finest out."""


class Split(nn.Module):
    """One cell becomes two per axis, by a linear map of the normalised cell."""

    def __init__(self, dim: int, out_dim: int, rank: int) -> None:
        super().__init__()
        self.rank, self.out_dim = rank, out_dim
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.reduction = nn.Linear(dim, 2**rank * out_dim, bias=False)

    def forward(self, x: Float[Tensor, "b v c d"]) -> Float[Tensor, "b v e f"]:
        """Return the finer cells of each unit in raster order."""
        rank, side = self.rank, round(x.shape[2] ** (1 / self.rank))
        split = self.reduction(self.norm(x)).unflatten(-1, (*(2,) * rank, self.out_dim))
        split = split.unflatten(2, (side,) * rank)
        order = [0, 1, *(a for i in range(rank) for a in (2 + i, 2 + rank + i)), 2 + 2 * rank]
        return split.permute(order).flatten(2, -2)


class FeaturePyramid(nn.Module):
    """Levels of cells per unit (1, 2 and 4 per axis), of one width.

    Nothing leaves a unit, so it runs on any set of units.

    Args:
        encoder: gives the width, the rank, the widths of the lateral maps and the ratio of MLPs.
        config: width, depth and number of levels.
    """

    def __init__(self, encoder: HiViT, config: PyramidConfig) -> None:
        super().__init__()
        dim, width, rank = encoder.embed_dim, config.dim, encoder.grid.ndim
        self.dim, self.rank, self.depth, self.encoder_dim = width, rank, config.depth, dim
        self.mlp_ratio, self.num_levels = encoder.config.mlp_ratio, config.levels

        def blocks(num: int) -> list[CellBlock]:
            return [CellBlock(width, self.mlp_ratio) for _ in range(num)]

        self.align_dim_16tofpn = nn.Linear(dim, width) if dim != width else None
        self.fpn_modules = nn.ModuleList(blocks(config.levels))
        self.align_dim_16to8 = nn.Linear(dim // 2, width, bias=False)
        self.split_16to8 = Split(dim, width, rank)
        self.block_16to8 = nn.Sequential(*blocks(config.depth))
        if config.levels > 2:
            self.align_dim_8to4 = nn.Linear(dim // 4, width, bias=False)
            self.split_8to4 = Split(width, width, rank)
            self.block_8to4 = nn.Sequential(*blocks(config.depth))

    def forward(
        self, units: Float[Tensor, "b v d"], laterals: Sequence[Float[Tensor, "b v _"]]
    ) -> list[Float[Tensor, "b v _ w"]]:
        """Return the levels, coarse to fine, cells of a unit in raster order.

        Args:
            units: output of the encoder.
            laterals: tap of its second stage and, for three levels, that of its first.
        """
        x, cells = units[:, :, None], [2**self.rank, CELLS**self.rank]
        maps = [tap.unflatten(-1, (num, -1)) for tap, num in zip(laterals, cells, strict=False)]
        levels = [x if self.align_dim_16tofpn is None else self.align_dim_16tofpn(x)]
        levels.append(self.block_16to8(self.split_16to8(x) + self.align_dim_16to8(maps[0])))
        if self.num_levels > 2:
            fine = self.split_8to4(levels[-1]) + self.align_dim_8to4(maps[1])
            levels.append(self.block_8to4(fine))
        return [block(level) for block, level in zip(self.fpn_modules, levels, strict=True)]

    def forward_flops(self, num_units: int) -> int:
        """Return the FLOP of one sample's pyramid."""
        dim, width, more = self.encoder_dim, self.dim, 2**self.rank
        total = 0 if self.align_dim_16tofpn is None else flops.linear(num_units, dim, width)
        total += flops.mlp(num_units, width, self.mlp_ratio)
        for level in range(1, self.num_levels):
            cells = num_units * more**level
            total += flops.linear(cells // more, dim if level == 1 else width, more * width)
            total += flops.linear(cells, dim // 2**level, width)
            total += flops.mlp((1 + self.depth) * cells, width, self.mlp_ratio)
        return total


class PyramidTrunk(Trunk):
    """Every level is laid out as one vector per unit; the sum of the levels goes on.

    With an encoder that drops hidden units, each level puts a mask token in their places, so that a
    hidden place holds one per level, and the position code is added once (itpn.md, step 2). With an
    encoder of the whole grid there is nothing to fill.

    Args:
        encoder: gives the taps of the lateral maps.
        config: of the pyramid.
        dim: numbers per unit; a level of h cells per axis gives each of them dim / h ** rank.
        fill: put mask tokens and positions in, for an encoder that drops hidden units.
        open_laterals: let the lateral maps of hidden units through. They carry the very pixels
            that are to be guessed (itpn.md, "Leak"), as the released CLIP variant does.

    Raises:
        UsageError: when the finest level has more cells than `dim` has numbers.
    """

    pos_embed: Tensor

    def __init__(
        self,
        encoder: HiViT,
        config: PyramidConfig,
        dim: int,
        *,
        fill: bool,
        open_laterals: bool = False,
    ) -> None:
        super().__init__()
        grid, cells = encoder.grid, CELLS**encoder.grid.ndim
        if dim % cells:
            raise UsageError(
                f"width {dim} of the summed pyramid",
                f"is not a multiple of the {cells} cells of a unit",
                f"use {max(cells, dim // cells * cells)}",
            )
        first, second = encoder.stage_taps
        self.taps = (second, first)[: config.levels - 1]
        self.dim, self.open_laterals = dim, open_laterals
        self.pyramid = FeaturePyramid(encoder, config)
        self.embed = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(config.dim, eps=1e-6),
                nn.Linear(config.dim, dim // side**grid.ndim),
            )
            for side in (1, 2, 4)[: config.levels]
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)) if fill else None
        init_transformer(self)
        if self.mask_token is not None:
            self.register_buffer("pos_embed", sincos(grid.shape, dim)[None])
            nn.init.normal_(self.mask_token, std=0.02)

    def levels(
        self, features: Features, plan: MaskPlan | None = None
    ) -> list[Float[Tensor, "b v _ w"]]:
        """Return the pyramid of the units that were encoded.

        Args:
            features: of the encoder, with the taps of this trunk.
            plan: whose hidden units get no lateral maps, where the encoder computed them.
        """
        laterals = [features.context(tap) for tap in self.taps]
        encoded = features.last.shape[1]
        if plan is not None and not self.open_laterals and encoded != plan.visible.shape[1]:
            seen = membership(plan.visible, encoded)[..., None]
            laterals = [torch.where(seen, tap, 0.0) for tap in laterals]
        return self.pyramid(features.last, laterals)

    def forward(self, features: Features, plan: MaskPlan) -> Float[Tensor, "b n w"]:
        """Return one vector for every unit of the grid in raster order."""
        parts = zip(self.embed, self.levels(features, plan), strict=True)
        known = torch.stack([embed(level).flatten(2) for embed, level in parts]).sum(dim=0)
        if self.mask_token is None:
            return known
        table = self.pos_embed[0]
        hidden = len(self.embed) * self.mask_token + table
        hidden = hidden.expand(len(known), -1, -1)
        return put(hidden, plan.visible, known + table[plan.visible])

    def forward_flops(self, num_context: int) -> int:
        """Return the FLOP of one sample's forward: mask tokens cost nothing."""
        embed = len(self.embed) * flops.linear(num_context, self.pyramid.dim, self.dim)
        return self.pyramid.forward_flops(num_context) + embed


class UnitDecoder(Predictor):
    """Optional attention blocks on all units, a norm, and a linear map of those asked for.

    Args:
        encoder: gives the grid, and width and heads of the blocks.
        out_dim: numbers predicted per unit.
        tap: encoder block that is read; None for the method's trunk.
        depth: blocks of its own, built as the encoder's; eps of their norms is 1e-5, as released.
        drop_path: rate of the blocks.

    Raises:
        UsageError: for a tap that is no attention block below the last one.
    """

    def __init__(
        self,
        encoder: HiViT,
        out_dim: int,
        tap: int | None = None,
        depth: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        config, self.shape, self.tap = encoder.config, encoder.grid.shape, tap
        first = sum(config.stem_depths) + 2
        if tap is not None and not first <= tap < encoder.depth - 1:
            raise UsageError(
                f"block {tap}",
                f"is not an attention block below the last of {encoder.depth} blocks",
                f"use a deeper encoder, or a tap from {first} to {encoder.depth - 2}",
            )
        self.taps = () if tap is None else (tap,)
        self.dim, self.mlp_ratio = encoder.embed_dim, config.mlp_ratio
        self.blocks = nn.ModuleList(
            UnitBlock(
                self.dim,
                config.num_heads,
                config.mlp_ratio,
                self.shape if config.relative_bias else None,
                drop_path,
                config.layer_scale,
                eps=1e-5,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        self.head = nn.Linear(self.dim, out_dim)
        init_transformer(self)

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for the units at `index` (by default those the plan asks for).

        Raises:
            UsageError: when the method has no trunk to read.
        """
        x = features.trunk if self.tap is None else features.taps[self.tap]
        if x is None:
            raise UsageError(
                "decoder of a trunk", "found no trunk in the features", "give the method one"
            )
        for block in self.blocks:
            assert isinstance(block, UnitBlock)
            x = block.attend(x, self.shape, None, features.readable)
        return self.head(self.norm(take(x, plan.predict if index is None else index)))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one sample's forward."""
        one = flops.block(num_context, self.dim, self.mlp_ratio)
        return len(self.blocks) * one + flops.linear(num_predict, self.dim, self.head.out_features)
