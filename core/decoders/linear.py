"""The linear decoder: each token is mapped to its own target (simmim.md, step 4)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import flops
from ..encoders.contract import Features
from ..errors import UsageError
from ..grid import Grid
from ..masking.plan import MaskPlan
from ..tokens import take
from .contract import Predictor


class LinearDecoder(Predictor):
    """A linear map of the tokens that are asked for, of an encoder that works on the whole grid.

    Args:
        grid: geometry of the tokens.
        encoder_dim: width of the features.
        out_dim: numbers predicted per token.
    """

    def __init__(self, grid: Grid, encoder_dim: int, out_dim: int) -> None:
        super().__init__()
        self.num_tokens = grid.num_tokens
        self.head = nn.Linear(encoder_dim, out_dim)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for the tokens at `index` (by default those the plan asks for).

        Raises:
            UsageError: when the encoder dropped hidden tokens.
        """
        tokens = features.last
        if not torch.compiler.is_compiling() and tokens.shape[1] != self.num_tokens:
            raise UsageError(
                f"{tokens.shape[1]} encoded tokens of {self.num_tokens}",
                "are not the whole grid that a linear decoder needs",
                "give the method a corruption such as MaskToken",
            )
        return self.head(take(tokens, plan.predict if index is None else index))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one sample's forward."""
        del num_context
        return flops.linear(num_predict, self.head.in_features, self.head.out_features)
