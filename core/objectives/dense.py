"""Per-token losses, in float32 whatever the model computes in."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..targets.contract import TargetValue

TokenLoss = Callable[[Tensor, TargetValue], tuple[Tensor, Tensor]]


def _token_mean(
    error: Float[Tensor, "b q t"], weight: Float[Tensor, "b q #t"] | None
) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q"]]:
    if weight is None:
        mean = error.mean(dim=-1)
        return mean, mean.new_ones(mean.shape)
    if weight.shape[-1] == 1:  # a token counts as a whole or not at all
        counts = (weight[..., 0] > 0).float()
        return error.mean(dim=-1) * counts, counts
    total = weight.sum(dim=-1)
    return (error * weight).sum(dim=-1) / total.clamp_min(1.0), (total > 0).float()


def l2(
    prediction: Float[Tensor, "b q t"], target: TargetValue
) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q"]]:
    """Return the mean squared error of each token and one where the token counts."""
    error = functional.mse_loss(prediction.float(), target.values, reduction="none")
    return _token_mean(error, target.weight)


def l1(
    prediction: Float[Tensor, "b q t"], target: TargetValue
) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q"]]:
    """Return the mean absolute error of each token and one where the token counts."""
    return _token_mean((prediction.float() - target.values).abs(), target.weight)


def smooth_l1(
    prediction: Float[Tensor, "b q t"], target: TargetValue, beta: float = 1.0
) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q"]]:
    """Return the error, squared up to `beta`, of each token and one where the token counts."""
    error = functional.smooth_l1_loss(
        prediction.float(), target.values, reduction="none", beta=beta
    )
    return _token_mean(error, target.weight)


def unit_l2(
    prediction: Float[Tensor, "b q t"], target: TargetValue
) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q"]]:
    """Return the squared distance of each token's direction to its truth, a unit vector."""
    near = functional.normalize(prediction.float(), dim=-1)
    mean, counts = _token_mean((near - target.values).square(), target.weight)
    return mean * prediction.shape[-1], counts
