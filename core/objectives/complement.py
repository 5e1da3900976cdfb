"""Errors outside the subspace that the encoder was shown (ropim.md, step 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..context import Context
from ..encoders.contract import Features
from ..errors import UsageError
from ..masking.plan import MaskPlan
from ..method import Head, HeadResult
from ..targets.contract import TargetValue
from .reduce import reduce


class ComplementHead(Head):
    """A head that answers for all tokens and is scored where the sketch of the plan is blind.

    The residual is projected along tokens onto what the sketch does not keep; `loss` then compares
    it with zero. Numbers without data take part in no projection.
    """

    def forward(
        self,
        features: Features,
        plan: MaskPlan,
        context: Context,
        earlier: Mapping[str, HeadResult],
    ) -> HeadResult:
        """Compare predictions of all tokens with the truth, without what was kept.

        Raises:
            UsageError: when the plan shows tokens instead of a sketch.
        """
        del earlier
        if plan.sketch is None:
            raise UsageError(
                "plan", "holds no sketch of the tokens", "use a mask such as SketchMask"
            )
        prediction = self.predict(features, plan)
        with torch.no_grad():
            truth = self.target(context, plan.predict)
        weight = plan.predict_weight[..., None]
        weight = weight.expand_as(truth.values) if truth.weight is None else weight * truth.weight
        missing = plan.sketch.removed(truth.values - prediction.float(), weight)
        per_token, counts = self.loss(missing, TargetValue(torch.zeros_like(missing), weight))
        return HeadResult(reduce(per_token, counts), prediction, per_token, counts)
