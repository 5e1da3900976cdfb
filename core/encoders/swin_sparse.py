"""Swin on visible tokens alone: their cells read those of their window that are seen as well.

Huang et al., "Green Hierarchical Vision Transformer for Masked Image Modeling", NeurIPS 2022, in
localmim.md, "Swin", step 2. What comes out is what the whole grid gives when nothing but visible
cells may be read, and no hidden cell is ever computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from .. import flops
from ..places import cells_of, unravel
from ..tokens import take
from .swin_blocks import PatchMerging, WindowAttention
from .windows import Windows, pair_index

_RUNS = 3
"""Runs in which the window of a cell lies: its own and both next to it."""


def run_length(num_cells: int, window_cells: int) -> int:
    """Return how many cells, sorted by window, are one run of queries.

    Window-mates of a cell are never further away than the largest window, so runs of that length
    need their own keys and those of both neighbours. All cells are one run where that reads less.

    Args:
        num_cells: visible cells of a sample.
        window_cells: cells of a window.
    """
    return num_cells if num_cells <= (_RUNS + 1) * window_cells else window_cells


@dataclass(frozen=True)
class SeenWindows:
    """Visible cells read those of their window; windows need not be seen as a whole.

    The published code packs windows into groups of a common size, which depends on the mask. Here
    cells are sorted by window and cut into runs, so that shapes depend on counts alone and every
    sample may have a mask of its own. The first axis is 1 where all samples share their mask.

    Args:
        order: cells sorted by window; None for one run, which needs no order.
        back: undoes it.
        pairs: row of the position bias of every query and key, see `pair_index`.
        allowed: true where the key is of the query's window and holds data, or is the query.
    """

    order: Int[Tensor, "#b n"] | None
    back: Int[Tensor, "#b n"] | None
    pairs: Int[Tensor, "#b g q k"]
    allowed: Bool[Tensor, "#b g q k"]

    @classmethod
    def of(
        cls,
        windows: Windows,
        reach: Sequence[int],
        place: Int[Tensor, "a n r"],
        readable: Bool[Tensor, "b n"] | None,
    ) -> SeenWindows:
        """Find the neighbours of visible cells.

        Args:
            windows: how the whole grid is cut.
            reach: window that position biases were made for.
            place: coordinates of the cells; one row where all samples see the same.
            readable: true for cells that hold data; None when all do.
        """
        own, order, back = windows.number(place) + 1, None, None
        size = run_length(place.shape[1], windows.num_cells)
        if size < place.shape[1]:
            order = own.argsort(dim=1, stable=True)
            back = order.argsort(dim=1)
            own, place = take(own, order), take(place, order)
            if readable is not None:
                readable = take(readable, order.expand(len(readable), -1))
        # Padding is of no window: its number is zero.
        allowed = runs(own, size)[..., None] == keys_of(own, size)[..., None, :]
        if readable is not None:
            number = torch.arange(1, 1 + place.shape[1], device=place.device)[None]
            alone = runs(number, size)[..., None] == keys_of(number, size)[..., None, :]
            allowed = (allowed & keys_of(readable, size)[..., None, :]) | alone
        pairs = pair_index(runs(place, size), keys_of(place, size), reach).int()
        return cls(order, back, pairs, allowed)

    def mix(self, attention: WindowAttention, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Let visible cells read each other."""
        batch, num, _ = x.shape
        if self.order is not None:
            x = take(x, self.order.expand(batch, -1))
        size, heads = self.pairs.shape[2], attention.num_heads
        bias = functional.embedding(self.pairs, attention.bias_rows(x.device))
        mask = bias.masked_fill(~self.allowed[..., None], -torch.inf).movedim(-1, 2).flatten(1, 2)
        q, k, v = attention.split(x)
        q, k, scale = attention.compare(q, k)

        def grouped(part: Tensor, cut: Callable[[Tensor, int], Tensor]) -> Tensor:
            return cut(part.transpose(1, 2), size).transpose(2, 3).flatten(1, 2)  # b (g h) n e

        parts = grouped(q, runs), grouped(k, keys_of), grouped(v, keys_of)
        out = attention.read(*parts, mask, scale).unflatten(1, (-1, heads))
        out = attention.proj(out.transpose(2, 3).flatten(3).flatten(1, 2)[:, :num])
        return out if self.back is None else take(out, self.back.expand(batch, -1))


def runs(cells: Tensor, size: int) -> Tensor:
    """Cut (b, n, ...) into runs (b, g, size, ...), the last one filled with zeros."""
    extra = -cells.shape[1] % size
    if extra:
        cells = torch.cat([cells, cells.new_zeros(len(cells), extra, *cells.shape[2:])], dim=1)
    return cells.unflatten(1, (-1, size))


def keys_of(cells: Tensor, size: int) -> Tensor:
    """Return the cells that each run may read: its own and those of the runs next to it."""
    own = runs(cells, size)
    if own.shape[1] == 1:
        return own
    edge = own.new_zeros(len(own), 1, *own.shape[2:])
    return torch.cat(
        [torch.cat([edge, own[:, :-1]], dim=1), own, torch.cat([own[:, 1:], edge], dim=1)], dim=2
    )


@dataclass(frozen=True)
class SeenCells:
    """The cells of visible tokens, those of a token side by side and tokens in the plan's order.

    Args:
        index: visible tokens.
        shape: tokens per axis of the grid.
        split: cells per axis of a token in front of the first stage, two to the number of mergings.
        readable: true for tokens that hold data; None when all do.
        released: behind the first merging, number cells token after token and take that for their
            number in raster order, as the released code does (localmim.md, "Gotchas").
    """

    index: Int[Tensor, "b v"]
    shape: tuple[int, ...]
    split: tuple[int, ...]
    readable: Bool[Tensor, "b v"] | None
    released: bool

    def neighbours(self, windows: Windows, reach: Sequence[int], stage: int) -> SeenWindows:
        """Return who reads whom in a stage; see `SeenWindows.of`."""
        # An index that was expanded over the batch is the same in all samples.
        index = self.index[:1] if self.index.stride(0) == 0 else self.index
        cells, parts = self.readable, [n >> stage for n in self.split]
        if cells is not None:
            cells = cells.repeat_interleave(prod(parts), dim=1)
        fine = [n * k for n, k in zip(self.shape, parts, strict=True)]
        if stage and self.released:
            inner = torch.arange(prod(parts), device=index.device)
            numbers = (index[..., None] * prod(parts) + inner).flatten(1)
        else:
            numbers = cells_of(index, self.shape, parts)
        return SeenWindows.of(windows, reach, unravel(numbers, fine), cells)

    def merge(
        self, merging: PatchMerging, x: Float[Tensor, "b n d"], stage: int
    ) -> Float[Tensor, "b m e"]:
        """Merge the cells of every token for itself."""
        parts = [n >> stage for n in self.split]
        tokens = x.unflatten(1, (self.index.shape[1], *parts)).flatten(0, 1)
        return merging(tokens).flatten(1, -2).unflatten(0, self.index.shape).flatten(1, 2)


def attention_flops(num_cells: int, window_cells: int, dim: int) -> int:
    """Return the FLOP of attention among the visible cells of one sample, projections included."""
    size = run_length(num_cells, window_cells)
    num_runs = -(-num_cells // size)
    keys = size if num_runs == 1 else _RUNS * size
    projections = flops.linear(num_cells, dim, 4 * dim)
    return projections + flops.attention(num_runs * size, keys, dim)
