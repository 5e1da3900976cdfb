"""Published weights of SimMIM's family: names, the order of predicted pixels, and the architecture.

Names are the published ones behind the prefix of the encoder (simmim.md, "Official checkpoints").
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

from torch import Tensor

from ..encoders.swin import SwinConfig
from ..errors import WeightsError

SWIN_NAMES = {
    "encoder": "encoder",
    "encoder.mask_token": "corruption.mask_token",
    "decoder.0": "heads.pixels.predictor.head",
}
# What the published modules compute when they are made; it is stored, and never read back here.
_COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask")
_KERNEL, _HEAD = "encoder.patch_embed.proj.weight", "decoder.0"
SWIN_IGNORED = ("computed",)


def prepare_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the published head into a linear layer and set computed buffers apart.

    A 1x1 convolution and a pixel shuffle give colour c of pixel i of a cell as channel
    c * pixels + i; here it is number i * colours + c, as `patchify` orders a patch.
    """
    out = {}
    for name, value in state.items():
        computed = name.rpartition(".")[2] in _COMPUTED
        out[f"computed.{name}" if computed else name] = value
    kernel, weight = out.get(_KERNEL), out.get(f"{_HEAD}.weight")
    if kernel is not None and weight is not None:
        channels = kernel.shape[1]
        out[f"{_HEAD}.weight"] = pixels_first(weight.flatten(1), channels)
        out[f"{_HEAD}.bias"] = pixels_first(out[f"{_HEAD}.bias"][:, None], channels)[:, 0]
    return out


def pixels_first(rows: Tensor, channels: int) -> Tensor:
    """Reorder the outputs of a head from (channel, pixel) to (pixel, channel)."""
    return rows.unflatten(0, (channels, -1)).transpose(0, 1).flatten(0, 1)


def infer_swin(
    state: Mapping[str, Tensor], *, patch_size: int | None, window_size: int
) -> SwinConfig:
    """Read an architecture from the shapes of published tensors.

    Args:
        state: published names.
        patch_size: pixels per side of a token, which no tensor tells; None for the stride.
        window_size: of a SwinV2, whose tensors tell it only when computed buffers are stored.

    Raises:
        WeightsError: when the file holds no Swin.
    """
    kernel, layers = state.get(_KERNEL), _stages(state)
    if kernel is None or not layers:
        raise WeightsError(
            "checkpoint",
            f"holds no {_KERNEL} and encoder.layers",
            "give a checkpoint of a Swin from a method of SimMIM's family",
        )
    first = "encoder.layers.0.blocks.0"
    table = state.get(f"{first}.attn.relative_position_bias_table")
    coordinates = state.get(f"{first}.attn.relative_coords_table")
    if table is not None:
        window_size = (isqrt(table.shape[0]) + 1) // 2
    elif coordinates is not None:
        window_size = (coordinates.shape[1] + 1) // 2
    hidden = state[f"{first}.mlp.fc1.weight"]
    stem = kernel.shape[-1]
    extra = [block for _, block in _numbered(state, "norm3.weight")]
    name = "attn.logit_scale" if table is None else "attn.relative_position_bias_table"
    heads = [
        state[f"encoder.layers.{stage}.blocks.0.{name}"].shape[-1 if table is not None else 0]
        for stage in range(len(layers))
    ]
    return SwinConfig(
        patch_size=patch_size or stem * 2 ** (len(layers) - 1),
        stem_size=stem,
        embed_dim=kernel.shape[0],
        depths=tuple(layers),
        num_heads=tuple(heads),
        window_size=window_size,
        version=1 if table is not None else 2,
        mlp_ratio=hidden.shape[0] / hidden.shape[1],
        qkv_bias=any(f"{first}.attn.{b}" in state for b in ("qkv.bias", "q_bias")),
        patch_norm="encoder.patch_embed.norm.weight" in state,
        extra_norm_period=min(extra) + 1 if extra else 0,
    )


def _numbered(state: Mapping[str, Tensor], ending: str) -> list[tuple[int, int]]:
    """Return (stage, block) of every tensor `encoder.layers.S.blocks.B.ending`."""
    found = []
    for name in state:
        words = name.split(".", 5)
        if words[:2] == ["encoder", "layers"] and words[3:4] == ["blocks"] and words[5] == ending:
            found.append((int(words[2]), int(words[4])))
    return found


def _stages(state: Mapping[str, Tensor]) -> list[int]:
    """Return the number of blocks of every stage."""
    depths: dict[int, int] = {}
    for stage, block in _numbered(state, "norm1.weight"):
        depths[stage] = max(depths.get(stage, 0), block + 1)
    return [depths[stage] for stage in sorted(depths)]
