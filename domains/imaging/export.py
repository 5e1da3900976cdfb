"""The normaliser as a module, for graphs that run without this package."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..domain import ExportModule
from .normalise import Normaliser


class NormaliserModule(ExportModule):
    """From stored numbers to network input, with operations that ONNX has.

    It equals `Normaliser.__call__` on what `Normaliser.find_data` finds: pixels that mean "no data"
    become 0. Whoever reads them still takes them for the mean, because a graph has one input and
    no mask; such images are better left out.

    Args:
        normaliser: the normaliser.
        ndim: axes of an image.
    """

    factor: Tensor
    summand: Tensor
    low: Tensor
    high: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, normaliser: Normaliser, ndim: int = 2) -> None:
        super().__init__()
        self.normaliser = normaliser
        shape = (1, len(normaliser.bands), *(1,) * ndim)
        numbers = normaliser.coefficients(torch.empty(shape))
        for name, values in zip(("factor", "summand", "low", "high"), numbers, strict=True):
            self.register_buffer(name, values)
        for name in ("scale", "offset"):
            self.register_buffer(name, torch.tensor(getattr(normaliser, name)).reshape(shape))

    def forward(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Turn stored numbers, given as float32, into network input."""
        # A number that is not finite differs from itself when it is taken from itself.
        known = ((images - images) == 0).all(dim=1, keepdim=True)
        if self.normaliser.nodata is not None:
            known = known & (images != self.normaliser.nodata).any(dim=1, keepdim=True)
        values = torch.addcmul(self.summand, images, self.factor)
        values = torch.minimum(torch.maximum(values, self.low), self.high)
        return torch.where(known, values, torch.zeros_like(values))

    def invert(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Return stored numbers, as float32, that stand for a network input; not rounded."""
        return (self.normaliser.denormalise(images) - self.offset) / self.scale
