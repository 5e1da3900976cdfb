"""What the levels of LocalMIM reconstruct, whatever the encoder, and the names of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..decoders.pyramid import CellDecoder, LayerReader, RegionDecoder
from ..errors import UsageError
from ..grid import Grid
from ..method import Head, Objective
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

_MOST = 8  # levels that published names are translated for; released models have four


@dataclass(frozen=True, kw_only=True)
class LevelsConfig:
    """What all levels have in common."""

    target: Literal["hog", "pixels"] = "hog"
    """Histograms of oriented gradients (2-D only), or pixels."""
    num_bins: int = 9
    """Orientation bins of a histogram (the release uses 18 for its ViT-L and Swins)."""
    hog_bias: bool = False
    """Add frozen random numbers to the gradients, as the released ViT-L and Swins do; they are
    stored."""
    mask_ratio: float = 0.75
    """Share of tokens that are hidden and predicted."""
    norm_pix: bool = True
    """Standardise the pixels of each cell by its own mean and deviation."""
    noise_floor: float = 1e-2
    """Cells with a smaller deviation (pixels) or mean gradient (HOG), in units of the normalised
    image, carry no weight."""
    as_published: bool = False
    """Reproduce the released code: counts as floats give them, every cell trained on, gradients by
    a convolution."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0

    @property
    def floor(self) -> float:
        """What cells have to exceed in order to be trained on."""
        return 0.0 if self.as_published else self.noise_floor


def check_target(config: LevelsConfig, grid: Grid) -> None:
    """Raise UsageError for histograms of anything but images with square patches."""
    if config.target == "hog" and (grid.ndim != 2 or len(set(grid.patch)) > 1):
        raise UsageError(
            f"HOG of patches {grid.patch}",
            "is defined for images with square patches",
            'use target="pixels"',
        )


def check_taps(taps: tuple[int, ...], num: int, depth: int, what: str) -> None:
    """Raise UsageError unless taps exist, are as many as wanted, and leave nothing untaught.

    Args:
        taps: blocks or stages of an encoder.
        num: how many there have to be.
        depth: blocks or stages that the encoder has.
        what: word for them.
    """
    fine = all(0 <= tap < depth for tap in taps) and len(taps) == num > 0
    if not fine or max(taps) != depth - 1:
        raise UsageError(
            f"taps {taps} of {num} levels",
            f"do not fit an encoder with {depth} {what}",
            f"give one tap per level, from 0 to {depth - 1}, with {depth - 1} among them: "
            f"{what} above the last tap would never learn",
        )


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


def cell_target(config: LevelsConfig, cells: int, grid: Grid) -> Target:
    """Return the target of a level with one or more cells per token."""
    if config.target == "pixels":
        pixels = PixelTarget(config.norm_pix, config.floor)
        return pixels if cells == 1 else CellPixels(pixels, cells)
    target = HogTarget(
        grid.patch[0] // cells,
        config.num_bins,
        noise_floor=config.floor,
        convolved=config.as_published,
    )
    return BiasedHogTarget(target) if config.hog_bias else target


def region_target(config: LevelsConfig, factor: int) -> RegionTarget:
    """Return the target of a level with several tokens per cell."""
    if config.target == "pixels":
        return RegionPixels(PixelTarget(config.norm_pix, config.floor), factor)
    target = RegionHog(factor, config.num_bins, config.floor, config.as_published)
    return BiasedRegionHog(target) if config.hog_bias else target


def level(config: LevelsConfig, grid: Grid, reader: LayerReader, scale: float) -> Objective:
    """Compose the objective of one tapped layer.

    Args:
        config: says what is reconstructed.
        grid: geometry of the tokens.
        reader: decodes the layer, whose cells are at least as coarse as those of the level, or one
            per token.
        scale: cells per token side that are reconstructed.
    """
    doublings, factor = split_scale(scale, grid)
    if factor > 1:
        coarse = region_target(config, factor)
        return RegionHead(RegionDecoder(reader, factor, coarse.out_dim(grid)), coarse, l2)
    cells = 2**doublings
    target = cell_target(config, cells, grid)
    out_dim = target.out_dim(grid) // cells**grid.ndim
    doublings -= reader.parts[0].bit_length() - 1
    return Head(CellDecoder(reader, doublings, out_dim), target, l2)


_READER = {
    "tap_norm": "tap_norm",
    "embed": "trunk.embed",
    "mask_token": "trunk.mask_token",
    "pos_embed": "trunk.pos_embed",
    "blocks": "blocks",
    "norm": "norm",
}

LEVEL_NAMES = (
    {
        f"decoder.{number}.{name}": f"heads.level{number}.predictor.reader.{ours}"
        for number in range(_MOST)
        for name, ours in _READER.items()
    }
    | {
        f"decoder.{number}.{name}": f"heads.level{number}.predictor.{name}"
        for number in range(_MOST)
        for name in ("doublings", "norms", "head")
    }
    | {f"hog_enc.{number}.conv.bias": f"heads.level{number}.target.bias" for number in range(_MOST)}
)
"""Names of the levels' tensors behind `prepare`; those of `pred` differ between encoders."""

LEVEL_IGNORED = tuple(f"hog_enc.{number}.conv.weight" for number in range(_MOST))
"""Fixed kernels of the gradients."""


def shared_norms(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Return tensors with each norm of the list `norm` where it belongs.

    The last one is the encoder's; the others belong to the decoder of their level.

    Args:
        state: published tensors.
        prefix: in front of `norm` in their names.
    """
    head = f"{prefix}norm."
    found = {key: key.removeprefix(head).split(".") for key in state if key.startswith(head)}
    listed = {key: words for key, words in found.items() if len(words) == 2 and words[0].isdigit()}
    last = max((int(words[0]) for words in listed.values()), default=-1)
    out = {}
    for key, value in state.items():
        if key in listed:
            number, name = listed[key]
            own = int(number) != last
            key = f"decoder.{number}.tap_norm.{name}" if own else f"{prefix}norm.{name}"
        out[key] = value
    return out
