"""The linear decoder: each place of the encoder's map tells its own target (simmim.md, step 4)."""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import flops
from ..encoders.contract import Features
from ..errors import UsageError
from ..grid import Grid, subdivide
from ..masking.plan import MaskPlan
from ..tokens import take
from .contract import Predictor


class LinearDecoder(Predictor):
    """A linear map of the tokens that are asked for, of an encoder that works on the whole grid.

    Args:
        grid: geometry of the tokens.
        encoder_dim: width of the features.
        out_dim: numbers predicted per token.
        cell: tokens per side of a cell of the encoder's last map. Above 1 the numbers are pixels,
            and a cell gives those of all its tokens, row by row as `patchify` orders a patch.
    """

    def __init__(self, grid: Grid, encoder_dim: int, out_dim: int, cell: int = 1) -> None:
        super().__init__()
        self.grid, self.cell = grid, cell
        self.cells = tuple(-(-n // cell) for n in grid.shape)
        self.head = nn.Linear(encoder_dim, out_dim * cell**grid.ndim)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for the tokens at `index` (by default those the plan asks for).

        Raises:
            UsageError: when the encoder dropped hidden tokens.
        """
        tokens = features.last
        if not torch.compiler.is_compiling() and tokens.shape[1] != prod(self.cells):
            raise UsageError(
                f"{tokens.shape[1]} encoded tokens of {prod(self.cells)}",
                "are not the whole grid that a linear decoder needs",
                "give the method a corruption such as MaskToken",
            )
        index = plan.predict if index is None else index
        if self.cell == 1:
            return self.head(take(tokens, index))
        return take(self.tokens_of(self.head(tokens)), index)

    def tokens_of(self, cells: Float[Tensor, "b m p"]) -> Float[Tensor, "b n t"]:
        """Cut the pixels of cells into those of tokens; tokens beyond the grid's end are left out.

        Args:
            cells: pixels of every cell.
        """
        large = tuple(n * self.cell for n in self.grid.patch)
        coarse = Grid(self.cells, large, cells.shape[2] // prod(large))
        x = subdivide(cells, coarse, (self.cell,) * self.grid.ndim)
        for axis, length in enumerate(self.grid.shape, 1):
            x = x.narrow(axis, 0, length)
        return x.flatten(1, -2)

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one sample's forward; large cells are computed as a whole."""
        del num_context
        num_cells = num_predict if self.cell == 1 else prod(self.cells)
        return flops.linear(num_cells, self.head.in_features, self.head.out_features)
