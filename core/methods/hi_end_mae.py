"""Hi-End-MAE: MAE whose decoder reads several layers of the encoder, the deep ones first.

Tang et al., "Hi-End-MAE: Hierarchical encoder-driven masked autoencoders", Medical Image Analysis
2025, arXiv 2502.08347.
Composition: random mask, drop, ViT, cross decoder with a stem (its blocks read raw encoder layers,
deep to shallow), pixels standardised per patch, squared error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..decoders.cross import CrossDecoder, QueryStem
from ..errors import UsageError, WeightsError
from ..grid import Grid
from ..masking.plan import seen_and_hidden
from ..masking.strategies import RandomMask
from ..method import Head, Method
from ..objectives.dense import l2
from ..targets.pixels import PixelTarget
from .config import DecoderConfig, EncoderConfig, known_heads
from .spec import MethodSpec

_PREDICTOR = "heads.pixels.predictor"
# Head counts of the published widths, which no file tells (hi-end-mae.md, "Architecture numbers").
_ENCODER_HEADS, _DECODER_HEADS = {768: 12, 1536: 16}, {384: 12, 528: 16}


@dataclass(frozen=True, kw_only=True)
class HiEndMAEConfig:
    """Hi-End-MAE (Tang et al., Medical Image Analysis 2025)."""

    name: Literal["hi-end-mae"] = "hi-end-mae"
    """Name of the method."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, kept after pre-training."""
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig(dim=384, depth=2, num_heads=12)
    )
    """The decoder; its depth counts the self-attention blocks in front of those that read."""
    contexts: tuple[int, ...] | None = None
    """Encoder blocks that are read, zero-based, one per cross-attention block in this order; not
    given: three quarters, a half and a quarter of the depth (9, 6, 3 of 12 blocks)."""
    mask_ratio: float = 0.75
    """Share of tokens that are hidden and predicted."""
    norm_pix: bool = True
    """Standardise each target patch by its own mean and (biased) deviation."""
    noise_floor: float = 1e-2
    """Patches with a smaller deviation (in units of the normalised image) carry no weight."""
    as_published: bool = False
    """Reproduce the released code: truncated counts, every patch trained on."""

    @property
    def reads(self) -> tuple[int, ...]:
        """The encoder block that each cross-attention block reads.

        Raises:
            UsageError: for a block that the encoder does not have.
        """
        depth = self.encoder.depth
        contexts = spread(depth) if self.contexts is None else self.contexts
        if not contexts or not all(0 <= block < depth for block in contexts):
            raise UsageError(
                f"contexts {contexts}",
                f"are not blocks of an encoder with {depth} of them",
                f"use numbers from 0 to {depth - 1}, at least one",
            )
        return contexts

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def spread(depth: int, num: int = 3) -> tuple[int, ...]:
    """Return encoder blocks at even distances, deep to shallow: 9, 6, 3 of 12."""
    return tuple(depth * i // (num + 1) for i in range(num, 0, -1))


def hi_end_mae(config: HiEndMAEConfig, grid: Grid) -> Method:
    """Compose Hi-End-MAE for a grid of any rank.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict, or for a
            context that the encoder does not have.
    """
    num_visible, num_hidden = seen_and_hidden(
        grid.num_tokens, config.mask_ratio, truncated=config.as_published
    )
    floor = 0.0 if config.as_published else config.noise_floor
    target = PixelTarget(config.norm_pix, floor, unbiased=False)
    encoder, form = config.encoder.build(grid), config.decoder
    stem = QueryStem(
        grid,
        encoder.embed_dim,
        form.dim,
        form.depth,
        form.num_heads,
        encoder.num_prefix_tokens,
        form.mlp_ratio,
    )
    decoder = CrossDecoder(
        grid,
        encoder.embed_dim,
        form.dim,
        config.reads,
        form.num_heads,
        target.out_dim(grid),
        self_attn=True,
        mlp_ratio=form.mlp_ratio,
        stem=stem,
    )
    mask = RandomMask(num_visible, num_hidden)
    return Method("hi-end-mae", grid, mask, encoder, {"pixels": Head(decoder, target, l2)})


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in our layout.

    Published position tables have no row for the class token, whose code is zero. The published
    maps to the decoder are numbered shallow to deep, that of the queries last; the blocks read deep
    to shallow.
    """
    maps = {int(key.split(".")[1]) for key in state if key.startswith("encoder_to_decoder.")}
    last, out = max(maps, default=0), {}
    for key, value in state.items():
        words = key.split(".")
        if words[0] in ("encoder_pos_embed", "decoder_pos_embed") and "encoder.cls_token" in state:
            value = torch.cat([torch.zeros_like(value[:, :1]), value], dim=1)
        elif words[0] == "encoder_to_decoder":
            number = int(words[1])
            place = ["queries"] if number == last else ["memories", str(last - 1 - number)]
            key = ".".join([*place, *words[2:]])
        out[key] = value
    return out


def infer(
    state: Mapping[str, Tensor], *, num_heads: int | None = None, decoder_heads: int | None = None
) -> HiEndMAEConfig:
    """Read the configuration from published tensors.

    Which layers are read is in no file: as many as there are blocks, at even distances.

    Raises:
        WeightsError: for a file of another method.
        UsageError: when head counts have to be given.
    """
    kernel, token = state.get("encoder.patch_embed.proj.weight"), state.get("mask_token")
    if kernel is None or token is None:
        reason = "has no encoder.patch_embed.proj.weight or no mask_token"
        raise WeightsError("checkpoint", reason, "give one of Hi-End-MAE's pre-training")
    width, dim = kernel.shape[0], token.shape[-1]
    depth, num_self, num_cross = (
        len({key.split(".")[part] for key in state if key.startswith(head)})
        for head, part in (
            ("encoder.blocks.", 2),
            ("decoder.blocks.", 2),
            ("decoder.cross_attention_blocks.", 2),
        )
    )
    encoder = EncoderConfig(
        embed_dim=width,
        depth=depth,
        num_heads=known_heads("--num-heads", width, num_heads, _ENCODER_HEADS),
        patch_size=kernel.shape[-1],
        mlp_ratio=state["encoder.blocks.0.mlp.fc1.weight"].shape[0] / width,
        class_token="encoder.cls_token" in state,
    )
    decoder = DecoderConfig(
        dim=dim,
        depth=num_self,
        num_heads=known_heads("--decoder-heads", dim, decoder_heads, _DECODER_HEADS),
        mlp_ratio=state["decoder.cross_attention_blocks.0.mlp.fc1.weight"].shape[0] / dim,
    )
    return HiEndMAEConfig(encoder=encoder, decoder=decoder, contexts=spread(depth, num_cross))


SPEC = MethodSpec(
    HiEndMAEConfig,
    hi_end_mae,
    "Tang et al., Medical Image Analysis 2025",
    {
        "encoder": "encoder",
        "encoder_pos_embed": "encoder.pos_embed",
        "decoder_pos_embed": f"{_PREDICTOR}.stem.trunk.pos_embed",
        "mask_token": f"{_PREDICTOR}.stem.trunk.mask_token",
        "queries": f"{_PREDICTOR}.stem.trunk.embed",
        "memories": f"{_PREDICTOR}.memories",
        "decoder.blocks": f"{_PREDICTOR}.stem.blocks",
        "decoder.cross_attention_blocks": f"{_PREDICTOR}.blocks",
        "decoder.norm": f"{_PREDICTOR}.norm",
        "decoder.head": f"{_PREDICTOR}.head",
    },
    prepare=prepare,
    infer=infer,
)
