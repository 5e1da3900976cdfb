"""SelectiveMAE: encode a few telling patches, reconstruct a few others, by cross-attention.

Wang et al., "Harnessing Massive Satellite Imagery with Efficient Masked Image Modeling",
ICCV 2025. Composition: similarity-progressive mask, drop, ViT, cross decoder, pixels standardised
per patch, squared error. The released code's content score is constant by a defect, so that seeds
and targets are uniform there (`as_published=True`); here they follow gradient energy, as meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from ..decoders.cross import CrossDecoder
from ..errors import UsageError
from ..grid import Grid
from ..masking.plan import check_counts, count
from ..masking.progressive import Curriculum, SimilarityProgressive
from ..method import Head, Method
from ..objectives.dense import l2
from ..targets.pixels import PixelTarget
from .config import DecoderConfig, EncoderConfig
from .spec import VIT_NAMES, MethodSpec


@dataclass(frozen=True, kw_only=True)
class SelectiveMAEConfig:
    """SelectiveMAE (Wang et al., ICCV 2025)."""

    name: Literal["selectivemae"] = "selectivemae"
    """Name of the method."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, kept after pre-training."""
    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig(depth=12))
    """The decoder, cross-attention from predicted tokens to the encoder's output."""
    mask_ratio: float = 0.85
    """Share of tokens that the encoder does not see."""
    predict_ratio: float = 0.25
    """Share of all tokens that are predicted (the paper's r)."""
    score: Literal["hog-energy", "uniform"] = "hog-energy"
    """How seeds and targets are drawn; the released code draws uniformly."""
    draw: Literal["sample", "top"] = "sample"
    """Sample in proportion to the score, or take the best."""
    milestones: tuple[float, float, float, float] = (0.35, 0.375, 0.725, 0.75)
    """Shares of the run at which near ends, far starts, far ends, random starts."""
    published_epochs: tuple[int, int, int, int] = (280, 300, 580, 600)
    """The same as whole epochs, used with as_published (the released 800-epoch run)."""
    num_rounds: int = 2
    """Rounds in which tokens are added to the seeds."""
    self_attn: bool = False
    """Let predicted tokens read each other in the decoder."""
    norm_pix: bool = True
    """Standardise each target patch by its own mean and deviation."""
    noise_floor: float = 1e-2
    """Patches with a smaller deviation (in units of the normalised image) carry no weight."""
    scale_lr: bool = True
    """Multiply the learning rate by predicted over masked share, as the released code does."""
    as_published: bool = False
    """Reproduce the released code: uniform draws, epoch milestones, batch-wide random ranks."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256: r / m."""
        return self.predict_ratio / self.mask_ratio if self.scale_lr else 1.0

    def selection(self, num_tokens: int) -> SimilarityProgressive:
        """Return the mask strategy for a number of tokens.

        Raises:
            UsageError: when the ratios do not fit.
        """
        share = 1 - self.mask_ratio
        if self.as_published:
            num_visible = int(num_tokens * share)
            num_predict = int(num_tokens * self.predict_ratio)
            num_added = num_visible - int(num_tokens * (share / 2))
        else:
            num_visible = count(num_tokens, share)
            num_predict = count(num_tokens, self.predict_ratio)
            num_added = num_visible - num_visible // 2
        num_seeds = num_visible - num_added
        check_counts(num_tokens, num_visible, num_predict)
        if num_seeds < 1:
            raise UsageError(
                f"mask_ratio {self.mask_ratio}",
                f"leaves {num_visible} visible of {num_tokens} tokens, too few to start from",
                "lower it or use smaller patches",
            )
        stops = self.published_epochs if self.as_published else self.milestones
        return SimilarityProgressive(
            num_visible,
            num_seeds,
            num_predict,
            score="uniform" if self.as_published else self.score,
            draw=self.draw,
            curriculum=Curriculum(*map(float, stops), in_epochs=self.as_published),
            num_rounds=self.num_rounds,
            shared_ranks=self.as_published,
        )


def selectivemae(config: SelectiveMAEConfig, grid: Grid) -> Method:
    """Compose SelectiveMAE for a grid of any rank."""
    target = PixelTarget(config.norm_pix, 0.0 if config.as_published else config.noise_floor)
    encoder = config.encoder.build(grid)
    decoder = CrossDecoder(
        grid,
        encoder.embed_dim,
        config.decoder.dim,
        (-1,) * config.decoder.depth,
        config.decoder.num_heads,
        target.out_dim(grid),
        config.self_attn,
        config.decoder.mlp_ratio,
    )
    mask = config.selection(grid.num_tokens)
    return Method("selectivemae", grid, mask, encoder, {"pixels": Head(decoder, target, l2)})


def refine(config: SelectiveMAEConfig, state: Mapping[str, Tensor]) -> SelectiveMAEConfig:
    """Read from published tensors whether queries read each other."""
    return replace(config, self_attn="decoder_blocks.0.norm0.weight" in state)


SPEC = MethodSpec(
    SelectiveMAEConfig,
    selectivemae,
    "Wang et al., ICCV 2025",
    VIT_NAMES
    | {
        "mask_token": "heads.pixels.predictor.mask_token",
        "decoder_pos_embed": "heads.pixels.predictor.pos_embed",
        "decoder_blocks": "heads.pixels.predictor.blocks",
        "decoder_norm": "heads.pixels.predictor.norm",
        "decoder_pred": "heads.pixels.predictor.head",
    },
    # Left-overs of another method in the released files (selectivemae.md, "Official checkpoints").
    ignored=("decoder_embed1", "decoder_embed", "get_token_probs", "pos_embed_probs", "hog"),
    refine=refine,
)
