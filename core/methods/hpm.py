"""HPM: MAE that also learns which patches are hard to reconstruct, and hides more and more of them.

Wang et al., "Hard Patches Mining for Masked Image Modeling", CVPR 2023, arXiv 2304.05919.
Composition: hard mask (scored by a slow teacher that sees the whole image), drop, ViT, a trunk with
two joint decoders, pixels with squared error (or the teacher's tokens) and a ranking of the losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import Tensor

from ..batch import Progress
from ..decoders.trunk import JointTrunk, TrunkDecoder
from ..encoders.contract import Encoder
from ..grid import Grid
from ..masking.hard import HardMask
from ..masking.plan import count, seen_and_hidden
from ..method import Head, Method
from ..objectives.dense import TokenLoss, l2, unit_l2
from ..objectives.ranking import LossPrediction, absolute, relative
from ..targets.contract import Target
from ..targets.features import TeacherTokens
from ..targets.pixels import PixelTarget
from ..teacher import Teacher
from .config import DecoderConfig, EncoderConfig
from .spec import VIT_NAMES, MethodSpec

RANKING = "heads.hardness.predictor"


@dataclass(frozen=True, kw_only=True)
class HPMConfig:
    """HPM (Wang et al., CVPR 2023)."""

    name: Literal["hpm"] = "hpm"
    """Name of the method."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, kept after pre-training."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Both decoders, one for pixels and one for losses."""
    mask_ratio: float = 0.75
    """Share of tokens that are hidden and predicted."""
    target: Literal["pixels", "features"] = "pixels"
    """Predict pixels, or the direction of the teacher's tokens of the whole image."""
    hard_share: float = 0.5
    """Share of the hidden tokens that are the hardest ones at the end of the run; it grows from
    zero in proportion to the epochs."""
    hardness_loss: Literal["relative", "absolute"] = "relative"
    """Learn the order of the losses of an image, or their standardised values (ablation)."""
    hardness_weight: float = 1.0
    """Factor of that loss beside the reconstruction."""
    momentum: float = 0.999
    """Share of its old weights that the teacher keeps in an update, at the start."""
    final_momentum: float = 0.9999
    """The same after `momentum_epochs`."""
    momentum_epochs: int = 100
    """Epochs in which the momentum rises."""
    norm_pix: bool = False
    """Standardise each target patch by its own mean and deviation."""
    noise_floor: float = 1e-2
    """Standardised patches with a smaller deviation (in units of the normalised image) carry no
    weight."""
    as_published: bool = False
    """Reproduce the released code: truncated counts, every patch trained on, pairs averaged over
    the batch."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def num_hard(num_hidden: int, share: float, progress: Progress) -> int:
    """Return how many hidden tokens are the hardest ones; constant within an epoch (step 2)."""
    epochs = max(progress.num_epochs, 1)
    return count(num_hidden, share * min(int(progress.epoch) + 1, epochs) / epochs)


def momentum(start: float, end: float, epochs: int, progress: Progress) -> float:
    """Return the share of the old teacher that is kept; it rises once per epoch (step 9)."""
    return start + min(int(progress.epoch) / max(epochs, 1), 1.0) * (end - start)


def first_head(config: HPMConfig, encoder: Encoder) -> tuple[Target, TokenLoss, int]:
    """Return what is predicted, its loss, and the FLOP that the teacher spends on it."""
    if config.target == "features":
        whole = encoder.forward_flops(encoder.grid.num_tokens)
        return TeacherTokens(encoder.embed_dim), unit_l2, whole
    floor = 0.0 if config.as_published else config.noise_floor
    return PixelTarget(config.norm_pix, floor), l2, 0


def hpm(config: HPMConfig, grid: Grid) -> Method:
    """Compose HPM for a grid of any rank.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict.
    """
    num_tokens = grid.num_tokens
    num_visible, num_hidden = seen_and_hidden(
        num_tokens, config.mask_ratio, truncated=config.as_published
    )
    encoder, form = config.encoder.build(grid), config.decoder
    target, loss, score_flops = first_head(config, encoder)
    prefix = encoder.num_prefix_tokens
    trunk = JointTrunk(grid, encoder.embed_dim, form.dim, prefix)
    # The released loss head has as many outputs as a patch has numbers, and averages them.
    towers = [
        TrunkDecoder(grid, form.dim, form.depth, form.num_heads, num, prefix, form.mlp_ratio)
        for num in (target.out_dim(grid), grid.patch_dim)
    ]
    heads = {
        config.target: Head(towers[0], target, loss),
        "hardness": LossPrediction(
            towers[1],
            config.target,
            relative if config.hardness_loss == "relative" else absolute,
            config.hardness_weight,
            over_batch=config.as_published,
        ),
    }
    rise = partial(momentum, config.momentum, config.final_momentum, config.momentum_epochs)
    teacher = Teacher({"encoder": encoder, "trunk": trunk, RANKING: towers[1]}, rise)
    everything = num_tokens + prefix
    score_flops += trunk.forward_flops(everything)
    score_flops += towers[1].forward_flops(everything, num_tokens)
    mask = HardMask(
        num_visible,
        num_hidden,
        partial(num_hard, num_hidden, config.hard_share),
        RANKING,
        score_flops,
    )
    return Method("hpm", grid, mask, encoder, heads, trunk=trunk, teacher=teacher)


_TRUNK = {
    "mask_token": "mask_token",
    "decoder_embed": "embed",
    "decoder_pos_embed": "pos_embed",
}
_TOWER = {"decoder_blocks": "blocks", "decoder_norm": "norm", "decoder_pred": "head"}


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return student tensors by bare names; a file without a teacher gives it the same weights."""
    student = {k.removeprefix("student."): v for k, v in state.items() if k[:8] != "teacher."}
    if len(student) == len(state):
        return student | {f"teacher.{name}": value for name, value in student.items()}
    return student | {k: v for k, v in state.items() if k.startswith("teacher.")}


SPEC = MethodSpec(
    HPMConfig,
    hpm,
    "Wang et al., CVPR 2023",
    VIT_NAMES
    | {f"teacher.{name}": f"teacher.copies.0.{name}" for name in VIT_NAMES}
    | {name: f"trunk.{ours}" for name, ours in _TRUNK.items()}
    | {f"teacher.{name}": f"teacher.copies.1.{ours}" for name, ours in _TRUNK.items()}
    | {name: f"heads.pixels.predictor.{ours}" for name, ours in _TOWER.items()}
    | {f"{name}_losspred": f"{RANKING}.{ours}" for name, ours in _TOWER.items()}
    | {f"teacher.{n}_losspred": f"teacher.copies.2.{ours}" for n, ours in _TOWER.items()},
    # The teacher's pixel decoder is averaged and run by the release, but nothing reads it.
    ignored=tuple(f"teacher.{name}" for name in _TOWER),
    prepare=prepare,
    # A ranking does not change when all predictions move together.
    indifferent=(f"{RANKING}.head.bias",),
)
