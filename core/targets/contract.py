"""What a target gives to a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from ..context import Context
from ..grid import Grid


@dataclass(frozen=True)
class TargetValue:
    """The truth for some tokens.

    Args:
        values: numbers to be predicted.
        weight: one for every number (or for every token, t = 1) that counts, else zero; None when
            all count.
    """

    values: Float[Tensor, "b q t"]
    weight: Float[Tensor, "b q #t"] | None = None


@runtime_checkable
class Target(Protocol):
    """Anything that states the truth for tokens. It is called without gradient."""

    def out_dim(self, grid: Grid) -> int:
        """Return how many numbers a token has."""
        ...

    def __call__(self, context: Context, index: Int[Tensor, "b q"]) -> TargetValue:
        """Return the truth for the tokens at `index`."""
        ...
