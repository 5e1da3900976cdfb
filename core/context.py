"""What a step knows about its batch before anything is encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .batch import Batch, Progress
from .errors import UsageError
from .grid import Grid, patchify
from .masking.plan import MaskPlan
from .noise import Noise
from .teacher import Teacher


@dataclass(frozen=True)
class Context:
    """Patches of a batch, with invalid pixels set to zero (the mean of normalised data).

    Args:
        images: normalised images without invalid values.
        patches: the same as tokens, see `grid.patchify`.
        weight: per token and pixel one where valid, else zero; None when everything is valid.
        absent: tokens with too little data to have a role; None when there is none.
        grid: geometry of the tokens.
        progress: where the run stands.
        noise: source of all random draws of the step.
        embed: returns the encoder's embedded tokens (b, n, d) without gradient, for mask
            strategies that look at content.
        teacher: the method's teacher, for masks and targets that ask it; None without one.
        num_views: views of each image; their rows follow each other, see `views`.
        plan: roles of the tokens, for a corruption; None before they are known.
        features: what a frozen teacher says of each token; None without one.
        regions: region class of every pixel, see `Batch.regions`; 0 where a pixel is invalid.
    """

    images: Float[Tensor, "b c *s"]
    patches: Float[Tensor, "b n p"]
    weight: Float[Tensor, "b n k"] | None
    absent: Bool[Tensor, "b n"] | None
    grid: Grid
    progress: Progress
    noise: Noise
    embed: Callable[[], Tensor]
    teacher: Teacher | None = None
    num_views: int = 1
    plan: MaskPlan | None = None
    features: Float[Tensor, "b n f"] | None = None
    regions: Int[Tensor, "b *s"] | None = None

    @property
    def batch_size(self) -> int:
        """Rows of the batch, those of all views."""
        return self.patches.shape[0]

    @property
    def num_samples(self) -> int:
        """Samples of the batch, however many views of each there are."""
        return self.batch_size // self.num_views

    @property
    def roles(self) -> MaskPlan:
        """The plan, where it is known."""
        assert self.plan is not None, "a corruption acts when the plan is known"
        return self.plan

    def first(self) -> Context:
        """Return the context of the first view alone."""
        if self.num_views == 1:
            return self
        num = self.num_samples
        return replace(
            self,
            images=self.images[:num],
            patches=self.patches[:num],
            weight=None if self.weight is None else self.weight[:num],
            absent=None if self.absent is None else self.absent[:num],
            embed=lambda: self.embed()[:num],
            features=None if self.features is None else self.features[:num],
            regions=None if self.regions is None else self.regions[:num],
            num_views=1,
        )


def make_context(
    batch: Batch,
    grid: Grid,
    progress: Progress,
    noise: Noise,
    embed_patches: Callable[[Tensor], Tensor],
    min_valid: float = 0.5,
) -> Context:
    """Cut a batch into tokens and decide which of them hold data.

    Args:
        batch: normalised images and their valid pixels.
        grid: geometry the method was made for.
        progress: where the run stands.
        noise: source of random draws.
        embed_patches: the encoder's embedding of (b, n, p) patches.
        min_valid: a token with a smaller valid share is absent (curation-satellite.md, section 3).

    Raises:
        UsageError: for a region map of another size than the images.
    """
    images, weight, absent, regions = batch.images, None, None, batch.regions
    if regions is not None and regions.shape != images.shape[:1] + images.shape[2:]:
        raise UsageError(
            f"regions of shape {tuple(regions.shape)}",
            f"are no map of images of shape {tuple(images.shape)}",
            "give one integer per pixel, of the same size as the images",
        )
    if batch.valid is not None:
        regions = None if regions is None else regions * batch.valid
        images = torch.where(batch.valid[:, None], images, 0.0)
        weight = patchify(batch.valid[:, None].to(images.dtype), grid.patch)
        absent = weight.mean(dim=-1) < min_valid
    patches = patchify(images, grid.patch)

    def embed() -> Tensor:
        with torch.no_grad():
            return embed_patches(patches)

    return Context(images, patches, weight, absent, grid, progress, noise, embed, regions=regions)
