"""Position codes as functions of coordinates, for any grid shape and any rank."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

# Published tables put the column first in 2-D (mae.md) and the height first in 3-D (hi-end-mae.md).
_AXIS_ORDER = {1: (0,), 2: (1, 0), 3: (0, 1, 2)}


def sincos(
    shape: Sequence[int],
    dim: int,
    *,
    base: float = 10000.0,
    num_prefix: int = 0,
    order: Sequence[int] | None = None,
) -> Float[Tensor, "n d"]:
    """Return the fixed sine-cosine table of a grid, prefix rows zero.

    The width is shared evenly by the axes; each share is [sin(x w), cos(x w)] with
    w_i = base ** (-i / k), i = 0 .. k-1 (MAE's table in 2-D, Hi-End-MAE's in 3-D). Channels that do
    not divide evenly stay zero, so that any width is allowed.

    Args:
        shape: tokens per axis.
        dim: width of a code.
        base: longest wavelength over 2 pi.
        num_prefix: zero rows in front, for class and register tokens.
        order: axes in the order of their shares of the width; by default that of most published
            tables (mff.md, "Gotchas", has the other one in 2-D).
    """
    rank = len(shape)
    num_freqs = dim // (2 * rank)
    # float64 until the end: published tables were made with numpy doubles.
    freqs = base ** (-torch.arange(num_freqs, dtype=torch.float64) / max(num_freqs, 1))
    coords = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    parts = []
    for axis in order or _AXIS_ORDER.get(rank, tuple(range(rank))):
        angles = coords[axis].reshape(-1, 1) * freqs
        parts += [angles.sin(), angles.cos()]
    table = torch.zeros(num_prefix + prod(shape), dim, dtype=torch.float64)
    table[num_prefix:, : 2 * rank * num_freqs] = torch.cat(parts, dim=1)
    return table.float()


def resize(
    table: Float[Tensor, "n d"],
    old: Sequence[int],
    new: Sequence[int],
    *,
    num_prefix: int = 0,
) -> Float[Tensor, "m d"]:
    """Interpolate a position table to another grid (bicubic in 2-D, linear in 1-D and 3-D).

    Prefix rows are kept. Bicubic without aligned corners is what the published fine-tuning code
    uses (mae.md, "Data").
    """
    if tuple(old) == tuple(new):
        return table
    mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(old)]
    body = table[num_prefix:].T.reshape(1, table.shape[1], *old)
    body = functional.interpolate(body, size=tuple(new), mode=mode, align_corners=False)
    return torch.cat([table[:num_prefix], body.flatten(2)[0].T])
