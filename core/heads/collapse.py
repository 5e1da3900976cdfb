"""Meters of collapse: do features of different images still differ, and in how many directions?"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def effective_rank(features: Float[Tensor, "n f"]) -> float:
    """Return in how many directions features vary: exp of the entropy of their singular values.

    RankMe (Garrido et al., ICML 2023, section 3), on centred features, because a constant says
    nothing about an image. 0 when all rows are equal; at most the smaller of n - 1 and f.

    Args:
        features: a row per image.
    """
    centred = features.double() - features.double().mean(dim=0)
    values = torch.linalg.svdvals(centred)
    # What is left of equal rows is rounding, no direction.
    values = values[values > 1e-7 * max(float(features.double().norm()), 1e-300)]
    if not len(values):
        return 0.0
    share = values / values.sum()
    return math.exp(float(-(share * share.log()).sum()))


def relative_spread(features: Float[Tensor, "n f"]) -> float:
    """Return how far directions of features are spread: 0 when all are one, about 1 over a sphere.

    Deviation per coordinate of unit-length features times the root of their number (Chen & He,
    "Exploring Simple Siamese Representation Learning", CVPR 2021, section 4.1).

    Args:
        features: a row per image.
    """
    directions = functional.normalize(features.double(), dim=1)
    return float(directions.std(dim=0, correction=0).mean()) * math.sqrt(features.shape[1])
