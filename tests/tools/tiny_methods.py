"""The smallest sensible configuration of every method, for tests that run over the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from mimkit.core.decoders.feature_pyramid import PyramidConfig
from mimkit.core.encoders.conv_vit import ConvViTConfig
from mimkit.core.encoders.hivit import HiViTConfig
from mimkit.core.encoders.swin import SwinConfig
from mimkit.core.methods import (
    METHODS,
    A2MIMConfig,
    DataScalingConfig,
    DecoderConfig,
    DMJDConfig,
    EncoderConfig,
    FSFMConfig,
    HPMConfig,
    ITPNClipConfig,
    ITPNConfig,
    LocalMIMConfig,
    LocalMIMSwinConfig,
    LUTConfig,
    MethodConfig,
    MixedAEConfig,
    MTOConfig,
    RoPIMConfig,
    SatVisionTOAConfig,
    SimMIMConfig,
    SimMIMViTConfig,
)
from mimkit.core.methods.config_beit import BEiTConfig
from mimkit.core.methods.fsfm import PooledDecoderConfig

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


def hivit(**options: Any) -> HiViTConfig:
    """Return a HiViT whose cells are one pixel wide."""
    small = {"embed_dim": 24, "stem_depths": (1, 1), "depth": 2, "num_heads": 2, "patch_size": 4}
    return HiViTConfig(**(small | options))


CONV_VIT = ConvViTConfig(
    embed_dims=(8, 12, 24), depths=(1, 1, 2), num_heads=2, mlp_ratios=(2.0, 2.0, 4.0), patch_size=4
)
PYRAMID = PyramidConfig(dim=12, depth=1)

TINY: dict[str, Callable[[], MethodConfig]] = {
    "a2mim": lambda: A2MIMConfig(
        encoder=replace(BEIT, relative_positions="block", absolute_positions=True),
        mask_layer=1,
        mask_gamma=0.5,
    ),
    # Raw pixels, the default, give flat patches a meaning.
    "hpm": lambda: HPMConfig(encoder=ENCODER, decoder=DECODER, norm_pix=True),
    "data-scaling": lambda: DataScalingConfig(encoder=swin(2, 2), target_window=9),
    "fsfm": lambda: FSFMConfig(
        encoder=ENCODER,
        decoder=DECODER,
        pooled_decoder=PooledDecoderConfig(num_heads=2),
        projection_dim=8,
        projection_hidden=32,
    ),
    "dmjd": lambda: DMJDConfig(encoder=CONV_VIT, decoder=DECODER, cell=2),
    # Two images, so that half of the tokens are seen.
    "mixedae": lambda: MixedAEConfig(encoder=ENCODER, decoder=DECODER, group=2),
    "mto": lambda: MTOConfig(encoder=ENCODER),
    # The finest level gives each of its 64 cells of a volume's unit one number.
    "itpn-clip": lambda: ITPNClipConfig(
        encoder=hivit(embed_dim=64, depth=5, relative_bias=True, layer_scale=0.1),
        pyramid=PYRAMID,
        teacher=ENCODER,
        mask_ratio=0.6,
        drop_path=0.0,
    ),
    "itpn": lambda: ITPNConfig(
        encoder=hivit(relative_bias=True), pyramid=PYRAMID, decoder=replace(DECODER, dim=64)
    ),
    # Pixels, because volumes have no HOG; the finest published scale would standardise single ones.
    "localmim": lambda: LocalMIMConfig(
        encoder=replace(ENCODER, depth=3),
        decoder=DECODER,
        target="pixels",
        scales=(2.0, 1.0, 0.5),
    ),
    "localmim-swin": lambda: LocalMIMSwinConfig(
        encoder=replace(swin(1, 2), window_size=3), decoder=DECODER, target="pixels"
    ),
    "lut": lambda: LUTConfig(encoder=ENCODER, decoder=DECODER, projector_hidden=32),
    # The last map is coarser than the tokens, as in the released models.
    "satvision-toa": lambda: SatVisionTOAConfig(encoder=swin(2, 3, extra_norm_period=2)),
    "ropim": lambda: RoPIMConfig(encoder=BEIT),
    "simmim": lambda: SimMIMConfig(encoder=swin(1, 2)),
    "simmim-vit": lambda: SimMIMViTConfig(encoder=BEIT),
}
"""Methods whose configuration is not a plain ViT and a decoder."""


def tiny(name: str, **options: Any) -> MethodConfig:
    """Return a configuration of a method whose tokens are 4 pixels wide where it allows that."""
    if name in TINY:
        return replace(TINY[name](), **options)
    return METHODS[name].config(encoder=ENCODER, decoder=DECODER, **options)
