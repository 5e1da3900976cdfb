"""The smallest sensible configuration of every method, for tests that run over the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mimkit.core.methods import METHODS, DecoderConfig, EncoderConfig, MethodConfig

ENCODER = EncoderConfig(embed_dim=24, depth=2, num_heads=2, patch_size=4)
DECODER = DecoderConfig(dim=16, depth=2, num_heads=2)
TINY: dict[str, Callable[[], MethodConfig]] = {}
"""Methods whose configuration is not a plain ViT and a decoder."""


def tiny(name: str, **options: Any) -> MethodConfig:
    """Return a configuration of a method whose tokens are 4 pixels wide where it allows that."""
    if name in TINY:
        from dataclasses import replace

        return replace(TINY[name](), **options)
    return METHODS[name].config(encoder=ENCODER, decoder=DECODER, **options)
