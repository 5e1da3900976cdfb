"""What an encoder gives to heads."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Represented tokens.

    Args:
        sequence: final-normed tokens, prefix tokens in front.
        num_prefix: class and register tokens among them (may be 0).
        taps: raw output of requested blocks by zero-based index, prefix tokens in front.
        readable: true where a token (prefix included) may be read; None when all may.
    """

    sequence: Float[Tensor, "b t d"]
    num_prefix: int
    taps: dict[int, Float[Tensor, "b t d"]] = field(default_factory=dict)
    readable: Bool[Tensor, "b t"] | None = None

    @property
    def last(self) -> Float[Tensor, "b v d"]:
        """Final-normed tokens without the prefix."""
        return self.sequence[:, self.num_prefix :]

    @property
    def prefix(self) -> Float[Tensor, "b r d"]:
        """Final-normed class and register tokens."""
        return self.sequence[:, : self.num_prefix]

    def context(self, tap: int) -> Float[Tensor, "b t d"]:
        """Return the final sequence for tap -1, the raw output of a block otherwise."""
        return self.sequence if tap < 0 else self.taps[tap]
