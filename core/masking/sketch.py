"""Continuous masks: the encoder is shown mixtures of all tokens, and no token as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..context import Context
from ..sketch import Sketch
from ..tokens import all_tokens
from .plan import MaskPlan


@dataclass(frozen=True)
class SketchMask:
    """A random orthogonal projection of the tokens of each sample (ropim.md, step 1).

    Args:
        num_tokens: of the grid.
        num_buckets: mixtures that are kept; divides the number of tokens.
        scale: see `Sketch`.
        complement: see `Sketch`.
    """

    num_tokens: int
    num_buckets: int
    scale: float | None = None
    complement: bool = False

    @property
    def num_visible(self) -> int:
        """No token is seen as it is."""
        return 0

    @property
    def num_predict(self) -> int:
        """All tokens are predicted."""
        return self.num_tokens

    def __call__(self, context: Context) -> MaskPlan:
        """Draw buckets and signs.

        Tokens that follow each other by less than the number of buckets never share one. Signs
        are balanced, up to one where the number of tokens is odd.
        """
        batch, device = context.batch_size, context.patches.device
        rounds = (batch, self.num_tokens // self.num_buckets, self.num_buckets)
        bucket = context.noise.uniform("hash", rounds).to(device).argsort(dim=2).flatten(1)
        draw = context.noise.uniform("sign", (batch, self.num_tokens)).to(device)
        signs = 2.0 * (torch.arange(self.num_tokens, device=device) % 2) - 1.0
        sketch = Sketch(
            bucket.argsort(dim=1, stable=True),
            signs[draw.argsort(dim=1)],
            self.num_buckets,
            self.scale,
            self.complement,
        )
        every = all_tokens(batch, self.num_tokens, device)
        return MaskPlan(every[:, :0], every, context.absent, sketch)
