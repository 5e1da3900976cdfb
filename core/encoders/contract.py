"""What an encoder gives to heads."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Represented tokens.

    Args:
        last: final-normed tokens, without prefix tokens.
        prefix: final-normed class and register tokens (r may be 0).
        taps: raw output of requested blocks by zero-based index, prefix tokens in front.
        readable: true where a token (prefix included) may be read; None when all may.
    """

    last: Float[Tensor, "b v d"]
    prefix: Float[Tensor, "b r d"]
    taps: dict[int, Float[Tensor, "b t d"]] = field(default_factory=dict)
    readable: Bool[Tensor, "b t"] | None = None

    @property
    def sequence(self) -> Float[Tensor, "b t d"]:
        """Prefix tokens and tokens, final-normed."""
        return torch.cat([self.prefix, self.last], dim=1)

    def context(self, tap: int) -> Float[Tensor, "b t d"]:
        """Return the final sequence for tap -1, the raw output of a block otherwise."""
        return self.sequence if tap < 0 else self.taps[tap]
