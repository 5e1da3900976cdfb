"""MAE: hide three quarters of the patches, encode the rest, regress the pixels of the hidden ones.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377.
Composition: random mask, drop, ViT, joint decoder, pixels standardised per patch, squared error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..decoders.joint import JointDecoder
from ..grid import Grid
from ..masking.plan import check_counts, count
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
    num_tokens = grid.num_tokens
    num_visible = (
        int(num_tokens * (1 - config.mask_ratio))
        if config.as_published
        else count(num_tokens, 1 - config.mask_ratio)
    )
    check_counts(num_tokens, num_visible, num_tokens - num_visible)
    target = PixelTarget(config.norm_pix, 0.0 if config.as_published else config.noise_floor)
    encoder = config.encoder.build(grid)
    decoder = JointDecoder(
        grid,
        encoder.embed_dim,
        config.decoder.dim,
        config.decoder.depth,
        config.decoder.num_heads,
        target.out_dim(grid),
        encoder.num_prefix_tokens,
        config.decoder.mlp_ratio,
    )
    mask = RandomMask(num_visible, num_tokens - num_visible)
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
