"""Masks that follow a map of regions: one region is hidden whole, of the others a share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..context import Context
from ..errors import UsageError
from ..tokens import membership, take
from .plan import MaskPlan, plan_from_scores

COVERED = "region"
"""Name of the subset of a plan that a region hidden as a whole makes."""
Rest = Literal["random", "proportional", "foreground"]
"""What else is hidden: anything, of every region the same share, or the foreground first."""
# Tiers of the score of being hidden; a draw in [0, 1) orders the tokens of each.
_ABSENT, _COVERED, _CHOSEN = 6.0, 4.0, 2.0


@dataclass(frozen=True)
class Region:
    """A region of images.

    Args:
        name: what it is called.
        classes: a token belongs to it when any of its pixels is of one of these classes ...
        beside: ... and, where this is given, another one of its pixels is of one of these.
    """

    name: str
    classes: tuple[int, ...]
    beside: tuple[int, ...] = ()


@dataclass(frozen=True)
class RegionSet:
    """What the classes of a map mean for masks.

    Args:
        num_classes: classes are 0 to `num_classes` - 1; pixels of any other id belong to no region.
        regions: in the order in which they claim tokens.
        num_drawn: how many of them, from the first, may be hidden as a whole.
        foreground: classes that the `foreground` rule hides first.
    """

    num_classes: int
    regions: tuple[Region, ...]
    num_drawn: int
    foreground: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: for more classes than an integer has bits, or regions that cannot be drawn.
        """
        if not 1 <= self.num_classes <= 61 or not 1 <= self.num_drawn <= len(self.regions):
            raise UsageError(
                f"region set of {self.num_classes} classes, {self.num_drawn} of "
                f"{len(self.regions)} regions drawn",
                "cannot be used",
                "use 1 to 61 classes, and draw from at least one region",
            )


def token_classes(
    maps: Int[Tensor, "b *s"], patch: Sequence[int], num_classes: int
) -> Int[Tensor, "b n"]:
    """Return, as the bits of an integer, the classes that the pixels of each token have.

    Class k is bit k + 1; bit 0 and the bit behind the last class stand for ids that are none.

    Args:
        maps: class of every pixel.
        patch: pixels per axis of a token; must divide the map.
        num_classes: classes that there are.
    """
    dtype = next(t for t in (torch.int16, torch.int32, torch.int64) if num_classes + 2 < _bits(t))
    # In place: for a large batch, fetching memory costs more than the arithmetic.
    place = maps.to(dtype, copy=True).clamp_(-1, num_classes).add_(1)
    one = torch.ones((), dtype=dtype, device=maps.device)
    bits = torch.bitwise_left_shift(one, place, out=place)
    for axis, length in enumerate(patch, 1):
        # Rows first: halves of many rows are long runs of memory.
        bits = _fold(bits.unflatten(axis, (-1, length)), axis + 1).squeeze(axis + 1)
    return bits.flatten(1)


def _bits(dtype: torch.dtype) -> int:
    return torch.iinfo(dtype).bits


def _fold(bits: Tensor, axis: int) -> Tensor:
    """Return the union along an axis, which stays with length one."""
    while (length := bits.shape[axis]) > 1:
        half = length // 2
        parts = [bits.narrow(axis, 0, half) | bits.narrow(axis, half, half)]
        if length % 2:
            parts.append(bits.narrow(axis, length - 1, 1))
        bits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
    return bits


def token_regions(bits: Int[Tensor, "b n"], regions: Sequence[Region]) -> Bool[Tensor, "b g n"]:
    """Return which tokens belong to each region; a token may belong to several.

    Args:
        bits: as `token_classes` returns them.
        regions: what to look for.
    """

    def holds(classes: Sequence[int]) -> Tensor:
        return bits & sum(2 ** (k + 1) for k in classes) != 0

    rows = [holds(r.classes) & holds(r.beside) if r.beside else holds(r.classes) for r in regions]
    return torch.stack(rows, dim=1)


