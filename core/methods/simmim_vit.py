"""SimMIM on a ViT: hidden patches become one learned vector, a linear layer regresses their pixels.

Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv 2111.09886.
Composition: random mask of large units, mask token, BEiT-style ViT on the whole grid, linear
decoder, raw pixels, absolute error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..corruption import MaskToken
from ..decoders.linear import LinearDecoder
from ..grid import Grid
from ..method import Head, Method
from ..objectives.dense import l1
from ..targets.pixels import PixelTarget
from .config_beit import BEIT_NAMES, BEiTConfig, prepare_beit, reader
from .simmim import unit_mask
from .spec import MethodSpec


@dataclass(frozen=True, kw_only=True)
class SimMIMViTConfig:
    """SimMIM on a ViT (Xie et al., CVPR 2022)."""

    name: Literal["simmim-vit"] = "simmim-vit"
    """Name of the method."""
    encoder: BEiTConfig = field(default_factory=BEiTConfig)
    """The encoder, kept after pre-training."""
    mask_ratio: float = 0.6
    """Share of the units that are hidden and predicted, rounded up."""
    mask_unit: int = 2
    """Tokens per side of a unit that is hidden as a whole (32 pixels as published)."""
    as_published: bool = False
    """Reproduce the released code: the hidden count is the ceiling of a float with its error."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def simmim_vit(config: SimMIMViTConfig, grid: Grid) -> Method:
    """Compose SimMIM with a ViT for a grid of any rank.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict.
    """
    encoder, target = config.encoder.build(grid), PixelTarget(norm_pix=False)
    mask = unit_mask(grid, config.mask_ratio, config.mask_unit, as_published=config.as_published)
    decoder = LinearDecoder(grid, encoder.embed_dim, target.out_dim(grid))
    heads = {"pixels": Head(decoder, target, l1)}
    return Method(config.name, grid, mask, encoder, heads, corruption=MaskToken(encoder.embed_dim))


_NAMES = BEIT_NAMES | {
    "encoder.mask_token": "corruption.mask_token",
    "decoder.0": "heads.pixels.predictor.head",
}

SPEC = MethodSpec(
    SimMIMViTConfig,
    simmim_vit,
    "Xie et al., CVPR 2022",
    _NAMES,
    prepare=prepare_beit,
    infer=reader(SimMIMViTConfig, _NAMES),
    flat_patches=True,
)
