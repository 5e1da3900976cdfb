"""Losses that tell tokens or vectors of one image from those of others."""

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


def info_nce(
    student: Float[Tensor, "b d"],
    taught: Float[Tensor, "b d"],
    present: Bool[Tensor, " b"],
    temperature: float = 0.1,
) -> Float[Tensor, " b"]:
    """Return 2 t times the cross-entropy of finding each image's own teacher vector in the batch.

    It depends on how a batch is cut (Chen et al., MoCo v3, 2021, algorithm 1).

    Args:
        student: vectors of any length.
        taught: of the same images, without gradient.
        present: images that count; others are no candidates.
        temperature: t.
    """
    q, k = functional.normalize(student, dim=-1), functional.normalize(taught, dim=-1)
    own = torch.eye(len(q), dtype=torch.bool, device=q.device)
    logits = (q @ k.T / temperature).masked_fill(~(own | present), -torch.inf)
    return -2 * temperature * logits.log_softmax(dim=1).diagonal()


def nt_xent(
    student: Float[Tensor, "b d"],
    taught: Float[Tensor, "b d"],
    present: Bool[Tensor, " b"],
    temperature: float = 0.1,
) -> Float[Tensor, " b"]:
    """Return the cross-entropy among all vectors of both sides, averaged over an image's two.

    Each vector looks for the other one of its image among all but itself (Chen et al., SimCLR,
    2020, eq. 1). Arguments are those of `info_nce`.
    """
    num = len(student)
    unit = functional.normalize(torch.cat([student, taught]), dim=-1)
    place = torch.arange(2 * num, device=unit.device)
    partner = place.roll(num)
    candidates = present.repeat(2) | (place == partner[:, None])
    candidates = candidates & (place != place[:, None])
    logits = (unit @ unit.T / temperature).masked_fill(~candidates, -torch.inf)
    return -logits.log_softmax(dim=1)[place, partner].unflatten(0, (2, num)).mean(dim=0)


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
