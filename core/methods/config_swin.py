"""Configuration of the Swin encoders; the field docstrings are the command line's help."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from ..encoders.swin import Swin, SwinShape
from ..grid import Grid


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Swin or SwinV2, whose small patches lie inside the tokens that a mask hides."""

    name: Literal["swin"] = "swin"
    """Kind of encoder."""
    patch_size: int = 32
    """Pixels per side of a token, which a mask hides as a whole: the encoder's stride or less."""
    stem_size: int = 4
    """Pixels per side of the patches that are embedded."""
    embed_dim: int = 96
    """Width of the first stage; each later one is twice as wide."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks per stage."""
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    """Attention heads per stage."""
    window_size: int = 6
    """Cells per side of a window; a stage with a smaller grid uses one window."""
    version: Literal[1, 2] = 1
    """2 for SwinV2: cosine attention, continuous position bias, norms behind the branches."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width."""
    qkv_bias: bool = True
    """Bias of queries, keys and values."""
    patch_norm: bool = True
    """Normalise embedded patches."""
    pretrained_windows: tuple[int, ...] | None = None
    """Window per stage of the pre-training, when a SwinV2 goes on with another one."""
    extra_norm_period: int = 0
    """Normalise the output of every n-th block of a stage; 0 for none."""
    extra_norm_stage: bool = False
    """Normalise the output of the last block of every stage."""
    drop_path: float = 0.0
    """Rate at which residual branches of the last block are dropped; rises linearly from zero."""
    checkpoint: bool = False
    """Recompute blocks in the backward: less memory, about a third more time."""

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def stride(self) -> int:
        """Pixels per side of a cell of the last stage."""
        return self.shape().stride

    def shape(self) -> SwinShape:
        """Return the architecture."""
        own = {f.name for f in fields(SwinShape)}
        return SwinShape(**{f.name: getattr(self, f.name) for f in fields(self) if f.name in own})

    def build(self, grid: Grid) -> Swin:
        """Return the encoder for a grid."""
        return Swin(grid, self.shape())
