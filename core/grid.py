"""The geometry of tokens: how an image or volume is cut into patches, for any rank and shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from jaxtyping import Float
from torch import Tensor

from .errors import UsageError


@dataclass(frozen=True)
class Grid:
    """A regular grid of patches.

    Args:
        shape: tokens per axis, for example (14, 14) or (8, 8, 8).
        patch: pixels (or voxels) per token along each axis.
        channels: numbers per pixel.
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    channels: int

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.patch):
            raise UsageError(
                f"patch {self.patch}",
                f"has {len(self.patch)} axes but the grid {self.shape} has {len(self.shape)}",
                "give one patch length per image axis",
            )
        if min(*self.shape, *self.patch, self.channels) < 1:
            raise UsageError(
                f"grid {self.shape}, patch {self.patch}, {self.channels} channels",
                "has a length below one",
                "give positive sizes",
            )

    @classmethod
    def for_image(cls, size: Sequence[int], patch: int | Sequence[int], channels: int) -> Grid:
        """Return the grid of an image of `size` pixels per axis.

        Raises:
            UsageError: when an axis is not a multiple of the patch.
        """
        lengths = per_axis(patch, len(size))
        for pixels, length in zip(size, lengths, strict=True):
            if length < 1 or pixels < length or pixels % length:
                below = max(length, pixels // max(length, 1) * length)
                raise UsageError(
                    f"image size {tuple(size)}",
                    f"is not a multiple of the patch {lengths}",
                    f"crop to {below} instead of {pixels}, or choose another patch size",
                )
        return cls(tuple(s // p for s, p in zip(size, lengths, strict=True)), lengths, channels)

    @classmethod
    def of(cls, images: Float[Tensor, "b c *s"], patch: Sequence[int]) -> Grid:
        """Return the geometry of images; see `for_image`."""
        channels, *size = (int(length) for length in images.shape[1:])  # tensors while traced
        return cls.for_image(size, tuple(patch), channels)

    @property
    def num_tokens(self) -> int:
        """Tokens of one image."""
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        """Spatial rank: 2 for images, 3 for volumes."""
        return len(self.shape)

    @property
    def image_size(self) -> tuple[int, ...]:
        """Pixels per axis."""
        return tuple(s * p for s, p in zip(self.shape, self.patch, strict=True))

    @property
    def patch_pixels(self) -> int:
        """Pixels in a patch, channels not counted."""
        return prod(self.patch)

    @property
    def patch_dim(self) -> int:
        """Numbers in a patch: pixels times channels."""
        return self.patch_pixels * self.channels


def per_axis(patch: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """Return the patch length along each axis, from one number for all or one per axis.

    Raises:
        UsageError: when there is another number of lengths than axes.
    """
    lengths = tuple(patch) if isinstance(patch, Sequence) else (patch,) * ndim
    if len(lengths) != ndim:
        raise UsageError(
            f"patch {lengths}",
            f"has {len(lengths)} axes, and the image {ndim}",
            "give one length per image axis, or one number for all",
        )
    return lengths


def patchify(images: Float[Tensor, "b c *s"], patch: Sequence[int]) -> Float[Tensor, "b n p"]:
    """Cut images into tokens in row-major order.

    Inside a token the order is (position along each axis, channel), channel fastest, the order of
    the MAE paper's code (mae.md, step 7), for any rank.

    Raises:
        UsageError: when an axis is not a multiple of the patch.
    """
    batch, grid = images.shape[0], Grid.of(images, patch)
    split = [n for pair in zip(grid.shape, grid.patch, strict=True) for n in pair]
    rank = grid.ndim
    tokens = images.reshape(batch, grid.channels, *split)
    order = [0, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2), 1]
    return tokens.permute(order).reshape(batch, grid.num_tokens, grid.patch_dim)


def unpatchify(patches: Float[Tensor, "b n p"], grid: Grid) -> Float[Tensor, "b c *s"]:
    """Put tokens back into images; the inverse of `patchify`."""
    rank = grid.ndim
    tokens = patches.reshape(patches.shape[0], *grid.shape, *grid.patch, grid.channels)
    order = [0, 2 * rank + 1, *(a for i in range(rank) for a in (1 + i, 1 + rank + i))]
    return tokens.permute(order).reshape(patches.shape[0], grid.channels, *grid.image_size)


def subdivide(
    patches: Float[Tensor, "b n p"], coarse: Grid, parts: Sequence[int]
) -> Float[Tensor, "b *s q"]:
    """Cut every patch of a grid into smaller ones, in `patchify`'s order inside and outside.

    Args:
        patches: of the coarse grid.
        coarse: its geometry.
        parts: smaller patches per axis of a patch; must divide it.

    Returns:
        the patches of the finer grid, one axis per axis of the grid.
    """
    rank, batch = coarse.ndim, patches.shape[0]
    inner = [n for p, k in zip(coarse.patch, parts, strict=True) for n in (k, p // k)]
    x = patches.reshape(batch, *coarse.shape, *inner, coarse.channels)
    order = [0, *(a for i in range(rank) for a in (1 + i, 1 + rank + 2 * i))]
    order += [*range(2 + rank, 2 + 3 * rank, 2), 1 + 3 * rank]
    fine = [n * k for n, k in zip(coarse.shape, parts, strict=True)]
    return x.permute(order).reshape(batch, *fine, -1)
