"""Values that are cheap to make again are not kept for the backward pass.

A transformer block keeps about 17 widths per token. Six of them are outputs of layer norms and of
the GELU, which only the linear layer behind them needs; they are made again from what is kept
anyway, at the price of one pass over memory and no matrix product (in the spirit of the selective
recomputation of Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
Models", 2022, section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Function = Callable[[Tensor], Tensor]
_state = local()


@dataclass(frozen=True)
class _Again:
    """How to make a saved tensor again, and which part of it was saved."""

    make: Function
    source: Tensor
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def __call__(self) -> Tensor:
        with torch.no_grad():
            value = self.make(self.source).to(self.dtype)
        return value.as_strided(self.size, self.stride, self.offset)


@contextmanager
def keeping_all() -> Iterator[None]:
    """Let `feed` keep what it makes, for code that forgets whole blocks anyway."""
    before = getattr(_state, "keep", False)
    _state.keep = True
    try:
        yield
    finally:
        _state.keep = before


def checkpointed(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Return `function(*args, **kwargs)`; all it computes is forgotten until the backward pass.

    Memory for one forward pass more (Chen et al., "Training Deep Nets with Sublinear Memory Cost",
    2016). Random numbers are the same in both passes.
    """
    from torch.utils.checkpoint import checkpoint

    def whole(*args: Any, **kwargs: Any) -> Tensor:
        with keeping_all():  # what `feed` would hold on to is to be forgotten as well
            return function(*args, **kwargs)

    return checkpoint(whole, *args, use_reentrant=False, **kwargs)


def feed(make: Function, source: Float[Tensor, "*s"], consumer: Function) -> Float[Tensor, "*r"]:
    """Return `consumer(make(source))` without keeping `make(source)` for the backward pass.

    Bits are the same as without it. There is no second derivative through `consumer`'s input.

    Args:
        make: cheap, without randomness; keeps `source` for its own gradient.
        source: what it is made from.
        consumer: keeps its input for its gradient, as a linear layer does.
    """
    value = make(source)
    if torch.compiler.is_compiling() or getattr(_state, "keep", False) or not value.requires_grad:
        return consumer(value)
    if torch.is_autocast_enabled(value.device.type):
        # The consumer would keep a cast copy, which is not known by its address.
        value = value.to(torch.get_autocast_dtype(value.device.type))
    address, dtype = value.untyped_storage().data_ptr(), value.dtype

    def pack(tensor: Tensor) -> Tensor | _Again:
        if tensor.untyped_storage().data_ptr() != address:
            return tensor
        return _Again(
            make, source, dtype, tensor.size(), tensor.stride(), int(tensor.storage_offset())
        )

    def unpack(kept: Tensor | _Again) -> Tensor:
        return kept() if isinstance(kept, _Again) else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return consumer(value)
