"""Configuration of the BEiT-style ViT, and the names of its released files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..encoders.beit import BEiT, RelativePositions
from ..errors import WeightsError
from ..grid import Grid
from .spec import translated
from .swin_weights import pixels_first

BEIT_NAMES = {
    name: f"encoder.{name}"
    for name in ("cls_token", "pos_embed", "patch_embed", "rel_pos_bias", "blocks", "norm")
} | {"encoder": "encoder"}
"""Published names of the encoder, alone or inside a pre-training model; they are ours."""


@dataclass(frozen=True, kw_only=True)
class BEiTConfig:
    """The BEiT-style ViT: relative positions, layer scale, keys without a bias."""

    name: Literal["beit"] = "beit"
    """Kind of encoder."""
    embed_dim: int = 192
    """Width of a token."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 3
    """Attention heads; must divide the width."""
    patch_size: int = 16
    """Pixels per patch side."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width."""
    relative_positions: RelativePositions = "shared"
    """One table of relative position biases for all blocks, one per block, or none."""
    absolute_positions: bool = False
    """Add a learned position to every token."""
    layer_scale: float | None = 0.1
    """Start of the scales of residual branches; none leaves them out."""
    qkv_bias: bool = True
    """Give queries and values a bias; keys never have one."""
    drop_path: float = 0.0
    """Rate at which residual branches of the last block are dropped; rises linearly from zero."""

    def build(self, grid: Grid) -> BEiT:
        """Return the encoder for a grid."""
        return BEiT(
            grid,
            self.embed_dim,
            self.depth,
            self.num_heads,
            self.mlp_ratio,
            relative_positions=self.relative_positions,
            absolute_positions=self.absolute_positions,
            layer_scale=self.layer_scale,
            qkv_bias=self.qkv_bias,
            drop_path=self.drop_path,
        )


BEIT_TINY = BEiTConfig(drop_path=0.1)
BEIT_SMALL = BEiTConfig(embed_dim=384, num_heads=6, drop_path=0.1)
BEIT_BASE = BEiTConfig(embed_dim=768, num_heads=12, drop_path=0.1)
BEIT_LARGE = BEiTConfig(embed_dim=1024, depth=24, num_heads=16, drop_path=0.1)


def prepare_beit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reorder the head of a released pre-training model and leave integer tables out.

    Args:
        state: by published names.
    """
    head = {name: state[name] for name in ("decoder.0.weight", "decoder.0.bias") if name in state}
    kernel = state.get("encoder.patch_embed.proj.weight")
    if head and kernel is not None:
        head = {
            k: pixels_first(v.flatten(1) if v.ndim > 1 else v, kernel.shape[1])
            for k, v in head.items()
        }
    kept = {k: v for k, v in state.items() if not k.endswith("relative_position_index")}
    return kept | head


def reader(kind: Callable[..., Any], names: Mapping[str, str]) -> Callable[..., Any]:
    """Return what reads the configuration of a method from its published tensors.

    Args:
        kind: class of the configuration, made with the keyword `encoder`.
        names: leading part of a published name -> ours.
    """

    def infer(
        state: Mapping[str, Tensor], *, num_heads: int | None = None, decoder_heads: int | None
    ) -> Any:
        del decoder_heads
        found = {translated(name, names): value for name, value in state.items()}
        tensors = {name: value for name, value in found.items() if name is not None}
        return kind(encoder=infer_beit(tensors, num_heads))

    return infer


def infer_beit(tensors: Mapping[str, Tensor], num_heads: int | None = None) -> BEiTConfig:
    """Read the configuration from the shapes of an encoder's tensors.

    Args:
        tensors: by our names, the encoder's behind "encoder.".
        num_heads: where no table of relative positions tells it.

    Raises:
        WeightsError: when the tensors are not those of this encoder.
    """
    own = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
    kernel = own.get("patch_embed.proj.weight")
    numbers = [int(key.split(".")[1]) for key in own if key.startswith("blocks.")]
    if kernel is None or not numbers:
        reason = "has no patch embedding (patch_embed.proj.weight) or no blocks"
        raise WeightsError("checkpoint", reason, "give a checkpoint of a BEiT-style ViT")
    tables = {k: v for k, v in own.items() if k.endswith("relative_position_bias_table")}
    if tables:
        num_heads = next(iter(tables.values())).shape[1]
    if num_heads is None:
        raise WeightsError("checkpoint", "does not tell its number of heads", "give --num-heads")
    mlp = own.get("blocks.0.mlp.fc1.weight")
    return BEiTConfig(
        embed_dim=kernel.shape[0],
        depth=max(numbers) + 1,
        num_heads=num_heads,
        patch_size=kernel.shape[-1],
        mlp_ratio=4.0 if mlp is None else mlp.shape[0] / mlp.shape[1],
        relative_positions=(
            "none" if not tables else "shared" if len(tables) < len(set(numbers)) else "block"
        ),
        absolute_positions="pos_embed" in own,
        layer_scale=0.1 if "blocks.0.gamma_1" in own else None,
        qkv_bias="blocks.0.attn.q_bias" in own,
    )
