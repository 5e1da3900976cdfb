"""Methods with a slow teacher or several views, as published, and small ones for two CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.methods import DecoderConfig, EncoderConfig, HPMConfig, LUTConfig
from ...core.methods.config import BASE, HUGE, LARGE, SMALL
from ...core.training.optim import OptimConfig
from ...domains.satellite.augment import AugmentConfig
from ..recipe import Recipe

_VIEWS = AugmentConfig(rotate=False)
_TINY_ENCODER = EncoderConfig(embed_dim=96, depth=4, num_heads=3, patch_size=8)
_TINY_DECODER = DecoderConfig(dim=48, depth=2, num_heads=3)
_TINY_OPTIM = OptimConfig(base_lr=8e-3, warmup_epochs=2)


def hpm_base() -> Recipe:
    """HPM ViT-B/16 (Wang et al., CVPR 2023, released code).

    Data: ImageNet-1k, 1.28 million photographs. Batch 4096 in the paper; mixed precision.
    Expect: 84.2 % top-1 after fine-tuning (paper, 800 epochs); not reproduced here.
    """
    return Recipe(
        method=HPMConfig(encoder=BASE),
        optim=OptimConfig(base_lr=1.5e-4, warmup_epochs=40),
        augment=_VIEWS,
        epochs=800,
        batch_size=4096,
        precision="bf16",
    )


def hpm_large() -> Recipe:
    """HPM ViT-L/16 (Wang et al., CVPR 2023).

    Expect: 85.8 % top-1 after fine-tuning at 800 epochs (paper); not reproduced here.
    """
    return replace(hpm_base(), method=HPMConfig(encoder=LARGE))


def hpm_huge() -> Recipe:
    """HPM ViT-H/14, a size of the released code without a published result."""
    return replace(hpm_base(), method=HPMConfig(encoder=HUGE))


def hpm_tiny() -> Recipe:
    """HPM with an encoder of half a million parameters, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands.
    """
    return Recipe(
        method=HPMConfig(encoder=_TINY_ENCODER, decoder=_TINY_DECODER, norm_pix=True),
        optim=_TINY_OPTIM,
        image_size=(64, 64),
        epochs=20,
        batch_size=32,
    )


def lut_base() -> Recipe:
    """LUT ViT-B/16 (Kim et al., ECCV 2024, released code).

    Data: ImageNet-1k. Batch 4096 on 8 GPUs in parts. The paper's views are almost whole images, the
    second one with colour jitter, blur or solarisation; these here are this package's.
    Expect: 84.2 % top-1 after fine-tuning (paper); not reproduced here.
    """
    return Recipe(
        method=LUTConfig(encoder=BASE),
        optim=OptimConfig(base_lr=1.5e-4, warmup_epochs=40),
        augment=_VIEWS,
        epochs=1600,
        batch_size=4096,
        precision="bf16",
    )


def lut_small() -> Recipe:
    """LUT ViT-S/16 (Kim et al., ECCV 2024).

    Expect: 82.0 % top-1 after fine-tuning (paper); not reproduced here.
    """
    return replace(lut_base(), method=LUTConfig(encoder=SMALL))


def lut_large() -> Recipe:
    """LUT ViT-L/16 (Kim et al., ECCV 2024).

    Expect: 86.0 % top-1 after fine-tuning (paper); not reproduced here.
    """
    return replace(lut_base(), method=LUTConfig(encoder=LARGE))


def lut_tiny() -> Recipe:
    """LUT with an encoder of half a million parameters, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands.
    """
    method = LUTConfig(encoder=_TINY_ENCODER, decoder=_TINY_DECODER, projector_hidden=256)
    return replace(hpm_tiny(), method=method)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "hpm-base": hpm_base,
    "hpm-large": hpm_large,
    "hpm-huge": hpm_huge,
    "hpm/tiny": hpm_tiny,
    "lut-small": lut_small,
    "lut-base": lut_base,
    "lut-large": lut_large,
    "lut/tiny": lut_tiny,
}
