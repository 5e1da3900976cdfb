"""A linear decoder of the whole grid that several objectives share."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from ..encoders.contract import Features
from ..grid import Grid
from ..masking.plan import MaskPlan
from ..tokens import all_tokens, take
from .contract import Predictor, Trunk
from .linear import LinearDecoder


class LinearTrunk(Trunk):
    """What a linear decoder says of every token, in raster order.

    Args:
        grid: geometry of the tokens.
        encoder_dim: width of the features.
        out_dim: numbers predicted per token.
    """

    def __init__(self, grid: Grid, encoder_dim: int, out_dim: int) -> None:
        super().__init__()
        self.num_tokens = grid.num_tokens
        self.decoder = LinearDecoder(grid, encoder_dim, out_dim)

    def forward(self, features: Features, plan: MaskPlan) -> Float[Tensor, "b n w"]:
        """Return the prediction of every token."""
        every = all_tokens(len(features.last), self.num_tokens, features.last.device)
        return self.decoder(features, plan, every)

    def forward_flops(self, num_context: int) -> int:
        """Return the FLOP of one sample's forward."""
        return self.decoder.forward_flops(num_context, self.num_tokens)


class TrunkReader(Predictor):
    """Takes what the trunk said of the tokens that are asked for."""

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for the tokens at `index` (by default those the plan asks for)."""
        assert features.trunk is not None
        return take(features.trunk, plan.predict if index is None else index)

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return no FLOP: nothing is computed."""
        del num_context, num_predict
        return 0
