"""Analytic FLOP count of a method, per image; a counter confirms it in the tests."""

from __future__ import annotations

from dataclasses import dataclass

from ..method import Method


@dataclass(frozen=True)
class FlopCount:
    """FLOP of one image.

    Args:
        encoder: forward of the encoder on visible tokens.
        decoder: forward of all predictors.
        selection: forward without gradient that chooses tokens.
        training: a whole training step; recomputation is not counted.
    """

    encoder: int
    decoder: int
    selection: int
    training: int

    @property
    def forward(self) -> int:
        """FLOP of one forward, selection included."""
        return self.encoder + self.decoder + self.selection


def training_flops(method: Method) -> FlopCount:
    """Count a training step: three forwards of what has gradients, one of what has none.

    The latter (a teacher, a mask that looks at content) is counted as selection.

    What is computed once for a whole batch is left out: its share of an image is small.
    The patch embedding costs two forwards instead of three, since pixels get no gradient.
    """
    mask, encoder = method.mask, method.encoder
    num_context = method.num_encoded + encoder.num_prefix_tokens
    views = method.num_views
    encode = views * method.encoder_flops()
    fuse = getattr(method.neck, "forward_flops", None)  # only necks that compute
    encode += views * fuse(num_context) if fuse else 0
    decode = 0 if method.trunk is None else views * method.trunk.forward_flops(num_context)
    decode += sum(
        (1 if head.first_view else views) * head.forward_flops(num_context, mask.num_predict)
        for head in method.objectives.values()
    )
    selection = getattr(mask, "forward_flops", None)  # only masks that compute with features
    select = selection(encoder) if selection else 0
    select += sum(head.teacher_flops(encoder) for head in method.objectives.values())
    if method.corruption is not None:
        select += views * method.corruption.selection_flops(encoder, method.grid, mask.num_visible)
    select += 0 if method.teacher is None else views * method.teacher.tokens_flops()
    step = 3 * (encode + decode) - views * encoder.embed_flops(method.num_encoded) + select
    return FlopCount(encode, decode, select, step)
