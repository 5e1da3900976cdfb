"""Moving tokens by index: the only places where the suite gathers and scatters."""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


def take(tokens: Shaped[Tensor, "b n *d"], index: Int[Tensor, "b k"]) -> Shaped[Tensor, "b k *d"]:
    """Return the tokens at `index`, in the order of `index`."""
    if tokens.ndim == 2:
        return tokens.gather(1, index)
    # Whole rows are moved several times as fast as by a gather with an index for every number.
    rows = _rows(index, tokens.shape[1])
    return tokens.flatten(0, 1).index_select(0, rows).unflatten(0, index.shape)


def put(
    tokens: Shaped[Tensor, "b n *d"], index: Int[Tensor, "b k"], values: Shaped[Tensor, "b k *d"]
) -> Shaped[Tensor, "b n *d"]:
    """Return `tokens` with those at `index` replaced by `values`; no index may occur twice."""
    rows, new = _rows(index, tokens.shape[1]), values.flatten(0, 1).to(tokens.dtype)
    return tokens.flatten(0, 1).index_copy(0, rows, new).unflatten(0, tokens.shape[:2])


def _rows(index: Int[Tensor, "b k"], num_tokens: int) -> Int[Tensor, " m"]:
    """Return the place of tokens in a batch whose samples follow each other."""
    first = torch.arange(len(index), device=index.device) * num_tokens
    return (index + first[:, None]).flatten()


def membership(index: Int[Tensor, "b k"], num_tokens: int) -> Shaped[Tensor, "b n"]:
    """Return a boolean row per sample that is true at the listed tokens."""
    mask = torch.zeros(index.shape[0], num_tokens, dtype=torch.bool, device=index.device)
    return mask.scatter(1, index, True)


def all_tokens(batch: int, num_tokens: int, device: torch.device) -> Int[Tensor, "b n"]:
    """Return the index of every token, for each sample of a batch."""
    return torch.arange(num_tokens, device=device).expand(batch, num_tokens)
