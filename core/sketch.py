"""Count sketches of tokens: orthogonal projections that mix the tokens of random buckets."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from .tokens import take


@dataclass(frozen=True)
class Sketch:
    """A projection of the tokens of each sample, random signs on balanced buckets (ropim.md).

    Every bucket holds the same number of tokens and keeps one signed mean of them; the projection
    gives it back to each with its sign. Buckets are summed instead of multiplying by the matrix of
    all pairs of tokens, which is the same and linear in their number.

    Args:
        order: tokens sorted by bucket.
        sign: one or minus one for every token.
        num_buckets: rank of the projection; divides the number of tokens.
        scale: factor on sums over a bucket; None for one over the tokens that it holds, which
            makes the projection exact, with absent tokens too.
        complement: keep what the buckets lose, and lose what they keep.
    """

    order: Int[Tensor, "b n"]
    sign: Float[Tensor, "b n"]
    num_buckets: int
    scale: float | None = None
    complement: bool = False

    def rows(self, rows: slice | Int[Tensor, " k"]) -> Sketch:
        """Return the sketch of some samples."""
        own = (self.order[rows], self.sign[rows])
        return Sketch(*own, self.num_buckets, self.scale, self.complement)

    def kept(
        self, values: Float[Tensor, "b n d"], weight: Float[Tensor, "b n #d"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Return the projection of the tokens: the part of them that is kept.

        Args:
            values: of all tokens.
            weight: zero for tokens, or numbers of tokens, that do not exist, else one; they are
                left out of their bucket and come back as zero.
        """
        return self._split(values, weight)[0]

    def removed(
        self, values: Float[Tensor, "b n d"], weight: Float[Tensor, "b n #d"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Return the part of the tokens that is not kept; see `kept`."""
        return self._split(values, weight)[1]

    def _split(
        self, values: Float[Tensor, "b n d"], weight: Float[Tensor, "b n #d"] | None
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n d"]]:
        there = None if weight is None else weight.to(values.dtype)
        values = values if there is None else values * there
        sign = self.sign[..., None].to(values.dtype)
        total = self._sums(values * sign)
        if self.scale is not None:
            total = total * self.scale
        elif there is None:
            total = total / (values.shape[1] // self.num_buckets)
        else:
            total = total / self._sums(there).clamp_min(1.0)
        mixed = sign * total
        mixed = mixed if there is None else mixed * there
        return (values - mixed, mixed) if self.complement else (mixed, values - mixed)

    def _sums(self, values: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return the sum of its bucket at every token."""
        buckets = take(values, self.order).unflatten(1, (self.num_buckets, -1))
        sums = buckets.sum(dim=2, keepdim=True).expand_as(buckets).flatten(1, 2)
        return take(sums, self.order.argsort(dim=1))
