"""Image gradients and histograms of them, for any number of channels."""

from __future__ import annotations

from math import pi

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError


def sobel(images: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b c *s"]]:
    """Return one Sobel gradient per axis, last axis first (gx, gy, ...), reflect padding.

    Each is the difference (previous minus next) along its axis, smoothed by [1, 2, 1] along the
    others: in 2-D the kernel [[1,0,-1],[2,0,-2],[1,0,-1]] and its transpose (localmim.md).
    """
    rank = images.ndim - 2
    padded = functional.pad(images, (1, 1) * rank, mode="reflect")
    out = []
    for axis in range(rank - 1, -1, -1):
        value = padded
        for other in range(rank):
            dim, length = 2 + other, images.shape[2 + other]
            low, mid, high = (value.narrow(dim, start, length) for start in range(3))
            value = low - high if other == axis else low + 2 * mid + high
        out.append(value)
    return out


def sobel_convolved(images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b c h w"]]:
    """Return what `sobel` does, by one convolution per channel, as released HOG layers compute it.

    Sums are rounded in another order: across a mirrored border a gradient is about 1e-7 where it is
    exactly zero above. Where a bin starts at that angle, as with an even number of them, the pixel
    falls into the bin next to it. Slower, too, so for comparison with released code alone.
    """
    kernel = images.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    kernels = torch.stack([kernel, kernel.T])[:, None]
    padded = functional.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    both = functional.conv2d(padded, kernels).unflatten(0, images.shape[:2])
    return list(both.unbind(dim=2))


def magnitude(images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
    """Return the gradient's length per pixel and channel."""
    return torch.stack(sobel(images)).square().sum(dim=0).sqrt()


def gaussian_tile(size: tuple[int, int], window: int, like: Tensor) -> Float[Tensor, "h w"]:
    """Return a Gaussian of std window/2 repeated over an image, as the published HOG layer does."""
    axis = torch.arange(window, dtype=like.dtype, device=like.device)
    bell = (-0.5 * ((axis - axis.mean()) / (window // 2)) ** 2).exp()
    bell = bell / bell.sum()
    rows = bell.repeat(-(-size[0] // window))[: size[0]]
    cols = bell.repeat(-(-size[1] // window))[: size[1]]
    return rows[:, None] * cols[None, :]


def histograms(
    gx: Float[Tensor, "b c h w"],
    gy: Float[Tensor, "b c h w"],
    cell: int,
    num_bins: int,
    window: int | None,
    *,
    partial: bool,
) -> Float[Tensor, "b c k i j"]:
    """Return mean gradient lengths of the cells by orientation, not normalised; see `hog`."""
    length = (gx.square() + gy.square()).sqrt()
    bins = (torch.atan2(gx, gy) / pi * num_bins).floor().long() % num_bins
    if window is not None:
        length = length * gaussian_tile((gx.shape[2], gx.shape[3]), window, gx)
    # One pooling per bin writes no one-hot volume and, unlike a scatter, is deterministic.
    cells = [
        functional.avg_pool2d(torch.where(bins == k, length, 0.0), cell, ceil_mode=partial)
        for k in range(num_bins)
    ]
    return torch.stack(cells, dim=2)


def hog(
    images: Float[Tensor, "b c *s"],
    *,
    cell: int,
    num_bins: int = 9,
    average: bool = True,
    window: int | None = None,
    bias: Float[Tensor, "2"] | None = None,
    partial: bool = False,
    convolved: bool = False,
) -> Float[Tensor, "b c k i j"]:
    """Return histograms of oriented gradients, L2-normalised over the bins of a cell and channel.

    Orientation is unsigned and hard-assigned: floor(atan2(gx, gy) / pi * bins) mod bins
    (localmim.md, "HOG layer"; selectivemae.md uses sums and a Gaussian window).

    Args:
        images: 2-D, any number of channels; height and width multiples of `cell`.
        cell: pixels per cell side.
        num_bins: orientation bins k.
        average: average inside a cell (LocalMIM) or sum (SelectiveMAE).
        window: side of a tiled Gaussian weight, or None.
        bias: added to the two gradients gx, gy, as some released weights have it.
        partial: allow sides that are no multiple: cells at the far edge are averaged over the
            pixels that they have.
        convolved: see `sobel_convolved`.

    Raises:
        UsageError: for anything but 2-D images whose sides are multiples of the cell.
    """
    whole = images.ndim == 4 and not (images.shape[2] % cell or images.shape[3] % cell)
    if images.ndim != 4 or not (whole or partial):
        raise UsageError(
            f"HOG of images {tuple(images.shape)}",
            f"needs 2-D images with sides that are multiples of the cell {cell}",
            "use pixel targets for volumes, or another cell",
        )
    gx, gy = sobel_convolved(images) if convolved else sobel(images)
    if bias is not None:
        gx, gy = gx + bias[0], gy + bias[1]
    cells = histograms(gx, gy, cell, num_bins, window, partial=partial)
    cells = cells if average else cells * cell**2
    return functional.normalize(cells, dim=2)


def gradient_cells(
    images: Float[Tensor, "b c h w"], *, cell: int, partial: bool = False
) -> Float[Tensor, "b c i j"]:
    """Return the mean gradient length of each cell and channel; see `hog`."""
    return functional.avg_pool2d(magnitude(images), cell, ceil_mode=partial)


def cells_to_tokens(
    cells: Float[Tensor, "b c k i j"], grid_shape: tuple[int, int]
) -> Float[Tensor, "b n t"]:
    """Group cells by token: (channel, bin, row of cell, column of cell), the last one fastest.

    Raises:
        UsageError: when a token does not hold a whole number of cells.
    """
    batch, _, _, rows, cols = cells.shape
    if rows % grid_shape[0] or cols % grid_shape[1]:
        raise UsageError(
            f"{rows} x {cols} HOG cells",
            f"do not divide evenly among {grid_shape} tokens",
            "choose a cell that divides the patch size",
        )
    inner = (rows // grid_shape[0], cols // grid_shape[1])
    flat = cells.flatten(1, 2).unflatten(3, (grid_shape[1], inner[1]))
    flat = flat.unflatten(2, (grid_shape[0], inner[0]))
    return flat.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid_shape[0] * grid_shape[1], -1)
