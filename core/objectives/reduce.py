"""The one place where token losses become a number."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def reduce(per_token: Float[Tensor, "b q"], weight: Float[Tensor, "b q"]) -> Float[Tensor, " b"]:
    """Return the weighted mean of each sample's token losses; zero for a sample without weight.

    A batch's loss is the plain mean over samples. Every sample has the same number of predicted
    tokens, so without absent tokens this is the published sum(loss * mask) / sum(mask); unlike
    that ratio it does not change when a batch is split into micro-batches or ranks.
    """
    total = weight.sum(dim=1)
    return (per_token * weight).sum(dim=1) / total.clamp_min(1.0)
