"""Objectives on the tokens that the encoder has seen (dmjd.md, step 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import flops
from ..context import Context
from ..decoders.contract import Predictor
from ..encoders.contract import Features
from ..layers import init_transformer
from ..masking.plan import MaskPlan
from ..method import Head, HeadResult
from ..targets.contract import Target
from ..tokens import take
from .dense import TokenLoss


class TokenProjector(Predictor):
    """Three linear layers with norms, and a linear map to the target, on each token for itself.

    Args:
        encoder_dim: width of the features.
        dim: width between.
        out_dim: numbers predicted per token.
        num_prefix: class and register tokens of the encoder.
    """

    def __init__(self, encoder_dim: int, dim: int, out_dim: int, num_prefix: int = 0) -> None:
        super().__init__()
        self.num_prefix = num_prefix
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

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for visible tokens, by default for all in the encoder's order."""
        values = self.predictor(self.proj(features.last))
        if index is None:
            return values
        place = (plan.visible[:, None] == index[..., None]).int().argmax(dim=2)
        return take(values, place)

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP for the visible tokens of one sample."""
        del num_predict
        layers = [part for part in self.modules() if isinstance(part, nn.Linear)]
        num = num_context - self.num_prefix
        return sum(flops.linear(num, part.in_features, part.out_features) for part in layers)


class VisibleHead(Head):
    """Visible tokens predict their own targets.

    Args:
        predictor: maps final features of tokens.
        target: called without gradient as target(context, index).
        loss: per-token loss.
        weight: factor in the sum over heads.
        raster_targets: take the targets in raster order whatever the order of the tokens, which
            compares most tokens with the target of another one, as the release of DMJD does.
    """

    def __init__(
        self,
        predictor: TokenProjector,
        target: Target,
        loss: TokenLoss,
        weight: float = 1.0,
        *,
        raster_targets: bool = False,
    ) -> None:
        super().__init__(predictor, target, loss, weight)
        self.raster_targets = raster_targets

    def forward(
        self,
        features: Features,
        plan: MaskPlan,
        context: Context,
        earlier: Mapping[str, HeadResult],
    ) -> HeadResult:
        """Compare predictions of visible tokens with the truth."""
        index = plan.visible.sort(dim=1).values if self.raster_targets else plan.visible
        return super().forward(features, replace(plan, predict=index), context, earlier)
