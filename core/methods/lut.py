"""LUT: MAE whose visible tokens also learn what the whole of another view looks like.

Kim et al., "Learning with Unmasked Tokens Drives Stronger Vision Learners", ECCV 2024,
arXiv 2310.13593. Composition: two views with disjoint random masks, drop, ViT, joint decoder on the
first view (standardised pixels, squared error), and agreement of both with a slow teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import Tensor

from ..decoders.projector import Activation, Norm, Projector
from ..errors import UsageError
from ..grid import Grid
from ..masking.plan import seen_and_hidden
from ..masking.strategies import RandomMask
from ..masking.views import DisjointView
from ..method import Head, Method
from ..objectives.alignment import CrossViewAlignment
from ..objectives.dense import l2
from ..targets.pixels import PixelTarget
from ..teacher import Teacher, half_cosine
from .config import DecoderConfig, EncoderConfig
from .mae import SPEC as MAE
from .spec import VIT_NAMES, MethodSpec

PROJECTOR = "heads.alignment.projector"


@dataclass(frozen=True, kw_only=True)
class LUTConfig:
    """LUT (Kim et al., ECCV 2024)."""

    name: Literal["lut"] = "lut"
    """Name of the method."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, kept after pre-training."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder, self-attention over all tokens of the first view."""
    mask_ratio: float = 0.75
    """Share of tokens that each view hides; at least a half."""
    projector_hidden: int = 4096
    """Hidden width of projector and predictor."""
    projector_depth: int = 2
    """Linear layers of the projector."""
    predictor_depth: int = 2
    """Linear layers of the predictor behind the student's projector."""
    projector_norm: Norm = "batch"
    """Normalisation of hidden values; with `batch` a result depends on the other samples, and on
    how a batch is cut into parts."""
    projector_activation: Activation = "relu"
    """Activation of hidden values."""
    pixel_weight: float = 1.0
    """Factor of the reconstruction."""
    alignment_weight: float = 0.25
    """Factor of the agreement with the teacher."""
    momentum: float = 0.996
    """Share of its old weights that the teacher keeps at the start; it rises to 1."""
    norm_pix: bool = True
    """Standardise each target patch by its own mean and deviation."""
    noise_floor: float = 1e-2
    """Patches with a smaller deviation (in units of the normalised image) carry no weight."""
    as_published: bool = False
    """Reproduce the released code: truncated counts, every patch trained on."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256.

        The published rule grows with the root of the batch; at the published 4096 it is the same.
        """
        return 1.0


def lut(config: LUTConfig, grid: Grid) -> Method:
    """Compose LUT for a grid of any rank.

    Raises:
        UsageError: when two disjoint visible parts do not fit the grid, or nothing is visible.
    """
    num_tokens = grid.num_tokens
    num_visible, num_predict = seen_and_hidden(
        num_tokens, config.mask_ratio, truncated=config.as_published
    )
    if 2 * num_visible > num_tokens:
        raise UsageError(
            f"mask_ratio {config.mask_ratio}",
            "leaves more than half of the tokens to each of two views, which are to be disjoint",
            "use 0.5 or more",
        )
    target = PixelTarget(config.norm_pix, 0.0 if config.as_published else config.noise_floor)
    encoder, form = config.encoder.build(grid), config.decoder
    decoder = form.joint(grid, encoder, target.out_dim(grid))
    projector, predictor = (
        Projector(
            encoder.embed_dim,
            config.projector_hidden,
            depth,
            config.projector_norm,
            config.projector_activation,
        )
        for depth in (config.projector_depth, config.predictor_depth)
    )
    heads = {
        "pixels": Head(decoder, target, l2, config.pixel_weight, first_view=True),
        "alignment": CrossViewAlignment(
            projector, predictor, PROJECTOR, "pixels", config.alignment_weight
        ),
    }
    rise = partial(half_cosine, config.momentum)  # step 10
    teacher = Teacher({"encoder": encoder, PROJECTOR: projector}, rise)
    return Method(
        "lut",
        grid,
        RandomMask(num_visible, num_predict),
        encoder,
        heads,
        teacher=teacher,
        views=DisjointView(num_visible, num_predict),
    )


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give averaged tensors the prefix `ema.`; without any the teacher equals the student."""
    out = {name.replace("ema/", "ema.", 1): value for name, value in state.items()}
    if any(name.startswith("ema.") for name in out):
        return out
    followed = (*VIT_NAMES, "head")
    return out | {f"ema.{k}": v for k, v in out.items() if k.split(".")[0] in followed}


SPEC = MethodSpec(
    LUTConfig,
    lut,
    "Kim et al., ECCV 2024",
    dict(MAE.names)
    | {"head": PROJECTOR, "predictor": "heads.alignment.predictor"}
    | {f"ema.{name}": f"teacher.copies.0.{name}" for name in VIT_NAMES}
    | {"ema.head": "teacher.copies.1"},
    # The release averages the decoder and the predictor as well, and reads neither.
    ignored=tuple(
        f"ema.{name}"
        for name in (
            "mask_token",
            "decoder_embed",
            "decoder_pos_embed",
            "decoder_blocks",
            "decoder_norm",
            "decoder_pred",
            "predictor",
        )
    ),
    prepare=prepare,
)
