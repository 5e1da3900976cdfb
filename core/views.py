"""Several views of each image in one step: rows of all views stand one after the other.

Row k * num_samples + i is view k of sample i, so that one pass through the encoder serves them all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .batch import Batch
from .context import Context
from .encoders.contract import Features
from .masking.plan import MaskPlan


@runtime_checkable
class Views(Protocol):
    """How the masks of the other views follow from that of the first one.

    The mask strategy of a method makes the plan of the first view alone.
    """

    @property
    def num_views(self) -> int:
        """Views of each image, the first one included."""
        ...

    @property
    def same_image(self) -> bool:
        """Whether all views are of one crop and differ in their masks alone."""
        ...

    def __call__(self, context: Context, first: MaskPlan) -> MaskPlan:
        """Return the plan of all views, the first one in front.

        Args:
            context: of all views; draws have `context.num_samples` rows.
            first: plan of the first view.
        """
        ...


@dataclass(frozen=True)
class Seen:
    """What objectives are given, for some rows.

    Args:
        context: patches, absent tokens, progress and noise.
        plan: roles of the tokens.
        features: what the encoder made of what the plan shows.
    """

    context: Context
    plan: MaskPlan
    features: Features

    def first(self) -> Seen:
        """Return the first view alone."""
        context = self.context
        if context.num_views == 1:
            return self
        num = context.num_samples
        return Seen(context.first(), plan_rows(self.plan, num), feature_rows(self.features, num))


def stack_views(batch: Batch, views: Views | None) -> Batch:
    """Return a batch whose rows are all views; the second one serves from there on.

    A batch without a second view repeats its only one, and so do views of one image. What a frozen
    teacher said of the first view is kept where all show the same, and left to the teacher else.
    """
    if views is None:
        return batch
    num_views, second, other_valid = views.num_views, batch.second, batch.second_valid
    if second is None or views.same_image:
        second, other_valid = batch.images, batch.valid
    valid = batch.valid
    if valid is not None or other_valid is not None:
        valid, other_valid = _whole(valid, batch.images), _whole(other_valid, second)
        valid = torch.cat([valid, *(other_valid,) * (num_views - 1)])
    regions = batch.regions
    if regions is not None:
        # Nothing is known of the regions of another crop: its map is empty.
        other = regions if second is batch.images else torch.zeros_like(regions)
        regions = torch.cat([regions, *(other,) * (num_views - 1)])
    features = batch.features if second is batch.images else None
    return Batch(
        torch.cat([batch.images, *(second,) * (num_views - 1)]),
        valid,
        batch.ids.repeat(num_views),
        features=None if features is None else features.repeat(num_views, 1, 1),
        regions=regions,
    )


def _whole(valid: Tensor | None, images: Tensor) -> Tensor:
    """Return the valid pixels, all of them where nothing is said."""
    if valid is not None:
        return valid
    return torch.ones(images.shape[:1] + images.shape[2:], dtype=torch.bool, device=images.device)


def plan_rows(plan: MaskPlan, num: int) -> MaskPlan:
    """Return the plan of the first rows."""
    return plan.rows(slice(num))


def feature_rows(features: Features, num: int) -> Features:
    """Return the features of the first rows."""
    return replace(
        features,
        sequence=features.sequence[:num],
        taps={tap: value[:num] for tap, value in features.taps.items()},
        readable=None if features.readable is None else features.readable[:num],
        trunk=None if features.trunk is None else features.trunk[:num],
    )


def join_plans(first: MaskPlan, second: MaskPlan) -> MaskPlan:
    """Return one plan whose rows are those of both."""
    absent = first.absent
    if absent is not None and second.absent is not None:
        absent = torch.cat([absent, second.absent])
    visible = torch.cat([first.visible, second.visible])
    subsets = {}
    for name in {**first.subsets, **second.subsets}:
        known = first.subsets.get(name), second.subsets.get(name)
        some = next(part for part in known if part is not None)
        parts = [torch.zeros_like(some) if part is None else part for part in known]
        subsets[name] = torch.cat(parts)
    predict = torch.cat([first.predict, second.predict])
    return MaskPlan(visible, predict, absent, subsets=subsets)
