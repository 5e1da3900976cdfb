"""MAE: hide three quarters of the patches, encode the rest, regress the pixels of the hidden ones.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377.
Composition: random mask, drop, ViT, joint decoder, pixels standardised per patch, squared error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..grid import Grid
from ..masking.plan import seen_and_hidden
from ..masking.strategies import RandomMask
from ..method import Head, Method
from ..objectives.dense import l2
from ..targets.pixels import PixelTarget
from .config import DecoderConfig, EncoderConfig
from .spec import VIT_NAMES, MethodSpec


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """MAE (He et al., CVPR 2022)."""

    name: Literal["mae"] = "mae"
    """Name of the method."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, kept after pre-training."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder, self-attention over all tokens."""
    mask_ratio: float = 0.75
    """Share of tokens that are hidden and predicted."""
    norm_pix: bool = True
    """Standardise each target patch by its own mean and deviation."""
    noise_floor: float = 1e-2
    """Patches with a smaller deviation (in units of the normalised image) carry no weight."""
    as_published: bool = False
    """Reproduce the released code: truncated counts, every patch trained on."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def mae(config: MAEConfig, grid: Grid) -> Method:
    """Compose MAE for a grid of any rank.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict.
    """
    num_visible, num_hidden = seen_and_hidden(
        grid.num_tokens, config.mask_ratio, truncated=config.as_published
    )
    target = PixelTarget(config.norm_pix, 0.0 if config.as_published else config.noise_floor)
    encoder = config.encoder.build(grid)
    decoder = config.decoder.joint(grid, encoder, target.out_dim(grid))
    mask = RandomMask(num_visible, num_hidden)
    return Method("mae", grid, mask, encoder, {"pixels": Head(decoder, target, l2)})


SPEC = MethodSpec(
    MAEConfig,
    mae,
    "He et al., CVPR 2022",
    VIT_NAMES
    | {
        "mask_token": "heads.pixels.predictor.mask_token",
        "decoder_embed": "heads.pixels.predictor.embed",
        "decoder_pos_embed": "heads.pixels.predictor.pos_embed",
        "decoder_blocks": "heads.pixels.predictor.blocks",
        "decoder_norm": "heads.pixels.predictor.norm",
        "decoder_pred": "heads.pixels.predictor.head",
    },
)
