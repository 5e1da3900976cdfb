"""A teacher: a slow or frozen copy of parts of a method, never trained by gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from math import cos, pi

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .batch import Progress

Momentum = Callable[[Progress], float]
"""Share of the old value that is kept by an update, at a point of the run."""


def half_cosine(start: float, progress: Progress) -> float:
    """Return a momentum that rises from `start` to 1 along half a cosine over the run."""
    return 1 - (1 - start) * 0.5 * (1 + cos(pi * progress.fraction))


class Teacher(nn.Module):
    """A moving average of a student's modules, always in evaluation mode.

    Its weights are part of the method's state, so that a checkpoint continues it.

    Args:
        students: modules that are followed, by their path in the method ("encoder",
            "heads.pixels.predictor"); the copies start equal to them.
        momentum: share of the old value kept by each update.
    """

    def __init__(self, students: Mapping[str, nn.Module], momentum: Momentum) -> None:
        super().__init__()
        self.names = tuple(students)
        self.copies = nn.ModuleList(copy.deepcopy(list(students.values())))
        self.momentum = momentum
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode, whatever the student does."""
        del mode
        return super().train(False)

    def tokens(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b n f"] | None:
        """Return what the teacher says of each token of whole images, where that is its task."""
        del images
        return None

    def tokens_flops(self) -> int:
        """Return the FLOP that `tokens` spends on one image."""
        return 0

    def copy_of(self, name: str) -> nn.Module:
        """Return the copy of a followed module."""
        return self.copies[self.names.index(name)]

    @torch.no_grad()
    def update(self, students: Mapping[str, nn.Module], progress: Progress) -> None:
        """Move every parameter and floating-point buffer towards the student's.

        Args:
            students: the modules the teacher was made from.
            progress: where the run stands.
        """
        keep = self.momentum(progress)
        for name, own in zip(self.names, self.copies, strict=True):
            theirs = students[name].state_dict(keep_vars=True)
            for key, value in own.state_dict(keep_vars=True).items():
                if value.is_floating_point():
                    value.lerp_(theirs[key].detach(), 1.0 - keep)
                else:
                    value.copy_(theirs[key])
