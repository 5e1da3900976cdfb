"""Dense prediction from a plain encoder: taps upsampled in steps, sharpened by a pixel stem.

A ViT knows what is where only to the patch. The decoder therefore adds what the patch cannot hold:
two convolutions on the image itself, and a linear path from the pixel's own channels to the
classes, so that a head starts no worse than a per-pixel linear classifier (a strong baseline on
multispectral data). Everything here works on images of two axes and on volumes of three.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise, zip_longest

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..encoders.contract import Features
from ..errors import UsageError
from ..grid import Grid

_GROUP_CHANNELS = 8
NUM_DEEP = 2
"""Levels below full resolution that deep supervision scores."""


def default_taps(depth: int, num_taps: int = 4) -> tuple[int, ...]:
    """Return evenly spaced block numbers; the last is -1, the final-normed output.

    Args:
        depth: blocks of the encoder.
        num_taps: how many depths are wanted; fewer when the encoder has fewer blocks.
    """
    count = min(num_taps, depth)
    blocks = [round((i + 1) * depth / count) - 1 for i in range(count)]
    return (*blocks[:-1], -1)


def upsampling_steps(patch: Sequence[int]) -> list[tuple[int, ...]]:
    """Split a patch into prime factors per axis: (16, 8) -> (2, 2), (2, 2), (2, 2), (2, 1)."""
    return list(zip_longest(*(_primes(length) for length in patch), fillvalue=1))


def doubling_scales(patch: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the resolutions between the token grid and the image, in cells per token and axis.

    They double until an axis has reached its patch: 16 -> 1, 2, 4, 8, 16, as UNETR has them, and
    12 -> 1, 2, 4, 8, 12, as Hi-End-MAE fine-tunes (hi-end-mae.md, "Downstream use"). Axes with a
    smaller patch stop earlier: (4, 8) -> (1, 1), (2, 2), (4, 4), (4, 8). There are at least two.
    """
    scales = [(1,) * len(patch)]
    while scales[-1] != tuple(patch) or len(scales) == 1:
        scales.append(tuple(min(2 * s, p) for s, p in zip(scales[-1], patch, strict=True)))
    return scales


def tap_levels(taps: Sequence[int], num_levels: int) -> tuple[tuple[int, ...], ...]:
    """Return which taps enter at each level below full resolution, the token grid first.

    The deepest tap (-1 is the final output) enters at the token grid and the shallowest at the
    finest level, the others in between, deep to shallow: (3, 6, 9, -1) on 4 levels gives
    (-1), (9), (6), (3). Taps without a level of their own join the token grid.
    """
    deep_first = sorted(taps, key=lambda tap: (tap != -1, -tap))
    alone = min(len(deep_first), num_levels) - 1
    first, rest = deep_first[: len(deep_first) - alone], deep_first[len(deep_first) - alone :]
    gap = num_levels - 1 - alone
    return (tuple(first), *((),) * gap, *((tap,) for tap in rest))


