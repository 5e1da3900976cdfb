"""The mask plan: which tokens are read, which are answered for, which do not exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..sketch import Sketch
from ..tokens import membership, take


@dataclass(frozen=True)
class MaskPlan:
    """Roles of the tokens of a batch. Missing is not masked: absent tokens have no role at all.

    Args:
        visible: tokens the encoder reads, in the order in which it reads them.
        predict: tokens a predictor answers for, in raster order.
        absent: true where a token holds no data; None when all tokens do. Counts are fixed, so a
            sample with little data may list absent tokens as visible or predicted: they are
            hidden from attention and carry no weight.
        sketch: projection of the tokens that is shown in their place; None when tokens are seen
            or hidden one by one.
        subsets: true where a token belongs to a part of the mask that an objective asks for by
            name, such as a region that is hidden as a whole.
    """

    visible: Int[Tensor, "b v"]
    predict: Int[Tensor, "b p"]
    absent: Bool[Tensor, "b n"] | None = None
    sketch: Sketch | None = None
    subsets: Mapping[str, Bool[Tensor, "b n"]] = field(default_factory=dict)

    def rows(self, rows: slice | Int[Tensor, " k"]) -> MaskPlan:
        """Return the plan of some samples."""
        absent = None if self.absent is None else self.absent[rows]
        sketch = None if self.sketch is None else self.sketch.rows(rows)
        subsets = {name: value[rows] for name, value in self.subsets.items()}
        return MaskPlan(self.visible[rows], self.predict[rows], absent, sketch, subsets)

    @property
    def readable(self) -> Bool[Tensor, "b v"] | None:
        """True for visible tokens that hold data; None when all do."""
        return None if self.absent is None else ~take(self.absent, self.visible)

    def present(self, num_prefix: int = 0) -> Bool[Tensor, "b t"] | None:
        """True for tokens of the whole grid that hold data, behind true prefix tokens.

        None when all do.
        """
        if self.absent is None:
            return None
        return functional.pad(~self.absent, (num_prefix, 0), value=True)

    @property
    def predict_weight(self) -> Float[Tensor, "b p"]:
        """One for predicted tokens that hold data, zero for the others."""
        if self.absent is None:
            return torch.ones(self.predict.shape, device=self.predict.device)
        return (~take(self.absent, self.predict)).float()


def count(num_tokens: int, share: float) -> int:
    """Return the floor of a share of tokens, safe against rounding: 1 - 0.9 of 100 is 10, not 9."""
    return int(num_tokens * share + 1e-6)


def count_up(num_tokens: int, share: float) -> int:
    """Return the ceiling of a share of tokens, safe against rounding: 0.55 of 100 is 55, not 56."""
    return ceil(num_tokens * share - 1e-6)


def check_counts(num_tokens: int, num_visible: int, num_predict: int) -> None:
    """Raise UsageError unless both counts are positive and fit into the grid together."""
    if num_visible < 1 or num_predict < 1 or num_visible + num_predict > num_tokens:
        raise UsageError(
            f"{num_visible} visible and {num_predict} predicted tokens",
            f"do not fit a grid of {num_tokens} tokens",
            "change mask_ratio or the patch size so that each is at least one",
        )


def seen_and_hidden(
    num_tokens: int, mask_ratio: float, *, truncated: bool = False
) -> tuple[int, int]:
    """Return how many tokens are seen and how many are hidden and predicted.

    Args:
        num_tokens: of the grid.
        mask_ratio: share that is hidden.
        truncated: cut the seen share as floats give it, as MAE's code and its heirs do.

    Raises:
        UsageError: when nothing is left to see or to predict.
    """
    share = 1 - mask_ratio
    seen = int(num_tokens * share) if truncated else count(num_tokens, share)
    check_counts(num_tokens, seen, num_tokens - seen)
    return seen, num_tokens - seen


def plan_from_scores(
    visible_score: Float[Tensor, "b n"],
    num_visible: int,
    num_predict: int,
    *,
    predict_score: Float[Tensor, "b n"] | None = None,
    absent: Bool[Tensor, "b n"] | None = None,
) -> MaskPlan:
    """Make a plan by two top-k: the best scores are seen, the best of the rest are predicted.

    Args:
        visible_score: who should be seen; the order of visible tokens follows it, best first.
        num_visible: tokens that are seen.
        num_predict: tokens that are predicted.
        predict_score: who should be predicted; by default those least worth seeing.
        absent: tokens without data; chosen only when nothing else is left.
    """
    if absent is not None:
        visible_score = visible_score.masked_fill(absent, -torch.inf)
    visible = visible_score.topk(num_visible, dim=1).indices
    return complete_plan(
        visible, num_predict, -visible_score if predict_score is None else predict_score, absent
    )


def complete_plan(
    visible: Int[Tensor, "b v"],
    num_predict: int,
    predict_score: Float[Tensor, "b n"],
    absent: Bool[Tensor, "b n"] | None = None,
) -> MaskPlan:
    """Choose what is predicted, once it is known what is seen."""
    if absent is not None:
        lowest = torch.finfo(predict_score.dtype).min
        predict_score = predict_score.masked_fill(absent, lowest)
    seen = membership(visible, predict_score.shape[1])
    score = predict_score.masked_fill(seen, -torch.inf)
    predict = score.topk(num_predict, dim=1).indices.sort(dim=1).values
    return MaskPlan(visible, predict, absent)
