"""iTPN: pre-train a feature pyramid together with its encoder, by reconstructing pixels through it.

Tian et al., "Integrally Pre-Trained Transformer Pyramid Networks", CVPR 2023, arXiv 2211.12735.
Composition: random mask, drop, HiViT, pyramid whose levels are summed as trunk, joint decoder on
it, pixels standardised per patch, squared error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..decoders.feature_pyramid import PyramidConfig, PyramidTrunk
from ..decoders.trunk import TrunkDecoder
from ..encoders.hivit import HiViT, HiViTConfig
from ..grid import Grid
from ..masking.plan import seen_and_hidden
from ..masking.strategies import RandomMask
from ..method import Head, Method
from ..objectives.dense import l2
from ..targets.pixels import PixelTarget
from .config import DecoderConfig
from .spec import MethodSpec


@dataclass(frozen=True, kw_only=True)
class ITPNConfig:
    """iTPN on pixels (Tian et al., CVPR 2023)."""

    name: Literal["itpn"] = "itpn"
    """Name of the method."""
    encoder: HiViTConfig = field(default_factory=HiViTConfig)
    """The encoder, kept after pre-training."""
    mask_ratio: float = 0.75
    """Share of tokens that are hidden and predicted."""
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    """The pyramid, kept for detection and segmentation."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder, self-attention over the summed levels of all patches."""
    norm_pix: bool = True
    """Standardise each target patch by its own mean and deviation."""
    noise_floor: float = 1e-2
    """Patches with a smaller deviation (in units of the normalised image) carry no weight."""
    as_published: bool = False
    """Reproduce the released code: truncated counts, every patch trained on, and positions of the
    visible units from a table that is stretched by a tenth of a unit."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def itpn(config: ITPNConfig, grid: Grid) -> Method:
    """Compose iTPN for a grid of any rank.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict, or a size
            cannot be divided into cells.
    """
    published = config.as_published
    num_visible, num_predict = seen_and_hidden(
        grid.num_tokens, config.mask_ratio, truncated=published
    )
    target = PixelTarget(config.norm_pix, 0.0 if published else config.noise_floor)
    encoder = HiViT(grid, config.encoder, stretch=published)
    decoder = TrunkDecoder(
        grid,
        config.decoder.dim,
        config.decoder.depth,
        config.decoder.num_heads,
        target.out_dim(grid),
        encoder.num_prefix_tokens,
        config.decoder.mlp_ratio,
    )
    return Method(
        "itpn",
        grid,
        RandomMask(num_visible, num_predict),
        encoder,
        {"pixels": Head(decoder, target, l2)},
        trunk=PyramidTrunk(encoder, config.pyramid, config.decoder.dim, fill=True),
    )


PYRAMID_NAMES = {
    "absolute_pos_embed": "encoder.pos_embed",
    "patch_embed": "encoder.patch_embed",
    "blocks": "encoder.blocks",
    "decoder_embed": "trunk.embed",
    **{
        name: f"trunk.pyramid.{name}"
        for name in (
            "align_dim_16tofpn",
            "fpn_modules",
            "align_dim_16to8",
            "split_16to8",
            "block_16to8",
            "align_dim_8to4",
            "split_8to4",
            "block_8to4",
        )
    },
}
"""Published names of the encoder and its pyramid."""

SPEC = MethodSpec(
    ITPNConfig,
    itpn,
    "Tian et al., CVPR 2023",
    PYRAMID_NAMES
    | {
        "mask_token": "trunk.mask_token",
        "decoder_pos_embed": "trunk.pos_embed",
        "decoder_blocks": "heads.pixels.predictor.blocks",
        "decoder_norm": "heads.pixels.predictor.norm",
        "decoder_pred": "heads.pixels.predictor.head",
    },
    # Integers that follow from the grid.
    ignored=("relative_position_index",),
    learned_positions=True,
)