def conv(
    ndim: int, channels: int, out_channels: int, size: int = 3, *, bias: bool = True
) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """Return a convolution of a rank that keeps the size of what it works on."""
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[ndim]
    return kind(channels, out_channels, size, padding=size // 2, bias=bias)


def enlarged(x: Float[Tensor, "b d *s"], size: Sequence[int]) -> Float[Tensor, "b d *t"]:
    """Return maps of another size, interpolated linearly along each axis."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2]
    return functional.interpolate(x, size=tuple(size), mode=mode, align_corners=False)


def check_head(num_classes: int, taps: Sequence[int]) -> None:
    """Raise UsageError for a segmentation head that cannot learn anything."""
    if num_classes < 2 or not taps:
        raise UsageError(
            f"segmentation head with {num_classes} classes and {len(taps)} taps",
            "cannot learn anything",
            "give at least 2 classes and 1 tap",
        )


def _primes(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def token_maps(
    features: Features, tap: int, shape: Sequence[int], channels: nn.Module
) -> Float[Tensor, "b d *s"]:
    """Return a tap's projected patch tokens as images; tokens without data are zero.

    Args:
        features: what the encoder gave for all tokens of the images.
        tap: block number, -1 for the final-normed output.
        shape: tokens per axis.
        channels: projection of (b, n, w) to (b, n, d).
    """
    num_prefix = features.prefix.shape[1]
    tokens = channels(features.context(tap)[:, num_prefix:])
    if features.readable is not None:
        tokens = tokens.masked_fill(~features.readable[:, num_prefix:, None], 0.0)
    return tokens.transpose(1, 2).unflatten(2, tuple(shape))


class ConvBlock(nn.Sequential):
    """A convolution of three pixels a side, group normalisation and GELU.

    Group normalisation does not look at other samples, so a prediction does not depend on what
    it shares a batch with.
    """

    def __init__(self, ndim: int, channels: int, out_channels: int) -> None:
        groups = max(1, out_channels // _GROUP_CHANNELS)
        groups = next(g for g in range(groups, 0, -1) if out_channels % g == 0)
        super().__init__(
            conv(ndim, channels, out_channels, bias=False),
            nn.GroupNorm(groups, out_channels),
            nn.GELU(),
        )


class Sharpen(nn.Module):
    """From features in full resolution to class scores, with what the image itself tells.

    Args:
        ndim: axes of the image.
        width: channels of the features.
        channels: channels of the image.
        num_classes: classes.
        stem_dim: width of the convolutions on the image.
    """

    def __init__(
        self, ndim: int, width: int, channels: int, num_classes: int, stem_dim: int
    ) -> None:
        super().__init__()
        # No normalisation in the stem: it would remove the brightness that tells cloud from shadow.
        self.stem = nn.Sequential(
            conv(ndim, channels, stem_dim), nn.GELU(), conv(ndim, stem_dim, stem_dim), nn.GELU()
        )
        self.mix = nn.Sequential(conv(ndim, width + stem_dim, stem_dim), nn.GELU())
        self.classify = conv(ndim, stem_dim + channels, num_classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        assert self.classify.bias is not None
        nn.init.zeros_(self.classify.bias)

    def forward(
        self, x: Float[Tensor, "b d *s"], images: Float[Tensor, "b c *s"]
    ) -> Float[Tensor, "b k *s"]:
        """Return scores; `images` are normalised, zero where invalid."""
        x = self.mix(torch.cat([x, self.stem(images)], dim=1))
        return self.classify(torch.cat([x, images], dim=1))


class CoarseScores(nn.Module):
    """Class scores of the two finest levels below full resolution, for deep supervision.

    Args:
        ndim: axes of the image.
        widths: channels of every level, the token grid first and full resolution last.
        num_classes: classes.
    """

    def __init__(self, ndim: int, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        below = widths[1:-1][: -NUM_DEEP - 1 : -1]
        self.score = nn.ModuleList(conv(ndim, width, num_classes, 1) for width in below)

    def forward(self, maps: Sequence[Float[Tensor, "b _ *_"]]) -> list[Float[Tensor, "b k *_"]]:
        """Return scores of maps that are given coarse to fine, finest first."""
        pairs = zip(self.score, reversed(maps), strict=False)
        return [score(x) for score, x in pairs]


class LevelHead(nn.Module, ABC):
    """A head whose taps enter level by level between the token grid and full resolution.

    Args:
        grid: channels and patch of the encoder; its shape does not matter, any image size works.
        num_classes: classes.
        taps: encoder blocks to read, -1 for the final-normed output; see `tap_levels`.

    Raises:
        UsageError: for a head without classes or taps.
    """

    deep: CoarseScores | None

    def __init__(self, grid: Grid, num_classes: int, taps: Sequence[int]) -> None:
        super().__init__()
        check_head(num_classes, taps)
        self.patch, self.scales = grid.patch, doubling_scales(grid.patch)
        self.num_levels = len(self.scales) - 1
        self.levels = tap_levels(taps, self.num_levels)

    @abstractmethod
    def maps(
        self, features: Features, images: Float[Tensor, "b c *s"]
    ) -> list[Float[Tensor, "b _ *_"]]:
        """Return the maps of every level above the token grid, coarse to fine."""

    @abstractmethod
    def score(
        self, x: Float[Tensor, "b d *s"], images: Float[Tensor, "b c *s"]
    ) -> Float[Tensor, "b k *s"]:
        """Return class scores from the finest map."""

    def forward(
        self, features: Features, images: Float[Tensor, "b c *s"]
    ) -> Float[Tensor, "b k *s"]:
        """Return scores in the images' resolution.

        Args:
            features: the encoder's features of all tokens of `images`, with the head's taps.
            images: normalised images, zero where invalid.
        """
        return self.score(self.maps(features, images)[-1], images)

    def all_scores(
        self, features: Features, images: Float[Tensor, "b c *s"]
    ) -> tuple[Float[Tensor, "b k *_"], ...]:
        """Return scores in the images' resolution, then those of coarser levels, finest first."""
        *coarse, last = self.maps(features, images)
        below = () if self.deep is None else self.deep(coarse)
        return (self.score(last, images), *below)


class SegmentationHead(nn.Module):
    """Class scores for every pixel; all taps are fused at the token grid.

    Args:
        grid: channels and patch of the encoder; its shape does not matter, any image size works.
        embed_dim: width of the encoder.
        num_classes: classes.
        taps: encoder blocks to read, -1 for the final-normed output.
        dim: width at the token grid; halved at each upsampling step, never below `stem_dim`.
        stem_dim: width at full resolution.

    Raises:
        UsageError: for a head without classes or taps.
    """

    def __init__(
        self,
        grid: Grid,
        embed_dim: int,
        num_classes: int,
        taps: Sequence[int],
        dim: int = 64,
        stem_dim: int = 16,
    ) -> None:
        super().__init__()
        check_head(num_classes, taps)
        self.taps, self.patch, ndim = tuple(taps), grid.patch, grid.ndim
        self.project = nn.ModuleList(projection(embed_dim, dim) for _ in taps)
        self.fuse = ConvBlock(ndim, dim * len(self.taps), dim)
        self.steps = upsampling_steps(grid.patch)
        widths = [max(dim >> i, stem_dim) for i in range(len(self.steps) + 1)]
        self.up = nn.ModuleList(
            ConvBlock(ndim, before, after) for before, after in pairwise(widths)
        )
        self.sharpen = Sharpen(ndim, widths[-1], grid.channels, num_classes, stem_dim)

    def forward(
        self, features: Features, images: Float[Tensor, "b c *s"]
    ) -> Float[Tensor, "b k *s"]:
        """Return scores in the images' resolution.

        Args:
            features: the encoder's features of all tokens of `images`, with the head's taps.
            images: normalised images, zero where invalid.
        """
        shape = Grid.of(images, self.patch).shape
        maps = [
            token_maps(features, tap, shape, project)
            for tap, project in zip(self.taps, self.project, strict=True)
        ]
        x = self.fuse(torch.cat(maps, dim=1))
        for step, block in zip(self.steps, self.up, strict=True):
            shape = [n * factor for n, factor in zip(shape, step, strict=True)]
            x = block(enlarged(x, shape))
        return self.sharpen(x, images)


def projection(embed_dim: int, dim: int) -> nn.Module:
    """Return what brings tokens of an encoder to the width of a head."""
    return nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, dim))
