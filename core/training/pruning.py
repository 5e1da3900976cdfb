"""InfoBatch: skip easy samples for most of a run, without bias.

Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", ICLR 2024;
the released SelectiveMAE trains with it (selectivemae.md, step 10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

INITIAL_SCORE = 3.0


@dataclass(frozen=True)
class Selection:
    """What an epoch visits.

    Args:
        index: samples, ascending.
        weight: factor of each sample's loss, for all samples (also those left out).
    """

    index: Int[Tensor, " m"]
    weight: Float[Tensor, " n"]


class InfoBatch:
    """Scores of all samples and the selection that follows from them.

    A sample whose last loss is below the mean is left out of an epoch with probability
    `prune_prob`; if it stays its loss is multiplied by 1 / (1 - prune_prob), so that the expected
    gradient is that of the whole set. The last share of the run uses everything.

    Args:
        num_samples: samples of the run.
        num_epochs: length of the run.
        seed: seed of the run.
        prune_prob: probability with which an easy sample is left out.
        full_share: share of the epochs, at the end, in which nothing is left out.
        device: where the scores live; losses are written there without a wait.
    """

    def __init__(
        self,
        num_samples: int,
        num_epochs: int,
        seed: int,
        *,
        prune_prob: float = 0.5,
        full_share: float = 0.125,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_epochs, self.seed = num_epochs, seed
        self.prune_prob, self.full_share = prune_prob, full_share
        self.scores = torch.full((num_samples,), INITIAL_SCORE, device=device)
        self.at_epoch_start = self.scores.clone()

    def begin_epoch(self) -> None:
        """Fix the scores on which the selection of the coming epoch rests."""
        self.at_epoch_start = self.scores.clone()

    def select(self, epoch: int) -> Selection:
        """Return the samples of an epoch and their weights: a pure function of fixed scores."""
        scores = self.at_epoch_start.cpu()
        num = len(scores)
        weight = torch.ones(num)
        if epoch >= self.num_epochs * (1 - self.full_share):
            return Selection(torch.arange(num), weight)
        easy = scores < scores.double().mean()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        kept = ~easy | (torch.rand(num, generator=generator) >= self.prune_prob)
        weight[easy] = 1 / (1 - self.prune_prob)
        return Selection(kept.nonzero().flatten(), weight)

    def update(self, index: Int[Tensor, " b"], losses: Float[Tensor, " b"]) -> None:
        """Remember the losses of a step; those that are not finite leave the score as it was."""
        index = index.to(self.scores.device)
        old = self.scores[index]
        self.scores[index] = torch.where(torch.isfinite(losses), losses.to(old.dtype), old)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs, also in the middle of an epoch."""
        return {"infobatch/scores": self.scores, "infobatch/at_epoch_start": self.at_epoch_start}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        device = self.scores.device
        self.scores = tensors["infobatch/scores"].to(device, copy=True)
        self.at_epoch_start = tensors["infobatch/at_epoch_start"].to(device, copy=True)
