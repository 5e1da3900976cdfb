"""The linear probe: ridge regression on frozen features, its strength chosen on training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError

STRENGTHS = tuple(10.0**exponent for exponent in range(-4, 5))


@dataclass(frozen=True)
class Ridge:
    """A fitted classifier: scores are `standardised features @ weight + bias`.

    Args:
        weight: one column per class.
        bias: one number per class.
        mean: of the training features.
        std: of the training features.
        strength: the penalty, per training row.
    """

    weight: Float[Tensor, "f c"]
    bias: Float[Tensor, " c"]
    mean: Float[Tensor, " f"]
    std: Float[Tensor, " f"]
    strength: float

    def scores(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n c"]:
        """Return one score per class; the largest wins."""
        return ((features.double() - self.mean) / self.std) @ self.weight + self.bias


def fit_ridges(
    features: Float[Tensor, "n f"],
    labels: Int[Tensor, " n"],
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    sample_weight: Float[Tensor, " n"] | None = None,
) -> list[Ridge]:
    """Fit one classifier per penalty, to targets +1 and -1, in float64.

    One eigendecomposition serves all penalties; it is of the smaller of the two Gram matrices.

    Args:
        features: of labelled images.
        labels: their classes.
        num_classes: classes.
        strengths: penalties per training row on standardised features.
        sample_weight: positive weight of every row, one each when not given.

    Raises:
        UsageError: without rows or with a label outside the classes.
    """
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise UsageError(
            f"{len(labels)} labelled rows for {num_classes} classes",
            "are none, or hold a label outside of the classes",
            "check the labels of the training split",
        )
    count = len(labels)
    share = torch.ones(count) if sample_weight is None else sample_weight
    share = (share.to(features.device).double() / share.sum())[:, None]
    x = features.double()
    mean = (share * x).sum(dim=0)
    # A constant feature says nothing; dividing by its rounding noise would make it loud.
    std = (share * (x - mean).square()).sum(dim=0).sqrt()
    std = torch.where(std > 1e-8 * (1 + mean.abs()), std, torch.inf)
    target = functional.one_hot(labels, num_classes).double() * 2 - 1
    bias = (share * target).sum(dim=0)
    x, y = (x - mean) / std * share.sqrt(), (target - bias) * share.sqrt()
    if count < x.shape[1]:
        values, vectors = torch.linalg.eigh(x @ x.T)
        left, right = x.T @ vectors, vectors.T @ y
    else:
        values, vectors = torch.linalg.eigh(x.T @ x)
        left, right = vectors, vectors.T @ (x.T @ y)
    values = values.clamp_min(0.0)[:, None]
    return [Ridge(left @ (right / (values + s)), bias, mean, std, s) for s in strengths]


def holdout(
    labels: Int[Tensor, " n"],
    share: float,
    seed: int,
    groups: Int[Tensor, " n"] | None = None,
) -> Bool[Tensor, " n"]:
    """Return true for rows that are kept out for validation.

    Args:
        labels: classes; every class with two rows or more gives at least one to each side.
        share: of the rows of each class, or of the groups.
        seed: of the draw.
        groups: scene of each row; whole scenes are kept out when there are at least three.
    """
    random = np.random.default_rng(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    if groups is not None and len(groups.unique()) >= 3:
        names = groups.unique().cpu().numpy()
        amount = min(max(1, round(share * len(names))), len(names) - 1)
        picked = torch.from_numpy(random.permutation(names)[:amount])
        return torch.isin(groups.cpu(), picked)
    known = labels.cpu().numpy()
    for value in np.unique(known):
        rows = random.permutation(np.flatnonzero(known == value))
        amount = min(max(1, round(share * len(rows))), len(rows) - 1)
        chosen[torch.from_numpy(rows[:amount])] = True
    return chosen


def fit_probe(
    features: Float[Tensor, "n f"],
    labels: Int[Tensor, " n"],
    num_classes: int,
    *,
    seed: int = 0,
    groups: Int[Tensor, " n"] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    num_holdouts: int = 4,
) -> Ridge:
    """Fit the probe; its penalty is the one with the best balanced accuracy on held-out rows.

    Only the rows given here are used: a test split never chooses anything. With few rows one
    split would decide by luck, so the accuracy is averaged over several.

    Args:
        features: of the training split.
        labels: of the training split.
        num_classes: classes.
        seed: of the held-out rows.
        groups: scenes of the rows, see `holdout`.
        strengths: penalties to choose from; ties go to the stronger one.
        num_holdouts: draws of held-out rows.
    """
    quality = np.zeros(len(strengths))
    for draw in range(num_holdouts):
        out = holdout(labels, 0.25, seed * 1000 + draw, groups).to(labels.device)
        if not out.any() or out.all():
            continue
        for place, fit in enumerate(
            fit_ridges(features[~out], labels[~out], num_classes, strengths)
        ):
            guess = fit.scores(features[out]).argmax(dim=1)
            quality[place] += balanced_accuracy(guess, labels[out])
    best = max(range(len(strengths)), key=lambda place: (quality[place], strengths[place]))
    return fit_ridges(features, labels, num_classes, (strengths[best],))[0]


def few_labels(labels: Int[Tensor, " n"], num_per_class: int, seed: int) -> Int[Tensor, " k"]:
    """Return rows with at most `num_per_class` of every class, drawn by a seed, sorted."""
    random = np.random.default_rng(seed)
    known = labels.cpu().numpy()
    drawn = [
        random.permutation(np.flatnonzero(known == value))[:num_per_class]
        for value in np.unique(known)
    ]
    return torch.from_numpy(np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, np.int64))


def accuracy(guess: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Return the share of rows with the right class."""
    return float((guess == labels).double().mean())


def balanced_accuracy(guess: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Return the mean over the classes that occur of the share found, so that rare ones count."""
    hit = (guess == labels).double()
    return float(torch.stack([hit[labels == value].mean() for value in labels.unique()]).mean())
