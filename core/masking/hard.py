"""Masks that hide what a teacher finds hard (hpm.md, steps 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..batch import Progress
from ..context import Context
from ..decoders.contract import Predictor, Trunk
from ..encoders.contract import Encoder
from ..errors import UsageError
from ..tokens import all_tokens
from .plan import MaskPlan, plan_from_scores

HardCount = Callable[[Progress], int]
"""How many of the hidden tokens are the hardest ones, at a point of the run."""


@dataclass(frozen=True)
class HardMask:
    """Hides the tokens for which a teacher predicts the largest losses, and others at random.

    The teacher sees the whole image and needs copies of "encoder", "trunk" and `predictor`.

    Args:
        num_visible: tokens that are seen.
        num_predict: tokens that are predicted, from the rest.
        num_hard: hardest tokens that are hidden.
        predictor: path of the predictor whose outputs, averaged, are a token's hardness.
        score_flops: FLOP of one image's hardness behind the encoder.
    """

    num_visible: int
    num_predict: int
    num_hard: HardCount
    predictor: str
    score_flops: int = 0

    def __call__(self, context: Context) -> MaskPlan:
        """Hide the hardest; of the others those with the smallest noise are seen."""
        hardness = self.hardness(context)
        if context.absent is not None:
            hardness = hardness.masked_fill(context.absent, -torch.inf)
        # Ranks keep shapes the same while the count grows.
        rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
        noise = context.noise.uniform("mask", context.patches.shape[:2]).to(rank.device)
        score = -noise.masked_fill(rank < self.num_hard(context.progress), 2.0)
        return plan_from_scores(score, self.num_visible, self.num_predict, absent=context.absent)

    @torch.no_grad()
    def hardness(self, context: Context) -> Float[Tensor, "b n"]:
        """Return the loss that the teacher predicts for every token of the whole image.

        Raises:
            UsageError: when the method has no teacher.
        """
        if context.teacher is None:
            raise UsageError("HardMask", "finds no teacher", "give the method one")
        encoder = context.teacher.copy_of("encoder")
        trunk, predictor = (context.teacher.copy_of(n) for n in ("trunk", self.predictor))
        assert isinstance(encoder, Encoder)
        assert isinstance(trunk, Trunk)
        assert isinstance(predictor, Predictor)
        every = all_tokens(context.batch_size, context.grid.num_tokens, context.patches.device)
        plan = MaskPlan(every, every, context.absent)
        features = encoder.encode_patches(context.patches, absent=context.absent)
        features = replace(features, trunk=trunk(features, plan))
        return predictor(features, plan).float().mean(dim=-1)

    def forward_flops(self, encoder: Encoder) -> int:
        """Return the FLOP of a sample's selection: the teacher's pass over the whole image."""
        return encoder.forward_flops(encoder.grid.num_tokens) + self.score_flops
