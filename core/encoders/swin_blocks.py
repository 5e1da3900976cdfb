"""Blocks of Swin and SwinV2: attention inside shifted windows, and the merging of patches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import log, prod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from ..grid import Grid
from ..layers import DropPath, Mlp
from .vit import PatchEmbed
from .windows import Windows, offset_index, offsets

_BIAS_SCALE, _COORDINATE_SCALE, _HIDDEN, _MAX_LOGIT_SCALE = 16.0, 8.0, 512, log(100.0)


class WindowAttention(nn.Module, ABC):
    """Self-attention among the cells of a window, with a bias for their offset.

    Subclasses say how queries and keys are compared and where the bias comes from.

    Args:
        dim: width.
        reach: largest window per axis.
        num_heads: attention heads; must divide the width.
    """

    def __init__(self, dim: int, reach: tuple[int, ...], num_heads: int) -> None:
        super().__init__()
        self.reach, self.num_heads = reach, num_heads
        self.proj = nn.Linear(dim, dim)

    @abstractmethod
    def project(self, x: Float[Tensor, "m n d"]) -> Float[Tensor, "m n p"]:
        """Return queries, keys and values side by side."""

    @abstractmethod
    def bias_rows(self, device: torch.device) -> Float[Tensor, "k h"]:
        """Return the bias of every offset of a window of `reach`, in raster order."""

    def bias(self, size: Sequence[int], device: torch.device) -> Float[Tensor, "h n n"]:
        """Return the bias of every pair of cells of a window."""
        index = offset_index(size, self.reach, device)
        return self.bias_rows(device)[index].permute(2, 0, 1)

    def compare(
        self, q: Float[Tensor, "m h n e"], k: Float[Tensor, "m h n e"]
    ) -> tuple[Tensor, Tensor, float | None]:
        """Return queries and keys as they are multiplied, and the factor of the products."""
        return q, k, None

    def split(
        self, x: Float[Tensor, "m n d"]
    ) -> tuple[Float[Tensor, "m h n e"], Float[Tensor, "m h n e"], Float[Tensor, "m h n e"]]:
        """Return queries, keys and values per head."""
        qkv = self.project(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def read(
        self,
        q: Float[Tensor, "m h q e"],
        k: Float[Tensor, "m h k e"],
        v: Float[Tensor, "m h k e"],
        mask: Float[Tensor, "#m #h q k"],
        scale: float | None,
    ) -> Float[Tensor, "m h q e"]:
        """Attend with what `compare` returned and a mask that holds the bias."""
        return functional.scaled_dot_product_attention(
            q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask.to(v.dtype), scale=scale
        )

    def forward(self, x: Float[Tensor, "b *s d"], around: Neighbourhood) -> Tensor:
        """Let cells read each other."""
        return around.mix(self, x)


@runtime_checkable
class Neighbourhood(Protocol):
    """Which cells of a map read each other."""

    def mix(self, attention: WindowAttention, x: Tensor) -> Tensor:
        """Return what each cell has read."""
        ...


@dataclass(frozen=True)
class WholeWindows:
    """All cells of a grid read those of their window.

    Args:
        windows: how the grid is cut.
        allowed: see `Windows.allowed`.
    """

    windows: Windows
    allowed: Bool[Tensor, "c w n n"] | None

    def mix(self, attention: WindowAttention, x: Float[Tensor, "b *s d"]) -> Tensor:
        """Cut the grid into windows, let their cells read each other, and put them back."""
        x, allowed = self.windows.cut(x), self.allowed
        mask = attention.bias(self.windows.size, x.device)[None]
        if allowed is not None:
            closed = torch.zeros(allowed.shape, device=x.device).masked_fill(~allowed, -torch.inf)
            mask = mask + closed[:, :, None]
            mask = mask.expand(len(x), *mask.shape[1:]).flatten(0, 1)
        q, k, v = attention.split(x.flatten(0, 1))
        q, k, scale = attention.compare(q, k)
        out = attention.read(q, k, v, mask, scale).transpose(1, 2).flatten(2)
        return self.windows.join(attention.proj(out).unflatten(0, x.shape[:2]))


class TableAttention(WindowAttention):
    """Swin: dot products, ordinary bias of queries, keys and values, a table of position biases."""

    def __init__(
        self, dim: int, reach: tuple[int, ...], num_heads: int, qkv_bias: bool = True
    ) -> None:
        super().__init__(dim, reach, num_heads)
        rows = prod(2 * w - 1 for w in reach)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)

    def project(self, x: Float[Tensor, "m n d"]) -> Float[Tensor, "m n p"]:
        """Return queries, keys and values side by side."""
        return self.qkv(x)

    def bias_rows(self, device: torch.device) -> Float[Tensor, "k h"]:
        """Return the table."""
        del device
        return self.relative_position_bias_table


class CosineAttention(WindowAttention):
    """SwinV2: scaled cosine attention and a continuous position bias (data-scaling.md).

    Queries and keys have length one; their products are scaled by a learned factor per head of at
    most 100. An MLP gives the bias of an offset from its log-spaced coordinates, so it can be
    evaluated for windows other than the one it was trained with. Keys have no bias.

    Args:
        dim: width.
        reach: largest window per axis.
        num_heads: attention heads; must divide the width.
        qkv_bias: give queries and values a bias.
        trained_reach: window of the pre-training, by which coordinates are scaled.
    """

    q_bias: Tensor | None
    v_bias: Tensor | None

    def __init__(
        self,
        dim: int,
        reach: tuple[int, ...],
        num_heads: int,
        qkv_bias: bool = True,
        trained_reach: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(dim, reach, num_heads)
        self.trained_reach = reach if trained_reach is None else trained_reach
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), log(10.0)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(len(reach), _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, num_heads, bias=False)
        )
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        for name in ("q_bias", "v_bias"):
            self.register_parameter(name, nn.Parameter(torch.zeros(dim)) if qkv_bias else None)

    def project(self, x: Float[Tensor, "m n d"]) -> Float[Tensor, "m n p"]:
        """Return queries, keys and values side by side."""
        if self.q_bias is None or self.v_bias is None:
            return self.qkv(x)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return functional.linear(x, self.qkv.weight, bias)

    def bias_rows(self, device: torch.device) -> Float[Tensor, "k h"]:
        """Return 16 * sigmoid(MLP(log-spaced offset)) for every offset."""
        # A window of one cell has the offset zero alone: nothing to scale.
        span = [max(w - 1, 1) for w in self.trained_reach]
        steps = offsets(self.reach, device) / torch.tensor(span, device=device) * _COORDINATE_SCALE
        spaced = steps.sign() * (steps.abs() + 1).log2() / log(_COORDINATE_SCALE, 2)
        return _BIAS_SCALE * self.cpb_mlp(spaced).sigmoid()

    def compare(
        self, q: Float[Tensor, "m h n e"], k: Float[Tensor, "m h n e"]
    ) -> tuple[Tensor, Tensor, float | None]:
        """Return unit queries times the scale of their head, and unit keys."""
        scale = self.logit_scale.clamp(max=_MAX_LOGIT_SCALE).exp()
        return functional.normalize(q, dim=-1) * scale, functional.normalize(k, dim=-1), 1.0


class Stem(PatchEmbed):
    """Patch embedding and its norm, if there is one."""

    def __init__(self, grid: Grid, embed_dim: int, norm: nn.LayerNorm | None) -> None:
        super().__init__(grid, embed_dim)
        self.norm = norm

    def forward(self, patches: Float[Tensor, "b v p"]) -> Float[Tensor, "b v d"]:
        """Embed patches in `patchify`'s order."""
        x = super().forward(patches)
        return x if self.norm is None else self.norm(x)


