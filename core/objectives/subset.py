"""A part of the mask counts once more (fsfm.md, step 9)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..context import Context
from ..encoders.contract import Features
from ..masking.plan import MaskPlan
from ..method import HeadResult, Objective
from ..tokens import take
from .reduce import reduce


class SubsetLoss(Objective):
    """Mean loss of another objective's tokens over a subset of the plan; nothing is computed anew.

    A sample without tokens in the subset, such as one without a region map, costs nothing.

    Args:
        of: objective whose token losses are averaged.
        subset: name in `MaskPlan.subsets`.
        weight: factor in the sum over objectives.
        over_batch: divide by the tokens of the whole batch, as published, so that every token
            counts alike. The loss then depends on how a batch is cut.
    """

    def __init__(self, of: str, subset: str, weight: float, *, over_batch: bool = False) -> None:
        super().__init__()
        self.of, self.subset, self.weight, self.over_batch = of, subset, weight, over_batch

    def forward(
        self,
        features: Features,
        plan: MaskPlan,
        context: Context,
        earlier: Mapping[str, HeadResult],
    ) -> HeadResult:
        """Return the loss of every sample."""
        del features, context
        other = earlier[self.of]
        assert other.per_token is not None
        assert other.weight is not None
        inside = plan.subsets.get(self.subset)
        weight: Tensor = torch.zeros_like(other.weight)
        if inside is not None:
            weight = other.weight * take(inside, plan.predict)
        if not self.over_batch:
            return HeadResult(reduce(other.per_token, weight))
        mean_count = weight.sum().clamp_min(1.0) / len(weight)
        return HeadResult((other.per_token * weight).sum(dim=1) / mean_count)

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return no FLOP: the tokens were compared already."""
        del num_context, num_predict
        return 0
