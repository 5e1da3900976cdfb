"""Histograms of central differences, standardised per cell and channel (dmjd.md, step 6)."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ..context import Context
from ..errors import UsageError
from ..grid import Grid, patchify
from ..tokens import take
from .contract import TargetValue


def central_differences(
    images: Float[Tensor, "b c h w"],
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Return next minus previous pixel along rows and columns of an image, zero on its border."""
    rows = functional.pad(images[:, :, 2:] - images[:, :, :-2], (0, 0, 1, 1))
    cols = functional.pad(images[..., 2:] - images[..., :-2], (1, 1))
    return rows, cols


def central_hog(
    images: Float[Tensor, "b c h w"], cell: int, num_bins: int = 9
) -> Float[Tensor, "b c i j k"]:
    """Return the mean length of gradients per cell and unsigned orientation, without normalisation.

    Orientation 0 is a change along columns; orientations are assigned to one bin each.

    Args:
        images: any number of channels.
        cell: pixels per cell side, which divides the image.
        num_bins: orientation bins k over half a turn.
    """
    rows, cols = central_differences(images)
    length = (rows.square() + cols.square()).sqrt()
    bins = (torch.atan2(rows, cols) % pi / pi * num_bins).floor().long() % num_bins
    cells = [
        functional.avg_pool2d(torch.where(bins == k, length, 0.0), cell) for k in range(num_bins)
    ]
    return torch.stack(cells, dim=-1)


@dataclass(frozen=True)
class CentralHogTarget:
    """Standardised histograms of the cells inside a token: (row, column, orientation, channel).

    Standardising makes them independent of a channel's unit: normalised images serve as well as
    the crop of integers from which the release computes them.

    Args:
        cell: pixels per cell side; must divide the patch.
        num_bins: orientation bins.
        noise_floor: cells whose mean gradient (in units of the normalised image) is not above
            this carry no weight; zero trains on every cell, as published.
        eps: added to the variance.
    """

    cell: int = 8
    num_bins: int = 9
    noise_floor: float = 1e-2
    eps: float = 1e-5

    def out_dim(self, grid: Grid) -> int:
        """Return bins times channels times cells of a token.

        Raises:
            UsageError: when the cell does not divide the patch, or for other ranks than 2.
        """
        if grid.ndim != 2 or any(length % self.cell for length in grid.patch):
            raise UsageError(
                f"HOG cell {self.cell}",
                f"does not divide the patch {grid.patch} of an image",
                "choose one that does, and 2-D images",
            )
        return self.num_bins * grid.channels * (grid.patch_pixels // self.cell**2)

    def __call__(self, context: Context, index: Int[Tensor, "b q"]) -> TargetValue:
        """Return the histograms of the tokens at `index` and the weight of each number."""
        cells = central_hog(context.images.float(), self.cell, self.num_bins)
        values = functional.layer_norm(cells, (self.num_bins,), eps=self.eps)
        weight = None
        if self.noise_floor > 0:
            alive = cells.sum(dim=-1, keepdim=True) > self.noise_floor
            weight = take(self._tokens(alive.expand_as(cells).float(), context), index)
        if context.weight is not None:
            whole = (take(context.weight, index).amin(dim=-1, keepdim=True) > 0).float()
            weight = whole if weight is None else weight * whole
        return TargetValue(take(self._tokens(values, context), index), weight)

    def _tokens(self, cells: Float[Tensor, "b c i j k"], context: Context) -> Tensor:
        """Group cells by token."""
        maps = cells.permute(0, 4, 1, 2, 3).flatten(1, 2)
        return patchify(maps, tuple(length // self.cell for length in context.grid.patch))
