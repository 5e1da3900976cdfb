"""The two masks of an image as the release of DMJD draws them (dmjd.md, steps 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from jaxtyping import Int
from torch import Tensor

from ..context import Context
from ..errors import UsageError
from ..grid import Grid
from ..tokens import membership, take
from ..views import join_plans
from .plan import MaskPlan, complete_plan


@dataclass(frozen=True)
class UnitList:
    """Units of a grid in raster order, and their tokens in the order of the release.

    Args:
        shape: tokens per axis.
        unit: tokens per unit along every axis; must divide the grid.

    Raises:
        UsageError: when units do not fit the grid.
    """

    shape: tuple[int, ...]
    unit: int

    def __post_init__(self) -> None:
        if any(length % self.unit for length in self.shape):
            raise UsageError(
                f"grid {self.shape}",
                f"is not made of whole units of {self.unit} tokens per side, as published",
                "leave as_published off, or use another image size",
            )

    @classmethod
    def of(cls, grid: Grid, unit: int) -> UnitList:
        """Return the units of a grid."""
        return cls(grid.shape, unit)

    @property
    def coarse(self) -> tuple[int, ...]:
        """Units per axis."""
        return tuple(length // self.unit for length in self.shape)

    @property
    def num_units(self) -> int:
        """Units of the grid."""
        return prod(self.coarse)

    def noise(self, context: Context) -> Tensor:
        """Draw one number per unit of each sample."""
        draw = context.noise.uniform("unit", (context.num_samples, 1, *self.coarse))
        return draw.flatten(1).to(context.patches.device)

    def tokens(self, units: Int[Tensor, "b u"]) -> Int[Tensor, "b v"]:
        """Return the tokens of units: the first one of every unit, then the second ones, ..."""
        axes, rest = [], units
        for length in reversed(self.coarse):
            axes.append(rest % length * self.unit)
            rest = rest // length
        parts = []
        for offset in product(range(self.unit), repeat=len(self.shape)):
            index = torch.zeros_like(units)
            for axis, shift, length in zip(reversed(axes), offset, self.shape, strict=True):
                index = index * length + axis + shift
            parts.append(index)
        return torch.cat(parts, dim=1)

    def of_tokens(self, tokens: Int[Tensor, "b u"]) -> Int[Tensor, "b u"]:
        """Return the units in which tokens lie."""
        unit, factor, rest = torch.zeros_like(tokens), 1, tokens
        for length in reversed(self.shape):
            unit = unit + rest % length // self.unit * factor
            factor, rest = factor * (length // self.unit), rest // length
        return unit


@dataclass(frozen=True)
class OrderedUnitMask:
    """The units with the smallest noise are seen, in the order of the release.

    Args:
        units: of the grid.
        num_seen: units that are seen.
    """

    units: UnitList
    num_seen: int

    @property
    def num_visible(self) -> int:
        """Tokens that are seen."""
        return self.num_seen * self.units.unit ** len(self.units.shape)

    @property
    def num_predict(self) -> int:
        """Tokens that are predicted: all others."""
        return prod(self.units.shape) - self.num_visible

    def __call__(self, context: Context) -> MaskPlan:
        """Draw one noise value per unit."""
        return self.plan(self.units.noise(context).argsort(dim=1)[:, : self.num_seen], context, 0)

    def plan(self, seen: Int[Tensor, "b u"], context: Context, view: int) -> MaskPlan:
        """Return the plan that shows some units of a view."""
        num = context.num_samples
        absent = None if context.absent is None else context.absent[view * num : (view + 1) * num]
        score = torch.zeros(num, context.grid.num_tokens, device=seen.device)
        return complete_plan(self.units.tokens(seen), self.num_predict, score, absent)


@dataclass(frozen=True)
class SharedComplement:
    """The second view hides what the first one shows, by permutations that a batch shares.

    Args:
        mask: of the first view.
        num_swapped: units that are seen in the first view only.
    """

    mask: OrderedUnitMask
    num_swapped: int

    @property
    def num_views(self) -> int:
        """Two."""
        return 2

    @property
    def same_image(self) -> bool:
        """Both views are of one crop."""
        return True

    def __call__(self, context: Context, first: MaskPlan) -> MaskPlan:
        """Return the plans of both views."""
        units, num_seen = self.mask.units, self.mask.num_seen
        num_hidden, device = units.num_units - num_seen, first.visible.device
        seen = units.of_tokens(first.visible[:, :num_seen])
        noise = units.noise(context).masked_fill(membership(seen, units.num_units), 2.0)
        hidden = noise.argsort(dim=1)[:, :num_hidden]
        draws = [("perm_visible", num_seen), ("perm_masked", num_hidden)]
        of_seen, of_hidden = (
            context.noise.uniform(name, (size,)).to(device).argsort().expand(len(seen), -1)
            for name, size in draws
        )
        kept = take(seen, of_seen[:, self.num_swapped :])
        shown = take(hidden, of_hidden[:, num_hidden - self.num_swapped :])
        second = self.mask.plan(torch.cat([kept, shown], dim=1), context, 1)
        return join_plans(first, second)
