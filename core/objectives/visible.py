"""Objectives on the tokens that the encoder has seen (dmjd.md, step 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import flops
from ..context import Context
from ..encoders.contract import Features
from ..layers import init_transformer
from ..masking.plan import MaskPlan
from ..method import HeadResult, Objective
from ..targets.contract import Target
from ..tokens import take
from .dense import TokenLoss
from .reduce import reduce


class TokenProjector(nn.Module):
    """Three linear layers with norms, and a linear map to the target, on each token for itself.

    Args:
        encoder_dim: width of the features.
        dim: width between.
        out_dim: numbers predicted per token.
    """

    def __init__(self, encoder_dim: int, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(encoder_dim, dim),
            nn.LayerNorm(dim, eps=1e-6),
            nn.GELU(),
            nn.Linear(dim, dim),
            nn.LayerNorm(dim, eps=1e-6),
            nn.GELU(),
            nn.Linear(dim, dim),
            nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False),
        )
        self.predictor = nn.Sequential(nn.Linear(dim, out_dim))
        init_transformer(self)

    def forward(self, tokens: Float[Tensor, "b v d"]) -> Float[Tensor, "b v t"]:
        """Predict each token's target."""
        return self.predictor(self.proj(tokens))

    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP for tokens of one sample."""
        layers = [part for part in self.modules() if isinstance(part, nn.Linear)]
        return sum(flops.linear(num_tokens, p.in_features, p.out_features) for p in layers)


class VisibleHead(Objective):
    """Visible tokens predict their own targets.

    Args:
        predictor: maps final features of tokens.
        target: called without gradient as target(context, index).
        loss: per-token loss.
        weight: factor in the sum over objectives.
        num_prefix: class and register tokens of the encoder.
        raster_targets: take the targets in raster order whatever the order of the tokens, which
            compares most tokens with the target of another one, as the release does.
    """

    def __init__(
        self,
        predictor: TokenProjector,
        target: Target,
        loss: TokenLoss,
        weight: float = 1.0,
        *,
        num_prefix: int = 0,
        raster_targets: bool = False,
    ) -> None:
        super().__init__()
        self.predictor, self.target, self.loss, self.weight = predictor, target, loss, weight
        self.num_prefix, self.raster_targets = num_prefix, raster_targets

    def forward(
        self,
        features: Features,
        plan: MaskPlan,
        context: Context,
        earlier: Mapping[str, HeadResult],
    ) -> HeadResult:
        """Compare predictions of visible tokens with the truth."""
        del earlier
        prediction = self.predictor(features.last)
        index = plan.visible.sort(dim=1).values if self.raster_targets else plan.visible
        with torch.no_grad():
            truth = self.target(context, index)
        per_token, weight = self.loss(prediction, truth)
        if plan.absent is not None:
            weight = weight * (~take(plan.absent, index)).float()
        return HeadResult(reduce(per_token, weight), prediction, per_token, weight)

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of the predictor on visible tokens."""
        del num_predict
        return self.predictor.forward_flops(num_context - self.num_prefix)
