"""Similarity-progressive selection: which tokens to see, from easy to hard (SelectiveMAE)."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ..batch import Progress
from ..context import Context
from ..encoders.contract import Encoder
from ..errors import UsageError
from ..targets.gradients import magnitude
from ..tokens import membership, take
from .plan import MaskPlan, complete_plan
from .strategies import token_mean

Kind = Literal["near", "far", "random"]


@dataclass(frozen=True)
class Curriculum:
    """When to add near, far and random tokens.

    Args:
        near_until: end of the near stage.
        far_from: start of the far stage; a linear blend in between.
        far_until: end of the far stage.
        random_from: start of the random stage; a linear blend in between.
        in_epochs: milestones are whole epochs, as published, instead of shares of the run.
    """

    near_until: float = 280 / 800
    far_from: float = 300 / 800
    far_until: float = 580 / 800
    random_from: float = 600 / 800
    in_epochs: bool = False

    def __post_init__(self) -> None:
        stops = (self.near_until, self.far_from, self.far_until, self.random_from)
        if list(stops) != sorted(stops):
            raise UsageError(
                f"curriculum milestones {stops}", "are not in ascending order", "sort them"
            )

    def stage(self, progress: Progress) -> int:
        """Return the stage: 1 near, 2 near to far, 3 far, 4 far to random, 5 random."""
        at = self.position(progress)
        # The first moment of a blend still belongs to the pure stage before it.
        if at in (self.near_until, self.far_until):
            return 1 if at == self.near_until else 3
        stops = (self.near_until, self.far_from, self.far_until, self.random_from)
        return bisect_right(stops, at) + 1

    def mix(self, progress: Progress) -> tuple[tuple[Kind, float], Kind]:
        """Return the first kind with its share and the kind that takes the rest."""
        at = self.position(progress)
        match self.stage(progress):
            case 1:
                return ("near", 1.0), "near"
            case 2:
                done = (at - self.near_until) / (self.far_from - self.near_until)
                return ("near", 1 - done), "far"
            case 3:
                return ("far", 1.0), "far"
            case 4:
                done = (at - self.far_until) / (self.random_from - self.far_until)
                return ("far", 1 - done), "random"
            case _:
                return ("random", 1.0), "random"

    def position(self, progress: Progress) -> float:
        """Return where the run stands, in the unit of the milestones."""
        return float(int(progress.epoch)) if self.in_epochs else progress.fraction


@dataclass(frozen=True)
class SimilarityProgressive:
    """Seeds by content, then neighbours or strangers of the seeds; targets from the rest.

    selectivemae.md, steps 2 to 6. The published score is constant by a defect, so that seeds and
    targets are uniform; `score="hog-energy"` is what the paper means and our default.

    Args:
        num_visible: tokens seen in the end.
        num_seeds: tokens drawn first, by score.
        num_predict: tokens predicted, drawn by score from those that are not seen.
        score: "hog-energy" (gradient energy of a token) or "uniform" (as published).
        draw: "sample" draws without replacement in proportion to the score, "top" takes the best.
        curriculum: when to add which kind of token.
        num_rounds: additions are made in this many rounds.
        shared_ranks: random additions take the same ranks in every sample of a batch, as published.
    """

    num_visible: int
    num_seeds: int
    num_predict: int
    score: Literal["hog-energy", "uniform"] = "hog-energy"
    draw: Literal["sample", "top"] = "sample"
    curriculum: Curriculum = Curriculum()
    num_rounds: int = 2
    shared_ranks: bool = False

    def __call__(self, context: Context) -> MaskPlan:
        """Choose seeds, expand them, choose targets."""
        with torch.no_grad():
            score = self.scores(context)
            seed_keys = self.keys(score, context, "seed")
            if context.absent is not None:
                seed_keys = seed_keys.masked_fill(context.absent, -torch.inf)
            seeds = seed_keys.topk(self.num_seeds, dim=1).indices
            visible = self.expand(seeds, context)
            keys = self.keys(score, context, "target")
            return complete_plan(visible, self.num_predict, keys, context.absent)

    def scores(self, context: Context) -> Float[Tensor, "b n"]:
        """Return a positive score per token."""
        if self.score == "uniform":
            shape = context.patches.shape[:2]
            return torch.ones(shape, device=context.patches.device)
        energy = token_mean(magnitude(context.images.float()), context)
        # A little of the mean keeps flat tokens drawable: log 0 would order them by index.
        return energy + 0.01 * energy.mean(dim=1, keepdim=True) + 1e-12

    def keys(self, score: Tensor, context: Context, name: str) -> Float[Tensor, "b n"]:
        """Return keys whose largest are a draw without replacement in proportion to the score.

        Top-k of log p plus Gumbel noise is such a draw; float64 keeps the order of the noise.
        """
        log_score = score.double().log()
        if self.draw == "top":
            return log_score
        noise = context.noise.uniform(name, tuple(score.shape)).to(score.device).double()
        return log_score - (-noise.clamp_min(1e-300).log()).clamp_min(1e-300).log()

    def expand(self, seeds: Int[Tensor, "b s"], context: Context) -> Int[Tensor, "b v"]:
        """Add tokens to the seeds by their similarity to what is already chosen."""
        tokens = functional.normalize(context.embed().float(), dim=-1)
        num_added = self.num_visible - self.num_seeds
        (kind, share), other = self.curriculum.mix(context.progress)
        chosen, similarity, draws, previous = seeds, None, 0, 0
        for step in range(self.num_rounds):
            size = num_added // self.num_rounds
            if step == self.num_rounds - 1:
                size = num_added - size * (self.num_rounds - 1)
            fresh = chosen if similarity is None else chosen[:, -previous:]
            best = (tokens @ take(tokens, fresh).mT).amax(dim=-1)
            similarity = best if similarity is None else torch.maximum(similarity, best)
            first = int(share * size)
            parts: tuple[tuple[Kind, int], ...] = ((kind, first), (other, size - first))
            for part, amount in parts:
                if amount:
                    free = ~membership(chosen, tokens.shape[1])
                    keys = self.addition_keys(
                        part, similarity, free, context, draws, chosen.shape[1]
                    )
                    draws += part == "random"
                    chosen = torch.cat([chosen, keys.topk(amount, dim=1).indices], dim=1)
            previous = size
        return chosen

    def addition_keys(
        self,
        kind: Kind,
        similarity: Float[Tensor, "b n"],
        free: Bool[Tensor, "b n"],
        context: Context,
        draw: int,
        num_taken: int,
    ) -> Float[Tensor, "b n"]:
        """Return keys whose largest are to be added; taken tokens get minus infinity."""
        if kind == "random" and self.shared_ranks:
            keys = self.published_ranks(similarity, free, context, draw, num_taken)
        elif kind == "random":
            name = f"rank/{draw}"
            keys = context.noise.uniform(name, tuple(similarity.shape)).to(similarity.device)
        else:
            keys = similarity if kind == "near" else -similarity
        if context.absent is not None:
            keys = keys.masked_fill(context.absent, torch.finfo(keys.dtype).min)
        return keys.masked_fill(~free, -torch.inf)

    def published_ranks(
        self,
        similarity: Float[Tensor, "b n"],
        free: Bool[Tensor, "b n"],
        context: Context,
        draw: int,
        num_taken: int,
    ) -> Float[Tensor, "b n"]:
        """Rank free tokens by similarity and shuffle the ranks once for the whole batch."""
        num_free = similarity.shape[1] - num_taken
        noise = context.noise.uniform(f"rank/{draw}", (num_free,)).to(similarity.device)
        place = noise.argsort().argsort()
        place = functional.pad(place, (0, similarity.shape[1] - num_free), value=num_free)
        ranks = similarity.masked_fill(~free, torch.inf).argsort(dim=1).argsort(dim=1)
        return -place[ranks].float()

    def forward_flops(self, encoder: Encoder) -> int:
        """Return the FLOP of a sample's selection: embedding all tokens and comparing them."""
        num_tokens = encoder.grid.num_tokens
        size = (self.num_visible - self.num_seeds) // self.num_rounds
        compared = self.num_seeds + size * (self.num_rounds - 1)
        return encoder.embed_flops(num_tokens) + 2 * num_tokens * compared * encoder.embed_dim
