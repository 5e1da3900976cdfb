"""Windows of a grid of any rank: cutting, cyclic shifts, and who may read whom inside a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from ..places import ravel, unravel


@dataclass(frozen=True)
class Windows:
    """How a grid is cut into equal windows.

    A grid that the window does not divide is padded at its far end; padded places are never read.

    Args:
        shape: cells per axis of the grid.
        size: cells per axis of a window, not larger than the grid's.
        shift: cells by which the grid is rolled towards its start before it is cut; 0 on an axis
            with a single window.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]
    shift: tuple[int, ...]

    @classmethod
    def fit(cls, shape: Sequence[int], size: Sequence[int], *, shifted: bool) -> Windows:
        """Return windows of at most `size`, shrunk to the grid and then not shifted.

        Args:
            shape: cells per axis of the grid.
            size: largest window.
            shifted: roll by half a window on axes with more than one window.
        """
        small = tuple(min(n, w) for n, w in zip(shape, size, strict=True))
        shift = tuple(w // 2 if shifted and n > w else 0 for n, w in zip(shape, small, strict=True))
        return cls(tuple(shape), small, shift)

    @property
    def padded(self) -> tuple[int, ...]:
        """Cells per axis after padding."""
        return tuple(-(-n // w) * w for n, w in zip(self.shape, self.size, strict=True))

    @property
    def num_cells(self) -> int:
        """Cells in a window."""
        return prod(self.size)

    @property
    def num_windows(self) -> int:
        """Windows of a grid."""
        return prod(self.padded) // self.num_cells

    @property
    def _axes(self) -> list[int]:
        return list(range(1, 1 + len(self.shape)))

    def cut(self, grid: Shaped[Tensor, "b *s d"]) -> Shaped[Tensor, "b w n d"]:
        """Pad with zeros, roll, and return the cells of every window in raster order."""
        extra = [p - n for p, n in zip(self.padded, self.shape, strict=True)]
        if any(extra):
            grid = functional.pad(grid, [0, 0, *(v for e in reversed(extra) for v in (0, e))])
        if any(self.shift):
            grid = torch.roll(grid, [-s for s in self.shift], self._axes)
        rank, split = len(self.shape), []
        for length, size in zip(self.padded, self.size, strict=True):
            split += [length // size, size]
        parts = grid.reshape(grid.shape[0], *split, grid.shape[-1])
        order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1]
        return parts.permute(order).reshape(grid.shape[0], -1, self.num_cells, grid.shape[-1])

    def join(self, windows: Shaped[Tensor, "b w n d"]) -> Shaped[Tensor, "b *s d"]:
        """Undo `cut`: put windows back, roll back, and leave the padding out."""
        rank, batch, width = len(self.shape), windows.shape[0], windows.shape[-1]
        counts = [p // w for p, w in zip(self.padded, self.size, strict=True)]
        parts = windows.reshape(batch, *counts, *self.size, width)
        order = [0, *(a for i in range(rank) for a in (1 + i, 1 + rank + i)), 1 + 2 * rank]
        grid = parts.permute(order).reshape(batch, *self.padded, width)
        if any(self.shift):
            grid = torch.roll(grid, list(self.shift), self._axes)
        for axis, length in zip(self._axes, self.shape, strict=True):
            grid = grid.narrow(axis, 0, length)
        return grid

    def regions(self, device: torch.device) -> Int[Tensor, "w n"]:
        """Return a number per cell: equal ones were neighbours before the grid was rolled."""
        label = torch.zeros(1, dtype=torch.long, device=device)
        for length, size, shift in zip(self.padded, self.size, self.shift, strict=True):
            place = torch.arange(length, device=device)
            part = (place >= length - size).long() + (place >= length - shift).long()
            label = label[..., None] * 3 + (part if shift else torch.zeros_like(part))
        rolled = Windows(self.padded, self.size, (0,) * len(self.size))
        return rolled.cut(label.reshape(1, *self.padded, 1))[0, :, :, 0]

    def number(self, place: Int[Tensor, "*b r"]) -> Int[Tensor, "*b"]:
        """Return the window of cells, as if windows at the border were cut and did not wrap.

        Args:
            place: coordinates of the cells before the grid is rolled.
        """
        index = torch.zeros_like(place[..., 0])
        for axis, (length, size, shift) in enumerate(
            zip(self.padded, self.size, self.shift, strict=True)
        ):
            own = (place[..., axis] + (size - shift) % size) // size
            index = index * (length // size + 1) + own
        return index

    def allowed(
        self, readable: Bool[Tensor, "b *s"] | None, device: torch.device
    ) -> Bool[Tensor, "c w n n"] | None:
        """Return whether a cell may read another of its window; None when all may.

        A cell always reads itself, so that no row is empty.

        Args:
            readable: true for cells that hold data; None when all do.
            device: of the result when `readable` is None.
        """
        whole = self.padded == self.shape
        if readable is None and whole and not any(self.shift):
            return None
        if readable is None:
            readable = torch.ones(1, *self.shape, dtype=torch.bool, device=device)
        keys = self.cut(readable[..., None])[..., 0]
        label = self.regions(readable.device)
        same = label[:, :, None] == label[:, None, :]
        alone = torch.eye(self.num_cells, dtype=torch.bool, device=readable.device)
        return (same & keys[:, :, None, :]) | alone


def offsets(reach: Sequence[int], device: torch.device) -> Float[Tensor, "m r"]:
    """Return every difference of two cells of a window, in raster order.

    Args:
        reach: window per axis; differences go from -(w - 1) to w - 1.
        device: of the result.
    """
    axes = [torch.arange(1 - w, w, device=device, dtype=torch.float32) for w in reach]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def offset_index(
    size: Sequence[int], reach: Sequence[int], device: torch.device
) -> Int[Tensor, "n n"]:
    """Return which row of `offsets(reach)` is the difference query minus key.

    Args:
        size: window per axis.
        reach: window that the rows were made for, at least `size`.
        device: of the result.
    """
    cells = unravel(torch.arange(prod(size), device=device), size)
    return pair_index(cells, cells, reach)


def pair_index(
    queries: Int[Tensor, "*b q r"], keys: Int[Tensor, "*b k r"], reach: Sequence[int]
) -> Int[Tensor, "*b q k"]:
    """Return which row of `offsets(reach)` is the difference of any two cells, query minus key.

    Args:
        queries: coordinates of cells that read.
        keys: coordinates of cells that are read.
        reach: window that the rows were made for; larger differences are cut to it.
    """
    steps = queries[..., :, None, :] - keys[..., None, :, :]
    most = torch.tensor([w - 1 for w in reach], device=steps.device)
    return ravel(steps.clamp(-most, most) + most, [2 * w - 1 for w in reach])
