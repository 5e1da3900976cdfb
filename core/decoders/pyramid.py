"""Small decoders of single encoder layers, finer or coarser than tokens (localmim.md, step 4)."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import flops
from ..encoders.contract import Features
from ..errors import UsageError
from ..grid import Grid
from ..layers import Block, init_transformer
from ..masking.plan import MaskPlan
from ..places import cell_plan, cells_of
from ..regions import region_shape, region_sum
from .contract import Predictor
from .trunk import JointTrunk


class LayerReader(nn.Module):
    """A norm of its own for one encoder layer, mask tokens at hidden places, a few blocks.

    Args:
        grid: geometry of the tokens.
        encoder_dim: width of the features.
        dim: width of the decoder.
        depth: blocks.
        num_heads: attention heads.
        tap: encoder block whose raw output is read; -1 for the final features, normed already.
        num_prefix: class and register tokens of the encoder; they take part without position.
        mlp_ratio: hidden width of the MLP over the width.
        side: cells per side of a token in the layer, where that is finer than tokens are; those of
            a token side by side and in raster order.

    Raises:
        UsageError: for a depth below one.
    """

    def __init__(
        self,
        grid: Grid,
        encoder_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        tap: int,
        num_prefix: int = 1,
        mlp_ratio: float = 4.0,
        side: int = 1,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise UsageError(f"decoder.depth {depth}", "is below 1", "use 1 or more")
        cells = Grid(
            tuple(n * side for n in grid.shape), tuple(p // side for p in grid.patch), grid.channels
        )
        self.num_tokens, self.num_prefix = cells.num_tokens + num_prefix, num_prefix
        self.grid, self.dim, self.mlp_ratio, self.tap = grid, dim, mlp_ratio, tap
        self.parts = (side,) * grid.ndim
        self.tap_norm = None if tap < 0 else nn.LayerNorm(encoder_dim, eps=1e-6)
        self.trunk = JointTrunk(cells, encoder_dim, dim, num_prefix)
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        init_transformer(self.blocks)

    @property
    def taps(self) -> tuple[int, ...]:
        """Encoder blocks whose raw output is read."""
        return () if self.tap < 0 else (self.tap,)

    @property
    def num_cells(self) -> int:
        """Cells of a token."""
        return prod(self.parts)

    def layer(self, features: Features) -> Float[Tensor, "b t d"]:
        """Return the normed layer that is read, prefix tokens in front."""
        tokens = features.context(self.tap)
        return tokens if self.tap_norm is None else self.tap_norm(tokens)

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b m w"]:
        """Return the decoded cells of tokens at `index`; of the whole grid in raster order without.

        The cells of a token are side by side and in raster order.
        """
        if self.num_cells > 1:
            plan = cell_plan(plan, self.grid.shape, self.parts)
            index = None if index is None else cells_of(index, self.grid.shape, self.parts)
        x = self.trunk(Features(self.layer(features), features.num_prefix), plan)
        readable = plan.present(self.num_prefix)
        for block in self.blocks[:-1]:
            x = block(x, readable)
        wanted = None if index is None else index + self.num_prefix
        x = self.norm(self.blocks[-1](x, readable, wanted))
        return x if index is not None else x[:, self.num_prefix :]

    def forward_flops(self, num_context: int, num_wanted: int | None = None) -> int:
        """Return the FLOP of one sample's forward; all tokens are wanted by default."""
        num_context = (num_context - self.num_prefix) * self.num_cells + self.num_prefix
        num_wanted = None if num_wanted is None else num_wanted * self.num_cells
        one = flops.block(self.num_tokens, self.dim, self.mlp_ratio)
        last = flops.block(self.num_tokens, self.dim, self.mlp_ratio, num_wanted)
        return self.trunk.forward_flops(num_context) + (len(self.blocks) - 1) * one + last


