"""FSFM: MAE of faces that hides a facial region whole, and looks at whole faces with a teacher.

Wang et al., "FSFM: A Generalizable Face Security Foundation Model via Self-Supervised Facial
Representation Learning", CVPR 2025, arXiv 2412.12032. Composition: region mask, drop, ViT, joint
decoder (standardised pixels, squared error, the region once more), and a pooled decoder whose
vector agrees with a slow teacher's of the whole image; both decoders share a mask token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from torch import Tensor

from ..decoders.pooled import PooledDecoder
from ..decoders.projector import Projector
from ..decoders.trunk import SharedMaskToken
from ..encoders.vit import ViT
from ..errors import UsageError, WeightsError
from ..grid import Grid
from ..masking.facial import FACE
from ..masking.plan import check_counts, count, seen_and_hidden
from ..masking.region_maps import COVERED, RegionMask, Rest
from ..masking.strategies import MaskStrategy, RandomMask
from ..method import Head, Method, Objective
from ..objectives.alignment import (
    Similarity,
    WholeImageAlignment,
    negative_cosine,
    squared_distance,
)
from ..objectives.contrastive import info_nce, nt_xent
from ..objectives.dense import l2
from ..objectives.subset import SubsetLoss
from ..targets.pixels import PixelTarget
from ..teacher import Teacher, half_cosine
from .config import DecoderConfig, EncoderConfig
from .spec import VIT_NAMES, MethodSpec

ALIGNMENT = "heads.alignment"
Masking = Literal["random", "fasking-i", "frp", "crfr-r", "crfr-p"]
SimilarityName = Literal["simsiam", "byol", "infonce", "mocov3", "simclr"]
SIMILARITIES: dict[SimilarityName, Similarity] = {
    "simsiam": negative_cosine,
    "byol": squared_distance,
    # On unit vectors the release's two are one formula.
    "infonce": info_nce,
    "mocov3": info_nce,
    "simclr": nt_xent,
}


@dataclass(frozen=True, kw_only=True)
class PooledDecoderConfig:
    """The decoder of the image's vector; it is as wide as the encoder."""

    depth: int = 2
    """Number of blocks."""
    num_heads: int = 16
    """Attention heads; must divide the encoder's width."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width."""


