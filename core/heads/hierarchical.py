"""A light decoder for dense tasks that reads the encoder deep to shallow, as Hi-End-MAE decodes.

Deep layers know what, shallow ones where: each enters at the resolution where its detail is wanted
(Tang et al. 2025, "hierarchical dense decoding"; in pre-training the decoder's blocks read blocks
9, 6 and 3 in this order). Interpolation and one convolution per level keep it at a few million
parameters beside an encoder of size B.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders.contract import Features
from ..grid import Grid
from .segmentation import (
    CoarseScores,
    ConvBlock,
    LevelHead,
    Sharpen,
    enlarged,
    projection,
    token_maps,
)


class HierarchicalHead(LevelHead):
    """Class scores for every pixel or voxel; taps enter level by level.

    Args:
        grid: channels and patch of the encoder; its shape does not matter, any image size works.
        embed_dim: width of the encoder.
        num_classes: classes.
        taps: encoder blocks to read, -1 for the final-normed output; see `tap_levels`.
        dim: width at the token grid; halved at each level, never below `stem_dim`.
        stem_dim: width at full resolution.
        deep_supervision: also score coarser levels, for training.

    Raises:
        UsageError: for a head without classes or taps.
    """

    def __init__(
        self,
        grid: Grid,
        embed_dim: int,
        num_classes: int,
        taps: Sequence[int],
        dim: int = 256,
        stem_dim: int = 16,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(grid, num_classes, taps)
        ndim, num_levels = grid.ndim, self.num_levels
        widths = [max(dim >> level, stem_dim) for level in range(num_levels + 1)]
        self.project = nn.ModuleDict(
            {
                str(tap): projection(embed_dim, widths[i])
                for i, t in enumerate(self.levels)
                for tap in t
            }
        )
        self.fuse = ConvBlock(ndim, dim * len(self.levels[0]), dim)
        joining = [width * len(t) for width, t in zip(widths, self.levels, strict=False)]
        self.up = nn.ModuleList(
            ConvBlock(ndim, before + more, after)
            for (before, after), more in zip(pairwise(widths), [*joining[1:], 0], strict=True)
        )
        self.sharpen = Sharpen(ndim, widths[-1], grid.channels, num_classes, stem_dim)
        self.deep = CoarseScores(ndim, widths, num_classes) if deep_supervision else None

    def score(
        self, x: Float[Tensor, "b d *s"], images: Float[Tensor, "b c *s"]
    ) -> Float[Tensor, "b k *s"]:
        """Return class scores from the finest map."""
        return self.sharpen(x, images)

    def maps(
        self, features: Features, images: Float[Tensor, "b c *s"]
    ) -> list[Float[Tensor, "b _ *_"]]:
        """Return the maps of every level above the token grid, coarse to fine."""
        grid = Grid.of(images, self.patch).shape

        def read(level: int, size: Sequence[int]) -> list[Tensor]:
            taps = self.levels[level] if level < len(self.levels) else ()
            found = (token_maps(features, t, grid, self.project[str(t)]) for t in taps)
            return [enlarged(x, size) if level else x for x in found]

        x, maps = self.fuse(torch.cat(read(0, grid), dim=1)), []
        for level, block in enumerate(self.up, start=1):
            size = [n * s for n, s in zip(grid, self.scales[level], strict=True)]
            x = block(torch.cat([enlarged(x, size), *read(level, size)], dim=1))
            maps.append(x)
        return maps