class Doubling(nn.Module):
    """Each cell becomes two per axis: a transposed convolution whose stride is its kernel.

    Cells do not overlap, so it works on any set of tokens, one by one.
    """

    def __init__(self, dim: int, out_dim: int, rank: int) -> None:
        super().__init__()
        kind = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[rank]
        self.conv = kind(dim, out_dim, kernel_size=2, stride=2)

    def forward(self, x: Float[Tensor, "b q c d"]) -> Float[Tensor, "b q e f"]:
        """Return the finer cells, those of one cell side by side."""
        weight = self.conv.weight.movedim(1, -1).flatten(1)
        assert self.conv.bias is not None
        bias = self.conv.bias.repeat(weight.shape[1] // len(self.conv.bias))
        cells = nn.functional.linear(x, weight.T, bias)
        return cells.unflatten(-1, (-1, len(self.conv.bias))).flatten(2, 3)


class CellDecoder(Predictor):
    """Predicts the cells inside tokens, a power of two of them per axis.

    Args:
        reader: gives decoded tokens.
        num_doublings: 0 for the cells of the layer that is read (one per token, if it is not finer
            than tokens), 1 for two of each per axis, 2 for four.
        out_dim: numbers predicted per cell.

    Raises:
        UsageError: when the width cannot be halved as often.
    """

    def __init__(self, reader: LayerReader, num_doublings: int, out_dim: int) -> None:
        super().__init__()
        self.reader, self.taps, self.rank = reader, reader.taps, reader.grid.ndim
        widths = [reader.dim >> step for step in range(num_doublings + 1)]
        if reader.dim % 2**num_doublings:
            raise UsageError(
                f"decoder.dim {reader.dim}",
                f"cannot be halved {num_doublings} times",
                f"use a multiple of {2**num_doublings}",
            )
        self.doublings = nn.ModuleList(Doubling(*pair, self.rank) for pair in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in widths[1:-1])
        self.head = nn.Linear(widths[-1], out_dim)

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for the tokens at `index` (by default those the plan asks for).

        The numbers of a token are ordered (number, cell), cells in raster order and fastest.
        """
        reader, rank, steps = self.reader, self.rank, len(self.doublings)
        x = reader(features, plan, plan.predict if index is None else index)
        x = x.unflatten(1, (-1, reader.num_cells))
        for step, double in enumerate(self.doublings):
            if step:
                x = nn.functional.gelu(self.norms[step - 1](x))
            x = double(x)
        # Every doubling cuts the cells of the one before, all of them those of the layer.
        x = self.head(x).unflatten(2, (*reader.parts, *(2,) * (rank * steps), 1))
        cells = [2 + step * rank + axis for axis in range(rank) for step in range(1 + steps)]
        return x.permute(0, 1, x.ndim - 1, *cells, x.ndim - 2).flatten(2)

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one sample's forward; cells of other tokens cost nothing."""
        total = self.reader.forward_flops(num_context, num_predict)
        num_cells = num_predict * self.reader.num_cells
        for step in range(len(self.doublings)):
            num_cells *= 2**self.rank
            total += flops.linear(num_cells, self.reader.dim >> step, self.reader.dim >> (step + 1))
        return total + flops.linear(num_cells, self.head.in_features, self.head.out_features)


class RegionDecoder(nn.Module):
    """Predicts regions of several tokens from the mean of their decoded tokens.

    Args:
        reader: gives decoded tokens.
        factor: tokens per side of a region; incomplete regions have fewer.
        out_dim: numbers predicted per region.
    """

    def __init__(self, reader: LayerReader, factor: int, out_dim: int) -> None:
        super().__init__()
        self.reader, self.factor, self.taps = reader, factor, reader.taps
        self.head = nn.Linear(reader.dim, out_dim)

    def forward(self, features: Features, plan: MaskPlan) -> Float[Tensor, "b m t"]:
        """Return predictions for all regions in raster order."""
        tokens, shape = self.reader(features, plan), self.reader.grid.shape
        sums = region_sum(tokens, shape, self.factor)
        counts = region_sum(tokens.new_ones(1, tokens.shape[1], 1), shape, self.factor)
        return self.head(sums / counts)

    def forward_flops(self, num_context: int) -> int:
        """Return the FLOP of one sample's forward: all tokens are decoded."""
        num_regions = 1
        for length in region_shape(self.reader.grid.shape, self.factor):
            num_regions *= length
        head = flops.linear(num_regions, self.head.in_features, self.head.out_features)
        return self.reader.forward_flops(num_context) + head
