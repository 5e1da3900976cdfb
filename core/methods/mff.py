"""MFF: MAE whose decoder gets detail from early layers, so that the last one need not carry it.

Liu et al., "Improving Pixel-based MIM by Reducing Wasted Modeling Capability", ICCV 2023,
arXiv 2308.00261. Composition: random mask, drop, ViT with a fusion of early layers in front of its
final norm, joint decoder, pixels standardised per patch, squared error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..encoders.fusion import TapFusion
from ..grid import Grid
from ..method import Method
from ..positions import sincos
from .config import DecoderConfig, EncoderConfig
from .mae import SPEC as MAE
from .mae import MAEConfig, mae
from .spec import MethodSpec


@dataclass(frozen=True, kw_only=True)
class MFFConfig:
    """MFF on MAE (Liu et al., ICCV 2023)."""

    name: Literal["mff"] = "mff"
    """Name of the method."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, kept after pre-training."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder, self-attention over all tokens."""
    fused_blocks: tuple[int, ...] | None = None
    """Encoder blocks that are fused, zero-based, the last block at the end; not given: every
    second one and the last (0, 2, 4, 6, 8, 11 of 12)."""
    mask_ratio: float = 0.75
    """Share of tokens that are hidden and predicted."""
    norm_pix: bool = True
    """Standardise each target patch by its own mean and deviation."""
    noise_floor: float = 1e-2
    """Patches with a smaller deviation (in units of the normalised image) carry no weight."""
    as_published: bool = False
    """Reproduce the released code: truncated counts, every patch trained on, position tables that
    start with the row instead of the column."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def default_blocks(depth: int) -> tuple[int, ...]:
    """Return every second block and the last one: 0, 2, 4, 6, 8, 11 of 12."""
    return (*range(0, min(max(depth - 2, 1), depth - 1), 2), depth - 1)


def mff(config: MFFConfig, grid: Grid) -> Method:
    """Compose MFF for a grid of any rank.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict, or for blocks
            that cannot be fused.
    """
    names = ("encoder", "decoder", "mask_ratio", "norm_pix", "noise_floor", "as_published")
    plain = mae(MAEConfig(**{name: getattr(config, name) for name in names}), grid)
    depth = config.encoder.depth
    blocks = default_blocks(depth) if config.fused_blocks is None else config.fused_blocks
    neck = TapFusion(config.encoder.embed_dim, depth, blocks)
    method = Method("mff", grid, plain.mask, plain.encoder, plain.objectives, neck=neck)
    if config.as_published and grid.ndim == 2:
        for name, table in method.named_buffers():
            if name.endswith("pos_embed"):
                prefix = table.shape[1] - grid.num_tokens
                rows_first = sincos(grid.shape, table.shape[2], num_prefix=prefix, order=(0, 1))
                table.copy_(rows_first[None])
    return method


_WORDS = (
    (r"^backbone\.layers\.", "blocks."),
    (r"^backbone\.patch_embed\.projection\.", "patch_embed.proj."),
    (r"^backbone\.ln1\.", "norm."),
    (r"^neck\.ln1\.", "decoder_norm."),
    (r"^(backbone|neck)\.", ""),
    (r"(blocks\.\d+)\.ln(\d)\.", r"\1.norm\2."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by MAE's names; the released code base has its own."""
    out = {}
    for key, value in state.items():
        for pattern, text in _WORDS:
            key = re.sub(pattern, text, key)
        out[key] = value
    return out


SPEC = MethodSpec(
    MFFConfig,
    mff,
    "Liu et al., ICCV 2023",
    {**MAE.names, "proj_layers": "neck.projections", "proj_weights": "neck.proj_weights"},
    # Mean and deviation of the images.
    ignored=("data_preprocessor",),
    prepare=prepare,
)
