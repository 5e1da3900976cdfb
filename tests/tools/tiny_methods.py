"""The smallest sensible configuration of every method, for tests that run over the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from mimkit.core.methods import (
    METHODS,
    DataScalingConfig,
    DecoderConfig,
    EncoderConfig,
    HPMConfig,
    MethodConfig,
    SatVisionTOAConfig,
    SimMIMConfig,
    SimMIMViTConfig,
)
from mimkit.core.methods.config_beit import BEiTConfig
from mimkit.core.methods.config_swin import SwinConfig

ENCODER = EncoderConfig(embed_dim=24, depth=2, num_heads=2, patch_size=4)
DECODER = DecoderConfig(dim=16, depth=2, num_heads=2)
BEIT = BEiTConfig(embed_dim=24, depth=2, num_heads=2, patch_size=4)


def swin(version: Literal[1, 2], num_stages: int, **options: Any) -> SwinConfig:
    """Return a Swin with two blocks per stage, whose patches are half as wide as its tokens."""
    return SwinConfig(
        patch_size=4,
        stem_size=2,
        embed_dim=8,
        depths=(2,) * num_stages,
        num_heads=(2,) * num_stages,
        window_size=4,
        version=version,
        **options,
    )


TINY: dict[str, Callable[[], MethodConfig]] = {
    # Raw pixels, the default, give flat patches a meaning.
    "hpm": lambda: HPMConfig(encoder=ENCODER, decoder=DECODER, norm_pix=True),
    "data-scaling": lambda: DataScalingConfig(encoder=swin(2, 2), target_window=9),
    # The last map is coarser than the tokens, as in the released models.
    "satvision-toa": lambda: SatVisionTOAConfig(encoder=swin(2, 3, extra_norm_period=2)),
    "simmim": lambda: SimMIMConfig(encoder=swin(1, 2)),
    "simmim-vit": lambda: SimMIMViTConfig(encoder=BEIT),
}
"""Methods whose configuration is not a plain ViT and a decoder."""


def tiny(name: str, **options: Any) -> MethodConfig:
    """Return a configuration of a method whose tokens are 4 pixels wide where it allows that."""
    if name in TINY:
        from dataclasses import replace

        return replace(TINY[name](), **options)
    return METHODS[name].config(encoder=ENCODER, decoder=DECODER, **options)
