"""DMJD: two masks that complement each other, and visible tokens that predict their own target too.

Ma et al., "Disjoint Masking with Joint Distillation for Efficient Masked Image Modeling", 2023,
arXiv 2301.00230. Composition: two views of one crop with disjoint masks in units, drop,
convolutions and a ViT, joint decoder on hidden and a token projector on visible tokens, histograms
of gradients with squared error and smooth L1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import isqrt, prod
from typing import Literal

from torch import Tensor

from ..encoders.conv_vit import ConvViT, ConvViTConfig
from ..errors import WeightsError
from ..grid import Grid
from ..masking.complement import OrderedUnitMask, SharedComplement, UnitList
from ..masking.plan import check_counts, count
from ..masking.strategies import MaskStrategy, UnitMask
from ..masking.views import DisjointView
from ..method import Head, Method
from ..objectives.dense import TokenLoss, l1, l2, smooth_l1
from ..objectives.visible import TokenProjector, VisibleHead
from ..targets.central_hog import CentralHogTarget
from ..views import Views
from .config import DecoderConfig, known_heads
from .spec import MethodSpec

LossName = Literal["l2", "l1", "smooth_l1"]
LOSSES: dict[LossName, TokenLoss] = {
    "l2": l2,
    "l1": l1,
    "smooth_l1": partial(smooth_l1, beta=2.0),
}


@dataclass(frozen=True, kw_only=True)
class DMJDConfig:
    """DMJD (Ma et al., 2023)."""

    name: Literal["dmjd"] = "dmjd"
    """Name of the method."""
    encoder: ConvViTConfig = field(default_factory=ConvViTConfig)
    """The encoder, kept after pre-training."""
    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig(mlp_ratio=8.0))
    """The decoder of hidden tokens; its width is also that of the projector of visible ones."""
    mask_ratio: float = 0.6
    """Share of tokens that each of the two masks hides."""
    unit: int = 2
    """Tokens per side of what is hidden as a whole; 1 for single tokens."""
    cell: int = 8
    """Pixels per side of a cell of the histograms; must divide the patch."""
    hidden_loss: LossName = "l2"
    """Loss of hidden tokens."""
    visible_loss: LossName = "smooth_l1"
    """Loss of visible tokens."""
    visible_weight: float = 1.0
    """Factor of the loss of visible tokens."""
    noise_floor: float = 1e-2
    """Cells with a smaller mean gradient (in units of the normalised image) carry no weight."""
    scale_lr: bool = True
    """Divide the learning rate by the mask ratio, as the release does."""
    as_published: bool = False
    """Reproduce the released code: permutations that a batch shares, every cell trained on, and
    visible predictions compared with targets in raster order, mostly those of other tokens."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256: predicted over masked share."""
        return 1 / self.mask_ratio if self.scale_lr else 1.0


