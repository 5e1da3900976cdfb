"""Dense prediction from a plain encoder: taps upsampled in steps, sharpened by a pixel stem.

A ViT knows what is where only to the patch. The decoder therefore adds what the patch cannot hold:
two convolutions on the image itself, and a linear path from the pixel's own channels to the
classes, so that a head starts no worse than a per-pixel linear classifier (a strong baseline on
multispectral data).
"""

from __future__ import annotations

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
    """A 3 x 3 convolution, group normalisation and GELU.

    Group normalisation does not look at other samples, so a prediction does not depend on what
    it shares a batch with.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        groups = max(1, out_channels // _GROUP_CHANNELS)
        groups = next(g for g in range(groups, 0, -1) if out_channels % g == 0)
        super().__init__(
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups, out_channels),
            nn.GELU(),
        )


class SegmentationHead(nn.Module):
    """Class scores for every pixel.

    Args:
        grid: channels and patch of the encoder; its shape does not matter, any image size works.
        embed_dim: width of the encoder.
        num_classes: classes.
        taps: encoder blocks to read, -1 for the final-normed output.
        dim: width at the token grid; halved at each upsampling step, never below `stem_dim`.
        stem_dim: width at full resolution.

    Raises:
        UsageError: for an encoder that is not 2-D or a head without classes or taps.
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
        if grid.ndim != 2:
            raise UsageError(
                f"segmentation head on {grid.ndim} image axes", "needs 2", "use a 2-D encoder"
            )
        if num_classes < 2 or not taps:
            raise UsageError(
                f"segmentation head with {num_classes} classes and {len(taps)} taps",
                "cannot learn anything",
                "give at least 2 classes and 1 tap",
            )
        self.taps, self.patch = tuple(taps), grid.patch
        self.project = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, dim)) for _ in taps
        )
        self.fuse = ConvBlock(dim * len(self.taps), dim)
        self.steps = upsampling_steps(grid.patch)
        widths = [max(dim >> i, stem_dim) for i in range(len(self.steps) + 1)]
        self.up = nn.ModuleList(ConvBlock(before, after) for before, after in pairwise(widths))
        # No normalisation in the stem: it would remove the brightness that tells cloud from shadow.
        self.stem = nn.Sequential(
            nn.Conv2d(grid.channels, stem_dim, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(stem_dim, stem_dim, 3, padding=1),
            nn.GELU(),
        )
        self.mix = nn.Sequential(
            nn.Conv2d(widths[-1] + stem_dim, stem_dim, 3, padding=1), nn.GELU()
        )
        self.classify = nn.Conv2d(stem_dim + grid.channels, num_classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]

    def forward(
        self, features: Features, images: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b k h w"]:
        """Return scores in the images' resolution.

        Args:
            features: the encoder's features of all tokens of `images`, with the head's taps.
            images: normalised images, zero where invalid.
        """
        shape = [n // p for n, p in zip(images.shape[2:], self.patch, strict=True)]
        maps = [
            token_maps(features, tap, shape, project)
            for tap, project in zip(self.taps, self.project, strict=True)
        ]
        x = self.fuse(torch.cat(maps, dim=1))
        for step, block in zip(self.steps, self.up, strict=True):
            shape = [n * factor for n, factor in zip(shape, step, strict=True)]
            x = block(functional.interpolate(x, size=shape, mode="bilinear", align_corners=False))
        x = self.mix(torch.cat([x, self.stem(images)], dim=1))
        return self.classify(torch.cat([x, images], dim=1))
