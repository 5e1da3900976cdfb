"""What stands in for hidden tokens when an encoder works on the whole grid."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .context import Context
from .masking.plan import MaskPlan


class Corruption(nn.Module, ABC):
    """Changes pixels before and tokens inside an encoder that works on the whole grid.

    A method without a corruption drops hidden tokens: its encoder never computes them.
    """

    def fill(self, context: Context, plan: MaskPlan) -> Float[Tensor, "b n p"]:
        """Return the patches that the encoder embeds; by default as they are."""
        del plan
        return context.patches

    @abstractmethod
    def forward(
        self,
        layer: int,
        tokens: Float[Tensor, "b n d"],
        hidden: Bool[Tensor, "b n"],
        context: Context,
    ) -> Float[Tensor, "b n d"]:
        """Return the tokens, changed at hidden places; the same object when nothing changes.

        Args:
            layer: 0 after embedding and before positions, k before block k - 1.
            tokens: of the whole grid in raster order, without prefix.
            hidden: true where the plan does not show a token (absent ones included). An encoder
                with smaller patches inside a token repeats it for each of them.
            context: of the step.
        """


class MaskToken(Corruption):
    """One learned vector replaces every hidden token after embedding (simmim.md, step 2).

    Args:
        dim: width of an embedded token.
        std: of the initial value.
    """

    def __init__(self, dim: int, std: float = 0.02) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.trunc_normal_(self.mask_token, std=std)

    def forward(
        self,
        layer: int,
        tokens: Float[Tensor, "b n d"],
        hidden: Bool[Tensor, "b n"],
        context: Context,
    ) -> Float[Tensor, "b n d"]:
        """Replace hidden tokens at layer 0."""
        del context
        if layer:
            return tokens
        return torch.where(hidden[..., None], self.mask_token.to(tokens.dtype), tokens)


class Mixing(Corruption):
    """Every token is replaced by its projection after embedding (ropim.md, step 3).

    Positions come after it, so that the encoder knows where a mixture stands. Absent tokens take
    part in no mixture.
    """

    def forward(
        self,
        layer: int,
        tokens: Float[Tensor, "b n d"],
        hidden: Bool[Tensor, "b n"],
        context: Context,
    ) -> Float[Tensor, "b n d"]:
        """Project tokens at layer 0 by the sketch of the plan."""
        del hidden
        if layer:
            return tokens
        assert context.plan is not None
        assert context.plan.sketch is not None
        weight = None if context.absent is None else (~context.absent)[..., None].to(tokens.dtype)
        return context.plan.sketch.kept(tokens, weight)
