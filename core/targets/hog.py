"""HOG targets: histograms of oriented gradients of the cells inside a token."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from ..context import Context
from ..grid import Grid
from ..tokens import take
from .contract import TargetValue
from .gradients import cells_to_tokens, hog


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
    """

    cell: int = 8
    num_bins: int = 9
    average: bool = True
    window: int | None = None

    def out_dim(self, grid: Grid) -> int:
        """Return bins times channels times cells of a token."""
        return self.num_bins * grid.channels * (grid.patch_pixels // self.cell**2)

    def __call__(self, context: Context, index: Int[Tensor, "b q"]) -> TargetValue:
        """Return the histograms of the tokens at `index`."""
        cells = hog(
            context.images.float(),
            cell=self.cell,
            num_bins=self.num_bins,
            average=self.average,
            window=self.window,
        )
        rows, cols = context.grid.shape
        values = take(cells_to_tokens(cells, (rows, cols)), index)
        if context.weight is None:
            return TargetValue(values)
        whole = take(context.weight, index).amin(dim=-1, keepdim=True) > 0
        return TargetValue(values, whole.float())
