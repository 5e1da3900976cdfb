"""Errors outside the subspace that the encoder was shown (ropim.md, step 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError
from ..masking.plan import MaskPlan
from ..method import Head
from ..targets.contract import TargetValue


class ComplementHead(Head):
    """A head that answers for all tokens and is scored where the sketch of the plan is blind.

    The residual is projected along tokens onto what the sketch does not keep; `loss` then compares
    it with zero. Numbers without data take part in no projection.
    """

    def compare(
        self, prediction: Float[Tensor, "b q t"], truth: TargetValue, plan: MaskPlan
    ) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q"]]:
        """Return the loss of each token's residual, without what was kept of it.

        Raises:
            UsageError: when the plan shows tokens instead of a sketch.
        """
        if plan.sketch is None:
            raise UsageError(
                "plan", "holds no sketch of the tokens", "use a mask such as SketchMask"
            )
        weight = plan.predict_weight[..., None]
        weight = weight.expand_as(truth.values) if truth.weight is None else weight * truth.weight
        missing = plan.sketch.removed(truth.values - prediction.float(), weight)
        return self.loss(missing, TargetValue(torch.zeros_like(missing), weight))
