"""LocalMIM: several encoder layers reconstruct, low ones fine detail, high ones coarse structure.

Wang et al., "Masked Image Modeling with Local Multi-Scale Reconstruction", CVPR 2023.
Composition: random mask, drop, ViT, one small decoder per tapped layer, HOG or pixels at 4, 2, 1
and 1/2 cells per token side, squared error, a plain sum of the terms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..decoders.pyramid import LayerReader
from ..errors import WeightsError
from ..grid import Grid
from ..masking.plan import seen_and_hidden
from ..masking.strategies import RandomMask
from ..method import Method
from .config import DecoderConfig, EncoderConfig, known_heads
from .localmim_levels import (
    LEVEL_IGNORED,
    LEVEL_NAMES,
    LevelsConfig,
    check_taps,
    check_target,
    level,
    shared_norms,
)
from .spec import VIT_NAMES, MethodSpec

_ENCODER_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16}


@dataclass(frozen=True, kw_only=True)
class LocalMIMConfig(LevelsConfig):
    """LocalMIM on a plain ViT (Wang et al., CVPR 2023)."""

    name: Literal["localmim"] = "localmim"
    """Name of the method."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, kept after pre-training."""
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig(dim=256, depth=1, num_heads=8)
    )
    """The decoder that each tapped layer has of its own."""
    taps: tuple[int, ...] | None = None
    """Encoder blocks that reconstruct, zero-based, the last one included; not given: 1, 3,
    depth - 3 and depth - 1, or even distances where the encoder is too shallow for that."""
    scales: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    """Cells per token side that each of them reconstructs: 1, 2, 4, ... or 1/2, 1/3, ..."""

    @property
    def levels(self) -> list[tuple[int, float]]:
        """The tapped block and the scale of each level.

        Raises:
            UsageError: when taps and scales do not fit the encoder or each other.
        """
        depth, num = self.encoder.depth, len(self.scales)
        taps = default_taps(depth, num) if self.taps is None else self.taps
        check_taps(taps, num, depth, "blocks")
        return list(zip(taps, self.scales, strict=True))


def default_taps(depth: int, num: int) -> tuple[int, ...]:
    """Return the published taps, or blocks at even distances where they do not exist."""
    if num == 4 and depth > 6:
        return 1, 3, depth - 3, depth - 1
    return tuple(max(depth * k // num - 1, 0) for k in range(1, num + 1))


def reader(config: LocalMIMConfig, grid: Grid, tap: int) -> LayerReader:
    """Return the decoder of a tapped block, up to what it predicts."""
    encoder, form = config.encoder, config.decoder
    return LayerReader(
        grid,
        encoder.embed_dim,
        form.dim,
        form.depth,
        form.num_heads,
        # The last layer's own norm is the encoder's final one, which is then trained as well.
        -1 if tap == encoder.depth - 1 else tap,
        int(encoder.class_token),
        form.mlp_ratio,
    )


def localmim(config: LocalMIMConfig, grid: Grid) -> Method:
    """Compose LocalMIM for a grid of any rank; the heads are `level0`, `level1` and so on.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict, for taps or
            scales that do not fit, or for HOG of anything but images with square patches.
    """
    num_tokens = grid.num_tokens
    num_visible, num_hidden = seen_and_hidden(
        num_tokens, config.mask_ratio, truncated=config.as_published
    )
    check_target(config, grid)
    mask = RandomMask(num_visible, num_hidden)
    heads = {
        f"level{number}": level(config, grid, reader(config, grid, tap), scale)
        for number, (tap, scale) in enumerate(config.levels)
    }
    return Method("localmim", grid, mask, config.encoder.build(grid), heads)


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in our layout.

    The last of the list of norms is the encoder's; the other ones go to the decoder of their
    level. The steps of `pred` are transposed convolutions (kernel 2), norms, and at the end a
    convolution of kernel 1, which is a linear layer here.
    """
    out = {}
    for key, value in shared_norms(state).items():
        words = key.split(".")
        if words[0] == "decoder" and words[2] == "pred":
            steps = {
                int(k.split(".")[3]) for k in state if k.startswith(f"decoder.{words[1]}.pred")
            }
            place = int(words[3])
            kind = "head" if place == max(steps) else ("doublings", "norms")[place % 3]
            number = f"{place // 3}." if kind != "head" else ""
            conv = "conv." if kind == "doublings" else ""
            key = f"decoder.{words[1]}.{kind}.{number}{conv}{words[4]}"
            if kind == "head" and words[4] == "weight":
                value = value.flatten(1)
        out[key] = value
    return out


def infer(
    state: Mapping[str, Tensor], *, num_heads: int | None = None, decoder_heads: int | None = None
) -> LocalMIMConfig:
    """Read the configuration from published tensors.

    Raises:
        WeightsError: for a file without the decoders of pre-training.
        UsageError: when head counts have to be given.
    """
    kernel, token = state.get("patch_embed.proj.weight"), state.get("decoder.0.mask_token")
    if kernel is None or token is None:
        reason = "has no patch_embed.proj.weight or no decoder.0.mask_token"
        raise WeightsError("checkpoint", reason, "give one of LocalMIM's pre-training with a ViT")
    width, dim = kernel.shape[0], token.shape[-1]
    num_levels = len({key.split(".")[1] for key in state if key.startswith("decoder.")})
    scales, heads = [], []
    for number in range(num_levels):
        steps = {
            int(key.split(".")[3]): value
            for key, value in state.items()
            if re.fullmatch(rf"decoder\.{number}\.pred\.\d+\.weight", key)
        }
        heads.append(steps[max(steps)])
        growths = sum(value.shape[-1] == 2 and value.ndim > 2 for value in steps.values())
        scales.append(0.5 if min(steps) == 1 else 2.0**growths)
    encoder = EncoderConfig(
        embed_dim=width,
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        num_heads=known_heads("--num-heads", width, num_heads, _ENCODER_HEADS),
        patch_size=kernel.shape[-1],
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        class_token="cls_token" in state,
    )
    decoder = DecoderConfig(
        dim=dim,
        depth=len({key.split(".")[3] for key in state if key.startswith("decoder.0.blocks.")}),
        num_heads=known_heads("--decoder-heads", dim, decoder_heads, {256: 8}),
        mlp_ratio=state["decoder.0.blocks.0.mlp.fc1.weight"].shape[0] / dim,
    )
    return LocalMIMConfig(
        encoder=encoder,
        decoder=decoder,
        scales=tuple(scales),
        num_bins=heads[0].shape[0] // kernel.shape[1],
        hog_bias="hog_enc.0.conv.bias" in state,
    )


SPEC = MethodSpec(
    LocalMIMConfig,
    localmim,
    "Wang et al., CVPR 2023",
    VIT_NAMES | LEVEL_NAMES,
    ignored=LEVEL_IGNORED,
    prepare=prepare,
    infer=infer,
)
