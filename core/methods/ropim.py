"""RoPIM: show random mixtures of patches, and score what the mixtures lost.

Haghighat et al., "Pre-training with Random Orthogonal Projection Image Modeling", ICLR 2024.
Composition: random sketch, mixing, BEiT-style ViT on the whole grid, linear decoder, raw pixels,
absolute error outside the sketch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from ..corruption import Mixing
from ..decoders.linear import LinearDecoder
from ..errors import UsageError
from ..grid import Grid
from ..masking.sketch import SketchMask
from ..method import Method
from ..objectives.complement import ComplementHead
from ..objectives.dense import l1
from ..targets.pixels import PixelTarget
from .config_beit import BEIT_NAMES, BEiTConfig, prepare_beit, reader
from .spec import MethodSpec


@dataclass(frozen=True, kw_only=True)
class RoPIMConfig:
    """RoPIM (Haghighat et al., ICLR 2024)."""

    name: Literal["ropim"] = "ropim"
    """Name of the method."""
    encoder: BEiTConfig = field(default_factory=BEiTConfig)
    """The encoder, kept after pre-training."""
    sketch_ratio: float = 0.14
    """Mixtures that are kept, as a share of the tokens; the nearest number that divides them."""
    complement: bool = False
    """Show what the mixtures lose, and score what they keep."""
    as_published: bool = False
    """Reproduce the released code: sums are multiplied by the ratio, which is only nearly one over
    the tokens of a bucket, and the number of mixtures is rounded up."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0

    def sketch(self, num_tokens: int) -> SketchMask:
        """Return the mask strategy for a number of tokens.

        Raises:
            UsageError: when the tokens cannot be divided into buckets of at least two.
        """
        wanted = self.sketch_ratio * num_tokens
        if self.as_published:
            num_buckets, scale = ceil(wanted), self.sketch_ratio
        else:
            fitting = [k for k in range(1, num_tokens) if num_tokens % k == 0]
            num_buckets = min(fitting, key=lambda k: abs(k - wanted), default=0)
            scale = None
        if not 0 < num_buckets < num_tokens or num_tokens % num_buckets:
            raise UsageError(
                f"sketch_ratio {self.sketch_ratio} of {num_tokens} tokens",
                f"makes {num_buckets} buckets, which do not divide them evenly",
                "use another image size, or leave as_published off, which takes the nearest fit",
            )
        return SketchMask(num_tokens, num_buckets, scale, self.complement)


def ropim(config: RoPIMConfig, grid: Grid) -> Method:
    """Compose RoPIM for a grid of any rank.

    Raises:
        UsageError: when the tokens cannot be divided into buckets.
    """
    encoder, target = config.encoder.build(grid), PixelTarget(norm_pix=False)
    decoder = LinearDecoder(grid, encoder.embed_dim, target.out_dim(grid))
    heads = {"pixels": ComplementHead(decoder, target, l1)}
    mask = config.sketch(grid.num_tokens)
    return Method(config.name, grid, mask, encoder, heads, corruption=Mixing())


_NAMES = BEIT_NAMES | {"decoder.0": "heads.pixels.predictor.head"}

SPEC = MethodSpec(
    RoPIMConfig,
    ropim,
    "Haghighat et al., ICLR 2024",
    _NAMES,
    prepare=prepare_beit,
    infer=reader(RoPIMConfig, _NAMES),
    flat_patches=True,
    hides="complement",
)
