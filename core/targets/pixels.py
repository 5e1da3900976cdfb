"""Pixel targets: raw or standardised per patch, blind to invalid and to constant patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..context import Context
from ..grid import Grid
from ..tokens import take
from .contract import TargetValue


@dataclass(frozen=True)
class PatchStatistics:
    """Mean, divisor and variance of each patch or pixel; `values * scale + mean` undoes it."""

    mean: Float[Tensor, "b q #t"]
    scale: Float[Tensor, "b q #t"]
    variance: Float[Tensor, "b q #t"]


def standardise(
    values: Float[Tensor, "b q t"],
    weight: Float[Tensor, "b q t"] | None,
    *,
    unbiased: bool = True,
    eps: float = 1e-6,
) -> tuple[Float[Tensor, "b q t"], PatchStatistics]:
    """Standardise each patch by its own mean and variance, over valid numbers only.

    Args:
        values: numbers of each patch.
        weight: one where valid; None for all.
        unbiased: divide by count - 1, as MAE does (mae.md, step 7).
        eps: added to the variance.
    """
    if weight is None:
        mean, total = values.mean(dim=-1, keepdim=True), values.new_tensor(values.shape[-1])
    else:
        total = weight.sum(dim=-1, keepdim=True).clamp_min(1.0)
        mean = (values * weight).sum(dim=-1, keepdim=True) / total
    centred = values - mean
    counted = centred if weight is None else centred * weight
    square = torch.linalg.vector_norm(counted, dim=-1, keepdim=True).square()
    variance = square / (total - 1).clamp_min(1.0) if unbiased else square / total
    scale = (variance + eps).sqrt()
    return centred.div_(scale), PatchStatistics(mean, scale, variance)


@dataclass(frozen=True)
class PixelTarget:
    """Pixels of a token.

    Args:
        norm_pix: standardise each patch.
        noise_floor: a patch whose standard deviation is not above this (in units of the
            normalised image) carries no weight when patches are standardised: dividing by a tiny
            deviation would turn noise into the target. Zero trains on every patch, as published.
        unbiased: see `standardise`.
    """

    norm_pix: bool = True
    noise_floor: float = 1e-2
    unbiased: bool = True

    def out_dim(self, grid: Grid) -> int:
        """Return the numbers in a patch."""
        return grid.patch_dim

    def __call__(self, context: Context, index: Int[Tensor, "b q"]) -> TargetValue:
        """Return the pixels of the tokens at `index` and the weight of each."""
        values, weight = self.raw(context, index)
        if not self.norm_pix:
            return TargetValue(values, weight)
        standardised, statistics = standardise(values, weight, unbiased=self.unbiased)
        if self.noise_floor > 0:
            alive = (statistics.variance > self.noise_floor**2).float()
            weight = alive if weight is None else weight * alive
        return TargetValue(standardised, weight)

    def statistics(self, context: Context, index: Int[Tensor, "b q"]) -> PatchStatistics | None:
        """Return what undoes the standardisation, read from the truth; None when there is none."""
        if not self.norm_pix:
            return None
        values, weight = self.raw(context, index)
        return standardise(values, weight, unbiased=self.unbiased)[1]

    @staticmethod
    def raw(
        context: Context, index: Int[Tensor, "b q"]
    ) -> tuple[Float[Tensor, "b q t"], Float[Tensor, "b q t"] | None]:
        """Return pixels as they are and, where some are invalid, one per valid number."""
        values = take(context.patches, index).float()
        if context.weight is None:
            return values, None
        weight = take(context.weight, index).float()
        return values, weight.repeat_interleave(context.grid.channels, dim=-1)


@dataclass(frozen=True)
class CentredTarget(PixelTarget):
    """Raw pixels less their channel's mean over the image (a2mim.md, step 5, "residual").

    A prediction is to be read with that mean added. It is the truth's, over all its pixels.

    Args:
        norm_pix: must stay false; nothing is divided.
    """

    norm_pix: bool = False

    def __call__(self, context: Context, index: Int[Tensor, "b q"]) -> TargetValue:
        """Return the centred pixels of the tokens at `index` and the weight of each number."""
        values, weight = self.raw(context, index)
        return TargetValue(values - self.statistics(context, index).mean, weight)

    def statistics(self, context: Context, index: Int[Tensor, "b q"]) -> PatchStatistics:
        """Return the mean of every number's channel; nothing was divided."""
        grid, pixels = context.grid, context.images.float().flatten(2)
        if context.weight is None:
            mean = pixels.mean(dim=2)
        else:  # invalid pixels are zero
            counts = context.weight.float().sum(dim=(1, 2)).clamp_min(1.0)
            mean = pixels.sum(dim=2) / counts[:, None]
        each = mean.repeat(1, grid.patch_pixels)[:, None].expand(-1, index.shape[1], -1)
        return PatchStatistics(each, torch.ones_like(each), torch.ones_like(each))
