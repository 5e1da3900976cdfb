"""Agreement between what a student makes of a part and a teacher of the whole (lut.md)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..context import Context
from ..decoders.projector import Projector
from ..encoders.contract import Encoder, Features
from ..errors import UsageError
from ..masking.plan import MaskPlan
from ..method import HeadResult, Objective


def pooled(
    tokens: Float[Tensor, "b n d"], readable: Bool[Tensor, "b n"] | None
) -> Float[Tensor, "b d"]:
    """Return the mean of a sample's tokens, of those that hold data where some do not."""
    if readable is None:
        return tokens.mean(dim=1)
    weight = readable[..., None].to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)


class CrossViewAlignment(Objective):
    """The visible part of a view predicts what the teacher makes of the whole other view.

    The loss of a view is 2 - 2 cos, and the two crossed pairs are averaged (lut.md, steps 6-8). The
    teacher needs copies of "encoder" and of this projector.

    Args:
        projector: maps pooled tokens; the teacher has a copy.
        predictor: maps what the projector gives, in the student only.
        path: of the projector in the method, by which the teacher knows it.
        of: objective that tells which samples teach anything: one without any weighted token, such
            as an image without data or contrast, is not aligned.
        weight: factor in the sum over objectives.
    """

    def __init__(
        self, projector: Projector, predictor: Projector, path: str, of: str, weight: float
    ) -> None:
        super().__init__()
        self.projector, self.predictor = projector, predictor
        self.path, self.of, self.weight = path, of, weight

    def student(
        self, features: Features, num_views: int, present: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b d"]:
        """Return the student's vectors; batch statistics are those of each view by itself."""
        readable = features.readable
        body = None if readable is None else readable[:, features.num_prefix :]
        views = pooled(features.last, body).chunk(num_views)
        flags = present.chunk(num_views)
        return torch.cat(
            [self.predictor(self.projector(v, p), p) for v, p in zip(views, flags, strict=True)]
        )

    @torch.no_grad()
    def taught(self, context: Context) -> Float[Tensor, "b d"]:
        """Return the teacher's vectors of whole views.

        Raises:
            UsageError: when the method has no teacher.
        """
        if context.teacher is None:
            raise UsageError("CrossViewAlignment", "finds no teacher", "give the method one")
        encoder = context.teacher.copy_of("encoder")
        assert isinstance(encoder, Encoder)
        absent = context.absent
        tokens = encoder.encode_patches(context.patches, absent=absent).last
        vectors = pooled(tokens, None if absent is None else ~absent)
        return context.teacher.copy_of(self.path)(vectors)

    def forward(
        self,
        features: Features,
        plan: MaskPlan,
        context: Context,
        earlier: Mapping[str, HeadResult],
    ) -> HeadResult:
        """Compare each view's part with the whole of the other view."""
        del plan
        views, counts = context.num_views, earlier[self.of].weight
        assert counts is not None
        present = (counts > 0).any(dim=1)
        if context.absent is not None:
            data = ~context.absent.all(dim=1)
            present = present & data.unflatten(0, (views, -1)).all(dim=0)
        present = present.repeat(views)
        student = self.student(features, views, present).float()
        taught = self.taught(context).float().chunk(views)
        crossed = torch.cat([*taught[1:], taught[0]])
        loss = 2 - 2 * functional.cosine_similarity(student, crossed, dim=-1)
        return HeadResult(torch.where(present, loss, 0.0))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one view's projector and predictor."""
        del num_context, num_predict
        return self.projector.forward_flops() + self.predictor.forward_flops()

    def teacher_flops(self, encoder: Encoder) -> int:
        """Return the FLOP of the teacher on one sample: the whole of both views."""
        one = encoder.forward_flops(encoder.grid.num_tokens) + self.projector.forward_flops()
        return 2 * one
