"""Targets that a frozen teacher gives: its tokens, normalised each for itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from ..context import Context
from ..encoders.contract import Encoder
from ..errors import UsageError
from ..grid import Grid
from ..tokens import take
from .contract import TargetValue


@dataclass(frozen=True)
class FeatureTarget:
    """A teacher's tokens after a layer norm without weights (itpn.md, "CLIP pre-training", step 3).

    Args:
        dim: numbers per token that the teacher gives.
        eps: of the norm.
    """

    dim: int
    eps: float = 1e-5

    def out_dim(self, grid: Grid) -> int:
        """Return the teacher's width."""
        del grid
        return self.dim

    def __call__(self, context: Context, index: Int[Tensor, "b q"]) -> TargetValue:
        """Return the normalised features of the tokens at `index`.

        Raises:
            UsageError: when there are no features, or they are not one token for each of the grid.
        """
        features = context.features
        if features is None:
            raise UsageError(
                "batch",
                "holds no features and the method has no teacher that gives them",
                "give Batch.features, or name the method a teacher",
            )
        wanted = (context.grid.num_tokens, self.dim)
        if tuple(features.shape[1:]) != wanted:
            raise UsageError(
                f"features of shape {tuple(features.shape[1:])}",
                f"do not fit {wanted} (tokens, width)",
                "resize the teacher's images to one token per patch and set the teacher's width",
            )
        values = take(features, index).float()
        return TargetValue(functional.layer_norm(values, (self.dim,), eps=self.eps))


@dataclass(frozen=True)
class TeacherTokens:
    """What a slow copy of the encoder says of whole images, as unit vectors (hpm.md).

    Args:
        dim: width of the encoder.
    """

    dim: int

    def out_dim(self, grid: Grid) -> int:
        """Return the teacher's width."""
        del grid
        return self.dim

    def __call__(self, context: Context, index: Int[Tensor, "b q"]) -> TargetValue:
        """Return the directions of the teacher's tokens at `index`.

        Raises:
            UsageError: when the method has no teacher.
        """
        if context.teacher is None:
            raise UsageError("TeacherTokens", "finds no teacher", "give the method one")
        encoder = context.teacher.copy_of("encoder")
        assert isinstance(encoder, Encoder)
        with torch.no_grad():
            tokens = encoder.encode_patches(context.patches, absent=context.absent).last
        return TargetValue(functional.normalize(take(tokens, index).float(), dim=-1))
