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


def dice(scores: Float[Tensor, "b k *s"], target: Int[Tensor, "b *s"]) -> Float[Tensor, ""]:
    """Return one minus the soft Dice overlap, mean over classes that occur in the batch.

    Overlap is summed over the whole batch, so small objects in single images do not dominate.
    """
    known = (target != IGNORED).unsqueeze(1)
    probability = scores.float().softmax(dim=1) * known
    truth = functional.one_hot(torch.where(known[:, 0], target, 0), scores.shape[1])
    truth = truth.movedim(-1, 1).to(probability.dtype) * known
    axes = [0, *range(2, scores.ndim)]
    overlap, total = (probability * truth).sum(axes), (probability + truth).sum(axes)
    occurs = truth.sum(axes) > 0
    loss = 1.0 - 2.0 * overlap / total.clamp_min(1e-6)
    return (loss * occurs).sum() / occurs.sum().clamp_min(1)


def balanced_weights(counts: Float[Tensor, " k"], power: float = 0.5) -> Float[Tensor, " k"]:
    """Return class weights that fall with frequency, mean one over classes that occur.

    Args:
        counts: labelled places of each class in the training data.
        power: 0 for equal weights, 1 for inverse frequency.
    """
    occurs = counts > 0
    weight = torch.where(occurs, counts.clamp_min(1.0) ** -power, 0.0)
    return weight * occurs.sum() / weight.sum().clamp_min(1e-12)
