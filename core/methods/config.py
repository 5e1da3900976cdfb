"""Configuration that methods share; the field docstrings are the command line's help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..decoders.joint import JointDecoder
from ..encoders.contract import Encoder
from ..encoders.vit import ViT
from ..errors import UsageError
from ..grid import Grid


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The plain ViT."""

    embed_dim: int = 192
    """Width of a token."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 3
    """Attention heads; must divide the width."""
    patch_size: int | tuple[int, ...] = 16
    """Pixels per patch side; or one number per axis, such as 4 16 16 for thick slices."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width."""
    class_token: bool = True
    """Put a learned class token in front."""

    def build(self, grid: Grid, drop_path: float = 0.0) -> ViT:
        """Return the encoder for a grid."""
        return ViT(
            grid,
            self.embed_dim,
            self.depth,
            self.num_heads,
            self.mlp_ratio,
            self.class_token,
            drop_path,
        )


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The pre-training decoder; it is not used after pre-training."""

    dim: int = 512
    """Width of a token."""
    depth: int = 8
    """Number of blocks."""
    num_heads: int = 16
    """Attention heads; must divide the width."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width."""

    def joint(
        self, grid: Grid, encoder: Encoder, out_dim: int, *, shared_token: bool = False
    ) -> JointDecoder:
        """Return MAE's decoder of this size behind an encoder.

        Args:
            grid: geometry of the tokens.
            encoder: whose output is read.
            out_dim: numbers predicted per token.
            shared_token: see `JointDecoder`.
        """
        return JointDecoder(
            grid,
            encoder.embed_dim,
            self.dim,
            self.depth,
            self.num_heads,
            out_dim,
            encoder.num_prefix_tokens,
            self.mlp_ratio,
            shared_token,
        )


def known_heads(flag: str, width: int, given: int | None, known: Mapping[int, int]) -> int:
    """Return the attention heads of published weights, which no file tells.

    Args:
        flag: option that gives them.
        width: read from the file.
        given: what the user said.
        known: heads of the published widths.

    Raises:
        UsageError: when nothing was said about an unpublished width.
    """
    if given is None and width not in known:
        reason = "is not a published size, so its head count is unknown"
        raise UsageError(f"width {width}", reason, f"give {flag}")
    return known[width] if given is None else given


TINY = EncoderConfig(embed_dim=192, depth=12, num_heads=3)
SMALL = EncoderConfig(embed_dim=384, depth=12, num_heads=6)
BASE = EncoderConfig(embed_dim=768, depth=12, num_heads=12)
LARGE = EncoderConfig(embed_dim=1024, depth=24, num_heads=16)
HUGE = EncoderConfig(embed_dim=1280, depth=32, num_heads=16, patch_size=14)
