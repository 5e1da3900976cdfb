"""Mask tokens that say nothing yet are kept from visible tokens (mto.md, step 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from . import flops
from .context import Context
from .corruption import MaskToken
from .encoders.contract import Encoder, Features, Neck
from .grid import Grid
from .layers import KeyMask, Reading, attend
from .objectives.heterogeneity import mean_heterogeneity
from .tokens import membership


def recalibrated(share: Float[Tensor, " b"], hidden: Bool[Tensor, "b t"]) -> Reading:
    """Return an attention in which visible queries give hidden keys only a share of their weight.

    Rows are normalised again, which adds the logarithm of the share to those logits. Hidden queries
    read as always.

    Args:
        share: factor of each sample, 0..1; at 0 visible tokens do not see hidden ones.
        hidden: true for hidden tokens, false for the prefix.
    """
    places = ~hidden[:, None, :, None] & hidden[:, None, None, :]
    bias = torch.where(places, share.float().log()[:, None, None, None], 0.0)

    def read(
        q: Float[Tensor, "b h n e"],
        k: Float[Tensor, "b h n e"],
        v: Float[Tensor, "b h n e"],
        key_mask: KeyMask | None = None,
    ) -> Float[Tensor, "b n w"]:
        return attend(q, k, v, key_mask, bias)

    return read


class RecalibratedToken(MaskToken):
    """A mask token that visible tokens read the more, the more it has become like them.

    In every block the share is one minus the mean heterogeneity of the predicted tokens at the
    block's input, without gradient.

    Args:
        dim: width of an embedded token.
        temperature: see `heterogeneity`.
    """

    def __init__(self, dim: int, temperature: float = 0.1) -> None:
        super().__init__(dim)
        self.temperature = temperature

    def encode(
        self, encoder: Encoder, context: Context, taps: Sequence[int], neck: Neck | None
    ) -> Features:
        """Let an encoder see the grid; see `Corruption.encode`."""
        plan, prefix = context.roles, encoder.num_prefix_tokens
        hidden = ~membership(plan.visible, context.patches.shape[1])
        marked = torch.cat([hidden.new_zeros(len(hidden), prefix), hidden], dim=1)

        def rule(block: int, tokens: Tensor) -> Reading:
            del block
            with torch.no_grad():
                unlike = mean_heterogeneity(tokens[:, prefix:], plan, self.temperature)
            return recalibrated((1.0 - unlike).clamp(0.0, 1.0), marked)

        def corrupt(layer: int, tokens: Tensor, places: Tensor) -> Tensor:
            return self(layer, tokens, places, context)

        return encoder.encode_patches(
            context.patches, plan, taps=taps, corrupt=corrupt, neck=neck, rule=rule
        )

    def selection_flops(self, encoder: Encoder, grid: Grid, num_visible: int) -> int:
        """Return the FLOP of the cosines in front of every block."""
        hidden = grid.num_tokens - num_visible
        return encoder.depth * flops.linear(hidden, encoder.embed_dim, num_visible)
