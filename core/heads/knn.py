"""The kNN probe: nearest neighbours by cosine, votes weighted by similarity. Nothing is fitted."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def knn_scores(
    train: Float[Tensor, "n f"],
    labels: Int[Tensor, " n"],
    queries: Float[Tensor, "q f"],
    num_classes: int,
    *,
    num_neighbours: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Float[Tensor, "q c"]:
    """Return the share of votes of every class for every query.

    Features are standardised with the training rows' mean and deviation before they are compared:
    a direction shared by all images would otherwise make all cosines equal. Votes weigh
    exp(cosine / temperature), as in the evaluation of DINO (Caron et al., ICCV 2021).

    Args:
        train: features of labelled images.
        labels: their classes.
        queries: features of images to classify.
        num_classes: classes.
        num_neighbours: voters; all training rows when there are fewer.
        temperature: smaller values listen to the nearest only.
        chunk: queries compared at once, which bounds memory and changes no result.
    """
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0).clamp_min(1e-6)
    known = functional.normalize((train - mean) / std, dim=-1)
    votes = functional.one_hot(labels, num_classes).to(train.dtype)
    scores = []
    for part in queries.split(chunk):
        cosine = functional.normalize((part - mean) / std, dim=-1) @ known.T
        best, index = cosine.topk(min(num_neighbours, len(train)), dim=1)
        weight = (best / temperature).softmax(dim=1)
        scores.append((weight[..., None] * votes[index]).sum(dim=1))
    return torch.cat(scores) if scores else train.new_zeros(0, num_classes)
