"""What a training step is given: images, what is valid in them, and where the run stands."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Normalised images and what is known about them.

    Args:
        images: values in the normaliser's units, anything (also NaN) where invalid.
        valid: true where a pixel holds data; None when every pixel does.
        ids: row of each sample in its store.
        labels: class index of every pixel, or of every image, 255 where unknown; None without.
        second: another augmented view of each image, for methods that look at two; where it is
            None such a method looks at the same image twice.
        second_valid: as `valid`, of the second view.
        features: what a frozen teacher says of each token, for methods that learn it; None leaves
            that to the method's own teacher.
        regions: class of every pixel of `images` in a map of regions (a parsing map), such as
            `masking.facial.CLASSES` names them; 0 is the background. A sample that is 0 everywhere
            has no map. What moves pixels moves it along, by nearest neighbours. None without.
    """

    images: Float[Tensor, "b c *s"]
    valid: Bool[Tensor, "b *s"] | None
    ids: Int[Tensor, " b"]
    labels: Int[Tensor, "b *s"] | Int[Tensor, " b"] | None = None
    second: Float[Tensor, "b c *s"] | None = None
    second_valid: Bool[Tensor, "b *s"] | None = None
    features: Float[Tensor, "b n f"] | None = None
    regions: Int[Tensor, "b *s"] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device, copied asynchronously when its memory is pinned."""
        move = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return replace(self, **move)


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Args:
        epoch: epochs done, fractional inside an epoch.
        num_epochs: length of the run in epochs.
    """

    epoch: float
    num_epochs: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return self.epoch / self.num_epochs if self.num_epochs else 0.0
