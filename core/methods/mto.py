"""MTO: keep the mask token apart from visible tokens, as options of a SimMIM-like host.

"Emerging Property of Masked Token for Effective Pre-training", ECCV 2024, arXiv 2404.08330.
Composition: random mask of units, recalibrated mask token, ViT on the whole grid, linear decoder,
raw pixels, absolute error, plus three losses of heterogeneity.

No code could be obtained. From the paper's abstract and summaries: an entropy measures how unlike
mask and visible tokens are, three terms and a recalibration of attention weights are added to a
host. Their forms, weights, temperature and tracked layers are definitions of this project,
stand-ins until the paper's equations have been checked: results are not those of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..corruption import MaskToken
from ..decoders.linear import LinearDecoder
from ..errors import UsageError
from ..grid import Grid
from ..method import Head, Method, Objective
from ..objectives.dense import l1
from ..objectives.heterogeneity import Descent, Singularity, Sparsity
from ..recalibration import RecalibratedToken
from ..targets.pixels import PixelTarget
from .config import EncoderConfig
from .simmim import unit_mask
from .spec import MethodSpec


@dataclass(frozen=True, kw_only=True)
class MTOConfig:
    """Masked token optimization (ECCV 2024) on a SimMIM-like host; its forms are stand-ins."""

    name: Literal["mto"] = "mto"
    """Name of the method."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, kept after pre-training."""
    mask_ratio: float = 0.6
    """Share of the units that are hidden and predicted, rounded up."""
    mask_unit: int = 2
    """Tokens per side of a unit that is hidden as a whole."""
    sparsity_weight: float = 0.1
    """Weight of the squared cosines of mask token and visible embeddings; 0 leaves it out."""
    singularity_weight: float = 0.1
    """Weight of the mask token's lack of heterogeneity where it enters; 0 leaves it out."""
    descent_weight: float = 0.1
    """Weight of heterogeneity that does not fall with depth; 0 leaves it out."""
    tracked_blocks: tuple[int, ...] | None = None
    """Blocks (from zero) compared by the last term; none given means first, middle and last."""
    margin: float = 0.0
    """By how much heterogeneity has to fall from one tracked block to the next."""
    temperature: float = 0.1
    """Temperature of the cosines in the entropy."""
    recalibrate: bool = True
    """Let visible tokens read hidden ones only as far as these have become like them."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0

    def tracked(self) -> tuple[int, ...]:
        """Return the compared blocks in order.

        Raises:
            UsageError: for fewer than two, or for a block that the encoder does not have.
        """
        depth = self.encoder.depth
        blocks = self.tracked_blocks or (0, depth // 2, depth - 1)
        blocks = tuple(sorted(set(blocks)))
        if len(blocks) < 2 or blocks[0] < 0 or blocks[-1] >= depth:
            raise UsageError(
                f"tracked_blocks {blocks}",
                f"are not at least two of the {depth} blocks",
                "name two or more, or set descent_weight to 0",
            )
        return blocks


def mto(config: MTOConfig, grid: Grid) -> Method:
    """Compose the host and the terms that are switched on, for a grid of any rank.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict, or the tracked
            blocks cannot be compared.
    """
    encoder, target = config.encoder.build(grid), PixelTarget(norm_pix=False)
    mask = unit_mask(grid, config.mask_ratio, config.mask_unit, as_published=False)
    dim, heat = encoder.embed_dim, config.temperature
    decoder = LinearDecoder(grid, dim, target.out_dim(grid))
    heads: dict[str, Objective] = {"pixels": Head(decoder, target, l1)}
    if config.sparsity_weight:
        heads["sparsity"] = Sparsity(dim, mask.num_visible, config.sparsity_weight)
    if config.singularity_weight:
        heads["singularity"] = Singularity(dim, mask.num_visible, config.singularity_weight, heat)
    if config.descent_weight:
        counts = (mask.num_visible, mask.num_predict)
        heads["descent"] = Descent(
            config.tracked(), dim, counts, config.descent_weight, heat, config.margin
        )
    token = RecalibratedToken(dim, heat) if config.recalibrate else MaskToken(dim)
    return Method("mto", grid, mask, encoder, heads, corruption=token)


SPEC = MethodSpec(
    MTOConfig,
    mto,
    "ECCV 2024, arXiv 2404.08330 (no code at hand)",
    # There are no published weights whose names could be translated.
    {},
    flat_patches=True,
)
