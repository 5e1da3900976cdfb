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

from ..decoders.pyramid import CellDecoder, LayerReader, RegionDecoder
from ..errors import UsageError, WeightsError
from ..grid import Grid
from ..masking.plan import seen_and_hidden
from ..masking.strategies import RandomMask
from ..method import Head, Method, Objective
from ..objectives.dense import l2
from ..objectives.regions import RegionHead
from ..targets.contract import Target
from ..targets.hog import BiasedHogTarget, HogTarget
from ..targets.pixels import PixelTarget
from ..targets.regions import (
    BiasedRegionHog,
    CellPixels,
    RegionHog,
    RegionPixels,
    RegionTarget,
)
from .config import DecoderConfig, EncoderConfig, known_heads
from .spec import VIT_NAMES, MethodSpec

_ENCODER_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16}
_MOST = 8  # levels that published names are translated for; released models have four


@dataclass(frozen=True, kw_only=True)
class LocalMIMConfig:
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
    target: Literal["hog", "pixels"] = "hog"
    """Histograms of oriented gradients (2-D only), or pixels."""
    num_bins: int = 9
    """Orientation bins of a histogram (the release uses 18 for its ViT-L)."""
    hog_bias: bool = False
    """Add frozen random numbers to the gradients, as the released ViT-L does; they are stored."""
    mask_ratio: float = 0.75
    """Share of tokens that are hidden and predicted."""
    norm_pix: bool = True
    """Standardise the pixels of each cell by its own mean and deviation."""
    noise_floor: float = 1e-2
    """Cells with a smaller deviation (pixels) or mean gradient (HOG), in units of the normalised
    image, carry no weight."""
    as_published: bool = False
    """Reproduce the released code: truncated counts, every cell trained on."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0

    @property
    def levels(self) -> list[tuple[int, float]]:
        """The tapped block and the scale of each level.

        Raises:
            UsageError: when taps and scales do not fit the encoder or each other.
        """
        depth, num = self.encoder.depth, len(self.scales)
        taps = default_taps(depth, num) if self.taps is None else self.taps
        fine = all(0 <= tap < depth for tap in taps) and len(taps) == num > 0
        if not fine or max(taps) != depth - 1:
            raise UsageError(
                f"taps {taps} and scales {self.scales}",
                f"do not fit an encoder with {depth} blocks",
                f"give as many scales as taps, from 0 to {depth - 1}, with {depth - 1} among "
                "them: blocks above the last tap would never learn",
            )
        return list(zip(taps, self.scales, strict=True))


def default_taps(depth: int, num: int) -> tuple[int, ...]:
    """Return the published taps, or blocks at even distances where they do not exist."""
    if num == 4 and depth > 6:
        return 1, 3, depth - 3, depth - 1
    return tuple(max(depth * k // num - 1, 0) for k in range(1, num + 1))


def split_scale(scale: float, grid: Grid) -> tuple[int, int]:
    """Return (doublings inside a token, tokens per side of a region) of a scale.

    Raises:
        UsageError: for a scale that is neither a power of two that divides the patch nor one over
            a whole number.
    """
    if scale >= 1:
        cells = round(scale)
        if cells == scale and cells & (cells - 1) == 0 and all(p % cells == 0 for p in grid.patch):
            return cells.bit_length() - 1, 1
    elif scale > 0 and abs(1 / scale - round(1 / scale)) < 1e-6:
        return 0, round(1 / scale)
    raise UsageError(
        f"scale {scale}",
        f"cannot be made from patches of {grid.patch} pixels",
        "use 1, 2, 4 and so on where they divide the patch, or 1/2, 1/3 and so on",
    )


def cell_target(config: LocalMIMConfig, cells: int, grid: Grid) -> Target:
    """Return the target of a level with one or more cells per token."""
    floor = 0.0 if config.as_published else config.noise_floor
    if config.target == "pixels":
        pixels = PixelTarget(config.norm_pix, floor)
        return pixels if cells == 1 else CellPixels(pixels, cells)
    target = HogTarget(grid.patch[0] // cells, config.num_bins, noise_floor=floor)
    return BiasedHogTarget(target) if config.hog_bias else target


def region_target(config: LocalMIMConfig, factor: int) -> RegionTarget:
    """Return the target of a level with several tokens per cell."""
    floor = 0.0 if config.as_published else config.noise_floor
    if config.target == "pixels":
        return RegionPixels(PixelTarget(config.norm_pix, floor), factor)
    target = RegionHog(factor, config.num_bins, floor)
    return BiasedRegionHog(target) if config.hog_bias else target


def level(config: LocalMIMConfig, grid: Grid, tap: int, scale: float) -> Objective:
    """Compose the objective of one tapped layer."""
    doublings, factor = split_scale(scale, grid)
    encoder, form = config.encoder, config.decoder
    reader = LayerReader(
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
    if factor > 1:
        coarse = region_target(config, factor)
        return RegionHead(RegionDecoder(reader, factor, coarse.out_dim(grid)), coarse, l2)
    cells = 2**doublings
    target = cell_target(config, cells, grid)
    out_dim = target.out_dim(grid) // cells**grid.ndim
    return Head(CellDecoder(reader, doublings, out_dim), target, l2)


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
    if config.target == "hog" and (grid.ndim != 2 or len(set(grid.patch)) > 1):
        raise UsageError(
            f"HOG of patches {grid.patch}",
            "is defined for images with square patches",
            'use target="pixels"',
        )
    mask = RandomMask(num_visible, num_hidden)
    heads = {
        f"level{number}": level(config, grid, tap, scale)
        for number, (tap, scale) in enumerate(config.levels)
    }
    return Method("localmim", grid, mask, config.encoder.build(grid), heads)


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in our layout.

    The last of the list of norms is the encoder's; the other ones go to the decoder of their
    level. The steps of `pred` are transposed convolutions (kernel 2), norms, and at the end a
    convolution of kernel 1, which is a linear layer here.
    """
    norms = {int(key.split(".")[1]) for key in state if re.match(r"norm\.\d+\.", key)}
    out = {}
    for key, value in state.items():
        words = key.split(".")
        if words[0] == "norm" and len(words) == 3:
            number = int(words[1])
            own = number != max(norms)
            key = f"decoder.{number}.tap_norm.{words[2]}" if own else f"norm.{words[2]}"
        elif words[0] == "decoder" and words[2] == "pred":
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


_READER = {
    "tap_norm": "tap_norm",
    "embed": "trunk.embed",
    "mask_token": "trunk.mask_token",
    "pos_embed": "trunk.pos_embed",
    "blocks": "blocks",
    "norm": "norm",
}

SPEC = MethodSpec(
    LocalMIMConfig,
    localmim,
    "Wang et al., CVPR 2023",
    VIT_NAMES
    | {
        f"decoder.{number}.{name}": f"heads.level{number}.predictor.reader.{ours}"
        for number in range(_MOST)
        for name, ours in _READER.items()
    }
    | {
        f"decoder.{number}.{name}": f"heads.level{number}.predictor.{name}"
        for number in range(_MOST)
        for name in ("doublings", "norms", "head")
    }
    | {
        f"hog_enc.{number}.conv.bias": f"heads.level{number}.target.bias" for number in range(_MOST)
    },
    # Fixed kernels of the gradients.
    ignored=tuple(f"hog_enc.{number}.conv.weight" for number in range(_MOST)),
    prepare=prepare,
    infer=infer,
)
