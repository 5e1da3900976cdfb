"""Pixels standardised by the window around each of them (data-scaling.md, step 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ..context import Context
from ..errors import UsageError
from ..grid import patchify, unpatchify
from ..tokens import take
from .contract import TargetValue
from .pixels import PatchStatistics, PixelTarget


def box_sum(maps: Float[Tensor, "b c *s"], window: int) -> Float[Tensor, "b c *s"]:
    """Return the sum over the odd window around every pixel; outside of the image are zeros."""
    for axis in range(2, maps.ndim):
        lines = maps.movedim(axis, -1)
        flat = lines.flatten(0, -2)[:, None]
        mean = functional.avg_pool1d(flat, window, stride=1, padding=window // 2)
        maps = mean[:, 0].unflatten(0, lines.shape[:-1]).movedim(-1, axis) * window
    return maps


def local_statistics(
    images: Float[Tensor, "b c *s"], valid: Float[Tensor, "b 1 *s"] | None, window: int
) -> tuple[Float[Tensor, "b c *s"], Float[Tensor, "b c *s"]]:
    """Return mean and unbiased variance of the window around every pixel, per channel.

    Args:
        images: any rank.
        valid: one where a pixel counts, else zero; None when all count.
        window: pixels per side, odd; what lies outside of the image does not count.
    """
    weight = torch.ones_like(images[:, :1]) if valid is None else valid
    axes = list(range(2, images.ndim))
    # Squares lose digits to the mean, so an image's own mean is taken out first.
    total = weight.sum(axes, keepdim=True).clamp_min(1.0)
    centre = (images * weight).sum(axes, keepdim=True) / total
    centred = (images - centre) * weight
    count = box_sum(weight, window).round().clamp_min(1.0)
    mean = box_sum(centred, window) / count
    square = box_sum(centred.square(), window) / count
    variance = (square - mean.square()).clamp_min(0.0) * count / (count - 1).clamp_min(1.0)
    return mean + centre, variance


@dataclass(frozen=True)
class LocalNormTarget(PixelTarget):
    """Pixels of a token, each standardised by the mean and deviation of its surroundings.

    Args:
        norm_pix: must stay true; raw pixels are `PixelTarget`'s.
        noise_floor: a pixel whose surroundings deviate by no more than this carries no weight,
            since a tiny deviation would turn noise into the target. Zero trains on every pixel, as
            published.
        unbiased: must stay true, as published.
        window: pixels per side of the surroundings, odd.

    Raises:
        UsageError: for an even window.
    """

    window: int = 47

    def __post_init__(self) -> None:
        if self.window % 2 == 0 or self.window < 3:
            raise UsageError(
                f"target window {self.window}", "is not an odd number above 1", "use 47"
            )

    def __call__(self, context: Context, index: Int[Tensor, "b q"]) -> TargetValue:
        """Return the standardised pixels of the tokens at `index` and the weight of each."""
        values, weight = self.raw(context, index)
        statistics = self.statistics(context, index)
        if self.noise_floor > 0:
            alive = (statistics.variance > self.noise_floor**2).float()
            weight = alive if weight is None else weight * alive
        return TargetValue((values - statistics.mean) / statistics.scale, weight)

    def statistics(self, context: Context, index: Int[Tensor, "b q"]) -> PatchStatistics:
        """Return mean, divisor and variance of every pixel's surroundings."""
        images, valid = context.images.float(), None
        if context.weight is not None:
            valid = unpatchify(context.weight.float(), replace(context.grid, channels=1))
        mean, variance = (
            take(patchify(maps, context.grid.patch), index)
            for maps in local_statistics(images, valid, self.window)
        )
        return PatchStatistics(mean, (variance + 1e-6).sqrt(), variance)
