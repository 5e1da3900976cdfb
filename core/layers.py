"""Transformer parts with timm's parameter names; attention is torch's fused SDPA."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from .recompute import feed
from .tokens import take

KeyMask = Bool[Tensor, "b k"]
Reading = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""How tokens read each other: (queries, keys, values, key mask) as those of `attend`."""


def _heads(x: Float[Tensor, "b n w"], num_heads: int) -> Float[Tensor, "b h n e"]:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attend(
    q: Float[Tensor, "b h q e"],
    k: Float[Tensor, "b h k e"],
    v: Float[Tensor, "b h k e"],
    key_mask: KeyMask | None = None,
    bias: Float[Tensor, "#b #h #q k"] | None = None,
) -> Float[Tensor, "b q w"]:
    """Scaled dot-product attention, heads joined.

    Args:
        q: queries per head.
        k: keys per head.
        v: values per head.
        key_mask: true where a key may be read. A sample without any readable key attends to all
            of them: its output is meaningless and carries no weight, but it is finite.
        bias: added to the logits.
    """
    mask = bias if bias is None else bias.to(q.dtype)
    if key_mask is not None:
        readable = (key_mask | ~key_mask.any(dim=1, keepdim=True))[:, None, None, :]
        mask = readable if mask is None else mask.masked_fill(~readable, -torch.inf)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(
        self, x: Float[Tensor, "*b w"], norm: nn.LayerNorm | None = None
    ) -> Float[Tensor, "*b w"]:
        """Apply the two layers, to normalised tokens where a norm is given."""
        hidden = self.fc1(x) if norm is None else feed(norm, x, self.fc1)
        return feed(functional.gelu, hidden, self.fc2)


class Attention(nn.Module):
    """Multi-head self-attention (`qkv`, `proj` as in timm)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        key_mask: KeyMask | None = None,
        index: Int[Tensor, "b q"] | None = None,
    ) -> Float[Tensor, "b q w"]:
        """Let every token, or those at `index` alone, read every readable token."""
        return self.read(self.qkv(x), key_mask, index)

    def read(
        self,
        qkv: Float[Tensor, "b n p"],
        key_mask: KeyMask | None = None,
        index: Int[Tensor, "b q"] | None = None,
        bias: Float[Tensor, "#b #h q k"] | None = None,
        reading: Reading | None = None,
    ) -> Float[Tensor, "b q w"]:
        """Do the same from queries, keys and values side by side.

        Args:
            qkv: of all tokens.
            key_mask: true where a token may be read.
            index: tokens whose output is wanted; None for all.
            bias: added to the logits.
            reading: replaces `attend`, the bias with it.
        """
        q, k, v = qkv.chunk(3, dim=-1)
        q = q if index is None else take(q, index)
        q, k, v = (_heads(part, self.num_heads) for part in (q, k, v))
        if reading is not None:
            return self.proj(reading(q, k, v, key_mask))
        return self.proj(attend(q, k, v, key_mask, bias))


class CrossAttention(nn.Module):
    """Attention from queries of one width to a context of another (CrossMAE, SelectiveMAE)."""

    def __init__(self, dim: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(context_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "b q w"],
        context: Float[Tensor, "b k c"],
        key_mask: KeyMask | None = None,
    ) -> Float[Tensor, "b q w"]:
        """Let every query read the context."""
        k, v = (_heads(part, self.num_heads) for part in self.kv(context).chunk(2, dim=-1))
        return self.proj(attend(_heads(self.q(x), self.num_heads), k, v, key_mask))


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch per sample, in training only."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "b *s"]) -> Float[Tensor, "b *s"]:
        """Return x, or zero for dropped samples and the rest scaled up."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device) < keep
        return x * kept.to(x.dtype) / keep


class Block(nn.Module):
    """Pre-norm transformer block with timm's names."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def project(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n p"]:
        """Return each token's query, key and value; they depend on no other token."""
        return feed(self.norm1, x, self.attn.qkv)

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        key_mask: KeyMask | None = None,
        index: Int[Tensor, "b q"] | None = None,
        qkv: Float[Tensor, "b n p"] | None = None,
        reading: Reading | None = None,
    ) -> Float[Tensor, "b q w"]:
        """Self-attention, then the MLP, each with a residual.

        Args:
            x: all tokens.
            key_mask: true where a token may be read.
            index: tokens whose output is wanted, and the only ones it is computed for; None for
                all. In a last block, whose other outputs nobody reads, it changes nothing else.
            qkv: what `project` returns for `x`, where it is known already.
            reading: replaces plain attention.
        """
        qkv = self.project(x) if qkv is None else qkv
        x = x if index is None else take(x, index)
        x = x + self.drop_path(self.attn.read(qkv, key_mask, index, reading=reading))
        return x + self.drop_path(self.mlp(x, self.norm2))


class CrossBlock(nn.Module):
    """Pre-norm block that reads a context; queries see each other only with `self_attn`."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        self_attn: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if self_attn:
            self.norm0 = nn.LayerNorm(dim, eps=eps)
        self.self_attn = Attention(dim, num_heads) if self_attn else None
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(dim, context_dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self,
        x: Float[Tensor, "b q w"],
        context: Float[Tensor, "b k c"],
        key_mask: KeyMask | None = None,
        query_mask: Bool[Tensor, "b q"] | None = None,
        index: Int[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b p w"]:
        """Optional self-attention, cross-attention, MLP, each with a residual.

        Args:
            x: queries.
            context: what they read.
            key_mask: true where the context may be read.
            query_mask: true where a query may be read by the others.
            index: queries whose output is wanted, see `Block`; None for all.
        """
        own = x if index is None else take(x, index)
        if self.self_attn is not None:
            own = own + self.self_attn(self.norm0(x), query_mask, index)
        x = own
        x = x + self.cross_attn(self.norm1(x), context, key_mask)
        return x + self.mlp(x, self.norm2)


def init_transformer(module: nn.Module) -> None:
    """Initialise as MAE does: Xavier-uniform linears, zero biases, unit norms (mae.md)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm) and part.elementwise_affine:
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
