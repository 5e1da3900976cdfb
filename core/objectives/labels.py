"""Losses against class labels of images or pixels, in float32, unlabelled places left out."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

IGNORED = 255


def cross_entropy(
    scores: Float[Tensor, "b k *s"],
    target: Int[Tensor, "b *s"],
    class_weight: Float[Tensor, " k"] | None = None,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over labelled places; zero when there is none.

    Args:
        scores: unnormalised class scores.
        target: class numbers, 255 where unknown.
        class_weight: weight of each class; the mean is weighted too, so its scale does not matter.
        smoothing: share of the target's mass spread over all classes.
    """
    known = target != IGNORED
    losses = functional.cross_entropy(
        scores.float(),
        target,
        weight=class_weight,
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=smoothing,
    )
    if class_weight is None:
        return losses.sum() / known.sum().clamp_min(1)
    weight = class_weight[torch.where(known, target, 0)] * known
    return losses.sum() / weight.sum().clamp_min(1e-6)


def balanced_weights(counts: Float[Tensor, " k"], power: float = 0.5) -> Float[Tensor, " k"]:
    """Return class weights that fall with frequency, mean one over classes that occur.

    Args:
        counts: labelled places of each class in the training data.
        power: 0 for equal weights, 1 for inverse frequency.
    """
    occurs = counts > 0
    weight = torch.where(occurs, counts.clamp_min(1.0) ** -power, 0.0)
    return weight * occurs.sum() / weight.sum().clamp_min(1e-12)
