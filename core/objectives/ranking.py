"""Learning which tokens are hard: predictions of another objective's loss (hpm.md, step 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ..decoders.contract import Predictor
from ..encoders.contract import Features
from ..masking.plan import MaskPlan
from ..method import HeadResult, Objective
from ..targets.pixels import standardise

HardnessLoss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(predicted (b, p), true (b, p), weight (b, p)) -> sum and count of every sample's terms (b,)."""


def relative(
    predicted: Float[Tensor, "b p"], true: Float[Tensor, "b p"], weight: Float[Tensor, "b p"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Compare all ordered pairs of tokens: the harder one is to be predicted harder.

    A pair costs -log(sigmoid(difference) + 1e-6) in the direction of the truth; ties cost nothing.
    Every unordered pair counts twice, as published.
    """
    step = predicted[:, None, :] - predicted[:, :, None]
    order = torch.sign(true[:, None, :] - true[:, :, None])
    # One minus a sigmoid is the sigmoid of the negative, without the loss of digits near one.
    cost = -(torch.sigmoid(step * order) + 1e-6).log()
    counts = order.abs() * weight[:, None, :] * weight[:, :, None]
    return (cost * counts).sum(dim=(1, 2)), counts.sum(dim=(1, 2))


def absolute(
    predicted: Float[Tensor, "b p"], true: Float[Tensor, "b p"], weight: Float[Tensor, "b p"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Regress the losses, standardised per image."""
    target = standardise(true[:, None], weight[:, None])[0][:, 0]
    return ((predicted - target).square() * weight).sum(dim=1), weight.sum(dim=1)


class LossPrediction(Objective):
    """Predicts the loss that an earlier objective has on each token.

    Args:
        predictor: its outputs of a token are averaged to one number.
        of: name of the objective whose per-token loss is predicted; it gets no gradient from here.
        loss: `relative` or `absolute`.
        weight: factor in the sum over objectives.
        over_batch: divide by the pairs of the whole batch, as published, and not per image. The
            result then depends on how a batch is cut.
    """

    def __init__(
        self,
        predictor: Predictor,
        of: str,
        loss: HardnessLoss = relative,
        weight: float = 1.0,
        *,
        over_batch: bool = False,
    ) -> None:
        super().__init__()
        self.predictor, self.of, self.loss, self.weight = predictor, of, loss, weight
        self.over_batch = over_batch

    @property
    def taps(self) -> tuple[int, ...]:
        """Encoder blocks whose output the predictor reads."""
        return self.predictor.taps

    def forward(
        self,
        features: Features,
        plan: MaskPlan,
        context: object,
        earlier: Mapping[str, HeadResult],
    ) -> HeadResult:
        """Compare predictions with the detached losses of the same tokens."""
        del context
        other = earlier[self.of]
        assert other.per_token is not None
        assert other.weight is not None
        scores = self.predictor(features, plan).float().mean(dim=-1, keepdim=True)
        true, weight = other.per_token.detach(), other.weight
        total, count = self.loss(scores[..., 0], true, weight)
        if self.over_batch:
            per_sample = total * len(total) / count.sum().clamp_min(1.0)
        else:
            per_sample = total / count.clamp_min(1.0)
        return HeadResult(per_sample, scores)

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of the predictor."""
        return self.predictor.forward_flops(num_context, num_predict)
