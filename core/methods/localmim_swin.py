"""LocalMIM on Swin: every stage reconstructs at the scale of its own map, visible tokens alone.

Wang et al., "Masked Image Modeling with Local Multi-Scale Reconstruction", CVPR 2023. Composition:
random mask of tokens as wide as the encoder's stride, drop, Swin, one small decoder per tapped
stage on the cells of its map, HOG or pixels of these cells, squared error, a plain sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..decoders.pyramid import LayerReader
from ..encoders.swin import Swin, SwinConfig
from ..errors import WeightsError
from ..grid import Grid
from ..masking.plan import check_counts, seen_and_hidden
from ..masking.strategies import RandomMask
from ..method import Method
from .config import DecoderConfig, known_heads
from .localmim_levels import (
    LEVEL_IGNORED,
    LEVEL_NAMES,
    LevelsConfig,
    check_taps,
    check_target,
    level,
    shared_norms,
)
from .spec import MethodSpec
from .swin_weights import SWIN_IGNORED, infer_swin, prepare_swin


@dataclass(frozen=True, kw_only=True)
class LocalMIMSwinConfig(LevelsConfig):
    """LocalMIM on a Swin that computes visible tokens alone (Wang et al., CVPR 2023)."""

    name: Literal["localmim-swin"] = "localmim-swin"
    """Name of the method."""
    encoder: SwinConfig = field(default_factory=lambda: SwinConfig(window_size=7, eps=1e-6))
    """The encoder, kept after pre-training; its patch_size has to be its stride."""
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig(dim=128, depth=1, num_heads=4)
    )
    """The decoder that each tapped stage has of its own; at the finest scale half as wide."""
    decoder_dims: tuple[int, ...] | None = None
    """Width of the decoder of each tapped stage, where that is to be another one."""
    taps: tuple[int, ...] | None = None
    """Stages that reconstruct, zero-based, the last one included; not given: all."""
    shared_mask: bool = False
    """Give all images of a batch the same mask, as released: neighbours and position biases are
    then worked out once for all of them."""
    released_places: bool | None = None
    """Take cells of the stages between the first and the last for others, as the released code
    does; not given: when as_published."""

    @property
    def levels(self) -> list[tuple[int, int, int]]:
        """The tapped stage, its cells per token side and the width of the decoder of each level.

        Raises:
            UsageError: when taps do not fit the encoder, or widths the taps.
        """
        depth = len(self.encoder.depths)
        taps = tuple(range(depth)) if self.taps is None else self.taps
        check_taps(taps, len(self.decoder_dims or taps), depth, "stages")
        sides = [2 ** max(depth - 2 - tap, 0) for tap in taps]
        widths = [self.decoder.dim // (1 + (1 < side == max(sides))) for side in sides]
        return list(zip(taps, sides, self.decoder_dims or widths, strict=True))


def counts(config: LocalMIMSwinConfig, grid: Grid) -> tuple[int, int]:
    """Return how many tokens are seen and how many are hidden; the release hides one more.

    Raises:
        UsageError: when nothing is left to see or to predict.
    """
    if not config.as_published:
        return seen_and_hidden(grid.num_tokens, config.mask_ratio)
    hidden = int(grid.num_tokens * config.mask_ratio) + 1
    check_counts(grid.num_tokens, grid.num_tokens - hidden, hidden)
    return grid.num_tokens - hidden, hidden


def localmim_swin(config: LocalMIMSwinConfig, grid: Grid) -> Method:
    """Compose LocalMIM for a grid of any rank; the heads are `level0`, `level1` and so on.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict, for taps that
            do not fit, tokens that are not as wide as the stride, or for HOG of anything but images
            with square patches.
    """
    check_target(config, grid)
    released = config.released_places
    released = config.as_published if released is None else released
    encoder, form, heads = Swin(grid, config.encoder, released_places=released), config.decoder, {}
    encoder.check_dropping()
    init_encoder(encoder)
    for number, (tap, side, dim) in enumerate(config.levels):
        # The last stage's own norm is the encoder's final one, which is then trained as well.
        own = -1 if tap == encoder.depth - 1 else tap
        reader = LayerReader(
            grid,
            encoder.tap_dim(own),
            dim,
            form.depth,
            form.num_heads,
            own,
            0,
            form.mlp_ratio,
            side,
        )
        heads[f"level{number}"] = level(config, grid, reader, side)
    mask = RandomMask(*counts(config, grid), shared=config.shared_mask or config.as_published)
    return Method("localmim-swin", grid, mask, encoder, heads)


def init_encoder(encoder: Swin) -> None:
    """Initialise linear layers and the patch convolution as Xavier's (localmim.md)."""
    for part in encoder.layers.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
    nn.init.xavier_uniform_(encoder.patch_embed.proj.weight.data.flatten(1))
    if encoder.patch_embed.proj.bias is not None:
        nn.init.zeros_(encoder.patch_embed.proj.bias)


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in our layout.

    Norms go where they belong, and the merging weights into the order of all other Swins: this
    pre-training joins four cells row by row, the fine-tuning code column by column (localmim.md,
    "Gotchas").
    """
    out = {}
    for key, value in shared_norms(prepare_swin(state), "encoder.").items():
        words = key.split(".")
        if words[:2] == ["encoder", "layers"] and words[3] == "downsample":
            value = columns_first(value)
        if words[0] == "decoder" and words[2] == "pred":
            key = f"decoder.{words[1]}.head.{words[3]}"
        out[key] = value
    return out


def columns_first(rows_first: Tensor) -> Tensor:
    """Reorder the four cells of a merging, last axis, as `group_pairs` has them."""
    quarters = rows_first.unflatten(-1, (4, -1))
    return quarters[..., torch.tensor([0, 2, 1, 3]), :].flatten(-2)


def infer(
    state: Mapping[str, Tensor], *, num_heads: int | None = None, decoder_heads: int | None = None
) -> LocalMIMSwinConfig:
    """Read the configuration from published tensors.

    Raises:
        WeightsError: for a file without the decoders of pre-training.
        UsageError: when the decoder's head count has to be given.
    """
    del num_heads  # position biases are per head, so shapes tell their number
    encoder = replace(infer_swin(state, patch_size=None, window_size=7), eps=1e-6)
    stages, name = len(encoder.depths), "decoder.0.mask_token"
    tokens = [state.get(f"decoder.{number}.mask_token") for number in range(stages)]
    dims = tuple(token.shape[-1] for token in tokens if token is not None)
    if len(dims) < stages:
        raise WeightsError(
            "checkpoint",
            f"lacks the decoders of pre-training ({name} and so on), one per stage",
            "give one of LocalMIM's pre-training with a Swin",
        )
    hidden, head = state["decoder.0.blocks.0.mlp.fc1.weight"], state["decoder.0.pred.weight"]
    channels = state["encoder.patch_embed.proj.weight"].shape[1]
    side = encoder.patch_size // 2 ** max(stages - 2, 0)
    pixels = head.shape[0] == channels * side**2
    blocks = {key.split(".")[3] for key in state if key.startswith("decoder.0.blocks.")}
    return LocalMIMSwinConfig(
        encoder=encoder,
        decoder=DecoderConfig(
            dim=dims[-1],
            depth=len(blocks),
            num_heads=known_heads("--decoder-heads", dims[-1], decoder_heads, {128: 4}),
            mlp_ratio=hidden.shape[0] / hidden.shape[1],
        ),
        decoder_dims=dims,
        target="pixels" if pixels else "hog",
        num_bins=9 if pixels else head.shape[0] // channels,
        hog_bias="hog_enc.0.conv.bias" in state,
    )


SPEC = MethodSpec(
    LocalMIMSwinConfig,
    localmim_swin,
    "Wang et al., CVPR 2023",
    {f"encoder.{name}": f"encoder.{name}" for name in ("patch_embed", "layers", "norm")}
    | LEVEL_NAMES,
    ignored=(*SWIN_IGNORED, *LEVEL_IGNORED),
    prepare=prepare,
    infer=infer,
)
