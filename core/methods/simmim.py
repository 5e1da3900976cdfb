"""SimMIM: a learned vector replaces hidden patches, one linear layer regresses their pixels.

Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv 2111.09886.
Composition: random mask of large units, mask token, Swin on the whole grid, linear decoder, raw
pixels, absolute error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Literal

from torch import Tensor

from ..corruption import MaskToken
from ..decoders.linear import LinearDecoder
from ..encoders.swin import SwinConfig
from ..grid import Grid
from ..masking.plan import check_counts, count_up
from ..masking.strategies import MaskStrategy, RandomMask, UnitMask
from ..method import Head, Method
from ..objectives.dense import l1
from ..targets.contract import Target
from ..targets.pixels import PixelTarget
from .spec import MethodSpec
from .swin_weights import SWIN_IGNORED, SWIN_NAMES, infer_swin, prepare_swin


@dataclass(frozen=True, kw_only=True)
class SimMIMConfig:
    """SimMIM (Xie et al., CVPR 2022)."""

    name: Literal["simmim"] = "simmim"
    """Name of the method."""
    encoder: SwinConfig = field(default_factory=SwinConfig)
    """The encoder, kept after pre-training."""
    mask_ratio: float = 0.6
    """Share of the units that are hidden and predicted, rounded up."""
    mask_unit: int = 1
    """Tokens per side of a unit that is hidden as a whole."""
    as_published: bool = False
    """Reproduce the released code: the hidden count is the ceiling of a float with its error."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def unit_mask(grid: Grid, ratio: float, unit: int, *, as_published: bool) -> MaskStrategy:
    """Return the mask that hides the ceiling of a share of units (simmim.md, step 1).

    Where units do not divide the grid, the share is one of tokens and one unit is cut.

    Args:
        grid: geometry of the tokens.
        ratio: share that is hidden.
        unit: tokens per side of a unit.
        as_published: take the ceiling of the product as floats give it.

    Raises:
        UsageError: when nothing is left to see or to predict.
    """
    whole = all(n % unit == 0 for n in grid.shape)
    units = prod(n // unit for n in grid.shape) if whole else grid.num_tokens
    hidden = ceil(units * ratio) if as_published else count_up(units, ratio)
    hidden *= unit**grid.ndim if whole else 1
    check_counts(grid.num_tokens, grid.num_tokens - hidden, hidden)
    if unit == 1:
        return RandomMask(grid.num_tokens - hidden, hidden)
    return UnitMask(grid.num_tokens - hidden, hidden, unit)


def full_grid(
    name: str, config: SwinConfig, grid: Grid, mask: MaskStrategy, target: Target
) -> Method:
    """Compose a method of this family: they differ in encoder, mask and target.

    Args:
        name: of the method.
        config: of the encoder.
        grid: geometry of the tokens.
        mask: what is hidden.
        target: what is regressed.
    """
    encoder, cell = config.build(grid), config.stride // config.patch_size
    decoder = LinearDecoder(grid, encoder.embed_dim, target.out_dim(grid), cell)
    heads = {"pixels": Head(decoder, target, l1)}
    corruption = MaskToken(config.embed_dim)
    return Method(name, grid, mask, encoder, heads, corruption=corruption)


def simmim(config: SimMIMConfig, grid: Grid) -> Method:
    """Compose SimMIM for a grid of any rank."""
    mask = unit_mask(grid, config.mask_ratio, config.mask_unit, as_published=config.as_published)
    return full_grid("simmim", config.encoder, grid, mask, PixelTarget(norm_pix=False))


def _infer(state: Mapping[str, Tensor], **heads: int | None) -> SimMIMConfig:
    del heads  # position biases are per head, so shapes tell their number
    return SimMIMConfig(encoder=infer_swin(state, patch_size=None, window_size=12))


SPEC = MethodSpec(
    SimMIMConfig,
    simmim,
    "Xie et al., CVPR 2022",
    SWIN_NAMES,
    ignored=SWIN_IGNORED,
    prepare=prepare_swin,
    infer=_infer,
    flat_patches=True,
)
