"""Moving tokens by index: the only places where the suite gathers and scatters."""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


def take(tokens: Shaped[Tensor, "b n *d"], index: Int[Tensor, "b k"]) -> Shaped[Tensor, "b k *d"]:
    """Return the tokens at `index`, in the order of `index`."""
    shaped = index.reshape(*index.shape, *(1,) * (tokens.ndim - 2))
    return tokens.gather(1, shaped.expand(*index.shape, *tokens.shape[2:]))


def put(
    tokens: Shaped[Tensor, "b n *d"], index: Int[Tensor, "b k"], values: Shaped[Tensor, "b k *d"]
) -> Shaped[Tensor, "b n *d"]:
    """Return `tokens` with those at `index` replaced by `values`."""
    shaped = index.reshape(*index.shape, *(1,) * (tokens.ndim - 2))
    return tokens.scatter(1, shaped.expand_as(values), values.to(tokens.dtype))


def membership(index: Int[Tensor, "b k"], num_tokens: int) -> Shaped[Tensor, "b n"]:
    """Return a boolean row per sample that is true at the listed tokens."""
    mask = torch.zeros(index.shape[0], num_tokens, dtype=torch.bool, device=index.device)
    return mask.scatter(1, index, True)


def all_tokens(batch: int, num_tokens: int, device: torch.device) -> Int[Tensor, "b n"]:
    """Return the index of every token, for each sample of a batch."""
    return torch.arange(num_tokens, device=device).expand(batch, num_tokens)
