"""Tokens by number and by coordinates, and the cells inside them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Int
from torch import Tensor

from .masking.plan import MaskPlan


def unravel(index: Int[Tensor, "*b"], shape: Sequence[int]) -> Int[Tensor, "*b r"]:
    """Return the coordinates of places that are numbered in raster order."""
    axes, rest = [], index
    for length in reversed(shape):
        axes.append(rest % length)
        rest = rest // length
    return torch.stack(axes[::-1], dim=-1)


def ravel(place: Int[Tensor, "*b r"], shape: Sequence[int]) -> Int[Tensor, "*b"]:
    """Return the numbers of places in raster order; undoes `unravel`."""
    index = torch.zeros_like(place[..., 0])
    for axis, length in enumerate(shape):
        index = index * length + place[..., axis]
    return index


def cells_of(
    index: Int[Tensor, "b k"], shape: Sequence[int], parts: Sequence[int]
) -> Int[Tensor, "b m"]:
    """Return the cells of tokens, those of one token side by side and in raster order.

    Args:
        index: tokens of a grid.
        shape: tokens per axis.
        parts: cells per axis of a token.

    Returns:
        numbers on the grid of cells, `prod(parts)` times as many as tokens.
    """
    inner = unravel(torch.arange(prod(parts), device=index.device), parts)
    first = unravel(index, shape) * torch.tensor(tuple(parts), device=index.device)
    fine = [n * k for n, k in zip(shape, parts, strict=True)]
    return ravel(first[:, :, None] + inner, fine).flatten(1)


def cell_plan(plan: MaskPlan, shape: Sequence[int], parts: Sequence[int]) -> MaskPlan:
    """Return the roles of the cells of tokens, which are those of their token.

    Args:
        plan: roles of the tokens.
        shape: tokens per axis.
        parts: cells per axis of a token.
    """
    absent, grid = plan.absent, tuple(shape)
    if absent is not None:
        cells = absent.unflatten(1, grid)
        for axis, times in enumerate(parts, 1):
            cells = cells.repeat_interleave(times, dim=axis)
        absent = cells.flatten(1)
    visible, predict = (cells_of(part, grid, parts) for part in (plan.visible, plan.predict))
    return MaskPlan(visible, predict, absent)
