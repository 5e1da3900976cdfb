"""What every predictor of a method offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn

from ..encoders.contract import Features
from ..masking.plan import MaskPlan


class Trunk(nn.Module, ABC):
    """Computes once, behind the encoder, what several predictors of a method share.

    Attributes:
        taps: encoder blocks whose raw output is read, as of a `Predictor`.
    """

    taps: tuple[int, ...] = ()

    @abstractmethod
    def forward(self, features: Features, plan: MaskPlan) -> Float[Tensor, "b n w"]:
        """Return tokens that predictors find in `Features.trunk`."""

    @abstractmethod
    def forward_flops(self, num_context: int) -> int:
        """Return the FLOP of one sample's forward; see `Predictor.forward_flops`."""


class Predictor(nn.Module, ABC):
    """Guesses a token's target from encoded tokens.

    Attributes:
        taps: encoder blocks whose raw output is read, zero-based; the final output is always there.
    """

    taps: tuple[int, ...] = ()

    @abstractmethod
    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for the tokens at `index` (by default those the plan asks for)."""

    @abstractmethod
    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one sample's forward.

        Args:
            num_context: tokens that the encoder gives, prefix tokens included.
            num_predict: tokens that are predicted.
        """
