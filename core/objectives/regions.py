"""An objective on regions of several tokens, which may be hidden in part (localmim.md, step 6)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ..context import Context
from ..decoders.pyramid import RegionDecoder
from ..encoders.contract import Features
from ..grid import Grid
from ..masking.plan import MaskPlan
from ..method import HeadResult, Objective
from ..regions import region_sum
from ..targets.regions import RegionTarget
from ..tokens import put
from .dense import TokenLoss
from .reduce import reduce


def num_hidden(plan: MaskPlan, grid: Grid, factor: int) -> Float[Tensor, "b m"]:
    """Return how many tokens of each region are predicted and hold data.

    Over the tokens of a region this is the published fractional weight; the weighted mean over
    regions is the same.
    """
    none = torch.zeros(len(plan.predict), grid.num_tokens, device=plan.predict.device)
    tokens = put(none, plan.predict, plan.predict_weight)
    return region_sum(tokens[..., None], grid.shape, factor)[..., 0]


class RegionHead(Objective):
    """One objective on all regions, weighted by how much of each is hidden.

    Args:
        predictor: guesses the target of every region.
        target: called without gradient as target(context).
        loss: per-region loss.
        weight: factor in the sum over objectives.
    """

    def __init__(
        self,
        predictor: RegionDecoder,
        target: RegionTarget,
        loss: TokenLoss,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.predictor, self.target, self.loss, self.weight = predictor, target, loss, weight

    def forward(
        self,
        features: Features,
        plan: MaskPlan,
        context: Context,
        earlier: Mapping[str, HeadResult],
    ) -> HeadResult:
        """Compare predictions of the regions with the truth."""
        with torch.no_grad():
            truth = self.target(context)
        del earlier
        per_region, weight = self.loss(self.predictor(features, plan), truth)
        weight = weight * num_hidden(plan, context.grid, self.predictor.factor)
        return HeadResult(reduce(per_region, weight))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of the predictor."""
        del num_predict
        return self.predictor.forward_flops(num_context)

    @property
    def taps(self) -> tuple[int, ...]:
        """Encoder blocks whose output the predictor reads."""
        return self.predictor.taps