def claims(member: Bool[Tensor, "b g n"], free: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Return the region that claims each token: the first that it belongs to; g where none does.

    Args:
        member: as `token_regions` returns it.
        free: tokens that can be claimed.
    """
    num = member.shape[1]
    claim = torch.full_like(free, num, dtype=torch.int64)
    for region in reversed(range(num)):
        claim.masked_fill_(member[:, region], region)
    return claim.masked_fill_(~free, num)


def same_share(
    claim: Int[Tensor, "b n"],
    noise: Float[Tensor, "b n"],
    share: Float[Tensor, " b"],
    num_regions: int,
) -> Bool[Tensor, "b n"]:
    """Choose the same share of the tokens of every region, those with the smallest noise.

    Args:
        claim: region of each token; none of those from `num_regions` on is chosen.
        noise: in [0, 1).
        share: of each sample; share times tokens is rounded half to even.
        num_regions: regions that there are.
    """
    zeros = torch.zeros(len(claim), num_regions + 1, dtype=torch.int64, device=claim.device)
    counts = zeros.scatter_add(1, claim, torch.ones_like(claim))
    quota = (share[:, None] * counts).round().long()
    quota[:, num_regions:] = 0
    # Float64 holds region and noise together without loss: one sort orders all regions.
    order = (claim.double() + noise.double()).argsort(dim=1)
    region = claim.gather(1, order)
    place = torch.arange(claim.shape[1], device=claim.device)
    place = place - (counts.cumsum(dim=1) - counts).gather(1, region)
    chosen = place < quota.gather(1, region)
    return torch.zeros_like(chosen).scatter(1, order, chosen)


@dataclass(frozen=True)
class RegionMask:
    """Hides one region whole, and of the rest as many tokens as are missing (fsfm.md, steps 2-4).

    Exactly `num_predict` tokens are hidden: a region with more of them is hidden in part. A sample
    without a map, or without any of the regions that can be drawn, is masked at random.

    Absent tokens belong to no region and count as hidden, so that others are hidden less.

    Args:
        num_visible: tokens that are seen.
        num_predict: tokens that are hidden and predicted.
        regions: what the classes of `Batch.regions` mean.
        cover: hide one region whole; it is the subset `COVERED` of the plan.
        rest: what else is hidden.
        shared_draw: draw one region for the whole batch, from all that can be drawn, as the release
            of FSFM does; else one for each sample, from those that it shows.
    """

    num_visible: int
    num_predict: int
    regions: RegionSet
    cover: bool = True
    rest: Rest = "proportional"
    shared_draw: bool = False

    def __call__(self, context: Context) -> MaskPlan:
        """Draw regions and one noise value per token."""
        absent, device = context.absent, context.patches.device
        bits = self.classes(context)
        if absent is not None:
            bits = bits.masked_fill(absent, 0)
        member = token_regions(bits, self.regions.regions)
        covered = self.covered(member, context)
        noise = context.noise.uniform("mask", tuple(bits.shape)).to(device)
        score = self.score(bits, member, covered, noise, absent)
        most = score.topk(self.num_predict, dim=1, sorted=False).indices
        hidden = membership(most, bits.shape[1])
        # Raster order decides who is left out where the counts do not add up to the grid.
        place = torch.arange(bits.shape[1], device=device)
        seen_score = -(place + hidden * bits.shape[1]).float()
        plan = plan_from_scores(
            seen_score,
            self.num_visible,
            self.num_predict,
            predict_score=hidden.float(),
            absent=absent,
        )
        return replace(plan, subsets={COVERED: covered & hidden} if self.cover else {})

    def classes(self, context: Context) -> Int[Tensor, "b n"]:
        """Return the classes of each token as bits; all background without maps."""
        maps, grid = context.regions, context.grid
        if maps is None:
            shape, device = context.patches.shape[:2], context.patches.device
            return torch.full(shape, 2, dtype=torch.int64, device=device)
        return token_classes(maps, grid.patch, self.regions.num_classes)

    def covered(self, member: Bool[Tensor, "b g n"], context: Context) -> Bool[Tensor, "b n"]:
        """Draw a region for each sample and return its tokens; none where it has none."""
        num = self.regions.num_drawn
        if not self.cover:
            return torch.zeros_like(member[:, 0])
        if self.shared_draw:
            draw = context.noise.uniform("region", (1,)).to(member.device)
            drawn = (draw * num).long().expand(len(member))
        else:
            draw = context.noise.uniform("region", (len(member), num)).to(member.device)
            shown = member[:, :num].any(dim=2)
            drawn = draw.masked_fill(~shown, -1.0).argmax(dim=1)
        return take(member, drawn[:, None])[:, 0]

    def score(
        self,
        bits: Int[Tensor, "b n"],
        member: Bool[Tensor, "b g n"],
        covered: Bool[Tensor, "b n"],
        noise: Float[Tensor, "b n"],
        absent: Bool[Tensor, "b n"] | None,
    ) -> Float[Tensor, "b n"]:
        """Return a score whose largest values are hidden.

        Where too many are covered or chosen, those with the smallest noise are seen after all;
        where too few are, of the others those with the smallest noise are hidden.
        """
        free = ~covered if absent is None else ~covered & ~absent
        if self.rest == "proportional":
            num_free = free.sum(dim=1)
            # The rest of the grid is covered or absent, and hidden.
            budget = self.num_predict - (bits.shape[1] - num_free)
            share = budget.clamp_min(0) / num_free.clamp_min(1)
            num = len(self.regions.regions)
            chosen = same_share(claims(member, free), noise, share, num)
        elif self.rest == "foreground":
            whole = Region("foreground", self.regions.foreground)
            chosen = token_regions(bits, (whole,))[:, 0] & free
        else:
            chosen = torch.zeros_like(free)
        fine = noise.double()
        score = torch.where(chosen, _CHOSEN + fine, -fine)
        score = torch.where(covered, _COVERED + fine, score)
        return score if absent is None else score.masked_fill(absent, _ABSENT)
