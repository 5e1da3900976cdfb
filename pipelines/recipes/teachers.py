"""Methods with a slow teacher or several views, as published, and small ones for two CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.encoders.conv_vit import ConvViTConfig
from ...core.methods import DecoderConfig, DMJDConfig, EncoderConfig, HPMConfig, LUTConfig
from ...core.methods.config import BASE, HUGE, LARGE, SMALL
from ...core.training.optim import OptimConfig
from ...domains.imaging.augment import AugmentConfig
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


def dmjd_base() -> Recipe:
    """DMJD with the hybrid of convolutions and a ViT, base size (Ma et al., 2023, released code).

    Data: ImageNet-1k. Hardware: 8 A100 with 64 images each, 101 h (paper). 400 epochs of two views
    are 800 of one.
    Expect: 85.2 % top-1 after fine-tuning, 76.7 % with a linear probe (paper); not reproduced here.
    """
    return Recipe(
        method=DMJDConfig(),
        optim=OptimConfig(base_lr=6e-4, warmup_epochs=20),
        augment=replace(_VIEWS, min_area=0.5),
        epochs=400,
        batch_size=512,
        precision="bf16",
    )


def dmjd_large() -> Recipe:
    """DMJD, large size (Ma et al., 2023): gradients are clipped.

    Expect: 86.3 % top-1 after fine-tuning, 79.7 % with a linear probe (paper); not reproduced here.
    """
    recipe = dmjd_base()
    encoder = ConvViTConfig(embed_dims=(384, 768, 1024), depths=(2, 2, 23), num_heads=16)
    optim = replace(recipe.optim, clip_grad=3.0)
    return replace(recipe, method=DMJDConfig(encoder=encoder), optim=optim)


def dmjd_tiny() -> Recipe:
    """DMJD with an encoder of half a million parameters, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands.
    """
    encoder = ConvViTConfig(
        embed_dims=(24, 48, 96),
        depths=(1, 1, 4),
        num_heads=3,
        mlp_ratios=(2.0, 2.0, 4.0),
        patch_size=8,
    )
    method = DMJDConfig(encoder=encoder, decoder=_TINY_DECODER, cell=4)
    # The rule divides by the mask ratio.
    optim = replace(_TINY_OPTIM, base_lr=5e-3)
    return replace(hpm_tiny(), method=method, optim=optim)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "dmjd-base": dmjd_base,
    "dmjd-large": dmjd_large,
    "dmjd/tiny": dmjd_tiny,
    "hpm-base": hpm_base,
    "hpm-large": hpm_large,
    "hpm-huge": hpm_huge,
    "hpm/tiny": hpm_tiny,
    "lut-small": lut_small,
    "lut-base": lut_base,
    "lut-large": lut_large,
    "lut/tiny": lut_tiny,
}
