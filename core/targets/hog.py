"""HOG targets: histograms of oriented gradients of the cells inside a token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..context import Context
from ..grid import Grid
from ..tokens import take
from .contract import TargetValue
from .gradients import cells_to_tokens, gradient_cells, hog


@dataclass(frozen=True)
class HogTarget:
    """Histograms of oriented gradients (localmim.md; selectivemae.md uses sums and a window).

    Tokens with invalid pixels carry no weight: the border of missing data is an edge that does not
    exist on the ground.

    Args:
        cell: pixels per cell side; must divide the patch.
        num_bins: orientation bins.
        average: average inside a cell, or sum.
        window: side of a tiled Gaussian weight, or None.
        noise_floor: a cell and channel whose mean gradient length is not above this carries no
            weight: normalising a histogram of almost nothing would turn noise into the target.
            Zero trains on every cell, as published.
        convolved: see `gradients.sobel_convolved`.
    """

    cell: int = 8
    num_bins: int = 9
    average: bool = True
    window: int | None = None
    noise_floor: float = 0.0
    convolved: bool = False

    def out_dim(self, grid: Grid) -> int:
        """Return bins times channels times cells of a token."""
        return self.num_bins * grid.channels * (grid.patch_pixels // self.cell**2)

    def __call__(
        self,
        context: Context,
        index: Int[Tensor, "b q"],
        bias: Float[Tensor, "2"] | None = None,
    ) -> TargetValue:
        """Return the histograms of the tokens at `index`; for `bias` see `hog`."""
        images = context.images.float()
        cells = hog(
            images,
            cell=self.cell,
            num_bins=self.num_bins,
            average=self.average,
            window=self.window,
            bias=bias,
            convolved=self.convolved,
        )
        rows, cols = context.grid.shape
        values = take(cells_to_tokens(cells, (rows, cols)), index)
        weight = None
        if self.noise_floor > 0:
            alive = gradient_cells(images, cell=self.cell) > self.noise_floor
            alive = alive[:, :, None].expand_as(cells).float()
            weight = take(cells_to_tokens(alive, (rows, cols)), index)
        if context.weight is None:
            return TargetValue(values, weight)
        whole = (take(context.weight, index).amin(dim=-1, keepdim=True) > 0).float()
        return TargetValue(values, whole if weight is None else weight * whole)


class GradientBias(nn.Module):
    """The frozen, randomly drawn numbers that some released HOG layers add to the gradients.

    They are the default bias of a 3 x 3 convolution of one channel, and part of a model's state: a
    target that is drawn anew is another one (localmim.md, "HOG layer").
    """

    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.empty(2).uniform_(-1 / 3, 1 / 3))


class BiasedHogTarget(GradientBias):
    """A `HogTarget` whose gradients have a bias.

    Args:
        target: the histograms.
    """

    def __init__(self, target: HogTarget) -> None:
        super().__init__()
        self.target = target

    def out_dim(self, grid: Grid) -> int:
        """Return bins times channels times cells of a token."""
        return self.target.out_dim(grid)

    def forward(self, context: Context, index: Int[Tensor, "b q"]) -> TargetValue:
        """Return the histograms of the tokens at `index`."""
        return self.target(context, index, self.bias)
