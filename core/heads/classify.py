"""One class per image: pool the tokens that hold data, normalise, one linear layer."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders.contract import Features
from ..errors import UsageError

Pool = Literal["mean", "cls"]


def pooled(features: Features, pool: Pool = "mean") -> Float[Tensor, "b d"]:
    """Return one vector per image: the class token, or the mean over tokens that hold data.

    Raises:
        UsageError: when there is no class token to pool.
    """
    if pool == "cls":
        if not features.prefix.shape[1]:
            raise UsageError("pool 'cls'", "the encoder has no class token", "use pool 'mean'")
        return features.prefix[:, 0]
    if features.readable is None:
        return features.last.mean(dim=1)
    weight = features.readable[:, features.prefix.shape[1] :, None].to(features.last.dtype)
    return (features.last * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)


class ClassificationHead(nn.Module):
    """Class scores for an image (MAE's fine-tuning head, He et al. 2022, appendix A.1).

    Args:
        embed_dim: width of the encoder.
        num_classes: classes.
        pool: what is pooled.
    """

    taps: tuple[int, ...] = ()

    def __init__(self, embed_dim: int, num_classes: int, pool: Pool = "mean") -> None:
        super().__init__()
        if num_classes < 2:
            raise UsageError(f"{num_classes} classes", "cannot be told apart", "give at least 2")
        self.pool: Pool = pool
        self.norm = nn.LayerNorm(embed_dim)
        self.linear = nn.Linear(embed_dim, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=2e-5)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self, features: Features, images: Float[Tensor, "b c *s"] | None = None
    ) -> Float[Tensor, "b k"]:
        """Return scores; `images` is there for the signature that all task heads share."""
        del images
        return self.linear(self.norm(pooled(features, self.pool).to(torch.float32)))
