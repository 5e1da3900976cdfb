"""Images mixed with each other: one sequence shows a share of each image of a group.

Natural companions are attention to the most alike tokens and a loss that tells images apart
(mixedae.md). What the paper's text leaves open is marked in the card and was filled in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .context import Context
from .corruption import Corruption
from .encoders.contract import Encoder, Features, Neck
from .errors import UsageError
from .grid import Grid
from .layers import KeyMask, Reading
from .masking.plan import MaskPlan, complete_plan
from .tokens import membership, put, take


def grouped(values: Tensor, group: int) -> Tensor:
    """Return rows of images that follow each other as (groups, images of a group, ...).

    Raises:
        UsageError: when the batch is not a multiple of the group.
    """
    if len(values) % group:
        raise UsageError(
            f"batch of {len(values)} images",
            f"is not a multiple of the {group} that are mixed with each other",
            f"use {max(len(values) // group, 1) * group}",
        )
    return values.unflatten(0, (-1, group))


@dataclass(frozen=True)
class SharedMask:
    """Every image of a group shows an equal number of places, no place is shown by two.

    Places are dealt out by one noise per group, an image with more absent tokens choosing earlier
    (mixedae.md, step 1). Places that are left over by the division are shown by nobody.

    Args:
        num_visible: places that each image shows.
        num_predict: tokens that are predicted for each image, from the rest.
        group: images that are mixed.
    """

    num_visible: int
    num_predict: int
    group: int

    def __call__(self, context: Context) -> MaskPlan:
        """Draw one noise value per place and group."""
        patches, absent = context.patches, context.absent
        noise = context.noise.uniform("mask", patches.shape[:2]).to(patches.device)
        noise = grouped(noise, self.group)[:, 0]
        score = -noise.repeat_interleave(self.group, dim=0)
        own = score if absent is None else score - 2.0 * absent.float()
        shares = self._deal(grouped(own, self.group), absent)
        return complete_plan(shares.flatten(0, 1), self.num_predict, -score, absent)

    def _deal(self, scores: Float[Tensor, "m g n"], absent: Tensor | None) -> Int[Tensor, "m g v"]:
        """Let the images of each group choose their best free places one after the other."""
        groups, device = torch.arange(len(scores), device=scores.device), scores.device
        turns = torch.arange(self.group, device=device).expand(len(scores), -1)
        if absent is not None:
            missing = grouped(absent.sum(dim=1), self.group)
            turns = missing.argsort(dim=1, descending=True, stable=True)
        taken = torch.zeros_like(scores[:, 0], dtype=torch.bool)
        chosen = []
        for turn in turns.unbind(1):
            free = scores[groups, turn].masked_fill(taken, -torch.inf)
            chosen.append(free.topk(self.num_visible, dim=1).indices)
            taken = taken | membership(chosen[-1], taken.shape[1])
        return take(torch.stack(chosen, dim=1), turns.argsort(dim=1))


def top_k_reading(num_keys: int, num_prefix: int) -> Reading:
    """Return an attention in which a token reads the `num_keys` that fit it best, per head.

    Prefix tokens are read by all and read all (mixedae.md, step 3).

    Args:
        num_keys: keys that a query keeps; all others get no weight.
        num_prefix: class and register tokens in front.
    """

    def read(
        q: Float[Tensor, "b h n e"],
        k: Float[Tensor, "b h n e"],
        v: Float[Tensor, "b h n e"],
        key_mask: KeyMask | None = None,
    ) -> Float[Tensor, "b n w"]:
        weights = top_k_weights(q, k, num_keys, num_prefix, key_mask)
        return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)

    return read


def top_k_weights(
    q: Float[Tensor, "b h n e"],
    k: Float[Tensor, "b h n e"],
    num_keys: int,
    num_prefix: int,
    key_mask: KeyMask | None = None,
) -> Float[Tensor, "b h n n"]:
    """Return the attention weights of `top_k_reading`, in float32; rows sum to one."""
    logits = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if key_mask is not None:
        readable = key_mask | ~key_mask.any(dim=1, keepdim=True)
        logits = logits.masked_fill(~readable[:, None, None, :], -torch.inf)
    body = logits[..., num_prefix:, num_prefix:]
    best = body.topk(min(num_keys, body.shape[-1]), dim=-1).indices
    keep = torch.ones_like(logits, dtype=torch.bool)
    keep[..., num_prefix:, num_prefix:] = torch.zeros_like(body, dtype=torch.bool).scatter(
        -1, best, True
    )
    return logits.masked_fill(~keep, -torch.inf).softmax(dim=-1)


class Mixing(Corruption):
    """One sequence holds the visible tokens of a group of images; heads get each image's own.

    The images of a batch that follow each other form a group, inside a rank and a micro-batch. Each
    place in the group has a learned segment embedding; the order of a batch is random, so the
    places are. Prefix tokens belong to the whole sequence and are given to every image.

    Args:
        group: images that are mixed.
        dim: width of an embedded token.
        top_k: blocks in which a token reads only as many others as its image shows; None for all.
    """

    def __init__(self, group: int, dim: int, top_k: Sequence[int] | None = None) -> None:
        super().__init__()
        self.group, self.top_k = group, None if top_k is None else tuple(top_k)
        self.segment_embed = nn.Parameter(torch.zeros(1, group, dim))
        nn.init.normal_(self.segment_embed, std=0.02)

    def encode(
        self, encoder: Encoder, context: Context, taps: Sequence[int], neck: Neck | None
    ) -> Features:
        """Encode a mixed sequence per group and give every image its own tokens back.

        Raises:
            UsageError: when the batch is not a multiple of the group.
        """
        plan = context.roles
        shown = grouped(plan.visible, self.group).flatten(1)
        values = grouped(take(context.patches, plan.visible), self.group).flatten(1, 2)
        num_tokens, num_visible = context.patches.shape[1], plan.visible.shape[1]
        patches = put(values.new_zeros(len(shown), num_tokens, values.shape[-1]), shown, values)
        slots = torch.arange(self.group, device=shown.device).repeat_interleave(num_visible)
        segments = self.segment_embed[:, slots].expand(len(shown), -1, -1)
        unread = ~membership(shown, num_tokens)
        if plan.readable is not None:
            missing = ~grouped(plan.readable, self.group).flatten(1)
            unread = put(unread, shown, missing)
        empty = None if num_tokens == shown.shape[1] and plan.absent is None else unread

        def mark(layer: int, tokens: Tensor, hidden: Tensor) -> Tensor:
            del hidden
            if layer:
                return tokens
            own = take(tokens, shown)
            return put(tokens, shown, own + segments.to(own.dtype))

        def rule(block: int, tokens: Tensor) -> Reading:
            every = self.top_k is None or block in self.top_k
            num_keys = num_visible if every else tokens.shape[1]
            return top_k_reading(num_keys, encoder.num_prefix_tokens)

        mixed = MaskPlan(shown, plan.predict[:: self.group], empty)
        features = encoder.encode_patches(
            patches, mixed, taps=taps, corrupt=mark, neck=neck, rule=rule
        )
        return self.unmix(features, plan)

    def unmix(self, features: Features, plan: MaskPlan) -> Features:
        """Return each image's own tokens of the mixed sequences, in its plan's order."""
        prefix = features.num_prefix

        def own(tokens: Tensor) -> Tensor:
            every = tokens.repeat_interleave(self.group, dim=0)
            return torch.cat([every[:, :prefix], take(every[:, prefix:], plan.visible)], dim=1)

        readable = features.readable
        return replace(
            features,
            sequence=own(features.sequence),
            taps={tap: own(value) for tap, value in features.taps.items()},
            readable=None if readable is None else own(readable),
        )

    def num_encoded(self, grid: Grid, num_visible: int) -> int:
        """Return the tokens that an image shows."""
        del grid
        return num_visible

    def encoder_flops(self, encoder: Encoder, grid: Grid) -> int:
        """Return an image's share of a mixed sequence."""
        return encoder.forward_flops(grid.num_tokens) // self.group
