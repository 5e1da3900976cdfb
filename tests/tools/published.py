"""Checkpoints as authors release them: published names, wrappers, a decoder or none."""

from __future__ import annotations

import torch
from torch import Tensor

from mimkit.core.grid import Grid
from mimkit.core.methods import METHODS, DecoderConfig, EncoderConfig, MethodSpec, build

ENCODER = EncoderConfig(embed_dim=192, depth=2, num_heads=3, patch_size=8, mlp_ratio=2.0)
DECODER = DecoderConfig(dim=256, depth=1, num_heads=8)


def _is_plain(row: MethodSpec) -> bool:
    decoder = getattr(row.config(), "decoder", None)
    own_rule = row.prepare is not None or row.infer is not None
    if own_rule or not row.names or not row.plain or not isinstance(decoder, DecoderConfig):
        return False
    with torch.device("meta"):
        config = row.config(encoder=ENCODER, decoder=DECODER)
        state = build(config, Grid.for_image((32, 32), 8, 3)).state_dict()
    return all(any(_under(name, ours) for ours in row.names.values()) for name in state)


def _under(name: str, head: str) -> bool:
    return name == head or name.startswith(f"{head}.")


PLAIN = tuple(name for name, row in METHODS.items() if _is_plain(row))
"""Methods of a plain ViT with a decoder, whose released tensors only have other names than ours."""


def published_state(
    name: str = "mae",
    side: int = 32,
    channels: int = 3,
    *,
    size: tuple[int, ...] | None = None,
) -> dict[str, Tensor]:
    """Return the weights of a method of `PLAIN` under the names of its released files."""
    row = METHODS[name]
    config = row.config(encoder=ENCODER, decoder=DECODER)
    method = build(config, Grid.for_image(size or (side, side), 8, channels))
    back = {ours: theirs for theirs, ours in row.names.items()}
    state = {}
    for key, value in method.state_dict().items():
        head = max((h for h in back if _under(key, h)), key=len)
        new = back[head] + key[len(head) :]
        state[new] = torch.randn_like(value) * 0.02
    return state


def encoder_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave the decoder out, as the files for fine-tuning do."""
    return {k: v for k, v in state.items() if not k.startswith(("mask_token", "decoder"))}
