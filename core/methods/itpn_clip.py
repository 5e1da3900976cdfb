"""iTPN with a teacher: the pyramid learns the features that a frozen CLIP model gives.

Tian et al., "Integrally Pre-Trained Transformer Pyramid Networks", CVPR 2023, arXiv 2211.12735; the
released variant `itpn_clip`. Composition: block mask, mask token at the input of the main stage,
HiViT, pyramid whose levels are summed as trunk; two heads for all tokens, one on the trunk and one
at three quarters of the depth, teacher features, smooth L1. As released, the lateral connections
carry the hidden pixels (`as_published=True`); here they are closed at hidden tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..corruption import MaskToken
from ..decoders.feature_pyramid import PyramidConfig, PyramidTrunk, UnitDecoder
from ..encoders.clip_vit import ClipViTConfig
from ..encoders.hivit import HiViTConfig
from ..errors import WeightsError
from ..frozen import FrozenTeacher
from ..grid import Grid, per_axis
from ..masking.plan import check_counts, count
from ..masking.strategies import BlockMask, RandomMask
from ..method import Head, Method
from ..objectives.dense import smooth_l1
from ..targets.features import FeatureTarget
from .config import EncoderConfig
from .itpn import PYRAMID_NAMES, infer_pyramid
from .spec import MethodSpec


@dataclass(frozen=True, kw_only=True)
class ITPNClipConfig:
    """iTPN with features of a frozen teacher (Tian et al., CVPR 2023, released code)."""

    name: Literal["itpn-clip"] = "itpn-clip"
    """Name of the method."""
    encoder: HiViTConfig = field(
        default_factory=lambda: HiViTConfig(relative_bias=True, layer_scale=0.1)
    )
    """The encoder, kept after pre-training."""
    pyramid: PyramidConfig = field(default_factory=lambda: PyramidConfig(depth=1))
    """The pyramid, kept for detection and segmentation."""
    teacher: EncoderConfig | ClipViTConfig | None = None
    """A frozen plain ViT or image tower of CLIP that gives the features; none when batches bring
    them. Its weights are random until a file's are loaded, see `checkpoints.teacher_weights`."""
    teacher_dim: int = 512
    """Numbers per token of features that batches bring (CLIP-B: 512, CLIP-L: 768)."""
    teacher_gain: tuple[float, ...] = (1.0,)
    """Images are multiplied by this before the teacher sees them: one number, or one per
    channel."""
    teacher_offset: tuple[float, ...] = (0.0,)
    """Added after that, so that the teacher sees what it was trained on; the released code shows
    images in 0..1 to a teacher made for -1..1, which is a gain and an offset of 0.5 for images in
    -1..1."""
    mask: Literal["block", "random"] = "block"
    """Hide rectangles, or single tokens."""
    mask_ratio: float = 75 / 196
    """Share of tokens that are hidden."""
    drop_path: float = 0.1
    """Rate of stochastic depth in the last block; earlier ones rise linearly from zero."""
    as_published: bool = False
    """Reproduce the released code: lateral connections show the pixels of hidden tokens."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def itpn_clip(config: ITPNClipConfig, grid: Grid) -> Method:
    """Compose the variant for a grid of any rank.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or to hide, a size cannot be divided
            into cells, or the encoder is too shallow for the second head.
    """
    num_tokens = grid.num_tokens
    num_hidden = count(num_tokens, config.mask_ratio)
    check_counts(num_tokens, num_tokens - num_hidden, num_hidden)
    strategy = BlockMask if config.mask == "block" else RandomMask
    encoder = config.encoder.build(grid, config.drop_path)
    teacher, dim = None, config.teacher_dim
    if config.teacher is not None:
        patch = per_axis(config.teacher.patch_size, grid.ndim)
        model = config.teacher.build(Grid(grid.shape, patch, grid.channels))
        teacher = FrozenTeacher(model, config.teacher_gain, config.teacher_offset)
        dim = model.embed_dim
    target = FeatureTarget(dim)
    # Released: block int(0.75 * depth) of the main stage, counted from zero.
    tap = sum(config.encoder.stem_depths) + 2 + int(0.75 * config.encoder.depth)
    predictors = {
        "pyramid": UnitDecoder(encoder, dim),
        "auxiliary": UnitDecoder(encoder, dim, tap, depth=2, drop_path=config.drop_path),
    }
    return Method(
        "itpn-clip",
        grid,
        strategy(num_tokens - num_hidden, num_hidden),
        encoder,
        {
            name: Head(predictor, target, smooth_l1, num_everywhere=num_tokens)
            for name, predictor in predictors.items()
        },
        corruption=MaskToken(encoder.embed_dim),
        trunk=PyramidTrunk(
            encoder,
            config.pyramid,
            encoder.embed_dim,
            fill=False,
            open_laterals=config.as_published,
        ),
        teacher=teacher,
    )


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out tables of position biases that the release makes and never reads.

    Its two extra blocks always have one, also where the encoder has no relative bias.
    """
    used = any(name.startswith("blocks.") and name.endswith(_TABLE) for name in state)
    return {k: v for k, v in state.items() if used or not k.endswith(_TABLE)}


def infer(
    state: Mapping[str, Tensor], *, num_heads: int | None = None, decoder_heads: int | None = None
) -> ITPNClipConfig:
    """Read the configuration from published tensors; see `infer_pyramid`."""
    del decoder_heads  # the extra blocks have those of the encoder
    encoder, pyramid = infer_pyramid(state, num_heads)
    head = state.get("lm_head.weight")
    if head is None:
        raise WeightsError("checkpoint", "lacks lm_head", "give one of iTPN's with a teacher")
    return ITPNClipConfig(encoder=encoder, pyramid=pyramid, teacher_dim=head.shape[0])


_TABLE = "attn.relative_position_bias_table"

SPEC = MethodSpec(
    ITPNClipConfig,
    itpn_clip,
    "Tian et al., CVPR 2023 (released code)",
    PYRAMID_NAMES
    | {
        "mask_token": "corruption.mask_token",
        "norm": "heads.pyramid.predictor.norm",
        "lm_head": "heads.pyramid.predictor.head",
        "cls_pt_layers": "heads.auxiliary.predictor.blocks",
        "norm_cls": "heads.auxiliary.predictor.norm",
        "lm_cls_head": "heads.auxiliary.predictor.head",
    },
    # Integers that follow from the grid.
    ignored=("relative_position_index",),
    prepare=prepare,
    infer=infer,
    flat_patches=True,
    learned_positions=True,
)
