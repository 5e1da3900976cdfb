"""Regions: cubes of several tokens; those at the far edge of a grid may be incomplete."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def region_shape(shape: Sequence[int], factor: int) -> tuple[int, ...]:
    """Return the regions per axis of a grid, the incomplete ones included."""
    return tuple(-(-length // factor) for length in shape)


def pad_far(
    maps: Float[Tensor, "b c *s"], size: Sequence[int], value: float = 0.0
) -> Float[Tensor, "b c *t"]:
    """Continue maps at the far end of each axis up to a size."""
    missing = [wanted - have for wanted, have in zip(size, maps.shape[2:], strict=True)]
    if not any(missing):
        return maps
    widths = [n for amount in reversed(missing) for n in (0, amount)]
    return functional.pad(maps, widths, value=value)


def region_sum(
    tokens: Float[Tensor, "b n d"], shape: Sequence[int], factor: int
) -> Float[Tensor, "b m d"]:
    """Return the sum over the tokens of each region, regions in raster order.

    Args:
        tokens: of the whole grid in raster order.
        shape: tokens per axis.
        factor: tokens per side of a region.
    """
    rank, coarse = len(shape), region_shape(shape, factor)
    maps = tokens.transpose(1, 2).unflatten(2, tuple(shape))
    maps = pad_far(maps, [length * factor for length in coarse])
    split = [n for length in coarse for n in (length, factor)]
    inner = [3 + 2 * axis for axis in range(rank)]
    sums = maps.reshape(*maps.shape[:2], *split).sum(dim=inner)
    return sums.reshape(*sums.shape[:2], prod(coarse)).transpose(1, 2)