@dataclass(frozen=True, kw_only=True)
class FSFMConfig:
    """FSFM (Wang et al., CVPR 2025)."""

    name: Literal["fsfm"] = "fsfm"
    """Name of the method."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, kept after pre-training."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder of pixels, self-attention over all tokens."""
    pooled_decoder: PooledDecoderConfig = field(default_factory=PooledDecoderConfig)
    """The decoder of the image's vector (representation decoder)."""
    projection_dim: int = 256
    """Width of the vectors that are compared."""
    projection_hidden: int = 4096
    """Hidden width of projector and predictor."""
    masking: Masking = "crfr-p"
    """What is hidden, by the map of facial regions: `crfr-p` one region whole and the same share of
    all others, `crfr-r` one region and others at random, `frp` the same share of all regions,
    `fasking-i` facial parts before skin and background, `random` anything. Images without a map
    are masked at random."""
    mask_ratio: float = 0.75
    """Share of tokens that are hidden and predicted."""
    region_weight: float = 0.007
    """Factor of the reconstruction of the region that is hidden whole."""
    alignment_weight: float = 0.1
    """Factor of the agreement with the teacher."""
    alignment_loss: SimilarityName = "simsiam"
    """How vectors are compared; `infonce`, `mocov3` and `simclr` tell an image from the others of
    its batch, and depend on how a batch is cut into parts."""
    momentum: float = 0.996
    """Share of its old weights that the teacher keeps at the start; it rises to 1."""
    norm_pix: bool = True
    """Standardise each target patch by its own mean and deviation."""
    noise_floor: float = 1e-2
    """Patches with a smaller deviation (in units of the normalised image) carry no weight."""
    as_published: bool = False
    """Reproduce the released code: one region for the whole batch, whether images show it or not,
    its loss averaged over the batch, truncated counts, every patch trained on."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def mask(config: FSFMConfig, grid: Grid) -> MaskStrategy:
    """Return the mask strategy.

    Raises:
        UsageError: when the ratio leaves nothing to see or nothing to predict.
    """
    counts = seen_and_hidden(grid.num_tokens, config.mask_ratio)
    if config.as_published:
        # The release truncates both counts, and drops a token that is in neither.
        ratio, num = config.mask_ratio, grid.num_tokens
        counts = int(num * (1 - ratio)), count(num, ratio)
        check_counts(num, *counts)
    if config.masking == "random":
        return RandomMask(*counts)
    rest: dict[Masking, Rest] = {"crfr-r": "random", "fasking-i": "foreground"}
    return RegionMask(
        *counts,
        FACE,
        cover=config.masking in ("crfr-r", "crfr-p"),
        rest=rest.get(config.masking, "proportional"),
        shared_draw=config.as_published,
    )


def alignment(config: FSFMConfig, encoder: ViT) -> WholeImageAlignment:
    """Return the objective of the image's vector.

    Raises:
        UsageError: when the heads do not divide the width.
    """
    width, form = encoder.embed_dim, config.pooled_decoder
    if width % form.num_heads:
        raise UsageError(
            f"pooled_decoder.num_heads {form.num_heads}",
            f"does not divide the encoder's width {width}",
            "use one of its divisors",
        )
    projector, predictor = (
        Projector(
            dim,
            config.projection_hidden,
            norm="layer",
            out_dim=config.projection_dim,
            bias=True,
        )
        for dim in (width, config.projection_dim)
    )
    return WholeImageAlignment(
        PooledDecoder(width, form.depth, form.num_heads, form.mlp_ratio),
        projector,
        predictor,
        path=ALIGNMENT,
        of="pixels",
        weight=config.alignment_weight,
        similarity=SIMILARITIES[config.alignment_loss],
    )


def fsfm(config: FSFMConfig, grid: Grid) -> Method:
    """Compose FSFM for a grid of any rank.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict, or heads do not
            divide a width.
    """
    strategy = mask(config, grid)
    target = PixelTarget(config.norm_pix, 0.0 if config.as_published else config.noise_floor)
    encoder = config.encoder.build(grid)
    decoder = config.decoder.joint(grid, encoder, target.out_dim(grid), shared_token=True)
    heads: dict[str, Objective] = {"pixels": Head(decoder, target, l2)}
    if isinstance(strategy, RegionMask) and strategy.cover:
        heads["region"] = SubsetLoss(
            "pixels", COVERED, config.region_weight, over_batch=config.as_published
        )
    whole = heads["alignment"] = alignment(config, encoder)
    followed = {
        "encoder": encoder,
        f"{ALIGNMENT}.decoder": whole.decoder,
        f"{ALIGNMENT}.projector": whole.projector,
    }
    return Method(
        "fsfm",
        grid,
        strategy,
        encoder,
        heads,
        trunk=SharedMaskToken(encoder.embed_dim),
        teacher=Teacher(followed, partial(half_cosine, config.momentum)),
    )


_DECODER = {
    "rep_decoder_embed": "embed",
    "rep_decoder_blocks": "blocks",
    "rep_decoder_norm": "norm",
    "rep_decoder_pred": "head",
}
_FOLLOWED = (*VIT_NAMES, *_DECODER, "projector")


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give averaged tensors the prefix `target.`; without any the teacher equals the student.

    Raises:
        WeightsError: when the representation decoder has positions, which no release trained.
    """
    out = {name.removeprefix("online."): value for name, value in state.items()}
    for name, value in out.items():
        if name.endswith("rep_decoder_pos_embed") and value.any():
            raise WeightsError(
                f"tensor {name!r}",
                "is not zero, and hidden tokens have no position in this decoder",
                "check --from: the file seems to be of another version of FSFM",
            )
    if any(name.startswith("target.") for name in out):
        return out
    return out | {f"target.{k}": v for k, v in out.items() if k.split(".")[0] in _FOLLOWED}


def refine(config: FSFMConfig, state: Mapping[str, Tensor]) -> FSFMConfig:
    """Read the sizes of what sums an image up from published tensors, where they are there."""
    blocks = {name.split(".")[1] for name in state if name.startswith("rep_decoder_blocks.")}
    last = state.get("projector.projection_head.3.weight")
    if blocks:
        form = replace(config.pooled_decoder, depth=len(blocks))
        config = replace(config, pooled_decoder=form)
    if last is not None:
        dim, hidden = last.shape
        config = replace(config, projection_dim=dim, projection_hidden=hidden)
    return config


SPEC = MethodSpec(
    FSFMConfig,
    fsfm,
    "Wang et al., CVPR 2025",
    VIT_NAMES
    | {
        "mask_token": "trunk.mask_token",
        "decoder_embed": "heads.pixels.predictor.embed",
        "decoder_pos_embed": "heads.pixels.predictor.pos_embed",
        "decoder_blocks": "heads.pixels.predictor.blocks",
        "decoder_norm": "heads.pixels.predictor.norm",
        "decoder_pred": "heads.pixels.predictor.head",
        "projector.projection_head": f"{ALIGNMENT}.projector",
        "predictor.projection_head": f"{ALIGNMENT}.predictor",
        "target.projector.projection_head": "teacher.copies.2",
    }
    | {f"target.{name}": f"teacher.copies.0.{name}" for name in VIT_NAMES}
    | {name: f"{ALIGNMENT}.decoder.{ours}" for name, ours in _DECODER.items()}
    | {f"target.{name}": f"teacher.copies.1.{ours}" for name, ours in _DECODER.items()},
    # Zero tables, and the average of a token that stands for nothing where all is seen.
    ignored=("rep_decoder_pos_embed", "target.rep_decoder_pos_embed", "target.mask_token"),
    prepare=prepare,
    refine=refine,
    encoder_heads={384: 12},
)
