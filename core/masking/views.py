"""How the masks of a second view follow from that of the first one."""

from __future__ import annotations

from dataclasses import dataclass

from ..context import Context
from ..tokens import membership
from ..views import join_plans
from .plan import MaskPlan, plan_from_scores


@dataclass(frozen=True)
class DisjointView:
    """The second view sees other places than the first one (lut.md, step 3).

    Of what the first view hides, the tokens with the smallest noise are seen. With the noise of
    a `RandomMask` these are the next ones of its order; with fresh noise that is the same draw.

    Args:
        num_visible: tokens that are seen; at most half of the grid.
        num_predict: tokens that are predicted.
    """

    num_visible: int
    num_predict: int

    @property
    def num_views(self) -> int:
        """Two."""
        return 2

    def __call__(self, context: Context, first: MaskPlan) -> MaskPlan:
        """Return the plans of both views."""
        num, num_tokens = context.num_samples, context.grid.num_tokens
        absent = None if context.absent is None else context.absent[num:]
        noise = context.noise.uniform("mask", (num, num_tokens)).to(first.visible.device)
        # Without enough data left, what the first view saw is seen again.
        score = -noise.masked_fill(membership(first.visible, num_tokens), 2.0)
        second = plan_from_scores(score, self.num_visible, self.num_predict, absent=absent)
        if absent is not None and first.absent is None:
            assert context.absent is not None
            first = MaskPlan(first.visible, first.predict, context.absent[:num])
        return join_plans(first, second)