class SwinBlock(nn.Module):
    """Window attention, then an MLP, each with a residual.

    Args:
        attn: attention of the block.
        dim: width.
        mlp_ratio: hidden width of the MLP over the width.
        post_norm: normalise what is added (SwinV2, starting at zero) instead of what is read.
        extra_norm: normalise the block's output too (SwinV2 huge and giant).
        drop_path: rate at which residual branches are dropped.
        eps: of the norms.
    """

    def __init__(
        self,
        attn: WindowAttention,
        dim: int,
        mlp_ratio: float,
        *,
        post_norm: bool,
        extra_norm: bool,
        drop_path: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.norm3 = nn.LayerNorm(dim, eps=eps) if extra_norm else None
        self.post_norm = post_norm

    def forward(self, x: Float[Tensor, "b *s d"], around: Neighbourhood) -> Tensor:
        """Update every cell.

        Args:
            x: cells of the grid, or those that are seen.
            around: which of them read each other.
        """
        if self.post_norm:
            x = x + self.drop_path(self.norm1(self.attn(x, around)))
            x = x + self.drop_path(self.norm2(self.mlp(x)))
        else:
            x = x + self.drop_path(self.attn(self.norm1(x), around))
            x = x + self.drop_path(self.mlp(x, self.norm2))
        return x if self.norm3 is None else self.norm3(x)


def group_pairs(grid: Float[Tensor, "b *s d"]) -> Float[Tensor, "b *t e"]:
    """Put the cells of each block of two per axis side by side; odd axes are padded with zeros.

    The first axis runs fastest: in 2-D top left, bottom left, top right, bottom right (simmim.md).
    """
    rank = grid.ndim - 2
    odd = [length % 2 for length in grid.shape[1:-1]]
    if any(odd):
        grid = functional.pad(grid, [0, 0, *(v for o in reversed(odd) for v in (0, o))])
    parts = []
    for place in product((0, 1), repeat=rank):
        part = grid
        for axis, start in enumerate(reversed(place), 1):
            part = part[(slice(None),) * axis + (slice(start, None, 2),)]
        parts.append(part)
    return torch.cat(parts, dim=-1)


class PatchMerging(nn.Module):
    """Two cells per axis become one of twice the width.

    Args:
        dim: width of the cells.
        rank: axes of the grid.
        post_norm: normalise after the reduction (SwinV2) instead of before it.
        eps: of the norm.
    """

    def __init__(self, dim: int, rank: int, *, post_norm: bool, eps: float) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm = nn.LayerNorm(2 * dim if post_norm else 2**rank * dim, eps=eps)
        self.reduction = nn.Linear(2**rank * dim, 2 * dim, bias=False)

    def forward(self, x: Float[Tensor, "b *s d"]) -> Float[Tensor, "b *t e"]:
        """Merge the cells of a grid."""
        x = group_pairs(x)
        if self.post_norm:
            return self.norm(self.reduction(x))
        return self.reduction(self.norm(x))


def any_part(mask: Bool[Tensor, "b *s"]) -> Bool[Tensor, "b *t"]:
    """Return whether something is true of any part of a merged cell."""
    return group_pairs(mask[..., None].float()).amax(dim=-1) > 0


def init_blocks(layers: nn.Module, *, post_norm: bool) -> None:
    """Initialise as published: truncated normal linears, zero biases (simmim.md, "Initialisation").

    Args:
        layers: stages; changed in place.
        post_norm: norms behind the branches start at zero, so that a new block changes nothing
            (data-scaling.md).
    """
    for part in layers.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        if isinstance(part, SwinBlock) and post_norm:
            for norm in (part.norm1, part.norm2):
                nn.init.zeros_(norm.weight)
                nn.init.zeros_(norm.bias)
