"""The normaliser as a module, for graphs that run without this package."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..domain import ExportModule
from .normalise import Normaliser


class NormaliserModule(ExportModule):
    """From stored numbers to network input, with operations that ONNX has.

    It equals `Normaliser.__call__` without a mask: a number that is not finite becomes 0, and
    padding of the field of view lies below any window and becomes 0 as well.

    Args:
        normaliser: the normaliser.
    """

    def __init__(self, normaliser: Normaliser) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.factor, self.summand = normaliser.coefficients

    def forward(self, images: Float[Tensor, "b 1 *s"]) -> Float[Tensor, "b 1 *s"]:
        """Turn stored numbers, given as float32, into network input."""
        # A number that is not finite differs from itself when it is taken from itself.
        known = (images - images) == 0
        values = (images * self.factor + self.summand).clamp(0.0, 1.0)
        return torch.where(known, values, torch.zeros_like(values))

    def invert(self, images: Float[Tensor, "b 1 *s"]) -> Float[Tensor, "b 1 *s"]:
        """Return stored numbers, as float32, that stand for a network input; not rounded."""
        return (images - self.summand) / self.factor
