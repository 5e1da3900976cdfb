"""Features of frozen encoders: tokens of an image pooled into one vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..batch import Batch
from ..encoders.contract import Encoder, Features
from ..errors import UsageError
from ..grid import patchify


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How a frozen encoder's tokens become one vector."""

    taps: tuple[int, ...] = (-1,)
    """Blocks that are read, zero-based; -1 is the final-normed output."""
    std: bool = True
    """Add the deviation of the tokens, which tells texture from a flat mean."""
    class_token: bool = False
    """Add the class and register tokens."""
    min_valid: float = 0.5
    """Tokens with a smaller share of valid pixels are left out."""

    def check(self, encoder: Encoder) -> None:
        """Raise UsageError when a tap does not exist in the encoder."""
        for tap in self.taps:
            if not -1 <= tap < encoder.depth:
                raise UsageError(
                    f"pooling tap {tap}",
                    f"is not a block of an encoder with {encoder.depth} blocks",
                    f"use 0 to {encoder.depth - 1}, or -1 for the final output",
                )


def token_statistics(
    tokens: Float[Tensor, "b n d"], readable: Bool[Tensor, "b n"] | None, *, std: bool
) -> list[Float[Tensor, "b d"]]:
    """Return the mean over tokens and, if asked for, their standard deviation.

    Args:
        tokens: of some images.
        readable: true for tokens that hold data; an image without any gets zeros.
        std: also return the deviation (of the population, so that one token gives zero).
    """
    if readable is None:
        weight = tokens.new_full((*tokens.shape[:2], 1), 1.0 / tokens.shape[1])
    else:
        weight = readable[..., None].to(tokens.dtype)
        weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(1.0)
    mean = (tokens * weight).sum(dim=1)
    if not std:
        return [mean]
    variance = ((tokens - mean[:, None]).square() * weight).sum(dim=1)
    return [mean, variance.clamp_min(0.0).sqrt()]


def tap_sequence(features: Features, tap: int) -> Float[Tensor, "b t d"]:
    """Return a tap with its prefix tokens in front.

    Raw block outputs are normalised without learned scale, so that a block with large numbers does
    not drown the others.
    """
    sequence = features.context(tap)
    return sequence if tap < 0 else functional.layer_norm(sequence, sequence.shape[-1:])


def pool(
    features: Features, pooling: Pooling, num_prefix: int, taps: Sequence[int] | None = None
) -> Float[Tensor, "b f"]:
    """Pool the tokens of each image.

    Args:
        features: of an encoder.
        pooling: what is taken.
        num_prefix: class and register tokens in front of every sequence.
        taps: blocks to read instead of the pooling's own.
    """
    readable = None if features.readable is None else features.readable[:, num_prefix:]
    parts: list[Tensor] = []
    for tap in pooling.taps if taps is None else taps:
        sequence = tap_sequence(features, tap)
        parts += token_statistics(sequence[:, num_prefix:], readable, std=pooling.std)
        if pooling.class_token:
            parts.append(sequence[:, :num_prefix].flatten(1))
    return torch.cat(parts, dim=-1)


def filled(
    batch: Batch, patch: Sequence[int]
) -> tuple[Float[Tensor, "b c *s"], Float[Tensor, "b n"] | None]:
    """Return images with zeros where there is no data, and the valid share of every token."""
    if batch.valid is None or bool(batch.valid.all()):
        return batch.images, None
    images = torch.where(batch.valid[:, None], batch.images, 0.0)
    return images, patchify(batch.valid[:, None].to(images.dtype), patch).mean(dim=-1)


def frozen_features(encoder: Encoder, batch: Batch, pooling: Pooling) -> Features:
    """Run an encoder on all tokens that hold data and keep the taps of a pooling.

    Raises:
        UsageError: for a tap that does not exist, other channels, or a size the patch does not fit.
    """
    pooling.check(encoder)
    images, weight = filled(batch, encoder.grid.patch)
    absent = None if weight is None else weight < pooling.min_valid
    return encoder.encode(images, taps=[tap for tap in pooling.taps if tap >= 0], absent=absent)


@torch.inference_mode()
def image_features(encoder: Encoder, batch: Batch, pooling: Pooling) -> Float[Tensor, "b f"]:
    """Return one float32 vector per image of a batch.

    Raises:
        UsageError: see `frozen_features`.
    """
    features = frozen_features(encoder, batch, pooling)
    return pool(features, pooling, encoder.num_prefix_tokens).float()


@torch.inference_mode()
def token_features(encoder: Encoder, batch: Batch, pooling: Pooling) -> Float[Tensor, "b n f"]:
    """Return one float32 vector per token: the pooling's taps joined, nothing averaged.

    Cells of a coarser or finer map than the tokens stand for the tokens that lie in them.

    Raises:
        UsageError: see `frozen_features`.
    """
    features, prefix = frozen_features(encoder, batch, pooling), encoder.num_prefix_tokens
    sides = zip(batch.images.shape[2:], encoder.grid.patch, strict=True)
    shape = tuple(length // patch for length, patch in sides)
    taps = [
        on_tokens(tap_sequence(features, tap)[:, prefix:], encoder.map_shape(shape, tap), shape)
        for tap in pooling.taps
    ]
    return torch.cat(taps, dim=-1).float()


def on_tokens(
    cells: Float[Tensor, "b m d"], have: Sequence[int], wanted: Sequence[int]
) -> Float[Tensor, "b n d"]:
    """Return the nearest cell of every token.

    Args:
        cells: of a map, in raster order.
        have: cells per axis.
        wanted: tokens per axis.
    """
    if tuple(have) == tuple(wanted):
        return cells
    grid = cells.transpose(1, 2).unflatten(-1, tuple(have))
    return functional.interpolate(grid, tuple(wanted), mode="nearest").flatten(2).transpose(1, 2)
