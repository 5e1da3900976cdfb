"""How unlike visible tokens a mask token is, and what may be asked of it (mto.md).

The measure and the three losses are stand-ins for equations that were not at hand: entropy, a term
for the input, one for sparse correlation and one over depth are named by the paper's summary, their
forms are not.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from .. import flops
from ..encoders.contract import EMBEDDED, Features
from ..masking.plan import MaskPlan
from ..method import HeadResult, Objective
from ..tokens import take

Earlier = Mapping[str, HeadResult]
_CLOSED = -1e4
"""Logit of what may not be read: its share is zero, and products with its logarithm are numbers."""


def cosines(
    tokens: Float[Tensor, "b m d"], others: Float[Tensor, "b v d"]
) -> Float[Tensor, "b m v"]:
    """Return all cosines in float32; a zero vector is at right angles to everything."""
    with torch.autocast(tokens.device.type, enabled=False):
        one, other = (functional.normalize(x.float(), dim=-1) for x in (tokens, others))
        return one @ other.transpose(-1, -2)


def heterogeneity(
    tokens: Float[Tensor, "b m d"],
    visible: Float[Tensor, "b v d"],
    temperature: float,
    readable: Bool[Tensor, "b v"] | None = None,
) -> Float[Tensor, "b m"]:
    """Return the entropy of each token's preference among visible tokens, in 0..1.

    H_i = -sum_j p_ij log p_ij / log V with p_ij the softmax over j of cos(i, j) / t (mto.md,
    step 2): one when a token prefers no visible token.

    Args:
        tokens: whose preference is asked.
        visible: what they may resemble.
        temperature: t.
        readable: visible tokens that hold data; None for all.
    """
    logits = cosines(tokens, visible) / temperature
    count = logits.new_tensor(float(visible.shape[1]))
    if readable is not None:
        logits = logits.masked_fill(~readable[:, None], _CLOSED)
        count = readable.sum(dim=1, keepdim=True).float()
    # Not `entr`, whose slope is infinite at a share of zero, that of tokens without data.
    entropy = -(logits.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1)
    return entropy / count.clamp_min(2.0).log()


def mean_heterogeneity(
    tokens: Float[Tensor, "b n d"], plan: MaskPlan, temperature: float
) -> Float[Tensor, " b"]:
    """Return each sample's mean over its predicted tokens, those without data left out.

    Args:
        tokens: of the whole grid, without prefix.
        plan: which of them are visible and which are predicted.
        temperature: see `heterogeneity`.
    """
    hidden, visible = take(tokens, plan.predict), take(tokens, plan.visible)
    each = heterogeneity(hidden, visible, temperature, plan.readable)
    weight = plan.predict_weight
    return (each * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)


class _OfMaskToken(Objective):
    """A loss of the mask token against visible embeddings, which get no gradient from it."""

    def __init__(self, dim: int, num_visible: int, weight: float = 0.1) -> None:
        super().__init__()
        self.dim, self.num_visible, self.weight = dim, num_visible, weight

    @property
    def taps(self) -> tuple[int, ...]:
        """The embedding."""
        return (EMBEDDED,)

    @abstractmethod
    def cost(
        self, token: Float[Tensor, "b 1 d"], visible: Float[Tensor, "b v d"], plan: MaskPlan
    ) -> Float[Tensor, " b"]:
        """Return the loss of every sample."""

    def forward(
        self, features: Features, plan: MaskPlan, context: object, earlier: Earlier
    ) -> HeadResult:
        """Compare the token at one hidden place, all being equal, with visible embeddings."""
        del context, earlier
        embedded = features.taps[EMBEDDED]
        token = take(embedded, plan.predict[:, :1])
        cost = self.cost(token, take(embedded, plan.visible).detach(), plan)
        return HeadResult(cost * plan.predict_weight.amax(dim=1))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one row of cosines."""
        del num_context, num_predict
        return flops.linear(1, self.dim, self.num_visible)


class Singularity(_OfMaskToken):
    """One minus the mask token's heterogeneity where it enters (mto.md, step 3).

    Args:
        dim: width of the tokens.
        num_visible: visible tokens.
        weight: factor in the sum over objectives.
        temperature: see `heterogeneity`.
    """

    def __init__(
        self, dim: int, num_visible: int, weight: float = 0.1, temperature: float = 0.1
    ) -> None:
        super().__init__(dim, num_visible, weight)
        self.temperature = temperature

    def cost(
        self, token: Float[Tensor, "b 1 d"], visible: Float[Tensor, "b v d"], plan: MaskPlan
    ) -> Float[Tensor, " b"]:
        """Return 1 - H."""
        return 1.0 - heterogeneity(token, visible, self.temperature, plan.readable)[:, 0]


class Sparsity(_OfMaskToken):
    """Mean squared cosine of the mask token and visible embeddings (mto.md, step 4)."""

    def cost(
        self, token: Float[Tensor, "b 1 d"], visible: Float[Tensor, "b v d"], plan: MaskPlan
    ) -> Float[Tensor, " b"]:
        """Return the mean over visible tokens that hold data."""
        square = cosines(token, visible)[:, 0].square()
        if plan.readable is None:
            return square.mean(dim=1)
        readable = plan.readable.float()
        return (square * readable).sum(dim=1) / readable.sum(dim=1).clamp_min(1.0)


class Descent(Objective):
    """Heterogeneity has to fall with depth: hidden tokens become like visible ones (step 5).

    Args:
        taps: tracked blocks, in order; each consecutive pair is compared.
        dim: width of the tokens.
        counts: visible and predicted tokens.
        weight: factor in the sum over objectives.
        temperature: see `heterogeneity`.
        margin: by how much it has to fall.
    """

    def __init__(
        self,
        taps: Sequence[int],
        dim: int,
        counts: tuple[int, int],
        weight: float = 0.1,
        temperature: float = 0.1,
        margin: float = 0.0,
    ) -> None:
        super().__init__()
        self.tracked, self.dim, self.counts = tuple(taps), dim, counts
        self.weight, self.temperature, self.margin = weight, temperature, margin

    @property
    def taps(self) -> tuple[int, ...]:
        """Tracked blocks."""
        return self.tracked

    def forward(
        self, features: Features, plan: MaskPlan, context: object, earlier: Earlier
    ) -> HeadResult:
        """Return the hinge, summed over pairs."""
        del context, earlier
        prefix = features.num_prefix
        course = torch.stack(
            [
                mean_heterogeneity(features.taps[tap][:, prefix:], plan, self.temperature)
                for tap in self.tracked
            ]
        )
        hinge = (self.margin - (course[:-1] - course[1:])).clamp_min(0.0)
        return HeadResult(hinge.sum(dim=0) * plan.predict_weight.amax(dim=1))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of the cosines at every tracked block."""
        del num_context, num_predict
        visible, predicted = self.counts
        return len(self.tracked) * flops.linear(predicted, self.dim, visible)
