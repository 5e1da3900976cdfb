"""Losses of dense labels per sample, MONAI's Dice and focal loss, unlabelled places left out.

Each sample has a loss of its own, so the result is the same however a batch is cut into
micro-batches or ranks. All arithmetic is float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from .labels import IGNORED

DenseLoss = Literal["cross-entropy", "dice-ce", "dice-focal"]
_SMOOTH = 1e-6


def known_truth(
    target: Int[Tensor, "b *s"], num_classes: int
) -> tuple[Float[Tensor, "b k *s"], Bool[Tensor, "b 1 *s"]]:
    """Return labels one-hot, zero where unknown (255), and where they are known."""
    known = target != IGNORED
    truth = functional.one_hot(torch.where(known, target, 0), num_classes)
    return truth.movedim(-1, 1).float() * known.unsqueeze(1), known.unsqueeze(1)


def dice_loss(scores: Float[Tensor, "b k *s"], target: Int[Tensor, "b *s"]) -> Float[Tensor, " b"]:
    """Return the sum over classes of one minus the soft Dice overlap, divided by their number.

    Squares in the denominator, nothing added to the numerator, background included, as
    hi-end-mae.md ("Fine-tune") has it. A class that a sample does not hold adds nothing: with
    nothing added to the numerator its published summand is a constant without gradient.

    Args:
        scores: unnormalised class scores.
        target: class numbers, 255 where unknown; such places change nothing.
    """
    from monai.losses.dice import DiceLoss

    truth, known = known_truth(target, scores.shape[1])
    probability = scores.float().softmax(dim=1) * known
    measure = DiceLoss(squared_pred=True, smooth_nr=0.0, smooth_dr=_SMOOTH, reduction="none")
    occurs = truth.flatten(2).any(dim=2)
    return (measure(probability, truth).flatten(1) * occurs).mean(dim=1)


def focal_loss(
    scores: Float[Tensor, "b k *s"],
    target: Int[Tensor, "b *s"],
    class_weight: Float[Tensor, " k"],
    gamma: float = 2.0,
) -> Float[Tensor, " b"]:
    """Return the sum over known places of the weighted focal loss (Lin et al. 2017, equation 4).

    Args:
        scores: unnormalised class scores.
        target: class numbers, 255 where unknown.
        class_weight: weight of each class.
        gamma: how little places that are right anyway count.
    """
    from monai.losses.focal_loss import FocalLoss

    truth, _ = known_truth(target, scores.shape[1])
    measure = FocalLoss(gamma=gamma, use_softmax=True, reduction="none")
    each = measure(scores.float(), truth).flatten(2).sum(dim=2)
    return (each * class_weight).sum(dim=1)  # no matrix product, which autocast would round


def coarser(target: Int[Tensor, "b *s"], size: tuple[int, ...]) -> Int[Tensor, "b *t"]:
    """Return labels at a coarser resolution: those in the middle of each cell, also unknown ones.

    For the coarse scores of deep supervision.
    """
    if tuple(target.shape[1:]) == tuple(size):
        return target
    image = target.unsqueeze(1).float()
    return functional.interpolate(image, size=size, mode="nearest-exact").squeeze(1).long()
