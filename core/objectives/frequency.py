"""Losses in the frequency domain, and the focal error that goes with them (a2mim.md, step 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ..context import Context
from ..encoders.contract import Features
from ..grid import unpatchify
from ..masking.plan import MaskPlan
from ..method import HeadResult, Objective
from ..targets.contract import TargetValue
from ..targets.pixels import PixelTarget
from ..tokens import all_tokens, membership
from .dense import l1

ErrorLoss = Callable[[Tensor], Tensor]
"""Absolute errors -> what each of them costs."""
Earlier = Mapping[str, HeadResult]
FILLS = {"target": 0.0, "mixed": 0.5, "prediction": 1.0}
"""Share of the prediction in what stands in for visible pixels."""


def absolute(error: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Count errors as they are."""
    return error


def focal(
    error: Float[Tensor, "*b"], alpha: float = 0.2, gamma: float = 1.0
) -> Float[Tensor, "*b"]:
    """Weigh each error by (2 sigmoid(alpha error) - 1) ^ gamma: small ones count little."""
    return error * (2.0 * torch.sigmoid(alpha * error) - 1.0) ** gamma


def focal_l1(
    prediction: Float[Tensor, "b q t"],
    target: TargetValue,
    alpha: float = 0.2,
    gamma: float = 1.0,
) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q"]]:
    """Return the mean focal error of each token and one where the token counts; see `focal`."""
    cost = focal((prediction.float() - target.values).abs(), alpha, gamma)
    return l1(cost, TargetValue(torch.zeros_like(cost), target.weight))


class FrequencyLoss(Objective):
    """Compares the spectra of predicted and true images, channel by channel.

    The pixels of all tokens are read from the method's trunk. Visible ones are replaced before the
    transform, but for a share, so that only hidden ones are trained.

    Args:
        weight: factor in the sum over objectives.
        error: cost of a coefficient's absolute error; None for the focal frequency loss (Jiang et
            al., ICCV 2021): squared errors, weighted by their logarithm over its maximum.
        visible_share: share of the prediction that stays at visible pixels.
        fill: what else is there: the truth, the prediction without gradient, or half of each.
        target: what the trunk predicts, where that is not the pixels as they are.
        over_batch: average spectra over the batch before the focal loss, as published, and not
            compare those of each image. The loss then depends on how a batch is cut.
    """

    def __init__(
        self,
        weight: float,
        *,
        error: ErrorLoss | None = None,
        visible_share: float = 0.0,
        fill: Literal["target", "mixed", "prediction"] = "mixed",
        target: PixelTarget | None = None,
        over_batch: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.error = weight, error
        self.visible_share, self.fill, self.over_batch = visible_share, fill, over_batch
        self.target = PixelTarget(norm_pix=False) if target is None else target

    def forward(
        self, features: Features, plan: MaskPlan, context: Context, earlier: Earlier
    ) -> HeadResult:
        """Return the loss of every sample."""
        del earlier
        assert features.trunk is not None
        images = unpatchify(self.residual(features.trunk.float(), plan, context), context.grid)
        # Transforms are linear: the spectrum of the difference is the difference of spectra.
        spectrum = torch.fft.fftn(images, dim=tuple(range(2, images.ndim)), norm="ortho")
        if self.error is not None:
            return HeadResult(self.error(spectrum.abs()).flatten(1).mean(dim=1))
        if self.over_batch:
            return HeadResult(focal_frequency(spectrum.mean(0, keepdim=True)).expand(len(images)))
        return HeadResult(focal_frequency(spectrum))

    def residual(
        self, prediction: Float[Tensor, "b n p"], plan: MaskPlan, context: Context
    ) -> Float[Tensor, "b n p"]:
        """Return prediction minus truth, visible tokens mixed and numbers without data zero."""
        every = all_tokens(len(prediction), prediction.shape[1], prediction.device)
        error = prediction - self.target(context, every).values
        hidden = membership(plan.predict, prediction.shape[1])[..., None].float()
        share = hidden + (1.0 - hidden) * self.visible_share
        error = share * error + (1.0 - share) * FILLS[self.fill] * error.detach()
        if context.weight is not None:
            error = error * context.weight.repeat_interleave(context.grid.channels, dim=-1)
        if plan.absent is not None:
            error = error * ~plan.absent[..., None]
        return error

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return no FLOP: transforms are little work, and are not counted as norms are not."""
        del num_context, num_predict
        return 0


def focal_frequency(difference: Complex[Tensor, "b *s"]) -> Float[Tensor, " b"]:
    """Return the mean of squared differences, each weighted by its logarithm over the largest.

    Args:
        difference: of two spectra.
    """
    square = difference.real.square() + difference.imag.square()
    weight = square.detach().sqrt().log1p().flatten(1)
    weight = weight / weight.amax(dim=1, keepdim=True).clamp_min(1e-30)
    return (weight.clamp(0.0, 1.0) * square.flatten(1)).mean(dim=1)
