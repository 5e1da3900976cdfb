"""iTPN: pre-train a feature pyramid together with its encoder, by reconstructing pixels through it.

Tian et al., "Integrally Pre-Trained Transformer Pyramid Networks", CVPR 2023, arXiv 2211.12735.
Composition: random mask, drop, HiViT, pyramid whose levels are summed as trunk, joint decoder on
it, pixels standardised per patch, squared error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..decoders.feature_pyramid import PyramidConfig, PyramidTrunk
from ..decoders.trunk import TrunkDecoder
from ..encoders.hivit import CELLS, HiViT, HiViTConfig
from ..errors import WeightsError
from ..grid import Grid
from ..masking.plan import seen_and_hidden
from ..masking.strategies import RandomMask
from ..method import Head, Method
from ..objectives.dense import l2
from ..targets.pixels import PixelTarget
from .config import DecoderConfig, known_heads
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


def infer_pyramid(
    state: Mapping[str, Tensor], num_heads: int | None
) -> tuple[HiViTConfig, PyramidConfig]:
    """Read encoder and pyramid from the shapes of published tensors.

    Raises:
        WeightsError: for a file without a pyramid.
        UsageError: when the head count has to be given.
    """
    kernel, split = state.get("patch_embed.proj.weight"), state.get("split_16to8.reduction.weight")
    merges = sorted(
        int(k.split(".")[1]) for k in state if re.fullmatch(r"blocks\.\d+\.reduction\.weight", k)
    )
    if kernel is None or split is None or len(merges) != 2:
        reason = "has no patch_embed.proj.weight, no two mergings or no split_16to8"
        raise WeightsError("checkpoint", reason, "give one of iTPN's pre-training")
    num = len({k.split(".")[1] for k in state if k.startswith("blocks.")})
    width, more = CELLS * kernel.shape[0], 2 ** (kernel.ndim - 2)
    first, last = "blocks.0", f"blocks.{num - 1}"
    table = state.get(f"{last}.attn.relative_position_bias_table")
    heads = num_heads if table is None else table.shape[1]

    def ratio(block: str) -> float:
        hidden, dim = state[f"{block}.mlp.fc1.weight"].shape
        return hidden / dim

    encoder = HiViTConfig(
        embed_dim=width,
        stem_depths=(merges[0], merges[1] - merges[0] - 1),
        depth=num - merges[1] - 1,
        num_heads=known_heads("--num-heads", width, heads, _ENCODER_HEADS),
        patch_size=CELLS * kernel.shape[-1],
        stem_ratio=ratio(first),
        mlp_ratio=ratio(last),
        relative_bias=table is not None,
        layer_scale=0.1 if f"{last}.gamma_1" in state else None,
    )
    pyramid = PyramidConfig(
        dim=split.shape[0] // more,
        depth=len({k.split(".")[1] for k in state if k.startswith("block_16to8.")}),
        levels=3 if "split_8to4.reduction.weight" in state else 2,
    )
    return encoder, pyramid


def infer(
    state: Mapping[str, Tensor], *, num_heads: int | None = None, decoder_heads: int | None = None
) -> ITPNConfig:
    """Read the configuration from published tensors; see `infer_pyramid`."""
    encoder, pyramid = infer_pyramid(state, num_heads)
    token = state.get("mask_token")
    if token is None or "decoder_blocks.0.mlp.fc1.weight" not in state:
        reason = "lacks mask_token or decoder_blocks"
        raise WeightsError("checkpoint", reason, "give one of iTPN's pre-training on pixels")
    dim = token.shape[-1]
    decoder = DecoderConfig(
        dim=dim,
        depth=len({k.split(".")[1] for k in state if k.startswith("decoder_blocks.")}),
        num_heads=known_heads("--decoder-heads", dim, decoder_heads, {512: 16}),
        mlp_ratio=state["decoder_blocks.0.mlp.fc1.weight"].shape[0] / dim,
    )
    return ITPNConfig(encoder=encoder, pyramid=pyramid, decoder=decoder)


_ENCODER_HEADS = {384: 6, 512: 8, 768: 12}

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
    infer=infer,
    learned_positions=True,
)
