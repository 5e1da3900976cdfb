"""Masks that need no content: random, random units, random blocks. Each is a score and a top-k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..context import Context
from ..errors import UsageError
from .plan import MaskPlan, plan_from_scores


@runtime_checkable
class MaskStrategy(Protocol):
    """Anything that turns a context into a plan; counts are fixed by the recipe.

    A strategy that computes with features states it in a method `forward_flops(encoder)`.
    """

    @property
    def num_visible(self) -> int:
        """Tokens that the encoder sees."""
        ...

    @property
    def num_predict(self) -> int:
        """Tokens that are predicted."""
        ...

    def __call__(self, context: Context) -> MaskPlan:
        """Return the roles of the batch's tokens."""
        ...


@dataclass(frozen=True)
class RandomMask:
    """Uniform random masking: the tokens with the smallest noise are seen (mae.md, step 3).

    Args:
        num_visible: tokens that are seen.
        num_predict: tokens that are predicted, from the rest.
        shared: give all rows of a batch the same mask (localmim.md, "Swin", step 1), as far as
            their tokens hold data.
    """

    num_visible: int
    num_predict: int
    shared: bool = False

    def __call__(self, context: Context) -> MaskPlan:
        """Draw one noise value per token."""
        batch, num_tokens = context.patches.shape[:2]
        noise = context.noise.uniform("mask", (1 if self.shared else batch, num_tokens))
        score, absent = -noise.to(context.patches.device), context.absent
        if self.shared and absent is not None:
            score = score.expand(batch, -1)
        plan = plan_from_scores(score, self.num_visible, self.num_predict, absent=absent)
        if len(plan.visible) == batch:
            return plan
        return MaskPlan(plan.visible.expand(batch, -1), plan.predict.expand(batch, -1))


@dataclass(frozen=True)
class UnitMask:
    """Random masking in units of several tokens, so that hidden regions are coarse.

    Args:
        num_visible: tokens that are seen.
        num_predict: tokens that are predicted.
        unit: tokens per unit along every axis (simmim.md uses 32 px units).
    """

    num_visible: int
    num_predict: int
    unit: int

    def __call__(self, context: Context) -> MaskPlan:
        """Draw one noise value per unit; token noise cuts a unit that does not fit the count."""
        score = -unit_noise(context, self.unit)
        return plan_from_scores(score, self.num_visible, self.num_predict, absent=context.absent)


def unit_noise(context: Context, unit: int) -> Float[Tensor, "b n"]:
    """Return noise per token of each sample that is the same inside a unit, up to its last digits.

    Args:
        context: tells the grid; draws have a row per sample, however many views it has.
        unit: tokens per unit along every axis.
    """
    shape, num = context.grid.shape, context.num_samples
    coarse = tuple(-(-n // unit) for n in shape)
    noise = context.noise.uniform("unit", (num, 1, *coarse)).to(context.patches.device)
    for axis, length in enumerate(shape):
        noise = noise.repeat_interleave(unit, dim=2 + axis).narrow(2 + axis, 0, length)
    fine = context.noise.uniform("mask", (num, context.grid.num_tokens)).to(noise.device)
    return noise.flatten(1) + 1e-6 * fine


@dataclass(frozen=True)
class BlockMask:
    """Random rectangles are hidden one after the other until the count is reached (BEiT style).

    The rectangles are drawn at once and turned into a score, the rank of the first rectangle that
    covers a token, so that the hidden count is exact and no loop waits for a coverage.

    Args:
        num_visible: tokens that are seen.
        num_predict: tokens that are predicted.
        num_blocks: rectangles drawn.
        min_share: smallest area of a rectangle, as a share of the grid.
        max_share: largest area.
        max_aspect: largest ratio of two sides.
    """

    num_visible: int
    num_predict: int
    num_blocks: int = 16
    min_share: float = 0.05
    max_share: float = 0.25
    max_aspect: float = 3.0

    def __post_init__(self) -> None:
        if not 0.0 < self.min_share <= self.max_share <= 1.0 or self.max_aspect < 1.0:
            raise UsageError(
                f"min_share {self.min_share}, max_share {self.max_share}, "
                f"max_aspect {self.max_aspect}",
                "do not describe rectangles",
                "use 0 < min_share <= max_share <= 1 and max_aspect >= 1",
            )

    def __call__(self, context: Context) -> MaskPlan:
        """Hide the tokens that the earliest rectangles cover."""
        covered = self.rectangles(context)
        rank = torch.arange(self.num_blocks, device=covered.device)
        first = torch.where(covered, rank[None, :, None], self.num_blocks).amin(dim=1).float()
        noise = context.noise.uniform("mask", context.patches.shape[:2]).to(covered.device)
        return plan_from_scores(
            first + noise, self.num_visible, self.num_predict, absent=context.absent
        )

    def rectangles(self, context: Context) -> Bool[Tensor, "b k n"]:
        """Return which tokens each of the random boxes covers."""
        shape, rank = context.grid.shape, context.grid.ndim
        draws = context.noise.uniform(
            "block", (context.batch_size, self.num_blocks, 1 + 2 * rank)
        ).to(context.patches.device)
        share = self.min_share + (self.max_share - self.min_share) * draws[..., 0]
        log_aspect = (2 * draws[..., 1 : 1 + rank] - 1) * 0.5 * torch.tensor(self.max_aspect).log()
        log_aspect = log_aspect - log_aspect.mean(dim=-1, keepdim=True)
        inside = torch.ones(*draws.shape[:2], *shape, dtype=torch.bool, device=draws.device)
        for axis, length in enumerate(shape):
            side = (share ** (1 / rank) * log_aspect[..., axis].exp() * length).round()
            side = side.clamp(1, length)
            start = (draws[..., 1 + rank + axis] * (length - side + 1)).floor()
            at = torch.arange(length, device=draws.device)
            hit = (at >= start[..., None]) & (at < (start + side)[..., None])
            view = [1] * rank
            view[axis] = length
            inside = inside & hit.reshape(*hit.shape[:2], *view)
        return inside.flatten(2)


def token_mean(maps: Float[Tensor, "b c *s"], context: Context) -> Float[Tensor, "b n"]:
    """Average a per-pixel map over each token and over channels."""
    pool = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
    pooled = pool[context.grid.ndim](maps.mean(dim=1, keepdim=True), context.grid.patch)
    return pooled.flatten(1)
