"""Scores of predicted classes, all from one confusion matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ..objectives.labels import IGNORED


def confusion(
    predicted: Int[Tensor, "*s"], target: Int[Tensor, "*s"], num_classes: int
) -> Int[Tensor, "k k"]:
    """Count pairs (true class, predicted class) where the true class is known (not 255)."""
    known = target != IGNORED
    pairs = target[known].long() * num_classes + predicted[known].long()
    return torch.bincount(pairs.flatten(), minlength=num_classes**2).reshape(-1, num_classes)


@dataclass(frozen=True)
class Scores:
    """How well predicted classes agree with the known ones.

    Args:
        accuracy: share of right answers.
        balanced_accuracy: mean recall over classes that occur.
        miou: mean intersection over union of classes that occur in truth.
        recall: per class; None for a class that does not occur.
        iou: per class; None for a class that does not occur.
        count: labelled places of each class.
    """

    accuracy: float
    balanced_accuracy: float
    miou: float
    recall: tuple[float | None, ...]
    iou: tuple[float | None, ...]
    count: tuple[int, ...]

    @classmethod
    def of(cls, matrix: Int[Tensor, "k k"]) -> Scores:
        """Return the scores of a confusion matrix; NaN when nothing was labelled."""
        hits, truth, given = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        recall = _shares(hits, truth, truth)
        iou = _shares(hits, truth + given - hits, truth)
        total = int(matrix.sum())
        return cls(
            accuracy=int(hits.sum()) / total if total else math.nan,
            balanced_accuracy=_mean(recall),
            miou=_mean(iou),
            recall=recall,
            iou=iou,
            count=tuple(int(n) for n in truth),
        )


def _shares(part: Tensor, whole: Tensor, occurs: Tensor) -> tuple[float | None, ...]:
    rows = zip(part.tolist(), whole.tolist(), occurs.tolist(), strict=True)
    return tuple(p / w if n else None for p, w, n in rows)


def _mean(values: tuple[float | None, ...]) -> float:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else math.nan
