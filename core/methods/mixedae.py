"""MixedAE: mix the patches of several images, find out which belong together, rebuild each image.

Chen et al., "Mixed Autoencoder for Self-supervised Visual Representation Learning", CVPR 2023,
arXiv 2303.17152. Composition: one mask per group of images, mixing with segment embeddings and
top-k attention, ViT, joint decoder per image, pixels standardised per patch, squared error, plus a
contrastive loss over the tokens of each mixed sequence.

No code was published. The paper's abstract is the source for mixing, segment embeddings, attention
to homologous patches, the contrastive loss and their purpose. Inferred or recalled, and not checked
against the paper: the group size 4, equal shares dealt out by one noise, top-k per query and head
in all blocks with k the patches of an image, the temperature 0.25, the weight 0.1, decoding each
image by itself, the class token exempt from top-k. This is no reproduction of the paper's results.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..errors import UsageError
from ..grid import Grid
from ..masking.plan import check_counts
from ..method import Head, Method
from ..mixing import Mixing, SharedMask
from ..objectives.contrastive import HomologousContrast
from ..objectives.dense import l2
from ..targets.pixels import PixelTarget
from .config import DecoderConfig, EncoderConfig
from .spec import MethodSpec


@dataclass(frozen=True, kw_only=True)
class MixedAEConfig:
    """MixedAE (Chen et al., CVPR 2023), as far as it is known without code."""

    name: Literal["mixedae"] = "mixedae"
    """Name of the method."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, kept after pre-training."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder, self-attention over all tokens of one image."""
    group: int = 4
    """Images that are mixed; each shows one share of its tokens, the rest is hidden and predicted.
    A batch has to be a multiple of it."""
    top_k_blocks: tuple[int, ...] | None = None
    """Blocks (from zero) in which a token reads only as many others as its image shows; none given
    means all, an empty list plain attention."""
    contrast_weight: float = 0.1
    """Weight of the contrastive loss; 0 leaves it out."""
    temperature: float = 0.25
    """Temperature of the contrastive loss."""
    norm_pix: bool = True
    """Standardise each target patch by its own mean and deviation."""
    noise_floor: float = 1e-2
    """Patches with a smaller deviation (in units of the normalised image) carry no weight."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def mixedae(config: MixedAEConfig, grid: Grid) -> Method:
    """Compose MixedAE for a grid of any rank.

    Raises:
        UsageError: when fewer than two images are mixed, or they leave nothing to see.
    """
    if config.group < 2:
        raise UsageError(f"group {config.group}", "mixes no images", "use 4, or the method mae")
    num_visible = grid.num_tokens // config.group
    num_predict = grid.num_tokens - num_visible
    check_counts(grid.num_tokens, num_visible, num_predict)
    target = PixelTarget(config.norm_pix, config.noise_floor)
    encoder = config.encoder.build(grid)
    decoder = config.decoder.joint(grid, encoder, target.out_dim(grid))
    heads: dict[str, Head | HomologousContrast] = {"pixels": Head(decoder, target, l2)}
    if config.contrast_weight:
        heads["contrast"] = HomologousContrast(
            config.group,
            encoder.embed_dim,
            encoder.num_prefix_tokens,
            config.temperature,
            config.contrast_weight,
        )
    return Method(
        "mixedae",
        grid,
        SharedMask(num_visible, num_predict, config.group),
        encoder,
        heads,
        corruption=Mixing(config.group, encoder.embed_dim, config.top_k_blocks),
    )


SPEC = MethodSpec(
    MixedAEConfig,
    mixedae,
    "Chen et al., CVPR 2023 (no code published)",
    # There are no published weights whose names could be translated.
    {},
    # The contrastive loss compares tokens of flat patches as of any others.
    flat_patches=True,
)
