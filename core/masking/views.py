"""How the masks of a second view follow from that of the first one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..context import Context
from ..tokens import membership
from ..views import join_plans
from .plan import MaskPlan, plan_from_scores
from .strategies import unit_noise


@dataclass(frozen=True)
class DisjointView:
    """The second view sees other places than the first one (lut.md, step 3).

    Of what the first view hides, the tokens with the smallest noise are seen. With the noise of
    a `RandomMask` these are the next ones of its order; with fresh noise that is the same draw.

    Args:
        num_visible: tokens that are seen; at most half of the grid.
        num_predict: tokens that are predicted.
        unit: tokens per side of what is hidden as a whole, as of a `UnitMask`.
        same_image: both views are of one crop, even where a batch brings two.
    """

    num_visible: int
    num_predict: int
    unit: int = 1
    same_image: bool = False

    @property
    def num_views(self) -> int:
        """Two."""
        return 2

    def __call__(self, context: Context, first: MaskPlan) -> MaskPlan:
        """Return the plans of both views."""
        num, num_tokens = context.num_samples, context.grid.num_tokens
        absent = None if context.absent is None else context.absent[num:]
        if self.unit == 1:
            noise = context.noise.uniform("mask", (num, num_tokens)).to(first.visible.device)
        else:
            noise = unit_noise(context, self.unit)
        # Where too little is left, some of what the first view saw is seen again.
        score = -(noise + 2.0 * membership(first.visible, num_tokens))
        second = plan_from_scores(score, self.num_visible, self.num_predict, absent=absent)
        if absent is not None and first.absent is None:
            assert context.absent is not None
            first = replace(first, absent=context.absent[:num])
        return join_plans(first, second)
