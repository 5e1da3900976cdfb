"""FLOP formulas of the parts: one multiply-add is two; norms, softmax and GELU are left out."""

from __future__ import annotations


def linear(num_tokens: int, inputs: int, outputs: int) -> int:
    """Return the FLOP of a linear layer."""
    return 2 * num_tokens * inputs * outputs


def attention(num_queries: int, num_keys: int, dim: int) -> int:
    """Return the FLOP of the two products of scaled dot-product attention."""
    return 4 * num_queries * num_keys * dim


def mlp(num_tokens: int, dim: int, ratio: float = 4.0) -> int:
    """Return the FLOP of a block's MLP."""
    return 2 * linear(num_tokens, dim, int(dim * ratio))


def self_attention(num_tokens: int, dim: int, num_wanted: int | None = None) -> int:
    """Return the FLOP of self-attention with its projections.

    Args:
        num_tokens: tokens that are read.
        dim: width.
        num_wanted: tokens whose output is computed; all by default.
    """
    wanted = num_tokens if num_wanted is None else num_wanted
    projections = linear(num_tokens, dim, 3 * dim) + linear(wanted, dim, dim)
    return projections + attention(wanted, num_tokens, dim)


def block(num_tokens: int, dim: int, ratio: float = 4.0, num_wanted: int | None = None) -> int:
    """Return the FLOP of a transformer block; see `self_attention`."""
    wanted = num_tokens if num_wanted is None else num_wanted
    return self_attention(num_tokens, dim, wanted) + mlp(wanted, dim, ratio)


def cross_block(
    num_queries: int,
    num_keys: int,
    dim: int,
    context_dim: int,
    ratio: float = 4.0,
    self_attn: bool = False,
    num_wanted: int | None = None,
) -> int:
    """Return the FLOP of a cross-attention block; see `self_attention` for `num_wanted`."""
    wanted = num_queries if num_wanted is None else num_wanted
    read = 2 * linear(wanted, dim, dim) + linear(num_keys, context_dim, 2 * dim)
    own = self_attention(num_queries, dim, wanted) if self_attn else 0
    return own + read + attention(wanted, num_keys, dim) + mlp(wanted, dim, ratio)
