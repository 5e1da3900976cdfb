"""Agreement between what a student makes of a part and a teacher of the whole (lut.md, fsfm.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from ..context import Context
from ..decoders.pooled import PooledDecoder
from ..decoders.projector import Projector
from ..encoders.contract import Encoder, Features
from ..errors import UsageError
from ..masking.plan import MaskPlan
from ..method import HeadResult, Objective

Similarity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student (b, d), teacher (b, d), samples that count (b,)) -> loss of every sample."""


def pooled(
    tokens: Float[Tensor, "b n d"], readable: Bool[Tensor, "b n"] | None
) -> Float[Tensor, "b d"]:
    """Return the mean of a sample's tokens, of those that hold data where some do not."""
    if readable is None:
        return tokens.mean(dim=1)
    weight = readable[..., None].to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)


def squared_distance(
    student: Float[Tensor, "b d"], taught: Float[Tensor, "b d"], present: Bool[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Return 2 - 2 cos, the squared distance of unit vectors (Grill et al., BYOL, 2020, eq. 2)."""
    del present
    return 2 - 2 * functional.cosine_similarity(student, taught, dim=-1)


def negative_cosine(
    student: Float[Tensor, "b d"], taught: Float[Tensor, "b d"], present: Bool[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Return half of the negative cosine, -1/2 to 1/2 (Chen and He, SimSiam, 2021, eq. 2)."""
    del present
    return -0.5 * functional.cosine_similarity(student, taught, dim=-1)


def of_teacher(context: Context, objective: Objective, path: str) -> nn.Module:
    """Return the teacher's copy of a part.

    Raises:
        UsageError: when the method has no teacher.
    """
    if context.teacher is None:
        raise UsageError(type(objective).__name__, "finds no teacher", "give the method one")
    return context.teacher.copy_of(path)


def by_teacher(context: Context, objective: Objective) -> Features:
    """Return what the teacher's encoder makes of whole images; see `of_teacher`."""
    encoder = of_teacher(context, objective, "encoder")
    assert isinstance(encoder, Encoder)
    return encoder.encode_patches(context.patches, absent=context.absent)


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
        absent = context.absent
        tokens = by_teacher(context, self).last
        vectors = pooled(tokens, None if absent is None else ~absent)
        return of_teacher(context, self, self.path)(vectors)

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
        loss = squared_distance(student, crossed, present)
        return HeadResult(torch.where(present, loss, 0.0))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one view's projector and predictor."""
        del num_context, num_predict
        return self.projector.forward_flops() + self.predictor.forward_flops()

    def teacher_flops(self, encoder: Encoder) -> int:
        """Return the FLOP of the teacher on one sample: the whole of both views."""
        one = encoder.forward_flops(encoder.grid.num_tokens) + self.projector.forward_flops()
        return 2 * one


class WholeImageAlignment(Objective):
    """The visible part of an image predicts what the teacher makes of all of it (fsfm.md, 6-9).

    The teacher needs copies of "encoder" and, under `path`, of `decoder` and `projector`; it sees
    the same pixels. The method's trunk is the `SharedMaskToken` that stands for hidden tokens.

    Args:
        decoder: sums up seen and hidden tokens; the teacher has a copy.
        projector: maps its vector; the teacher has a copy.
        predictor: maps what the projector gives, in the student only.
        path: of this objective in the method, by which the teacher knows its parts.
        of: objective that tells which samples teach anything; see `CrossViewAlignment`.
        weight: factor in the sum over objectives.
        similarity: loss of each sample.
    """

    def __init__(
        self,
        decoder: PooledDecoder,
        projector: Projector,
        predictor: Projector,
        *,
        path: str,
        of: str,
        weight: float,
        similarity: Similarity = negative_cosine,
    ) -> None:
        super().__init__()
        self.decoder, self.projector, self.predictor = decoder, projector, predictor
        self.path, self.of, self.weight, self.similarity = path, of, weight, similarity

    def student(self, features: Features, plan: MaskPlan, num_tokens: int) -> Float[Tensor, "b d"]:
        """Return the student's vectors, made of what the plan shows.

        Args:
            features: of the encoder, with the mask token as trunk.
            plan: roles of the tokens.
            num_tokens: of the grid.
        """
        num, device = len(plan.visible), plan.visible.device
        hidden = torch.full((num,), float(num_tokens - plan.visible.shape[1]), device=device)
        if plan.absent is not None:
            assert plan.readable is not None
            hidden = ((~plan.absent).sum(dim=1) - plan.readable.sum(dim=1)).float()
        vectors = self.decoder(features.sequence, features.readable, features.trunk, hidden)
        return self.predictor(self.projector(vectors))

    @torch.no_grad()
    def taught(self, context: Context) -> Float[Tensor, "b d"]:
        """Return the teacher's vectors of whole images.

        Raises:
            UsageError: when the method has no teacher.
        """
        features = by_teacher(context, self)
        vectors = of_teacher(context, self, f"{self.path}.decoder")(
            features.sequence, features.readable
        )
        return of_teacher(context, self, f"{self.path}.projector")(vectors)

    def forward(
        self,
        features: Features,
        plan: MaskPlan,
        context: Context,
        earlier: Mapping[str, HeadResult],
    ) -> HeadResult:
        """Compare each image's part with the whole of it."""
        counts = earlier[self.of].weight
        assert counts is not None
        present = (counts > 0).any(dim=1)
        student = self.student(features, plan, context.grid.num_tokens).float()
        loss = self.similarity(student, self.taught(context).float(), present)
        return HeadResult(torch.where(present, loss, 0.0))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of decoder, projector and predictor."""
        own = self.decoder.forward_flops(num_context, masked=num_predict > 0)
        return own + self.projector.forward_flops() + self.predictor.forward_flops()

    def teacher_flops(self, encoder: Encoder) -> int:
        """Return the FLOP of the teacher on one sample: the whole image."""
        num_tokens = encoder.grid.num_tokens
        whole = self.decoder.forward_flops(num_tokens + encoder.num_prefix_tokens, masked=False)
        return encoder.forward_flops(num_tokens) + whole + self.projector.forward_flops()
