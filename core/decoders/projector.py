"""Projectors and predictors on pooled tokens: linear layers with a norm between them (lut.md)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .. import flops
from ..errors import UsageError
from ..layers import init_transformer

Norm = Literal["batch", "layer", "none"]
Activation = Literal["relu", "gelu"]


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over samples that hold data, in float32.

    A batch with fewer than two of them has no statistics: it uses the running ones, also in
    training.
    """

    def forward(
        self, input: Float[Tensor, "b d"], present: Bool[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d"]:
        """Normalise; samples that are not `present` do not count."""
        x, old_mean, old_var = input.float(), self.running_mean, self.running_var
        assert old_mean is not None
        assert old_var is not None
        mean, variance = old_mean, old_var
        if self.training:
            weight = torch.ones(len(x), 1, device=x.device)
            weight = weight if present is None else weight * present[:, None]
            total = weight.sum()
            enough = total > 1
            own_mean = (x * weight).sum(dim=0) / total.clamp_min(1.0)
            own_var = ((x - own_mean).square() * weight).sum(dim=0) / total.clamp_min(1.0)
            mean = torch.where(enough, own_mean, old_mean.clone())
            variance = torch.where(enough, own_var, old_var.clone())
            with torch.no_grad():
                step = enough.float() * (0.1 if self.momentum is None else self.momentum)
                unbiased = own_var * total / (total - 1).clamp_min(1.0)
                old_mean.add_(step * (own_mean - old_mean))
                old_var.add_(step * (unbiased - old_var))
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(enough.long())
        return (x - mean) / (variance + self.eps).sqrt() * self.weight + self.bias


class Projector(nn.Sequential):
    """Linear layers; norm and activation behind all but the last.

    Args:
        dim: width of the input.
        hidden: width between layers.
        depth: linear layers; 0 for the identity.
        norm: of hidden values; `batch` mixes the samples of a batch.
        activation: of hidden values.
        out_dim: width of the output; that of the input when not given.
        bias: of the linear layers.

    Raises:
        UsageError: for a negative depth.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 4096,
        depth: int = 2,
        norm: Norm = "batch",
        activation: Activation = "relu",
        *,
        out_dim: int | None = None,
        bias: bool = False,
    ) -> None:
        if depth < 0:
            raise UsageError(f"projector depth {depth}", "is negative", "use 2, or 0 for none")
        layers: list[nn.Module] = []
        for number in range(depth):
            last = number == depth - 1
            width = dim if number == 0 else hidden
            outputs = hidden if not last else dim if out_dim is None else out_dim
            layers.append(nn.Linear(width, outputs, bias=bias))
            if not last:
                if norm != "none":
                    layers.append(BatchNorm(hidden) if norm == "batch" else nn.LayerNorm(hidden))
                layers.append(nn.ReLU() if activation == "relu" else nn.GELU())
        super().__init__(*layers)
        init_transformer(self)

    def forward(
        self, input: Float[Tensor, "b d"], present: Bool[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b e"]:
        """Map each sample; those that are not `present` change no statistics."""
        for layer in self:
            input = layer(input, present) if isinstance(layer, BatchNorm) else layer(input)
        return input

    def forward_flops(self) -> int:
        """Return the FLOP of one sample's forward."""
        return sum(
            flops.linear(1, layer.in_features, layer.out_features)
            for layer in self
            if isinstance(layer, nn.Linear)
        )