def masks(config: DMJDConfig, grid: Grid) -> tuple[MaskStrategy, Views]:
    """Return the mask of the first view and how that of the second follows.

    Raises:
        UsageError: when the ratio leaves nothing to see or nothing to predict.
    """
    share, unit = 1 - config.mask_ratio, config.unit
    if config.as_published:
        units = UnitList.of(grid, unit)
        first = OrderedUnitMask(units, int(units.num_units * share))
        swapped = int(min(share, config.mask_ratio) * units.num_units)
        check_counts(grid.num_tokens, first.num_visible, first.num_predict)
        return first, SharedComplement(first, swapped)
    size = unit**grid.ndim
    num_visible = count(grid.num_tokens // size, share) * size or count(grid.num_tokens, share)
    num_predict = grid.num_tokens - num_visible
    check_counts(grid.num_tokens, num_visible, num_predict)
    first = UnitMask(num_visible, num_predict, unit)
    return first, DisjointView(num_visible, num_predict, unit, same_image=True)


def dmjd(config: DMJDConfig, grid: Grid) -> Method:
    """Compose DMJD for a grid of two axes.

    Raises:
        UsageError: when mask ratio, units, cells or heads do not fit the grid.
    """
    floor = 0.0 if config.as_published else config.noise_floor
    target = CentralHogTarget(config.cell, noise_floor=floor)
    encoder, form = ConvViT(grid, config.encoder), config.decoder
    decoder = form.joint(grid, encoder, target.out_dim(grid))
    projector = TokenProjector(encoder.embed_dim, form.dim, target.out_dim(grid))
    visible = VisibleHead(
        projector,
        target,
        LOSSES[config.visible_loss],
        config.visible_weight,
        raster_targets=config.as_published,
    )
    heads = {"hog": Head(decoder, target, LOSSES[config.hidden_loss]), "visible": visible}
    mask, views = masks(config, grid)
    return Method("dmjd", grid, mask, encoder, heads, views=views)


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn 1 x 1 convolutions into linear layers, and number the stages as words."""
    out = {}
    for name, value in state.items():
        words = name.split(".")
        pointwise = len(words) > 3 and words[-2] in ("conv1", "conv2", "fc1", "fc2")
        out[name] = value[..., 0, 0] if pointwise and value.ndim == 4 else value
    return out


def infer(
    state: Mapping[str, Tensor], *, num_heads: int | None = None, decoder_heads: int | None = None
) -> DMJDConfig:
    """Read the configuration from published tensors.

    Raises:
        WeightsError: for a file without the convolutions or the decoder of pre-training.
        UsageError: when head counts have to be given.
    """
    kernels = [state.get(f"patch_embed{k}.proj.weight") for k in (1, 2, 3)]
    head, first = state.get("decoder_pred.weight"), kernels[0]
    stages = [kernel for kernel in kernels if kernel is not None]
    if head is None or first is None or len(stages) < 3:
        reason = "lacks patch_embed1 to patch_embed3 or decoder_pred"
        raise WeightsError("checkpoint", reason, "give one of DMJD's pre-training")
    widths, patch = [k.shape[0] for k in stages], prod(k.shape[-1] for k in stages)
    depths = [
        len({k.split(".")[1] for k in state if k.startswith(f"blocks{n}.")}) for n in (1, 2, 3)
    ]
    ratios = [
        state[f"blocks{n}.0.mlp.fc1.weight"].shape[0] / width for n, width in enumerate(widths, 1)
    ]
    dim = head.shape[1]
    cells = head.shape[0] // (CentralHogTarget.num_bins * first.shape[1])
    return DMJDConfig(
        encoder=ConvViTConfig(
            embed_dims=(widths[0], widths[1], widths[2]),
            depths=(depths[0], depths[1], depths[2]),
            num_heads=known_heads("--num-heads", widths[2], num_heads, {768: 12, 1024: 16}),
            mlp_ratios=(ratios[0], ratios[1], ratios[2]),
            patch_size=patch,
        ),
        decoder=DecoderConfig(
            dim=dim,
            depth=len({k.split(".")[1] for k in state if k.startswith("decoder_blocks.")}),
            num_heads=known_heads("--decoder-heads", dim, decoder_heads, {512: 16}),
            mlp_ratio=state["decoder_blocks.0.mlp.fc1.weight"].shape[0] / dim,
        ),
        cell=patch // max(isqrt(cells), 1),
    )


_HEADS = "heads.hog.predictor"

SPEC = MethodSpec(
    DMJDConfig,
    dmjd,
    "Ma et al., 2023",
    {
        "pos_embed": "encoder.pos_embed",
        "patch_embed1": "encoder.patch_embed.embed",
        **{f"patch_embed{k + 2}.proj": f"encoder.patch_embed.merges.{k}" for k in range(2)},
        **{f"patch_embed{k + 2}.norm": f"encoder.patch_embed.norms.{k}" for k in range(2)},
        "patch_embed4": "encoder.patch_embed.proj",
        **{f"stage{k + 1}_output_decode": f"encoder.patch_embed.laterals.{k}" for k in range(2)},
        **{f"blocks{k + 1}": f"encoder.patch_embed.stages.{k}" for k in range(2)},
        "blocks3": "encoder.blocks",
        "norm": "encoder.norm",
        "mask_token": f"{_HEADS}.mask_token",
        "decoder_embed": f"{_HEADS}.embed",
        "decoder_pos_embed": f"{_HEADS}.pos_embed",
        "decoder_blocks": f"{_HEADS}.blocks",
        "decoder_norm": f"{_HEADS}.norm",
        "decoder_pred": f"{_HEADS}.head",
        "proj_embed": "heads.visible.predictor.proj",
        "predictor": "heads.visible.predictor.predictor",
    },
    prepare=prepare,
    infer=infer,
    ranks=(2,),
)
