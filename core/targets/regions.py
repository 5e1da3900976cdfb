"""Targets of parts of tokens and of regions of several tokens (localmim.md, steps 3 and 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from ..context import Context
from ..grid import Grid, patchify, subdivide, unpatchify
from ..regions import pad_far, region_shape, region_sum
from .contract import TargetValue
from .gradients import gradient_cells, hog
from .hog import GradientBias
from .pixels import PixelTarget, standardise


@runtime_checkable
class RegionTarget(Protocol):
    """Anything that states the truth for all regions of a grid. It is called without gradient."""

    def out_dim(self, grid: Grid) -> int:
        """Return how many numbers a region has."""
        ...

    def __call__(self, context: Context) -> TargetValue:
        """Return the truth for all regions in raster order."""
        ...


@dataclass(frozen=True)
class CellPixels:
    """Pixels of a token, standardised in each of its cells.

    The numbers of a token are ordered (number, cell), cells fastest, as a `CellDecoder` gives them.

    Args:
        pixels: how a cell is standardised.
        num_cells: cells per axis of a token; must divide the patch.
    """

    pixels: PixelTarget
    num_cells: int

    def out_dim(self, grid: Grid) -> int:
        """Return the numbers in a patch."""
        return grid.patch_dim

    def __call__(self, context: Context, index: Int[Tensor, "b q"]) -> TargetValue:
        """Return the pixels of the tokens at `index`."""
        values, weight = self.pixels.raw(context, index)
        values = self._cells(values, context.grid)
        weight = None if weight is None else self._cells(weight, context.grid)
        if self.pixels.norm_pix:
            values, weight = standardised(values, weight, self.pixels)
        num_tokens = index.shape[1]
        values = values.unflatten(1, (num_tokens, -1)).transpose(2, 3).flatten(2)
        if weight is not None:
            weight = weight.expand(-1, -1, values.shape[2] // self.num_cells**context.grid.ndim)
            weight = weight.unflatten(1, (num_tokens, -1)).transpose(2, 3).flatten(2)
        return TargetValue(values, weight)

    def _cells(self, patches: Float[Tensor, "b q t"], grid: Grid) -> Float[Tensor, "b m u"]:
        """Return the cells of each patch side by side."""
        single = Grid((1,) * grid.ndim, grid.patch, grid.channels)
        flat = patches.flatten(0, 1)[:, None]
        cells = subdivide(flat, single, (self.num_cells,) * grid.ndim).flatten(1, -2)
        return cells.reshape(len(patches), -1, cells.shape[-1])


def standardised(
    values: Float[Tensor, "b m t"], weight: Float[Tensor, "b m t"] | None, pixels: PixelTarget
) -> tuple[Float[Tensor, "b m t"], Float[Tensor, "b m #t"] | None]:
    """Standardise values as a pixel target does; those without contrast carry no weight."""
    values, statistics = standardise(values, weight, unbiased=pixels.unbiased)
    if pixels.noise_floor > 0:
        alive = (statistics.variance > pixels.noise_floor**2).float()
        weight = alive if weight is None else weight * alive
    return values, weight


@dataclass(frozen=True)
class RegionPixels:
    """Pixels of regions; what lies outside of the image carries no weight.

    Args:
        pixels: how a region is standardised.
        factor: tokens per side of a region.
    """

    pixels: PixelTarget
    factor: int

    def out_dim(self, grid: Grid) -> int:
        """Return the numbers in a region."""
        return grid.patch_dim * self.factor**grid.ndim

    def __call__(self, context: Context) -> TargetValue:
        """Return the pixels of all regions in raster order."""
        grid, images = context.grid, context.images.float()
        patch = tuple(length * self.factor for length in grid.patch)
        shape = region_shape(grid.shape, self.factor)
        size = [n * p for n, p in zip(shape, patch, strict=True)]
        values, weight = patchify(pad_far(images, size), patch), None
        if context.weight is not None or tuple(size) != grid.image_size:
            valid = images.new_ones(len(images), 1, *grid.image_size)
            if context.weight is not None:
                valid = unpatchify(context.weight.float(), Grid(grid.shape, grid.patch, 1))
            weight = patchify(pad_far(valid, size), patch)
            weight = weight.repeat_interleave(grid.channels, dim=-1)
        if not self.pixels.norm_pix:
            return TargetValue(values, weight)
        return TargetValue(*standardised(values, weight, self.pixels))


@dataclass(frozen=True)
class RegionHog:
    """One histogram of oriented gradients per region and channel.

    Regions with invalid pixels carry no weight, as tokens in `HogTarget`.

    Args:
        factor: tokens per side of a region.
        num_bins: orientation bins.
        noise_floor: see `HogTarget`.
        convolved: see `HogTarget`.
    """

    factor: int
    num_bins: int = 9
    noise_floor: float = 0.0
    convolved: bool = False

    def out_dim(self, grid: Grid) -> int:
        """Return bins times channels."""
        return self.num_bins * grid.channels

    def __call__(self, context: Context, bias: Float[Tensor, "2"] | None = None) -> TargetValue:
        """Return the histograms of all regions in raster order; for `bias` see `hog`."""
        images, cell = context.images.float(), context.grid.patch[0] * self.factor
        how = {"num_bins": self.num_bins, "partial": True, "convolved": self.convolved}
        cells = hog(images, cell=cell, bias=bias, **how)
        values, weight = cells.flatten(1, 2).flatten(2).transpose(1, 2), None
        if self.noise_floor > 0:
            alive = gradient_cells(images, cell=cell, partial=True) > self.noise_floor
            weight = alive[:, :, None].expand_as(cells).float()
            weight = weight.flatten(1, 2).flatten(2).transpose(1, 2)
        if context.weight is None:
            return TargetValue(values, weight)
        broken = (context.weight.amin(dim=-1, keepdim=True) <= 0).float()
        whole = (region_sum(broken, context.grid.shape, self.factor) == 0).float()
        return TargetValue(values, whole if weight is None else weight * whole)


class BiasedRegionHog(GradientBias):
    """A `RegionHog` whose gradients have a bias.

    Args:
        target: the histograms.
    """

    def __init__(self, target: RegionHog) -> None:
        super().__init__()
        self.target = target

    def out_dim(self, grid: Grid) -> int:
        """Return bins times channels."""
        return self.target.out_dim(grid)

    def forward(self, context: Context) -> TargetValue:
        """Return the histograms of all regions in raster order."""
        return self.target(context, self.bias)
