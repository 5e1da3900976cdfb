"""Losses that tell tokens of one image from those of others."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from .. import flops
from ..encoders.contract import Features
from ..masking.plan import MaskPlan
from ..method import HeadResult, Objective
from ..mixing import grouped
from .reduce import reduce


def homologous_contrast(
    tokens: Float[Tensor, "m n d"],
    owner: Tensor,
    temperature: float,
    valid: Bool[Tensor, "m n"] | None = None,
) -> Float[Tensor, "m n"]:
    """Return each token's mean cross-entropy over the other tokens of its image, in float32.

    -1/|P(i)| sum over j in P(i) of log(exp(cos(i, j) / t) / sum over k != i of exp(cos(i, k) / t))
    (mixedae.md, step 4). A token without another one of its image costs nothing.

    Args:
        tokens: of mixed sequences.
        owner: image of each token (n,), the same for all sequences.
        temperature: t.
        valid: tokens that take part; None for all.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        unit = functional.normalize(tokens.float(), dim=-1)
        cosine = unit @ unit.transpose(-1, -2)
    alone = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    ignored, same = alone, (owner[:, None] == owner[None, :]) & ~alone
    if valid is not None:
        ignored = alone | ~valid[:, None, :]
        same = same & valid[:, None, :]
    lowest = torch.finfo(torch.float32).min
    logits = (cosine / temperature).masked_fill(ignored, lowest)
    positive = same.expand_as(logits)
    cost = torch.where(positive, -logits.log_softmax(dim=-1), 0.0)
    return cost.sum(dim=-1) / positive.sum(dim=-1).clamp_min(1)


class HomologousContrast(Objective):
    """Tokens of one image are to be alike, and unlike those of the images mixed with it.

    Args:
        group: images that are mixed.
        dim: width of the tokens.
        num_prefix: class and register tokens, which are not compared.
        temperature: of the cosines.
        weight: factor in the sum over objectives.
    """

    def __init__(
        self,
        group: int,
        dim: int,
        num_prefix: int = 1,
        temperature: float = 0.25,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_prefix = num_prefix
        self.group, self.dim, self.temperature, self.weight = group, dim, temperature, weight

    def forward(
        self, features: Features, plan: MaskPlan, context: object, earlier: Mapping[str, HeadResult]
    ) -> HeadResult:
        """Compare the final tokens of each group; the loss of an image is that of its tokens."""
        del context, earlier
        tokens = grouped(features.last, self.group)
        slots = torch.arange(self.group, device=tokens.device)
        owner = slots.repeat_interleave(tokens.shape[2])
        valid, weight = None, torch.ones(plan.visible.shape, device=tokens.device)
        if plan.readable is not None:
            valid, weight = grouped(plan.readable, self.group).flatten(1), plan.readable.float()
        cost = homologous_contrast(tokens.flatten(1, 2), owner, self.temperature, valid)
        return HeadResult(reduce(cost.reshape(weight.shape), weight))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of an image's share of all cosines."""
        del num_predict
        num = num_context - self.num_prefix
        return flops.linear(num, self.dim, self.group * num)
